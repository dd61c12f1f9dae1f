"""How each engine divides a card's memory, as its own source does it; one function per memory rule.

Each takes the card's bytes, the model and the demand and says what goes where; the KV part may come out negative,
which `planner.memory` turns into a refusal. Constants of an engine version stand in its catalogue row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from inferhost.catalogue.rows import EngineRow, ModelRow
from inferhost.planner.weights import weights_bytes

MIB, GIB = 2**20, 2**30
VLLM_BLOCK_TOKENS = 16
LLAMA_CPP_STEP_TOKENS = 256
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
    host_memory_bytes: int | None = None


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
    micro_batch_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Tier:
    """What SGLang chooses below a total memory."""

    below_mib: float
    chunk_tokens: int
    graph_sequences: int


SGLANG_TIERS = (
    Tier(20 * 1024, 2048, 8),
    Tier(35 * 1024, 4096, 48),
    Tier(60 * 1024, 4096, 32),
    Tier(160 * 1024, 8192, 256),
    Tier(math.inf, 16384, 512),
)


def sglang_tier(total_bytes: int) -> Tier:
    """SGLang's own defaults for a card of this size (one card).

    Source: formula `memory.sglang_tiers`.
    """
    return next(tier for tier in SGLANG_TIERS if total_bytes / MIB < tier.below_mib)


def sglang_prefill_graphs(chunk_tokens: int) -> int:
    """How many prefill graphs SGLang captures for a chunk size.

    Source: formula `memory.sglang_reserve`.
    """
    sizes = [*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)]
    sizes += [*range(1280, 4097, 256), *range(4608, chunk_tokens + 1, 512)]
    return sum(size <= chunk_tokens for size in sizes)


def sglang_reserve_bytes(total_bytes: int, chunk_tokens: int, sequences: int) -> int:
    """What SGLang keeps for activations and graphs beside its static pool.

    Source: formula `memory.sglang_reserve`.
    """
    graphs = min(sglang_tier(total_bytes).graph_sequences, sequences)
    mib = 512 + 1.5 * max(chunk_tokens, 2048) + 1024 / 8 + 2 * graphs + 8 * sglang_prefill_graphs(chunk_tokens)
    return round(max(mib, 10240 if total_bytes > 60 * GIB else 0) * MIB)


def sglang_fraction(total_bytes: int, chunk_tokens: int, sequences: int, used_bytes: int = 0) -> float:
    """The `mem_fraction_static` that SGLang would choose, rounded as it rounds.

    SGLang looks at the whole card even where others hold a part of it; the planner asks for what is left.
    """
    usable = max(1, total_bytes - used_bytes)
    reserve = sglang_reserve_bytes(total_bytes, chunk_tokens, sequences)
    return max(0.0, round((usable - reserve) / usable, 3))


def sglang(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Division:
    """The fraction is of the memory free before loading, not of the total; the rest is for activations and graphs.

    Source: formula `memory.sglang_pool`.
    """
    chunk = demand.batched_tokens or sglang_tier(total_bytes).chunk_tokens
    usable = total_bytes - demand.used_bytes
    fraction = demand.memory_fraction or sglang_fraction(total_bytes, chunk, demand.sequences, demand.used_bytes)
    context = round(engine.memory["context_bytes"])
    static = max(0, math.floor((usable - context) * fraction))
    told = _told_fraction(fraction, static, usable - context, demand)
    weights, margin = weights_bytes(model, False, demand.tensor_parallel_size), round(engine.memory["margin_bytes"])
    return Division(
        weights_bytes=weights,
        activation_bytes=usable - context - static,
        graphs_bytes=0,
        non_torch_bytes=context,
        margin_bytes=margin,
        reserved_bytes=demand.used_bytes,
        kv_room_bytes=static - weights - margin,
        formula="memory.sglang_pool",
        memory_fraction=told,
        batched_tokens=chunk,
        usual_batched_tokens=sglang_tier(total_bytes).chunk_tokens,
    )


def _told_fraction(fraction: float, pool_bytes: int, free_bytes: int, demand: Demand) -> float:
    """The fraction that an engine has to be told, which takes it of all that is free when it starts.

    What belongs to engines that start later is free then too, so the same pool is a smaller part.
    Source: formula `memory.shared_card`.
    """
    if not demand.later_bytes:
        return fraction
    return math.floor(1000 * pool_bytes / max(1, free_bytes + demand.later_bytes)) / 1000


def vllm_batched_tokens(total_bytes: int) -> int:
    """vLLM's default batch of prefill tokens by total memory (API server)."""
    gib = total_bytes / GIB
    return 2048 if gib < 70 else 8192 if gib < 160 else 16384


def vllm(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Division:
    """The fraction is of the total; the engine measures its own peak, so every term here is a prediction.

    Source: formulas `memory.vllm_pool` and `memory.vllm_activation`.
    """
    batch = demand.batched_tokens or vllm_batched_tokens(total_bytes)
    fraction = demand.memory_fraction or vllm_fraction(total_bytes, engine, demand.used_bytes)
    requested = math.ceil(total_bytes * fraction)
    logits = engine.memory["activation_bytes_per_logit"] * demand.sequences * model.vocabulary_size
    activation = round(max(logits, prefill_activation_bytes(model, batch)))
    weights, margin = weights_bytes(model, False, demand.tensor_parallel_size), round(engine.memory["margin_bytes"])
    graphs, non_torch = round(engine.memory["graph_bytes"]), round(engine.memory["non_torch_bytes"])
    room = requested - weights - activation - graphs - non_torch - margin
    return Division(
        weights_bytes=weights,
        activation_bytes=activation,
        graphs_bytes=graphs,
        non_torch_bytes=non_torch,
        margin_bytes=margin,
        reserved_bytes=total_bytes - requested,
        kv_room_bytes=room,
        formula="memory.vllm_pool",
        memory_fraction=fraction,
        batched_tokens=batch,
    )


def vllm_fraction(total_bytes: int, engine: EngineRow, used_bytes: int) -> float:
    """vLLM's own fraction, or less where others hold so much that it would not start.

    It refuses to start unless this share of the whole card is free.
    """
    free = total_bytes - used_bytes - engine.memory["non_torch_bytes"]
    return max(0.0, min(engine.memory["memory_fraction"], math.floor(100 * free / total_bytes) / 100))


def prefill_activation_bytes(model: ModelRow, batched_tokens: int) -> int:
    """Peak of one prefill step at 16 bit."""
    return 2 * batched_tokens * (3 * (model.intermediate_size or 0) + 4 * model.hidden_size)


def llama_cpp(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Division:
    """No fraction: the cache is allocated for what was asked, beside weights and one compute buffer.

    Source: formulas `memory.llama_cpp_pool` and `memory.llama_cpp_compute`.
    """
    micro = demand.micro_batch_tokens or round(engine.memory["micro_batch_tokens"])
    compute = 4 * micro * (model.vocabulary_size + 2 * model.hidden_size)
    weights, margin = weights_bytes(model, True, demand.tensor_parallel_size), round(engine.memory["margin_bytes"])
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
    batch = demand.batched_tokens or round(engine.memory["batched_tokens"])
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
    pool = math.floor(free * fraction)
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


def sglang_smaller_chunks(total_bytes: int) -> Iterator[int]:
    """Prefill chunks below SGLang's own, down to where the reserve does not shrink any more, in tokens."""
    chunk = sglang_tier(total_bytes).chunk_tokens // 2
    while chunk >= SGLANG_LEAST_CHUNK_TOKENS:
        yield chunk
        chunk //= 2


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one engine divides a card, and how its cache is then counted."""

    divide: Callable[[int, ModelRow, EngineRow, Demand], Division]
    step_tokens: int = 1
    allocated_as_asked: bool = False  # the cache is what is asked for, not all that is left
    slot_per_sequence: bool = False  # fewer whole requests mean fewer sequences
    smaller_chunks: Callable[[int], Iterator[int]] | None = None
    reserve_bytes: Callable[[int, int, int], int] | None = None  # what a chunk size needs beside the pool


RULES: dict[str, Rule] = {
    "sglang": Rule(sglang, smaller_chunks=sglang_smaller_chunks, reserve_bytes=sglang_reserve_bytes),
    "vllm": Rule(vllm, step_tokens=VLLM_BLOCK_TOKENS),
    "llama.cpp": Rule(llama_cpp, step_tokens=LLAMA_CPP_STEP_TOKENS, allocated_as_asked=True, slot_per_sequence=True),
    "exllamav3": Rule(exllamav3, step_tokens=LLAMA_CPP_STEP_TOKENS, allocated_as_asked=True),
    "sfllm": Rule(sfllm),
}
