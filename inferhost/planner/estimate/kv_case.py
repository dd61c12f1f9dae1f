"""How many tokens an engine's cache will hold, before it is started: one case in, one estimate out.

The same rules that a plan is made of, applied to any version that they are known for. The figure is the best
estimate, lowered where its own uncertainty would make a promise of a tenth too much more likely than one in twenty.
Nothing here raises: a case that cannot be estimated says why.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.planner.card_names import GIB
from inferhost.planner.estimate.case import KV_BYTES, NOT_SAID, Case, read_case
from inferhost.planner.estimate.fields import Refused, text
from inferhost.planner.estimate.notes import joined, length_notes
from inferhost.planner.estimate.room import check_room
from inferhost.planner.memory import llama_cpp_buffers, llama_cpp_rules, sglang_rules, vllm_rules
from inferhost.planner.memory.kv_cache import CacheLayout, cache_layout
from inferhost.planner.memory.sglang_rules import SglangRun
from inferhost.planner.memory.vllm_rules import VllmRun
from inferhost.planner.memory.weights import embedding_bytes, weights_bytes

MIB = 2**20
TOLERATED_EXCESS = 1.1
"""A promise this many times too high is the error that must stay rare."""

GGUF_SPREAD_SHARE = 0.03
"""A mixture of formats such as Q4_K_M weighs more or less by model. Source: sizes of files in decode_cases.csv."""


@dataclasses.dataclass(frozen=True)
class Room:
    """Bytes for the cache on one card: the best estimate, and how far off nine cases in ten stay."""

    bytes: float
    below_bytes: float
    above_bytes: float
    weights_bytes: float
    unexplained_bytes: float = 0.0  # further below, once seen and not understood: widens the bound alone


def estimate_kv(case: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """`{"id", "kv_tokens", "kv_gib", "weights_gib", "low", "high"}`, or `{"id", "refused"}`.

    `low` and `high` bound the tokens in about nine of ten of the cases that were fitted, fewer of others; `notes` is
    there where the start may end, or something is not read as it was meant. llama.cpp allocates what it is asked for;
    its answer has the whole cache and the compute buffers in MiB beside it.
    """
    name = case.get("id")
    try:
        read = read_case(case, catalogue)
        if read.engine in ("llama.cpp", "ik_llama.cpp"):
            return {"id": name, **_allocated(read)}
        return {"id": name, **_left_over(read)}
    except Refused as refused:
        return {"id": name, "refused": str(refused)}
    except (ArithmeticError, ValueError) as error:
        return {"id": name, "refused": f"the numbers of this case cannot be used: {error}"}


def _allocated(case: Case) -> dict[str, Any]:
    """llama.cpp and its fork: a cache for the context asked, one compute buffer per card."""
    cells = case.whole("n_ctx", least=0)
    if cells == 0:
        cells = case.model.context_max_tokens  # as `--ctx-size 0` means it
    cells = cells or case.whole("max_model_len")
    if not cells:
        raise Refused("n_ctx: is missing, and llama.cpp allocates its cache for it")
    start = llama_cpp_rules.read_start(case, cells)
    kv = llama_cpp_rules.cache_bytes(case.model, start)
    graph = llama_cpp_rules.graph(case.model, start, case)
    compute = llama_cpp_rules.compute_bytes(case.model, start, case)
    below, above = llama_cpp_buffers.spread(case.model, graph)
    weights = weights_bytes(case.model, embedding_on_host=True)
    notes = [*case.notes, *check_room(case, weights, kv, below * compute)]
    return {
        "kv_tokens": start.cells,
        "kv_gib": round(kv / GIB, 4),
        "weights_gib": round(weights / GIB, 2),
        "low": start.cells,
        "high": start.cells,
        "kv_total_mib": round(kv / MIB, 2),
        "gpu_compute_buffers_mib": round(compute / MIB, 2),
        "gpu_compute_buffers_low_mib": round(below * compute / MIB, 2),
        "gpu_compute_buffers_high_mib": round(above * compute / MIB, 2),
        **joined(notes),
    }


def _left_over(case: Case) -> dict[str, Any]:
    """vLLM and SGLang: the cache is what is left."""
    room = _room(case)
    low, likely, high = (max(0.0, room.bytes + d) for d in (-room.below_bytes, 0.0, room.above_bytes))
    careful = min(likely, TOLERATED_EXCESS * low) if low > 0 else likely / 2
    if likely <= 0:
        size = f"{case.card.total_bytes / GIB:.2f} GiB" if case.card is not None else "this size"
        whole_card = dataclasses.replace(case, fields={**case.fields, "mem_fraction": 1})
        share = ", or a larger mem_fraction" if _room(whole_card).bytes > 0 else ""
        raise Refused(
            f"gpu: {room.weights_bytes / GIB:.2f} GiB of weights of {case.model.name} leave no room for a cache on a "
            f"card of {size}; give more cards (tp), a larger one or a smaller quant{share}"
        )
    layout, low = _layout(case), max(0.0, low - room.unexplained_bytes)
    tokens = [_tokens(case, layout, part) for part in (low, careful, high)]
    shared = case.engine == "sglang" and case.model.state is not None
    notes = list(case.notes)
    if case.engine == "vllm":
        asked = case.whole("max_model_len")
        length = asked if asked or case.longest_that_fits else case.model.context_max_tokens
        notes += length_notes(case.model, asked, length, tokens[1], max(tokens))
    if tokens[0] == 0:
        notes.append("gpu: the weights leave so little that there may be no room for a cache at all")
    return {
        "kv_tokens": tokens[1],
        "kv_gib": round((tokens[1] * layout.bytes_per_token if shared else careful) / GIB, 3),
        "weights_gib": round(room.weights_bytes / GIB, 3),
        "low": min(tokens[0], tokens[1]),
        "high": max(tokens),
        **joined(notes),
    }


def _room(case: Case) -> Room:
    return _vllm_room(case) if case.engine == "vllm" else _sglang_room(case)


def _layout(case: Case) -> CacheLayout:
    padded = case.engine == "vllm" and (0, 7, 0) <= case.version < (0, 8, 0)
    whole = cache_layout(
        case.model,
        case.engine,
        kv_element_bytes(text(case.fields, "kv_dtype")),
        tensor_parallel_size=case.tensor_parallel_size,
        padded_mla=padded,
        grouped=False,
    )
    # The first stage of a pipeline holds as many layers as any; all stages have as many pages.
    layers = case.model.layers
    staged = math.ceil(layers / case.stages) / layers
    return dataclasses.replace(
        whole, bytes_per_token=round(whole.bytes_per_token * staged), state_bytes=round(whole.state_bytes * staged)
    )


def kv_element_bytes(words: str) -> float:
    """Bytes of one element of the cache from what a person writes: `auto (16-bit)`, `fp8_e4m3`, `q8_0/f16`."""
    parts = [part.strip().lower() for part in words.split("/")]
    if all(part in KV_BYTES for part in parts):
        return sum(KV_BYTES[part] for part in parts) / len(parts)
    plain = words.lower()
    if any(word in plain for word in ("fp8", "float8", "int8", "e4m3", "e5m2")):
        return 1.0
    if "fp4" in plain:
        return 0.5625
    if "32" in plain and "16" not in plain:
        return 4.0
    if plain not in NOT_SAID and not any(word in plain for word in ("auto", "16", "half", "none")):
        raise Refused(f"kv_dtype: found {words[:40]!r}, whose size is not known")
    return 2.0


def _tokens(case: Case, layout: CacheLayout, room_bytes: float) -> int:
    """Tokens as the engine prints them."""
    if case.engine == "vllm" and case.model.state is not None:
        return vllm_rules.hybrid_tokens(case.model, layout, room_bytes, case.whole("max_model_len"), case.version)
    if case.engine == "sglang" and case.model.state is not None:
        room_bytes /= 1 + sglang_rules.STATE_TO_CACHE_RATIO
    if case.engine == "vllm":
        run = _vllm_run(case)
        found = vllm_rules.groups(case.model, run)
        if found is not None:
            layer_bytes = layout.bytes_per_token / case.model.kv_layers
            return vllm_rules.windowed_tokens(case.model, run, found, layer_bytes, room_bytes)
    step = vllm_rules.BLOCK_TOKENS if case.engine == "vllm" else 1
    return math.floor(room_bytes / (layout.bytes_per_token * step)) * step


def _weights(case: Case) -> float:
    """Weights per card. Data parallel ranks hold the attention whole and share out the experts."""
    copies, per_card = case.whole("dp") or 1, weights_bytes(case.model, False, case.tensor_parallel_size)
    if case.stages > 1:
        # Embedding and output layer are at the ends; the stage that holds the larger one decides.
        tables = embedding_bytes(case.model) / case.tensor_parallel_size
        ends = tables if case.model.tied_embeddings else 2 * tables
        per_card = round((per_card - ends) * math.ceil(case.model.layers / case.stages) / case.model.layers + tables)
    if copies > 1 and case.model.moe is not None:
        experts = vllm_rules.expert_bytes(case.model) / case.tensor_parallel_size
        return per_card - experts * (1 - 1 / copies)
    return per_card


def _vllm_run(case: Case) -> VllmRun:
    if case.card is None:
        raise Refused("vram_gib: is missing, and gpu names no card whose memory is known")
    return VllmRun(
        version=case.version,
        total_bytes=case.card.total_bytes,
        compute_capability=case.card.compute_capability,
        card=case.card.name,
        context_tokens=case.whole("max_model_len") or case.model.context_max_tokens,
        sequences=case.whole("max_num_seqs"),
        batched_tokens=case.whole("max_num_batched_tokens"),
        tensor_parallel_size=case.tensor_parallel_size,
        nvlink=case.nvlink,
        eager=bool(case.switch("eager")),
        fp8_cache=kv_element_bytes(case.text("kv_dtype")) == 1,
        gguf=case.model.format == "gguf",
    )


def _vllm_room(case: Case) -> Room:
    run = _vllm_run(case)
    fraction = case.number("mem_fraction") or vllm_rules.default_fraction(case.version)
    weights = _weights(case) + vllm_rules.absorbed_bytes(case.model, run) + vllm_rules.padding_bytes(case.model, run)
    taken = weights + vllm_rules.activation_bytes(case.model, run) + vllm_rules.non_torch_bytes(case.model, run)
    taken += vllm_rules.kept_bytes(case.model, run)
    room = math.ceil(run.total_bytes * fraction) - taken - vllm_rules.graph_bytes(run)
    spread = vllm_rules.spread_bytes(case.model, run, weights)
    mixture = GGUF_SPREAD_SHARE * weights if case.model.format == "gguf" and case.model.weights_bytes is None else 0.0
    return Room(
        room, spread[0] + mixture, spread[1] + mixture, weights, vllm_rules.unexplained_bytes(case.model, run)
    )


def _sglang_room(case: Case) -> Room:
    free = case.number("pre_load_avail_gib")
    cards = case.tensor_parallel_size
    weights = _weights(case) + sglang_rules.load_bytes(cards)
    if free is None and case.card is None:
        raise Refused("vram_gib: is missing, and gpu names no card whose memory is known")
    total_mib = case.card.total_mib if case.card is not None else (free or 0) * 1024 * 1.05
    run = SglangRun(case.version, total_mib, cards, case.whole("chunked_prefill_size"))
    asked = case.number("mem_fraction")
    fraction = asked or sglang_rules.default_fraction(run, case.model)
    if free is None:
        free = (case.card.total_bytes if case.card is not None else 0) / GIB - (0.45 if cards == 1 else 1.2)
    spread = sglang_rules.spread_bytes(weights, cards, bool(case.number("pre_load_avail_gib")))
    spread += 0.0 if asked else 0.02 * free * GIB
    return Room(free * GIB * fraction - weights, spread, spread, weights)
