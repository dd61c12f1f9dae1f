"""What an engine takes of the host's memory, and whether the host has it.

Weights and cache that the card does not hold, caches that flags put beside them, and what is locked. Pages of a model
file that only pass through on their way to the card are not counted: the kernel takes them back. Several engines on
one host are added up. Where the host's memory is not known, nothing is promised: it stays pending.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.engine_parts import HostMemoryFlag
from inferhost.catalogue.rows import EngineRow, ModelRow
from inferhost.planner.memory.budget import Budget, shown_gib
from inferhost.planner.memory.engine_rules import GIB, MIB
from inferhost.planner.memory.kv_cache import CacheLayout, cache_layout
from inferhost.planner.memory.llama_cpp_offload import host_weights_bytes, part_of_cache
from inferhost.planner.memory.llama_cpp_reserve import Reserve, host_buffer_bytes
from inferhost.planner.memory.weights import weights_bytes
from inferhost.planner.reasons import is_flag
from inferhost.planner.request import HARDWARE, Instance
from inferhost.schema.plan import Pending
from inferhost.schema.problems import Problem

RESERVE_BYTES, LEAST_RATIO, MOST_RATIO = 2 * GIB, 1 / 16, 1 / 4
LOCKED = "mlock"
LOCKS_FILE = "mmap+mlock"


@dataclasses.dataclass(frozen=True)
class HostNeed:
    """One thing in host memory; `flag` where a flag of the wish asks for it."""

    what: str
    needed_bytes: int
    path: str
    flag: HostMemoryFlag | None = None
    value: float = 0.0  # of the flag
    locked: bool = False


def reserve_bytes(host_bytes: int) -> int:
    """What is left to the kernel, to other services and to the engine's own program.

    Source: formula `memory.host_reserve`.
    """
    usual = min(RESERVE_BYTES, math.floor(host_bytes * MOST_RATIO))  # a host of 2 GiB can still serve a small model
    return max(usual, math.floor(host_bytes * LEAST_RATIO))


def host_needs(
    instance: Instance,
    engine: EngineRow,
    model: ModelRow,
    budget: Budget,
    *,
    words: Sequence[str],
    env: Mapping[str, str],
    catalogue: Catalogue,
) -> list[HostNeed]:
    """Everything that one engine keeps in host memory.

    Source: formula `memory.host`.
    """
    needs = _placed_needs(instance, engine, model, budget, words=words, env=env, catalogue=catalogue)
    for flag in engine.host_memory:
        switched_on = flag.only_with is None or _is_given(flag.only_with, engine, words, catalogue)
        value = given_value(flag.flag, engine, words, env, catalogue)
        if switched_on and value is not None:
            value = max(0.0, value)  # a negative limit is none, which nothing can be said of
            cards = instance.tensor_parallel_size if flag.per_card else 1
            unit = budget.kv_cache_bytes if flag.times_cache else flag.unit_bytes
            path = instance.path("extra_args")
            what = f"{flag.what} ({flag.flag} {value:g})"
            needs.append(HostNeed(what, math.ceil(value * unit * cards), path, flag, value))
    return needs


def _placed_needs(
    instance: Instance,
    engine: EngineRow,
    model: ModelRow,
    budget: Budget,
    *,
    words: Sequence[str],
    env: Mapping[str, str],
    catalogue: Catalogue,
) -> list[HostNeed]:
    """Weights, cache and buffers of what is not placed on the card, for an engine that can do that."""
    placement = budget.placement
    if placement is None:
        return []
    path = instance.path("model" if placement.whole(model) else "gpu_layers")
    mode = given_text(engine.flags.get("load_mode"), engine, words, env, catalogue) or ""
    kept = host_weights_bytes(model, placement)
    what = "input embedding" if placement.whole(model) else "weights"
    if mode == LOCKS_FILE:
        kept, what = max(kept, model.weights_bytes or weights_bytes(model, False)), "the model's file, locked"
    needs = [HostNeed(what, kept, path, locked=LOCKED in mode)]
    layers, cache = placement.host_layers(model), engine.kv_cache[instance.text("kv_cache_dtype")]
    if layers:
        layout = cache_layout(model, engine.engine, cache.bytes_per_element)
        needs.append(HostNeed("KV cache", _cache_bytes(part_of_cache(layout, model, layers), budget), path))
    cells, micro = budget.kv_cache_tokens // budget.sequences, budget.division.micro_batch_tokens or 1
    start = Reserve(cells, budget.sequences, micro, cache.bytes_per_element, placement)
    needs.append(HostNeed("compute buffers", host_buffer_bytes(model, start), path))
    return needs


def _cache_bytes(part: CacheLayout, budget: Budget) -> int:
    return budget.kv_cache_tokens * part.bytes_per_token + budget.sequences * part.fixed_bytes


def given_value(
    flag: str, engine: EngineRow, words: Sequence[str], env: Mapping[str, str], catalogue: Catalogue
) -> float | None:
    """The number that a wish gives a flag, by any of its names or by its variable; nothing where it gives none."""
    try:
        return float(given_text(flag, engine, words, env, catalogue) or "")
    except ValueError:
        return None


def given_text(
    flag: str | None, engine: EngineRow, words: Sequence[str], env: Mapping[str, str], catalogue: Catalogue
) -> str | None:
    """What a wish gives a flag; the command line wins over the variable, as engines have it."""
    row = catalogue.flags_of(engine).get(flag or "")
    if row is None:
        return None
    for number, word in enumerate(words):
        name, joined, value = word.partition("=")
        if is_flag(word) and name in row.names:
            return value if joined else next(iter(words[number + 1 : number + 2]), None)
    return next((env[name] for name in row.variables if name in env), None)


def _is_given(flag: str, engine: EngineRow, words: Sequence[str], catalogue: Catalogue) -> bool:
    row = catalogue.flags_of(engine).get(flag)
    return row is not None and any(word.partition("=")[0] in row.names for word in words)


def own_limits(
    engine: EngineRow, host_mib: int, needs: Sequence[HostNeed], engines: int, *, instance: Instance
) -> list[HostNeed]:
    """What the engine's own limits let it take where the wish sets none, lowered to what is left for each engine.

    Where the host's memory is not known they stay as they are.
    Source: formula `memory.host`.
    """
    host_bytes, given = host_mib * MIB, {need.flag.flag for need in needs if need.flag is not None}
    found = []
    for flag in engine.host_memory:
        if flag.default is None or flag.flag in given:
            continue
        left = (host_bytes - reserve_bytes(host_bytes)) / engines - sum(need.needed_bytes for need in needs)
        fits = math.floor(left / flag.unit_bytes) if host_bytes else flag.default
        value = max(0.0, min(flag.default, fits))
        what = f"{flag.what} ({flag.flag} {value:g})"
        found.append(HostNeed(what, round(value * flag.unit_bytes), instance.path("extra_args"), flag, value))
    return found


def host_problems(host_mib: int, needs: Sequence[HostNeed], memlock: str) -> list[Problem]:
    """Why the host cannot hold what its engines keep there, and what would fit.

    Told of the largest pool that a flag asks for where less of it is enough, else of what takes most.
    """
    host_bytes = host_mib * MIB
    problems = []
    locked = sum(need.needed_bytes for need in needs if need.locked)
    if memlock != "infinity" and locked > int(memlock):
        found = f"found {int(memlock) // 1024} KiB, and {shown_gib(locked)} are to be locked"
        hint = f"unlimited, or at least {-(-locked // 1024)}"
        problems.append(Problem("inferhost_cpu_limit_memlock", found, hint, "host-memory"))
    beside = max((round(need.flag.beside_bytes) for need in needs if need.flag is not None), default=0)
    kept, total = max(reserve_bytes(host_bytes), beside), sum(need.needed_bytes for need in needs)
    if not host_bytes or total <= host_bytes - kept:
        return problems
    over = total - (host_bytes - kept)
    asked = [need for need in needs if need.flag is not None and need.needed_bytes >= over]
    largest = max(asked or needs, key=lambda need: need.needed_bytes)
    room = max(0, largest.needed_bytes - over)
    listed = ", ".join(f"{need.what} {shown_gib(need.needed_bytes)}" for need in needs)
    found = (
        f"needs {shown_gib(total)} of host memory ({listed}), and the host has {shown_gib(host_bytes)}, of which "
        f"{shown_gib(kept)} stay free"
    )
    return [*problems, Problem(largest.path, found, _fitting(largest, room), "host-memory")]


def _fitting(need: HostNeed, room_bytes: int) -> str:
    """What would fit in place of the largest need."""
    if need.flag is None:
        return (
            f"at most {shown_gib(room_bytes)} of {need.what}: fewer bits per weight, a smaller model or a larger "
            f"card; {HARDWARE}.memory_mib says what the host has"
        )
    most = need.value * room_bytes / max(1, need.needed_bytes)
    shown = math.floor(100 * most) / 100 if need.flag.times_cache else math.floor(most)
    return f"at most {need.flag.flag} {shown:g}, or leave it out"


def lowered_because(need: HostNeed, host_mib: int) -> str:
    """Why a limit of the engine's own is told lower."""
    default = need.flag.default if need.flag is not None and need.flag.default is not None else 0
    return f"the engine's own limit is {default:g}, and of {shown_gib(host_mib * MIB)} of host memory so much is left"


def host_pending(instance: Instance, host_mib: int, needs: Sequence[HostNeed]) -> list[Pending]:
    """What cannot be told of the host's memory where discovery did not see how much there is."""
    total = sum(need.needed_bytes for need in needs)
    if host_mib or not total:
        return []
    because = f"{HARDWARE}.memory_mib is not known"
    return [Pending(f"service.{instance.name}.host_memory", f"{shown_gib(total)} of host memory", because)]


def host_document(host_mib: int, needs: Sequence[HostNeed]) -> dict[str, Any]:
    """The host's part of the plan's `budget`."""
    return {
        "needs": [{"what": need.what, "bytes": need.needed_bytes} for need in needs if need.needed_bytes],
        "needed_bytes": sum(need.needed_bytes for need in needs),
        "host_memory_bytes": host_mib * MIB or None,
        "reserved_bytes": reserve_bytes(host_mib * MIB) if host_mib else None,
        "formula": "memory.host",
    }
