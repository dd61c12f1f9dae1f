"""How a card is divided into instances (MIG): profiles that the card has, in places where they fit, else a refusal.

The places are found here, so that every host makes the same ones. What a program gets of an instance is known from
the catalogue alone: a part of the memory and its rate, and a part of the multiprocessors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from inferhost.catalogue import Catalogue
from inferhost.catalogue.mig_row import MigProfile, MigRow
from inferhost.catalogue.rows import ChipRow, GpuRow
from inferhost.planner.machine.gpu_modes import COMPUTE_MODE, LEAVE
from inferhost.planner.reasons import NO_GAIN, reason
from inferhost.planner.request import CardSlice, Request
from inferhost.schema.plan import Gpu, MigInstance, Pending, Reason
from inferhost.schema.problems import InputError, Problem, near

MIG = "inferhost_gpu_mig"
WHOLE = "whole"

Layout = tuple[CardSlice, ...]


def layouts(request: Request, rows: tuple[GpuRow, ...], catalogue: Catalogue) -> tuple[Layout | None, ...]:
    """The slices of each card, empty for a whole one and None to leave it; `InputError` with what cannot be."""
    problems: list[Problem] = []
    found: list[Layout | None] = []
    for number, row in enumerate(rows):
        own = request.of_card(number)
        wanted = own.wish.words(MIG) if request.manages("gpu") else ()
        try:
            found.append(_layout(wanted, row, f"gpus[{number}] ({row.key})", catalogue) if wanted else None)
        except InputError as error:
            problems += [dataclasses.replace(p, path=own.own.get(p.path, p.path)) for p in error.problems]
            continue
        mode = own.wish.text(COMPUTE_MODE)
        if mode != LEAVE and found[-1]:
            hint = f"{LEAVE}: each instance has a compute mode of its own"
            path = own.own.get(COMPUTE_MODE, COMPUTE_MODE)
            problems.append(Problem(path, f"found {mode}, and {MIG} divides the card", hint, "mig"))
    if problems:
        raise InputError(problems)
    return tuple(found)


def sliced_card(row: GpuRow, part: CardSlice) -> GpuRow:
    """The slice as if it were a card: its memory, and its part of the memory's rate. Source: formula `gpu.mig`."""
    bus, rate = row.memory_bus_bits, row.memory_bandwidth_gb_s
    return dataclasses.replace(
        row,
        memory_mib=part.memory_mib,
        memory_under_cuda_mib=part.memory_mib,
        memory_bus_bits=None if bus is None else int(bus * part.memory_ratio),
        memory_bandwidth_gb_s=None if rate is None else rate * part.memory_ratio,
    )


def sliced_chip(chip: ChipRow, part: CardSlice) -> ChipRow:
    """The multiprocessors of a slice as if they were a chip."""
    rate = chip.tensor_tflops_16bit
    return dataclasses.replace(
        chip,
        sm_count=max(1, int(chip.sm_count * part.compute_ratio)),
        tensor_tflops_16bit=None if rate is None else rate * part.compute_ratio,
    )


def planned_instances(layout: Layout | None) -> tuple[MigInstance, ...] | None:
    """What the host makes of a card."""
    return None if layout is None else tuple(MigInstance(part.profile, part.start, part.size) for part in layout)


def mig_reason(gpu: Gpu, number: int, row: GpuRow, request: Request) -> Reason:
    """Why a card is divided, whole or left alone."""
    setting, origin = f"gpus[{number}].mig", request.origin(MIG)
    if gpu.mig is None:
        can = row.mig_max_instances > 0
        because = f"left alone ({origin})" if can else f"not applicable: a {row.key} cannot be divided"
        return reason(
            setting, None, because, "formula:gpu.mig" if can else f"catalogue:gpus/{row.key}#mig_max_instances"
        )
    value = [f"{part.profile} at {part.start}" for part in gpu.mig]
    because = (
        f"{len(value)} instances ({origin}), each with its own part of memory, its rate and multiprocessors; power "
        "limit and clocks stay the card's"
        if value
        else f"one whole card ({origin})"
    )
    gain = f"{NO_GAIN} for one engine, which gets less: engines no longer disturb each other"
    return reason(
        setting, value, because, f"wish:{MIG}", gain=gain if value else NO_GAIN, disruption="engine restart"
    )


def mig_pending(gpu: Gpu, number: int, row: GpuRow, catalogue: Catalogue) -> list[Pending]:
    """What only the host can confirm."""
    if not gpu.mig:
        return []
    family = _family(row, catalogue)
    note = f"; {family.notes}" if family is not None and family.notes else ""
    because = f"a card behind passthrough may need a restart of its machine to change its mode{note}"
    return [Pending(f"gpus[{number}].mig", "the card's own list of profiles", because)]


def _layout(wanted: Sequence[str], row: GpuRow, card: str, catalogue: Catalogue) -> Layout | None:
    if tuple(wanted) == (WHOLE,):
        return () if row.mig_max_instances else None
    shown = ", ".join(wanted)
    if not row.mig_max_instances:
        raise _refused(f"found {shown}, but {card} cannot be divided", f"[{WHOLE}], or leave it out")
    family = _family(row, catalogue)
    if family is None:
        hint = "a row of inferhost/catalogue/mig.json adds them"
        raise _refused(f"found {shown}, and the profiles of {card} are not in the catalogue", hint)
    for name in wanted:
        if name not in family.profiles:
            known = ", ".join(family.profiles)
            hint = near(name, list(family.profiles)) or f"one of them, or [{WHOLE}]"
            raise _refused(f'found "{name}", but {card} has {known}', hint)
    starts = _starts([family.profiles[name] for name in wanted], frozenset())
    if starts is None:
        sizes = ", ".join(f"{name} {family.profiles[name].size}" for name in dict.fromkeys(wanted))
        places = "; ".join(
            f"{name} begins at {' or '.join(map(str, family.profiles[name].starts))}"
            for name in dict.fromkeys(wanted)
        )
        raise _refused(
            f"found {shown}, which do not fit beside each other on {card}",
            f"it has {family.units} units of memory, of which one takes: {sizes}; {places}",
        )
    return tuple(
        CardSlice(
            number,
            name,
            start,
            family.profiles[name].size,
            family.profiles[name].memory_mib,
            family.profiles[name].size / family.units,
            family.profiles[name].slices / family.slices,
        )
        for number, (name, start) in enumerate(zip(wanted, starts, strict=True))
    )


def _starts(profiles: Sequence[MigProfile], taken: frozenset[int]) -> list[int] | None:
    """A place for each, in this order and as low as can be; None where there is none for all."""
    if not profiles:
        return []
    for start in profiles[0].starts:
        mine = set(range(start, start + profiles[0].size))
        rest = None if mine & taken else _starts(profiles[1:], taken | mine)
        if rest is not None:
            return [start, *rest]
    return None


def _family(row: GpuRow, catalogue: Catalogue) -> MigRow | None:
    return next((family for family in catalogue.mig.values() if row.key in family.gpus), None)


def _refused(message: str, hint: str) -> InputError:
    return InputError([Problem(MIG, message, hint, "mig")])
