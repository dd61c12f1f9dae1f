"""What each card is set to: power limit, persistence and, where wished for, clocks and compute mode.

Takes the wish, the hardware and the catalogue row; the hardware's own power range wins over the catalogue's,
because boards of one model differ. A limit is never clamped: outside a known range it is refused, and where the
range is unknown the word stays and the host's card decides, but for watts that no such card takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import GpuRow
from inferhost.planner.machine.card_wishes import CARDS, compared
from inferhost.planner.machine.clock_locks import (
    graphics_clock_lock_mhz,
    lock_pending,
    lock_reasons,
    memory_clock_lock_mhz,
)
from inferhost.planner.machine.driver import pci_device_id
from inferhost.planner.machine.gpu_modes import (
    APPLICATION_CLOCKS,
    application_clocks_mhz,
    compute_mode,
    ecc_mode,
    mode_pending,
    mode_reasons,
)
from inferhost.planner.machine.guard import guard, guard_reasons
from inferhost.planner.machine.mig import Layout, mig_pending, mig_reason, planned_instances
from inferhost.planner.reasons import NO_GAIN, reason
from inferhost.planner.request import HARDWARE, Request
from inferhost.schema.hardware import HardwareGpu
from inferhost.schema.plan import Gpu, GpuSelector, Pending, Reason
from inferhost.schema.problems import InputError, Problem

P = ParamSpec("P")
T = TypeVar("T")

POWER = "inferhost_gpu_power_limit"
PERSISTENCE = "inferhost_gpu_persistence_mode"
MOST_OF_DEFAULT = 1.5
"""Times the default above which watts are a slip of the pen; no highest limit of the catalogue comes near."""


@dataclasses.dataclass(frozen=True)
class PowerRange:
    """Least, default and most watts of one board, and where they were read."""

    min_w: int | None
    default_w: int | None
    max_w: int | None
    source: str
    read: bool
    """Whether discovery read it on this board; else it is the catalogue's, of the model."""

    def shown(self) -> str:
        low = str(self.min_w) if self.min_w is not None else "unknown"
        return f"{low} to {self.max_w if self.max_w is not None else 'unknown'} W"


def power_range(gpu: HardwareGpu, row: GpuRow) -> PowerRange:
    """The board's range: what discovery read, else the catalogue's, never a mixture of both."""
    if gpu.power_min_w is not None or gpu.power_max_w is not None or gpu.power_default_w is not None:
        return PowerRange(gpu.power_min_w, gpu.power_default_w, gpu.power_max_w, f"wish:{HARDWARE}", True)
    source = f"catalogue:gpus/{row.key}#power_default_w"
    return PowerRange(row.power_min_w, row.power_default_w, row.power_max_w, source, False)


def power_limit_w(wanted: str, limits: PowerRange, card: str) -> int | str:
    """The limit in watts, or the word where this board's own range was not read; `InputError` outside the range.

    Boards of one model differ, so a word stays a word until discovery has read the board: a later fact then says
    what the word means, and never changes a number of watts.
    """
    if wanted in ("default", "max"):
        known = limits.default_w if wanted == "default" else limits.max_w
        complete = limits.read and limits.min_w is not None and limits.max_w is not None
        return known if known is not None and complete else wanted
    watts = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 8 else None
    if watts is None:
        hint = "default, max, or watts as a whole number, for example 450"
        raise InputError([Problem(POWER, f'found "{wanted}", wanted default, max or watts', hint, "power-limit")])
    too_low = limits.min_w is not None and watts < limits.min_w
    most = round(MOST_OF_DEFAULT * limits.default_w) if limits.max_w is None and limits.default_w else None
    if most is not None and watts > most:
        above = f"above {most} W, {MOST_OF_DEFAULT} times the default {limits.default_w} W of {card}"
        hint = f"at most {most}, default or max; power_max_w of the card in {HARDWARE} says what it takes"
        message = f"found {watts}, {above}, whose highest is not known"
        raise InputError([Problem(POWER, message, hint, "power-limit")])
    if too_low or (limits.max_w is not None and watts > limits.max_w):
        raise InputError(
            [
                Problem(
                    POWER,
                    f"found {watts}, outside {limits.shown()} of {card}",
                    f"watts within {limits.shown()}, default or max",
                    "power-limit",
                )
            ]
        )
    return watts


def gpu_section(
    request: Request, rows: tuple[GpuRow, ...], divided: tuple[Layout | None, ...], catalogue: Catalogue
) -> tuple[tuple[Gpu, ...], list[Reason], list[Pending]]:
    """The cards with their settings, or `InputError` with the problems of all cards."""
    gpus: list[Gpu] = []
    reasons: list[Reason] = []
    pending: list[Pending] = []
    problems: list[Problem] = []
    managed = request.manages("gpu")
    for number, (found, row) in enumerate(zip(request.hardware.gpus, rows, strict=True)):
        bare = Gpu(row.key, row.name, selector(request, number), None, None, None, None)
        if not managed:
            gpus.append(bare)
            continue
        limits = power_range(found, row)
        own = request.of_card(number)
        wanted, card = own.wish.text(POWER), f"gpus[{number}] ({row.key})"
        before = len(problems)
        watts = _tried(problems, power_limit_w, wanted, limits, card)
        lock = _tried(problems, graphics_clock_lock_mhz, own, row, card)
        memory_lock = _tried(problems, memory_clock_lock_mhz, own, row, card)
        clocks = own.wish.text(APPLICATION_CLOCKS)
        application = _tried(problems, application_clocks_mhz, clocks, row, card)
        ecc = _tried(problems, ecc_mode, own, row, card)
        most_w = watts if isinstance(watts, int) else limits.max_w
        guarded = _tried(problems, guard, own, (limits.min_w, most_w), card)
        if len(problems) > before:
            problems[before:] = [dataclasses.replace(p, path=own.own.get(p.path, p.path)) for p in problems[before:]]
            continue
        gpu = dataclasses.replace(
            bare,
            persistence_mode=own.wish.flag(PERSISTENCE),
            power_limit_w=watts,
            graphics_clock_lock_mhz=lock,
            memory_clock_lock_mhz=memory_lock,
            application_clocks_mhz=application,
            compute_mode=compute_mode(own),
            guard=guarded,
            ecc=ecc,
            mig=planned_instances(divided[number]),
        )
        gpus.append(gpu)
        mine = _reasons(gpu, number, row, own, limits)
        mine += [*lock_reasons(gpu, number, row, own), *mode_reasons(gpu, number, row, own)]
        mine += [*guard_reasons(guarded, number, own), mig_reason(gpu, number, row, own)]
        reasons += [_of_card(one, own) for one in mine]
        pending += [*lock_pending(gpu, number, row), *mode_pending(gpu, number, row)]
        pending += mig_pending(gpu, number, row, catalogue)
        if isinstance(watts, str) or not limits.read or limits.min_w is None or limits.max_w is None:
            known = "the range is not fully known here" if limits.read else "this board's range was not read yet"
            because = f"{known} ({limits.shown()}): the host checks it and refuses what is outside"
            pending.append(Pending(f"gpus[{number}].power_limit_w", "the card's own power range", because))
    if problems:
        raise InputError(problems)
    return tuple(gpus), reasons, pending


def selector(request: Request, number: int) -> GpuSelector:
    """How the host finds a card of the hardware file."""
    cards = request.hardware.gpus
    device = pci_device_id(cards[number].pci_device_id)
    alike = [other for other, card in enumerate(cards) if pci_device_id(card.pci_device_id) == device]
    if all(cards[other].pci_address for other in alike):  # else the file has them in this order
        alike.sort(key=lambda other: compared(cards[other].pci_address or ""))
    return GpuSelector(cards[number].uuid, device, alike.index(number))


def _of_card(one: Reason, own: Request) -> Reason:
    """The reason with the option that a person has to change, where this card has a mapping of its own."""
    is_own = one.source.removeprefix("wish:") in own.own
    return dataclasses.replace(one, source=f"wish:{CARDS}") if is_own else one


def _tried(problems: list[Problem], part: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T | None:
    """One setting of a card, or nothing once its problems are with the others."""
    try:
        return part(*arguments, **named)
    except InputError as error:
        problems += error.problems
        return None


def _reasons(gpu: Gpu, number: int, row: GpuRow, request: Request, limits: PowerRange) -> list[Reason]:
    path, wanted = f"gpus[{number}]", request.wish.text(POWER)
    watts = wanted if gpu.power_limit_w is None else gpu.power_limit_w
    origin = request.origin(POWER)
    meaning = {"default": "the limit that the card boots with", "max": "the highest that the card accepts"}
    because = f"{POWER} {wanted}: {meaning.get(wanted, f'within {limits.shown()}')} ({origin})"
    keeps = "kept loaded, so that power limit and record survive" if request.wish.flag(PERSISTENCE) else (
        "not kept loaded: the power limit is lost when the last program closes the card"
    )  # fmt: skip
    power_source = limits.source if wanted in ("default", "max") else f"wish:{POWER}"
    return [
        reason(
            f"{path}.power_limit_w",
            watts,
            because,
            power_source,
            gain=_power_gain(watts, limits),
        ),
        reason(
            f"{path}.persistence_mode",
            request.wish.flag(PERSISTENCE),
            f"driver {keeps} ({request.origin(PERSISTENCE)})",
            "formula:gpu.persistence",
            gain="no speed: settings are not lost, and the first request starts sooner",
        ),
    ]


def _power_gain(watts: int | str, limits: PowerRange) -> str:
    """What the limit can give or cost; from some limit on, which differs per card and model, it cuts decode too.

    Source: formula `gpu.power_limit`.
    """
    if isinstance(watts, int) and limits.default_w is not None and watts < limits.default_w:
        return "energy; a limit that is too low costs speed as well, and only a measurement tells where that begins"
    return f"{NO_GAIN} for decode, which waits for memory; prefill and large batches can draw it"
