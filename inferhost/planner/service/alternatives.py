"""What would fit where a model does not: its sizes in the formats that a card is fast at, and known checkpoints.

Every answer is the planner's own: a format or a checkpoint is offered only where an engine reads it on this card and
the memory budget holds it with the asked context. The bits of a format are its row in the catalogue.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterator

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.memory.budget import memory_budget, shown_gib
from inferhost.planner.memory.engine_rules import Demand
from inferhost.planner.memory.weights import linear_parameters, weights_bytes
from inferhost.planner.names import format_named
from inferhost.planner.request import Instance
from inferhost.planner.service.engine import obstacles
from inferhost.planner.service.placement import divides
from inferhost.schema.document import counted
from inferhost.schema.problems import InputError

SAME_MODEL_RATIO = 1.03
"""Checkpoints of one model differ by less than this in their number of parameters."""
SHOWN_PER_KIND = 2
FAST = {"fp8": "fp8", "nvfp4": "fp4", "mxfp4": "fp4"}
"""Formats that want a number format of the card's tensor cores."""
LEAST_BITS = 2
"""Per weight: no format of the catalogue has fewer."""
EXPERTS_ONLY = ("mxfp4",)
"""Formats that engines read for the experts of a mixture and for nothing else."""


def fitting_hint(
    model: ModelRow, card: GpuRow, instance: Instance, *, total_bytes: int, demand: Demand, catalogue: Catalogue
) -> str:
    """Sizes and checkpoints that this card holds whole with the asked context, or the empty string."""
    demand = dataclasses.replace(demand, placement=None, may_offload=False)

    def fits(row: ModelRow) -> str:
        """The first engine that serves the row here, or the empty string."""
        for engine in sorted(catalogue.engines.values(), key=lambda e: e.preference):
            if engine.pinned and _holds(row, card, engine, instance, total_bytes=total_bytes, demand=demand):
                return engine.engine
        return ""

    sizes: dict[str, list[str]] = {}
    for row in _formats(model, card, catalogue):
        engine = fits(row) if len(sizes.get(row.format, ())) < SHOWN_PER_KIND else ""
        if engine:
            bits = f"{row.quantisation} ({row.linear_bits:.3g} bit)"
            size = shown_gib(weights_bytes(row, engine == "llama.cpp", demand.tensor_parallel_size))
            sizes.setdefault(row.format, []).append(f"{bits} {size} with {engine}")
    known = [row.key for row in catalogue.models.values() if _is_smaller_sibling(row, model) and fits(row)]
    parts = []
    if sizes:
        cards = demand.tensor_parallel_size
        where = f"on a {card.key} it fits" if cards == 1 else f"on each of {cards} {card.key} it fits"
        parts.append(f"{where} as {', '.join(one for kind in sizes.values() for one in kind)}")
    if known:
        parts.append(f"the catalogue knows {', '.join(known)}")
    if sizes:
        parts.append(f"{'for another' if known else 'for such a'} checkpoint inferhost model PATH prints a row")
    return "; ".join(parts)


def offload_hint(
    model: ModelRow, card: GpuRow, instance: Instance, *, total_bytes: int, demand: Demand, catalogue: Catalogue
) -> str:
    """The known checkpoint of most bits of which an engine can leave a part in host memory, or the empty string."""
    demand = dataclasses.replace(demand, placement=None, may_offload=True)
    rows = [row for row in catalogue.models.values() if _is_smaller_sibling(row, model)]
    for row in sorted(rows, key=lambda row: -row.linear_bits):
        for engine in catalogue.engines.values():
            can = engine.pinned and "gpu_layers" in engine.flags
            if can and _holds(row, card, engine, instance, total_bytes=total_bytes, demand=demand):
                path = instance.path("gpu_layers")
                return f"{row.key} with {engine.engine} and {path}: auto, which leaves a part in host memory"
    return ""


def room_hint(
    model: ModelRow, engine: EngineRow, card: GpuRow, instance: Instance, *, total_bytes: int, demand: Demand
) -> str:
    """What of the wish keeps the engine from memory in which it would hold the model, or the empty string."""
    settings = []
    if demand.memory_fraction is not None:
        flag = engine.flags["memory_fraction"]
        settings.append(f"{flag} {demand.memory_fraction:g} of {instance.path('extra_args')}")
    if demand.used_bytes:
        settings.append(f"{instance.path('memory_share')} {100 * instance.share:g}")
    whole = dataclasses.replace(demand, memory_fraction=None, used_bytes=0, later_bytes=0)
    if settings and _holds(model, card, engine, instance, total_bytes=total_bytes, demand=whole):
        return f"without {' and '.join(settings)} it fits"
    return ""


def cards_hint(
    model: ModelRow,
    engine: EngineRow,
    card: GpuRow,
    instance: Instance,
    *,
    total_bytes: int,
    demand: Demand,
    cards: int,
) -> str:
    """Over how many of the host's equal cards the engine would hold the model, or the empty string."""
    for size in range(demand.tensor_parallel_size + 1, cards + 1):
        asked = dataclasses.replace(demand, tensor_parallel_size=size)
        if divides(model, size) and _holds(model, card, engine, instance, total_bytes=total_bytes, demand=asked):
            return f"{instance.path('tensor_parallel_size')}: {size} holds it over {size} such cards"
    return ""


def bits_hint(
    model: ModelRow, engine: EngineRow, instance: Instance, *, total_bytes: int, demand: Demand, catalogue: Catalogue
) -> str:
    """The most bits per weight that leave the asked context to one request, and to all asked for; or nothing.

    Bits that the engine has no format for are no offer.
    """
    least = _least_bits(model, engine, catalogue)
    demand = dataclasses.replace(demand, placement=None, may_offload=False)
    fits = {
        count: bits
        for count in sorted({1, instance.integer("max_sequences")})
        if (bits := _most_bits(model, engine, instance, count, total_bytes=total_bytes, demand=demand)) is not None
        and bits >= least
    }
    shown = [f"{bits:.1f} bits per weight for {shown_requests(count, demand)}" for count, bits in fits.items()]
    return f"at most {', '.join(shown)}" if shown else ""


def _least_bits(model: ModelRow, engine: EngineRow, catalogue: Catalogue) -> float:
    """The fewest bits per weight of the formats that the engine reads; one without a row can have any number."""
    names = {name for read in engine.quantisations.values() for name in read}
    rows = [format_named(name, catalogue) for name in names if model.moe is not None or name not in EXPERTS_ONLY]
    return min(LEAST_BITS if row is None else row.bits_per_weight for row in rows)


def shown_requests(count: int, demand: Demand) -> str:
    return f"{counted(count, 'request')}{' at once' if count > 1 else ''} of {demand.context_tokens} tokens"


def _most_bits(
    model: ModelRow, engine: EngineRow, instance: Instance, requests: int, *, total_bytes: int, demand: Demand
) -> float | None:
    """The most bits per linear weight, in tenths, beside which so many requests of full length fit; at least 2."""
    cache, asked = engine.kv_cache[instance.text("kv_cache_dtype")], dataclasses.replace(demand, sequences=requests)

    def holds(tenths: int) -> bool:
        saved = round(linear_parameters(model, False) * (model.linear_bits - tenths / 10) / 8)
        file_bytes = None if model.weights_bytes is None else model.weights_bytes - saved
        smaller = dataclasses.replace(model, linear_bits=tenths / 10, weights_bytes=file_bytes)
        try:
            budget = memory_budget(total_bytes, smaller, engine, cache, asked, instance=instance)
        except InputError:
            return False
        return budget.concurrent_requests >= requests

    tenths = range(10 * LEAST_BITS, math.ceil(10 * model.linear_bits))
    found = bisect.bisect_right(tenths, 0, key=lambda number: 0 if holds(number) else 1)
    return tenths[found - 1] / 10 if found else None


def _formats(model: ModelRow, card: GpuRow, catalogue: Catalogue) -> Iterator[ModelRow]:
    """The model in every format of fewer bits that some engine reads and the card is fast at, most bits first."""
    read = {
        (kind, name)
        for engine in catalogue.engines.values()
        for kind, names in engine.quantisations.items()
        for name in names
    }
    found = []
    for kind, name in sorted(read):
        if name in EXPERTS_ONLY and (model.moe is None or kind == "gguf"):  # a file of its own row
            continue
        row, needs = format_named(name, catalogue), FAST.get(name)
        if row is not None and row.bits_per_weight < model.linear_bits and (needs is None or getattr(card, needs)):
            found.append(
                dataclasses.replace(
                    model,
                    format=kind,
                    quantisation=name,
                    linear_bits=row.bits_per_weight,
                    embedding_bits=row.embedding_bits,
                    head_bits=row.head_bits,
                    weights_bytes=None,
                )
            )
    yield from sorted(found, key=lambda row: -row.linear_bits)


def _is_smaller_sibling(row: ModelRow, model: ModelRow) -> bool:
    """Whether a checkpoint is the same model in fewer bits."""
    ratio = row.parameters / model.parameters
    shape = ("family", "layers", "hidden_size", "vocabulary_size")
    same = all(getattr(row, name) == getattr(model, name) for name in shape)
    return same and 1 / SAME_MODEL_RATIO < ratio < SAME_MODEL_RATIO and row.linear_bits < model.linear_bits


def _holds(
    row: ModelRow, card: GpuRow, engine: EngineRow, instance: Instance, *, total_bytes: int, demand: Demand
) -> bool:
    alone = demand.tensor_parallel_size > 1 and "tensor_parallel_size" not in engine.flags
    if alone or obstacles(engine, row, card, None, instance):
        return False
    cache = engine.kv_cache[instance.text("kv_cache_dtype")]
    try:
        memory_budget(total_bytes, row, engine, cache, demand, instance=instance)
    except InputError:
        return False
    return True
