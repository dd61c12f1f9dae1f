"""What one instance will be like to use: ceilings, expectation, levers, prefill, energy, and its asked latencies.

Joins what `roofline`, `levers` and `targets` say of the same engine on the same cards.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.machine.clock_locks import wished_memory_top_mhz
from inferhost.planner.machine.gpu import POWER
from inferhost.planner.memory.budget import Budget
from inferhost.planner.memory.weights import bytes_read_per_token
from inferhost.planner.request import Instance, Request
from inferhost.planner.speed.levers import levers
from inferhost.planner.speed.roofline import batch_sizes, document, speed_of
from inferhost.planner.speed.targets import asked_latencies, energy, prefill
from inferhost.schema.plan import Pending

LIMIT_DIGITS = 8
"""More digits are no watts; the card's own section refuses them."""


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The plan's `roofline` of one instance, and what of the asked latencies only the host can settle."""

    roofline: dict[str, Any]
    pending: list[Pending]


def predicted(
    request: Request,
    instance: Instance,
    card: GpuRow,
    model: ModelRow,
    engine: EngineRow,
    *,
    budget: Budget,
    catalogue: Catalogue,
) -> Predicted:
    """What to expect of the instance, or `InputError` for a latency that physics rules out."""
    shares = instance.tensor_parallel_size
    speed = speed_of(
        card,
        model,
        engine,
        kv_bytes_per_token=budget.kv_bytes_per_token * shares,
        shares=shares,
        catalogue=catalogue,
        part=instance.slice,
        memory_lock_mhz=memory_lock_mhz(request, instance),
    )
    pending = asked_latencies(instance, speed)
    if speed is None:
        read = bytes_read_per_token(model)
        return Predicted({"bytes_read_per_token": read, "bound": "unknown", "note": "bandwidth unknown"}, pending)
    shown = {
        **document(card, speed, budget),
        "levers": levers(speed, budget),
        "prefill": prefill(speed),
        "energy": energy(speed, planned_power_w(request, card), batch_sizes(budget)[-1]),
    }
    return Predicted(shown, pending)


def memory_lock_mhz(request: Request, instance: Instance) -> int | None:
    """The most MHz that the wish lets the memory of the instance's slowest card run at; None where none is locked."""
    if not request.manages("gpu"):
        return None
    tops = (wished_memory_top_mhz(request.of_card(number)) for number in instance.gpus)
    return min((top for top in tops if top is not None), default=None)


def planned_power_w(request: Request, card: GpuRow) -> int | None:
    """The watts that the card will be held to: the wish's, else the catalogue's; boards of one model may differ.

    What discovery reads later never enters: it settles the limit, not the plan's figures.
    """
    wanted = request.wish.text(POWER) if request.manages("gpu") else "default"
    if wanted.isascii() and wanted.isdigit():
        return int(wanted) if len(wanted) < LIMIT_DIGITS else None
    return card.power_max_w if wanted == "max" else card.power_default_w
