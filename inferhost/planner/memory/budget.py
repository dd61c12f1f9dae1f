"""The memory budget of one engine on one card: what fits, how many tokens, how many requests at once.

Divides the card as the engine itself would (`planner.memory_rules`), keeps a margin, and refuses what does not
fit with the number that would. Every term is in bytes and the terms add up to the card's memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from inferhost.catalogue.engine_parts import KvCacheFormat
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.card_names import LABEL_SHARE
from inferhost.planner.memory.engine_rules import (
    GIB,
    MIB,
    RULES,
    Demand,
    Division,
)
from inferhost.planner.memory.kv_cache import CacheLayout, cache_layout
from inferhost.planner.memory.llama_cpp_offload import Placement, largest_placement, part_of_cache, whole
from inferhost.planner.request import Instance
from inferhost.schema.plan import Pending
from inferhost.schema.problems import InputError, Problem


@dataclasses.dataclass(frozen=True)
class Budget:
    """The card's memory, term by term, and what it holds."""

    total_bytes: int
    division: Division
    layout: CacheLayout
    kv_cache_tokens: int
    context_tokens: int
    sequences: int
    concurrent_requests: int
    placement: Placement | None = None  # where an engine can leave a part of the model in host memory

    @property
    def kv_bytes_per_token(self) -> int:
        """What one more token of context takes once every window is full."""
        return self.layout.bytes_per_token

    @property
    def kv_cache_bytes(self) -> int:
        states = max(self.sequences * self.layout.fixed_bytes, self.division.state_pool_bytes)
        return self.kv_cache_tokens * self.layout.bytes_per_token + states

    @property
    def unallocated_bytes(self) -> int:
        return self.division.kv_room_bytes - self.kv_cache_bytes

    def terms(self) -> dict[str, int]:
        """The terms that add up to the card's memory."""
        parts = self.division
        return {
            "weights_bytes": parts.weights_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "activation_bytes": parts.activation_bytes,
            "graphs_bytes": parts.graphs_bytes,
            "non_torch_bytes": parts.non_torch_bytes,
            "margin_bytes": parts.margin_bytes,
            "reserved_bytes": parts.reserved_bytes,
            "unallocated_bytes": self.unallocated_bytes,
        }

    def document(self) -> dict[str, Any]:
        """The plan's `budget` of one instance."""
        return {
            "total_memory_bytes": self.total_bytes,
            **self.terms(),
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_cache_tokens": self.kv_cache_tokens,
            "context_tokens": self.context_tokens,
            "max_sequences": self.sequences,
            "concurrent_requests": self.concurrent_requests,
            "memory_fraction": self.division.memory_fraction,
            "batched_tokens": self.division.batched_tokens,
            "graph_sequences": self.division.graph_sequences,
            "usual_memory_fraction": self.division.usual_memory_fraction,
            "usual_batched_tokens": self.division.usual_batched_tokens,
            **({} if self.placement is None else dataclasses.asdict(self.placement)),
            "formula": self.division.formula,
            "uncertainty": (
                f"{shown_gib(self.division.margin_bytes)} are kept free: a prediction can be wrong, and "
                "promising more than fits is the worse error (formula:memory.margin)"
            ),
        }


def shown_gib(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / GIB:.2f} GiB" if abs(count) >= 0.1 * GIB else f"{count / MIB:.1f} MiB"


def rounded_down(tokens: int, step: int) -> int:
    return tokens // step * step


def rounded_up(tokens: int, step: int) -> int:
    return -(-tokens // step) * step


def memory_budget(
    total_bytes: int, model: ModelRow, engine: EngineRow, cache: KvCacheFormat, demand: Demand, *, instance: Instance
) -> Budget:
    """The budget, or `InputError` naming the variable at fault and what would fit.

    Where the demand leaves the placement to the planner, a model that the card does not hold whole goes to host
    memory as far as it has to; fewer requests at once come before that.
    """
    layout = cache_layout(
        model, engine.engine, cache.bytes_per_element, tensor_parallel_size=demand.tensor_parallel_size
    )

    def placed(placement: Placement | None) -> Budget:
        tried = dataclasses.replace(demand, placement=placement, cached_bytes=cache.bytes_per_element)
        return _placed(total_bytes, model, engine, layout, tried, instance=instance)

    if "gpu_layers" not in engine.flags:
        return placed(None)
    try:
        return placed(demand.placement or whole(model))
    except InputError:
        found = largest_placement(model, lambda one: _is_held(lambda: placed(one))) if demand.may_offload else None
        if found is None:
            raise
        return placed(found)


def _is_held(budget: Callable[[], Budget]) -> bool:
    try:
        budget()
    except InputError:
        return False
    return True


def _placed(
    total_bytes: int, model: ModelRow, engine: EngineRow, layout: CacheLayout, demand: Demand, *, instance: Instance
) -> Budget:
    """The budget of what is placed on the card, with as many requests as it holds."""
    if demand.placement is not None:
        layout = part_of_cache(layout, model, model.layers - demand.placement.host_layers(model))
    demand = dataclasses.replace(demand, request_bytes=layout.sequence_bytes(demand.context_tokens))
    refused = InputError([])
    for tried in _demands(total_bytes, model, engine, demand):
        division = RULES[engine.memory_rule].divide(total_bytes, model, engine, tried)
        try:
            return _fitted(total_bytes, division, layout, tried, model=model, engine=engine, instance=instance)
        except InputError as error:
            refused = error
    raise refused


def _most_context(total_bytes: int, model: ModelRow, engine: EngineRow, layout: CacheLayout, demand: Demand) -> int:
    """The longest context that fits, in tokens, where the buffers grow with the context asked for.

    The room beside the buffers of too long a context fits; that beside the buffers of this shorter one may not.
    """
    rule = RULES[engine.memory_rule]

    def room_tokens(context_tokens: int) -> int:
        request = layout.sequence_bytes(context_tokens)
        tried = dataclasses.replace(demand, context_tokens=context_tokens, request_bytes=request)
        room = rule.divide(total_bytes, model, engine, tried).kv_room_bytes
        return rounded_down((room - layout.fixed_bytes) // max(1, layout.bytes_per_token), rule.step_tokens)

    fits = room_tokens(demand.context_tokens)
    most = room_tokens(max(fits, 0))
    while fits > 0 and fits + rule.step_tokens <= most:
        middle = rounded_down((fits + most) // 2 + rule.step_tokens // 2, rule.step_tokens)
        if room_tokens(middle) >= middle:
            fits = middle
        else:
            most = middle - rule.step_tokens
    return fits


def _demands(total_bytes: int, model: ModelRow, engine: EngineRow, demand: Demand) -> Iterator[Demand]:
    """What is asked, then the same with ever fewer slots, whose masks the compute buffers hold."""
    yield demand
    if RULES[engine.memory_rule].slot_per_sequence:
        for fewer in (demand.sequences >> shift for shift in range(1, demand.sequences.bit_length())):
            yield dataclasses.replace(demand, sequences=fewer)


def _fitted(
    total_bytes: int,
    division: Division,
    layout: CacheLayout,
    demand: Demand,
    *,
    model: ModelRow,
    engine: EngineRow,
    instance: Instance,
) -> Budget:
    problem = _fraction_problem(total_bytes, division, model, engine, demand=demand, instance=instance)
    problem = problem or _limit_problem(demand, instance) or _batch_problem(division, engine, demand, instance)
    if division.kv_room_bytes <= 0 and problem is None:
        cards = demand.tensor_parallel_size
        problem = _weights_problem(total_bytes, division, cards, model=model, engine=engine, instance=instance)
    if problem:
        raise InputError([problem])
    rule = RULES[engine.memory_rule]
    step = rule.step_tokens
    sequences = _sequences(division, layout, demand)
    room_tokens = rounded_down(
        (division.kv_room_bytes - max(sequences * layout.fixed_bytes, division.state_pool_bytes))
        // max(1, layout.bytes_per_token),
        step,
    )
    room_tokens = min(room_tokens, demand.most_cache_tokens or room_tokens)
    if room_tokens < demand.context_tokens:
        if rule.allocated_as_asked and sequences == 1:
            room_tokens = _most_context(total_bytes, model, engine, layout, demand)
        raise InputError([_context_problem(room_tokens, demand, model, engine, instance)])
    tokens, requests = room_tokens, room_tokens // demand.context_tokens
    if layout.fixed_bytes:
        requests = min(requests, sequences)
    if rule.allocated_as_asked:
        each = rounded_up(demand.context_tokens, step)
        requests = min(sequences, max(1, room_tokens // each))
        tokens = requests * each
        sequences = requests if rule.slot_per_sequence else sequences
    return Budget(total_bytes, division, layout, tokens, demand.context_tokens, sequences, requests, demand.placement)


def _sequences(division: Division, layout: CacheLayout, demand: Demand) -> int:
    """How many sequences: what is asked, or as many as keep their fixed part beside one full context each."""
    if not layout.fixed_bytes:
        return demand.sequences
    each = layout.fixed_bytes + demand.context_tokens * layout.bytes_per_token
    fitting = division.kv_room_bytes // each
    if division.state_pool_bytes:
        fitting = min(fitting, division.state_pool_bytes // layout.fixed_bytes)
    return max(1, min(demand.sequences, fitting))


def _weights_problem(
    total_bytes: int, division: Division, cards: int, *, model: ModelRow, engine: EngineRow, instance: Instance
) -> Problem:
    """Weights that leave no cache; `planner.service.alternatives` adds what would fit."""
    room, each = max(0, division.weights_bytes + division.kv_room_bytes), f" on each of {cards} cards"
    return Problem(
        instance.path("model"),
        f'found "{model.key}" with {shown_gib(division.weights_bytes)} of weights{each if cards > 1 else ""}, but '
        f"{engine.engine} has {shown_gib(room)} for weights and KV cache on a card of {shown_gib(total_bytes)}",
        "a smaller model, or a card with more memory",
        "weights-do-not-fit",
    )


def _context_problem(
    room_tokens: int, demand: Demand, model: ModelRow, engine: EngineRow, instance: Instance
) -> Problem:
    room = max(room_tokens, 0)
    hint = f"at most {room} tokens" if room >= 1 else "a smaller model or a card with more memory"
    smaller = [n for n, f in engine.kv_cache.items() if f.bytes_per_element < 2]
    if smaller and instance.text("kv_cache_dtype") in ("auto", "f16"):
        hint += f"; {instance.path('kv_cache_dtype')}: {smaller[0]} nearly doubles it"
    return Problem(
        instance.path("context_tokens"),
        f"found {demand.context_tokens}, but the KV cache of {engine.engine} holds {room} tokens beside {model.key}",
        hint,
        "context-does-not-fit",
    )


def _limit_problem(demand: Demand, instance: Instance) -> Problem | None:
    """A limit of the wish on the cache has to leave room for one request."""
    most, asked = demand.most_cache_tokens, demand.context_tokens
    if most is None or most >= asked:
        return None
    found = f"the cache is limited to {most} tokens, and one request may have {asked}"
    return Problem(instance.path("extra_args"), found, f"at least {asked}, or leave it to the plan", "cache-limit")


def _batch_problem(division: Division, engine: EngineRow, demand: Demand, instance: Instance) -> Problem | None:
    """A batch of the wish has to hold a token of every sequence, where the engine refuses to start otherwise."""
    batch, flag = division.batched_tokens, engine.flags.get("batched_tokens")
    if not RULES[engine.memory_rule].token_per_sequence or batch is None or batch >= demand.sequences:
        return None
    return Problem(
        instance.path("max_sequences"),
        f'found {demand.sequences}, but "{flag}" is {batch}, and {engine.engine} wants a token for each sequence',
        f'at most {batch}, or "{flag}" {demand.sequences} in {instance.path("extra_args")}',
        "batch-below-sequences",
    )


def _fraction_problem(
    total_bytes: int, division: Division, model: ModelRow, engine: EngineRow, *, demand: Demand, instance: Instance
) -> Problem | None:
    """A memory fraction of the wish has to leave room for the chunk size in force.

    Guides raise both at once, which takes the room from the very activations that grow.
    """
    asked = demand.memory_fraction
    flag, needed_bytes = engine.flags.get("memory_fraction"), RULES[engine.memory_rule].needed_bytes
    if asked is None or needed_bytes is None or division.batched_tokens is None:
        return None
    needs = needed_bytes(total_bytes, model, engine, demand, division.batched_tokens)
    most = round((total_bytes - needs) / total_bytes, 3)
    if asked <= most:
        return None
    return Problem(
        instance.path("extra_args"),
        f'"{flag}" {asked} leaves {shown_gib((1 - asked) * total_bytes)} beside the pool, but chunks of '
        f"{division.batched_tokens} tokens need {shown_gib(needs)}",
        f"at most {most} with chunks of {division.batched_tokens}, or leave both to the plan",
        "memory-fraction",
    )


def fraction_pending(
    total_bytes: int, budget: Budget, model: ModelRow, engine: EngineRow, demand: Demand, *, instance: Instance
) -> list[Pending]:
    """A memory fraction of the wish that leaves what a chunk needs, and less than the engine itself would keep."""
    asked, chunk = demand.memory_fraction, budget.division.batched_tokens
    reserve_bytes = RULES[engine.memory_rule].reserve_bytes
    if asked is None or reserve_bytes is None or chunk is None:
        return []
    left, own = (1 - asked) * total_bytes, reserve_bytes(total_bytes, model, engine, demand, chunk)
    if left >= own:
        return []
    flag = engine.flags["memory_fraction"]
    because = f"{asked} leaves {shown_gib(left)} beside the pool, {engine.engine} itself would keep {shown_gib(own)}"
    return [Pending(f"service.{instance.name}.argv.{flag}", "a start that holds under load", because)]


def card_bytes(found_mib: int, card: GpuRow, ecc: bool | None = None) -> int:
    """A card's memory in bytes, as a CUDA program sees it.

    What discovery reads through NVML is 0.3 to 0.6 GiB more, which no program can allocate: the lesser of both
    counts, because promising more than fits is the worse error. Of a card that nobody has printed it for, it is the
    least share of the label. Inline check bits are taken off where they are
    wished for or show in what was found; memory that a switched off ECC sets free counts once it was found.
    Source: formula `memory.inline_ecc`.
    """
    known = card.memory_under_cuda_mib
    if known is None and card.memory_label_gb is not None:
        known = math.floor(LABEL_SHARE * card.memory_label_gb * 1024)
    checked_mib = (card.memory_label_gb or math.inf) * 1024 * 15 / 16
    inline = card.ecc == "inline" and (ecc is True or found_mib <= checked_mib)
    sizes = [mib for mib in (found_mib, known) if mib is not None]
    return MIB * min(mib * 15 // 16 if inline and mib > checked_mib else mib for mib in sizes)
