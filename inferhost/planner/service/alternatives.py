"""What would fit where a model does not: its sizes in the formats that a card is fast at, and known checkpoints.

Every answer is the planner's own: a format or a checkpoint is offered only where an engine reads it on this card and
the memory budget holds it with the asked context. The bits of a format are its row in the catalogue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.memory.budget import memory_budget, shown_gib
from inferhost.planner.memory.engine_rules import Demand
from inferhost.planner.memory.weights import weights_bytes
from inferhost.planner.names import format_named
from inferhost.planner.request import Instance
from inferhost.planner.service.engine import obstacles
from inferhost.schema.problems import InputError

SAME_MODEL_RATIO = 1.03
"""Checkpoints of one model differ by less than this in their number of parameters."""
SHOWN_PER_KIND = 2
FAST = {"fp8": "fp8", "nvfp4": "fp4", "mxfp4": "fp4"}
"""Formats that want a number format of the card's tensor cores."""
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
            size = shown_gib(weights_bytes(row, engine == "llama.cpp"))
            sizes.setdefault(row.format, []).append(f"{bits} {size} with {engine}")
    known = [row.key for row in catalogue.models.values() if _is_smaller_sibling(row, model) and fits(row)]
    parts = []
    if sizes:
        parts.append(f"on a {card.key} it fits as {', '.join(one for kind in sizes.values() for one in kind)}")
    if known:
        parts.append(f"the catalogue knows {', '.join(known)}")
    return "; ".join(parts)


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
        if name in EXPERTS_ONLY and model.moe is None:
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
    if obstacles(engine, row, card, None, instance):
        return False
    cache = engine.kv_cache[instance.text("kv_cache_dtype")]
    try:
        memory_budget(total_bytes, row, engine, cache, demand, instance=instance)
    except InputError:
        return False
    return True
