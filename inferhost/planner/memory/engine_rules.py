"""How each engine divides a card's memory, as its own source does it; one function per memory rule.

Each takes the card's bytes, the model and the demand and says what goes where; the KV part may come out negative,
which `planner.memory` turns into a refusal. Constants of an engine version stand in its catalogue row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from inferhost.catalogue.rows import EngineRow, ModelRow
from inferhost.planner.memory import sglang_rules, vllm_rules
from inferhost.planner.memory.llama_cpp_offload import Placement, card_weights_bytes, whole
from inferhost.planner.memory.llama_cpp_reserve import Reserve, card_buffer_bytes, margin_bytes
from inferhost.planner.memory.sglang_rules import SglangRun
from inferhost.planner.memory.vllm_rules import VllmRun
from inferhost.planner.memory.weights import weights_bytes
from inferhost.planner.versions import version

MIB, GIB = 2**20, 2**30
STEP_TOKENS = 16
VLLM_LARGEST_GRAPH = 512
NEWEST_CAPABILITY = (12, 0)  # the pinned version runs its second core on every card
LLAMA_CPP_STEP_TOKENS = 256
EXLLAMAV3_PAGE_TOKENS = 256
SGLANG_LEAST_CHUNK_TOKENS = 2048  # below it the reserve does not shrink any more


@dataclasses.dataclass(frozen=True)
class Demand:
    """What is asked of the memory of one card; `None` leaves a choice to the planner.

    `used_bytes` is what others hold on the card: other processes, and other instances with all that they may take.
    """

    context_tokens: int
    sequences: int
    memory_fraction: float | None = None
    batched_tokens: int | None = None
    micro_batch_tokens: int | None = None
    tensor_parallel_size: int = 1
    used_bytes: int = 0
    later_bytes: int = 0  # of `used_bytes`, what is still free when this engine starts and measures
    eager: bool = False
    request_bytes: int = 0  # cache of one sequence at the asked context; the budget fills it in
    cached_bytes: float = 2.0  # of one number in the cache; the budget fills it in
    placement: Placement | None = None  # what of the model is on the card; nothing said means all of it
    may_offload: bool = False  # whether the planner may place it
    most_cache_tokens: int | None = None  # what the wish limits the cache to


@dataclasses.dataclass(frozen=True)
class Division:
    """Where the bytes go. `kv_room_bytes` is what is left for the cache, margin already taken off."""

    weights_bytes: int
    activation_bytes: int
    graphs_bytes: int
    non_torch_bytes: int
    margin_bytes: int
    reserved_bytes: int  # not the engine's to use, e.g. above its memory fraction
    kv_room_bytes: int
    formula: str
    memory_fraction: float | None = None
    batched_tokens: int | None = None
    usual_batched_tokens: int | None = None
    usual_memory_fraction: float | None = None  # what the engine would choose by itself
    state_pool_bytes: int = 0  # of the cache's room, what a hybrid model's states get however few they are
    graph_sequences: int | None = None  # largest batch with a captured graph
    micro_batch_tokens: int | None = None


def _sglang_run(total_bytes: float, engine: EngineRow, demand: Demand, chunk: int | None = None) -> SglangRun:
    return SglangRun(
        version(engine.engine, engine.version),
        total_bytes / MIB,
        demand.tensor_parallel_size,
        chunk,
        demand.sequences,
    )


def sglang_reserve_bytes(
    total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand, chunk: int | None
) -> int:
    """What is kept beside SGLang's pool: its own reserve, but never so much that a larger card holds less.

    SGLang's table of card sizes steps up by gigabytes at 20, 35, 60 and 160 GiB. Just above a step the plan keeps the
    reserve of the row below and half of what the card has more, until the row's own is reached. A vision tower takes
    a share of what is then left.
    Source: formulas `memory.sglang_reserve`, `memory.sglang_steps` and `memory.sglang_vision`.
    """
    return _above_steps(sglang_rules.reserve_mib, total_bytes, model, engine, demand, chunk=chunk)


def sglang_needed_bytes(
    total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand, chunk: int | None
) -> int:
    """The same without the 10 GiB that SGLang keeps at least on cards above 60 GiB: what a chunk itself needs."""
    return _above_steps(sglang_rules.needed_mib, total_bytes, model, engine, demand, chunk=chunk)


def _above_steps(
    kept_mib: Callable[[SglangRun, ModelRow], float],
    total_bytes: int,
    model: ModelRow,
    engine: EngineRow,
    demand: Demand,
    *,
    chunk: int | None,
) -> int:
    """Bytes of what `kept_mib` says of this card, its jumps at the steps of SGLang's table made slopes."""
    total_mib = total_bytes / MIB
    own = kept_mib(_sglang_run(total_bytes, engine, demand, chunk), model)
    for below_mib in sglang_rules.STEPS_MIB:
        if below_mib <= total_mib:
            smaller = kept_mib(_sglang_run((below_mib - 1) * MIB, engine, demand, chunk), model)
            own = min(own, smaller + (total_mib - below_mib) / 2)
    if model.vision is not None:
        own = total_mib - (total_mib - own) * sglang_rules.vision_factor(model.vision)
    return math.ceil(own * MIB)


def sglang_shared_reserve_bytes(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> int:
    """SGLang's own reserve where the cache has plenty; else half of what one request and the least chunk leave over.

    A smaller chunk needs a smaller reserve. Were it chosen only where the engine's own leaves no room, a slightly
    larger card, which just holds the engine's own, would hold far fewer tokens.
    Source: formula `memory.sglang_small_cards`.
    """
    own = sglang_reserve_bytes(total_bytes, model, engine, demand, None)
    least = sglang_needed_bytes(total_bytes, model, engine, demand, SGLANG_LEAST_CHUNK_TOKENS)
    request = demand.request_bytes
    if model.state is not None:
        ratio = sglang_rules.STATE_TO_CACHE_RATIO
        request = math.ceil(request * (1 + ratio) * max(1, 1 / ratio))
    taken = weights_bytes(model, False, demand.tensor_parallel_size) + round(
        engine.memory["context_bytes"] + engine.memory["margin_bytes"]
    )
    over = total_bytes - demand.used_bytes - taken - request - least
    return min(own, least + max(0, over) // 2)


def sglang_chunk(reserve_bytes: int, total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> int:
    """The prefill chunk: SGLang's own for this card, or the largest whose need the reserve covers."""
    chunk = sglang_rules.tier(_sglang_run(total_bytes, engine, demand)).chunk_tokens
    while chunk > SGLANG_LEAST_CHUNK_TOKENS:
        if sglang_rules.needed_mib(_sglang_run(total_bytes, engine, demand, chunk), model) * MIB <= reserve_bytes:
            break
        chunk //= 2
    return chunk


def sglang_fraction(total_bytes: int, reserve_bytes: int, used_bytes: int = 0) -> float:
    """The share of the memory free at start that leaves `reserve_bytes`; rounded down, never up.

    SGLang looks at the whole card even where others hold a part of it; the planner asks for what is left.
    """
    usable = max(1, total_bytes - used_bytes)
    return max(0.0, math.floor(1e5 * (usable - reserve_bytes) / usable) / 1e5)


def sglang(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Division:
    """The fraction is of the memory free before loading, not of the total; the rest is for activations and graphs.

    Source: formula `memory.sglang_pool`.
    """
    usual = sglang_rules.tier(_sglang_run(total_bytes, engine, demand))
    chunk = demand.batched_tokens
    if chunk is None:
        reserve = sglang_shared_reserve_bytes(total_bytes, model, engine, demand)
        left = reserve if demand.memory_fraction is None else math.floor((1 - demand.memory_fraction) * total_bytes)
        chunk = sglang_chunk(left, total_bytes, model, engine, demand)
    else:
        reserve = sglang_reserve_bytes(total_bytes, model, engine, demand, chunk)
    fraction = demand.memory_fraction or sglang_fraction(total_bytes, reserve, demand.used_bytes)
    usable, context = total_bytes - demand.used_bytes, round(engine.memory["context_bytes"])
    static = max(0, math.floor((usable - context) * fraction))
    told = _told_fraction(fraction, static, usable - context, demand)
    weights = weights_bytes(model, False, demand.tensor_parallel_size)
    spread = sglang_rules.spread_bytes(weights, demand.tensor_parallel_size, free_measured=False)
    margin = round(max(engine.memory["margin_bytes"], spread))
    graphs = usual.graph_sequences_tp4 if demand.tensor_parallel_size >= 4 else usual.graph_sequences
    pool = static - weights - margin
    ratio = sglang_rules.STATE_TO_CACHE_RATIO
    return Division(
        weights_bytes=weights,
        activation_bytes=usable - context - static,
        graphs_bytes=0,
        non_torch_bytes=context,
        margin_bytes=margin,
        reserved_bytes=demand.used_bytes,
        kv_room_bytes=pool,
        formula="memory.sglang_pool",
        memory_fraction=told,
        batched_tokens=chunk,
        usual_batched_tokens=usual.chunk_tokens,
        graph_sequences=0 if demand.eager else min(graphs, demand.sequences),
        state_pool_bytes=max(0, round(pool * ratio / (1 + ratio))) if model.state is not None else 0,
        usual_memory_fraction=round(
            sglang_rules.default_fraction(_sglang_run(total_bytes, engine, demand), model), 3
        ),
    )


def _told_fraction(fraction: float, pool_bytes: int, free_bytes: int, demand: Demand) -> float:
    """The fraction that an engine has to be told, which takes it of all that is free when it starts.

    What belongs to engines that start later is free then too, so the same pool is a smaller part.
    Source: formula `memory.shared_card`.
    """
    if not demand.later_bytes:
        return fraction
    return math.floor(1000 * pool_bytes / max(1, free_bytes + demand.later_bytes)) / 1000


def _vllm_run(total_bytes: int, engine: EngineRow, demand: Demand, batch: int | None) -> VllmRun:
    return VllmRun(
        version=version(engine.engine, engine.version),
        total_bytes=total_bytes,
        compute_capability=NEWEST_CAPABILITY,
        context_tokens=demand.context_tokens,
        sequences=demand.sequences,
        batched_tokens=batch,
        tensor_parallel_size=demand.tensor_parallel_size,
        eager=demand.eager,
    )


def vllm_batch(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> int:
    """The batch of prefill tokens: vLLM's own, but never so large that a larger card holds less.

    vLLM steps from 2048 to 8192 tokens at 70 GiB and to 16384 at 160; just above a step the plan gives half of what
    the card has more to the batch until vLLM's own is reached. vLLM refuses fewer tokens than sequences.
    Source: formulas `memory.vllm_defaults` and `memory.vllm_steps`.
    """
    own = vllm_rules.batched_tokens(_vllm_run(total_bytes, engine, demand, None))
    per_token = vllm_rules.layer_bytes(model, _vllm_run(total_bytes, engine, demand, STEP_TOKENS)) / STEP_TOKENS
    for step_bytes in (vllm_rules.LARGE_CARD_BYTES, vllm_rules.LARGEST_CARD_BYTES):
        if total_bytes >= step_bytes:
            smaller = vllm_rules.batched_tokens(_vllm_run(step_bytes - 1, engine, demand, None))
            more = math.floor((total_bytes - step_bytes) / 2 / per_token) // STEP_TOKENS * STEP_TOKENS
            own = min(own, smaller + more)
    return max(own, demand.sequences)


def vllm(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Division:
    """The fraction is of the total; the engine measures its own peak, so every term here is a prediction.

    Source: formulas `memory.vllm_pool`, `memory.vllm_activation` and `memory.vllm_sampler`.
    """
    usual = vllm_rules.batched_tokens(_vllm_run(total_bytes, engine, demand, None))
    batch = demand.batched_tokens or vllm_batch(total_bytes, model, engine, demand)
    run = _vllm_run(total_bytes, engine, demand, batch)
    fraction = demand.memory_fraction or vllm_fraction(total_bytes, model, run, demand.used_bytes)
    requested = math.ceil(total_bytes * fraction)
    kept = vllm_rules.absorbed_bytes(model, run) + vllm_rules.padding_bytes(model, run)
    weights = round(weights_bytes(model, False, demand.tensor_parallel_size) + kept)
    activation, graphs = vllm_rules.activation_bytes(model, run), vllm_rules.graph_bytes(run)
    non_torch = vllm_rules.non_torch_bytes(model, run)
    margin = round(max(engine.memory["margin_bytes"], vllm_rules.spread_bytes(model, run, weights)[0]))
    return Division(
        weights_bytes=weights,
        activation_bytes=activation,
        graphs_bytes=graphs,
        non_torch_bytes=non_torch,
        margin_bytes=margin,
        reserved_bytes=total_bytes - requested,
        kv_room_bytes=requested - weights - activation - graphs - non_torch - margin,
        formula="memory.vllm_pool",
        memory_fraction=fraction,
        batched_tokens=batch,
        usual_batched_tokens=usual,
        graph_sequences=0 if demand.eager else min(2 * demand.sequences, VLLM_LARGEST_GRAPH),
        usual_memory_fraction=vllm_rules.default_fraction(run.version),
    )


def vllm_fraction(total_bytes: int, model: ModelRow, run: VllmRun, used_bytes: int) -> float:
    """vLLM's own fraction, or less where others hold so much that it would not start.

    It refuses to start unless this share of the whole card is free.
    """
    own = vllm_rules.default_fraction(run.version)
    if used_bytes == 0:
        return own
    free = total_bytes - used_bytes - vllm_rules.non_torch_bytes(model, run)
    return max(0.0, min(own, math.floor(1000 * free / total_bytes) / 1000))


def prefill_activation_bytes(model: ModelRow, batched_tokens: int) -> int:
    """Peak of one prefill step at 16 bit."""
    return 2 * batched_tokens * (3 * (model.intermediate_size or 0) + 4 * model.hidden_size)


def llama_cpp(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Division:
    """No fraction: the cache is allocated for what was asked, beside weights and one compute buffer.

    Source: formulas `memory.llama_cpp_pool`, `memory.llama_cpp_reserve` and `memory.llama_cpp_margin`.
    """
    micro = demand.micro_batch_tokens or round(engine.memory["micro_batch_tokens"])
    cells = -(-demand.context_tokens // LLAMA_CPP_STEP_TOKENS) * LLAMA_CPP_STEP_TOKENS
    placement = demand.placement or whole(model)
    start = Reserve(cells, demand.sequences, micro, demand.cached_bytes, placement)
    compute, margin = card_buffer_bytes(model, start), margin_bytes(model, start)
    weights = card_weights_bytes(model, placement)
    context = round(engine.memory["context_bytes"])
    room = total_bytes - demand.used_bytes - weights - compute - context - margin
    return Division(
        weights_bytes=weights,
        activation_bytes=compute,
        graphs_bytes=0,
        non_torch_bytes=context,
        margin_bytes=margin,
        reserved_bytes=demand.used_bytes,
        kv_room_bytes=room,
        formula="memory.llama_cpp_pool",
        micro_batch_tokens=micro,
    )


def exllamav3(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Division:
    """A pool of tokens shared by all jobs, set explicitly.

    Source: formula `memory.exllamav3_pool`.
    """
    asked = demand.batched_tokens or round(engine.memory["batched_tokens"])
    batch = -(-asked // EXLLAMAV3_PAGE_TOKENS) * EXLLAMAV3_PAGE_TOKENS  # the engine rounds a chunk up to whole pages
    activation = prefill_activation_bytes(model, batch)
    weights, margin = weights_bytes(model, False, demand.tensor_parallel_size), round(engine.memory["margin_bytes"])
    context = round(engine.memory["context_bytes"])
    room = total_bytes - demand.used_bytes - weights - activation - context - margin
    return Division(
        weights_bytes=weights,
        activation_bytes=activation,
        graphs_bytes=0,
        non_torch_bytes=context,
        margin_bytes=margin,
        reserved_bytes=demand.used_bytes,
        kv_room_bytes=room,
        formula="memory.exllamav3_pool",
        batched_tokens=batch,
    )


def sfllm(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Division:
    """A fraction of what is free after loading; graphs are captured afterwards in the rest.

    Source: formula `memory.sfllm_pool`.
    """
    fraction = demand.memory_fraction or engine.memory["memory_fraction"]
    weights, margin = weights_bytes(model, False, demand.tensor_parallel_size), round(engine.memory["margin_bytes"])
    context = round(engine.memory["context_bytes"])
    free = total_bytes - demand.used_bytes - weights - context
    pool = math.floor(free * fraction) if free > 0 else free  # a share of what is missing would be less of it
    return Division(
        weights_bytes=weights,
        activation_bytes=free - pool,
        graphs_bytes=0,
        non_torch_bytes=context,
        margin_bytes=margin,
        reserved_bytes=demand.used_bytes,
        kv_room_bytes=pool - margin,
        formula="memory.sfllm_pool",
        memory_fraction=_told_fraction(fraction, pool, free, demand),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one engine divides a card, and how its cache is then counted."""

    divide: Callable[[int, ModelRow, EngineRow, Demand], Division]
    step_tokens: int = 1
    allocated_as_asked: bool = False  # the cache is what is asked for, not all that is left
    slot_per_sequence: bool = False  # fewer whole requests mean fewer sequences
    token_per_sequence: bool = False  # refuses to start with fewer batched tokens than sequences
    # what a chunk size needs beside the pool, and what the engine itself would keep
    needed_bytes: Callable[[int, ModelRow, EngineRow, Demand, int], int] | None = None
    reserve_bytes: Callable[[int, ModelRow, EngineRow, Demand, int], int] | None = None


RULES: dict[str, Rule] = {
    "sglang": Rule(sglang, needed_bytes=sglang_needed_bytes, reserve_bytes=sglang_reserve_bytes),
    "vllm": Rule(vllm, step_tokens=vllm_rules.BLOCK_TOKENS, token_per_sequence=True),
    "llama.cpp": Rule(llama_cpp, step_tokens=LLAMA_CPP_STEP_TOKENS, allocated_as_asked=True, slot_per_sequence=True),
    "exllamav3": Rule(exllamav3, step_tokens=EXLLAMAV3_PAGE_TOKENS, allocated_as_asked=True),
    "sfllm": Rule(sfllm),
}
