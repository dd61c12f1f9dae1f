"""What llama.cpp and its fork ik_llama.cpp allocate: a cache for the context asked, and compute buffers per card.

Nothing is measured or left over: the cache is cells times bytes, and the buffers are the largest sum of tensors that
live at one time in the graph of one micro batch.
"""

from __future__ import annotations

import dataclasses
import re

from inferhost.catalogue.rows import ModelRow
from inferhost.planner.estimate.case import FORKS_KV_TYPES, KV_BYTES, Case
from inferhost.planner.estimate.fields import Refused, text
from inferhost.planner.memory import llama_cpp_buffers
from inferhost.planner.memory.kv_cache import cache_layout
from inferhost.planner.memory.llama_cpp_buffers import Graph
from inferhost.planner.memory.llama_cpp_offload import whole
from inferhost.planner.memory.llama_cpp_reserve import Reserve, card_buffer_bytes
from inferhost.planner.memory.weights import weights_bytes

CELL_STEP = 256
FULL_BYTES = 2.0
MICRO_BATCH_TOKENS = 512
REPACKED = re.compile(r"_r[48]\b")
FIRST_LATENT_BUILD, FIRST_LATENT_MONTH = 5143, (2025, 4)
FIRST_RESERVED_BUILD, FIRST_RESERVED_VERSION = 11669, "0.7."
"""Where the newer buffers were seen; an older build may have them already."""
FIRST_WINDOWED_BUILD, FIRST_WINDOWED_MONTH = 5427, (2025, 6)


@dataclasses.dataclass(frozen=True)
class Start:
    """One start: cells of the whole cache, types of K and V, micro batch, cards."""

    fork: bool
    cells: int
    k_bytes: float
    v_bytes: float
    v_named: bool
    micro_batch_tokens: int
    flash_attention: bool
    cards: int
    latent: bool
    windowed: bool


def read_start(case: Case, cells: int) -> Start:
    """The start of a case; types that no one names are 16 bit."""
    k_type, v_type = text(case.fields, "k_type"), text(case.fields, "v_type")
    if not k_type:
        both = text(case.fields, "kv_dtype").split("/")
        k_type, v_type = both[0], v_type or both[-1]
    v_said = bool(v_type)
    v_type = v_type or k_type
    build = case.text("engine_version")
    fork = case.engine == "ik_llama.cpp"
    flash_attention = case.switch("flash_attn") is not False
    k_bytes, v_bytes = element_bytes(k_type, "k_type", fork), element_bytes(v_type, "v_type", fork)
    if v_said and v_bytes < FULL_BYTES and not flash_attention:
        ends = f"{case.engine} ends at a quantised V without flash attention"
        raise Refused(f"v_type: found {v_type!r}, and {ends}; give f16, or flash_attn 1")
    return Start(
        fork=fork,
        cells=-(-cells // CELL_STEP) * CELL_STEP,
        k_bytes=k_bytes,
        v_bytes=v_bytes,
        v_named=bool(text(case.fields, "v_type")),
        micro_batch_tokens=min(case.whole("n_ubatch") or MICRO_BATCH_TOKENS, cells),
        flash_attention=flash_attention,
        cards=max(1, case.whole("gpu_count") or 1),
        latent=fork or not before(build, FIRST_LATENT_BUILD, FIRST_LATENT_MONTH),
        windowed=not fork and not before(build, FIRST_WINDOWED_BUILD, FIRST_WINDOWED_MONTH),
    )


def before(words: str, build: int, month: tuple[int, int]) -> bool:
    """Whether a build number or a month in a version's text lies before these; not where it names neither."""
    number = re.search(r"(?:build\D{0,4}|\bb)(\d{3,5})\b", words)
    if number:
        return int(number[1]) < build
    date = re.search(r"(20\d\d)-(\d\d)", words)
    return bool(date) and (int(date[1]), int(date[2])) < month if date else False


def element_bytes(name: str, field: str, fork: bool) -> float:
    """Bytes of one element of a cache type."""
    if not name or "auto" in name:
        return 2.0
    known = {key: size for key, size in KV_BYTES.items() if fork or key not in FORKS_KV_TYPES}
    if name.lower() not in known:
        raise Refused(f"{field}: found {name[:20]!r}, wanted one of {', '.join(known)}")
    return known[name.lower()]


def cache_bytes(model: ModelRow, start: Start) -> int:
    """The cache of all cards together.

    Compressed attention: the fork keeps one latent vector, unless a type for V says that it runs without; llama.cpp
    keeps K and V of every head before it knew latent vectors, then 576 elements of K and 512 of V.
    Source: formulas `memory.kv_bytes_per_token`, `memory.kv_latent`, `memory.kv_window`.
    """
    if model.mla is None:
        layout = cache_layout(model, "llama.cpp", (start.k_bytes + start.v_bytes) / 2)
        if not start.windowed:
            return start.cells * (layout.bytes_per_token + layout.window_bytes_per_token)
        kept = min(start.cells, -(-(layout.window_tokens + start.micro_batch_tokens) // CELL_STEP) * CELL_STEP)
        return start.cells * layout.bytes_per_token + kept * layout.window_bytes_per_token
    latent, rope = model.mla.kv_lora_rank, model.mla.qk_rope_head_dim
    if start.latent and not (start.fork and start.v_named):
        v_elements = 0 if start.fork else latent
        return round(start.cells * model.kv_layers * ((latent + rope) * start.k_bytes + v_elements * start.v_bytes))
    nope, value = model.mla.qk_nope_head_dim, model.mla.v_head_dim
    if nope is None or value is None or model.query_heads is None:
        raise Refused(f"{model.name}: its head sizes are not known, and this start keeps K and V of every head")
    per_head = (nope + rope) * start.k_bytes + value * start.v_bytes
    return round(start.cells * model.kv_layers * model.query_heads * per_head)


def graph(model: ModelRow, start: Start, case: Case) -> Graph:
    """What the compute buffers depend on."""
    quant = text(case.fields, "quant").lower()
    on_host = larger_than_cards(model, start, case)
    return Graph(
        fork=start.fork,
        cells=start.cells,
        micro_batch_tokens=start.micro_batch_tokens,
        flash_attention=start.flash_attention,
        cards=start.cards,
        latent=start.latent and not (start.fork and start.v_named),
        experts_on_host=on_host and model.moe is not None,
        repacked=bool(REPACKED.search(quant)),
        pipelined=start.cards > 1 and not on_host,
        card_bytes=case.card.total_bytes if case.card is not None else None,
    )


def compute_bytes(model: ModelRow, start: Start, case: Case) -> float:
    """The compute buffers of all cards together: by the rule of the newest builds where the version names one."""
    chosen = graph(model, start, case)
    held_whole = start.cards == 1 and not larger_than_cards(model, start, case)
    if _is_newest(case.text("engine_version")) and not start.fork and start.flash_attention and held_whole:
        cached = (start.k_bytes + start.v_bytes) / 2
        reserve = Reserve(start.cells, 1, start.micro_batch_tokens, cached, whole(model))
        return card_buffer_bytes(model, reserve)
    return llama_cpp_buffers.compute_bytes(model, chosen)


def _is_newest(words: str) -> bool:
    """Whether a version's text names a build whose buffers are those of `llama_cpp_reserve`."""
    number = re.search(r"(?:build\D{0,4}|\bb)(\d{5,})\b", words)
    return int(number[1]) >= FIRST_RESERVED_BUILD if number else words.strip().startswith(FIRST_RESERVED_VERSION)


def larger_than_cards(model: ModelRow, start: Start, case: Case) -> bool:
    """Whether weights and cache are more than the cards hold: layers, or experts, are then in host memory."""
    if case.card is None:
        return False
    needed = weights_bytes(model, embedding_on_host=True) + cache_bytes(model, start)
    return needed > start.cards * case.card.total_bytes
