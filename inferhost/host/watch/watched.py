"""What the drift timer saw last in this boot: `/run/inferhost/watched.json`.

It holds which driver each card ran on, so that the next look notices another one; which cards had lost persistence,
so that they are not woken; and what was not as planned, for `status`. A file that cannot be read is none.
"""
# ruff: noqa: UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Container, Iterable, Sequence
from typing import Any, Optional

from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.clock_record import Loaded, loaded_now, locks_on_record
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError
from inferhost.host.knob import Knob
from inferhost.host.machine import RUN_DIRECTORY, Machine
from inferhost.host.record.lock import is_held
from inferhost.host.report import Report, WriteFailed
from inferhost.schema import document
from inferhost.schema.problems import InputError

SCHEMA = 1
WATCHED = f"{RUN_DIRECTORY}/watched.json"


@dataclasses.dataclass(frozen=True)
class Watched:
    """The last look; `time_s` is `Clock.now_s`, which starts anew with each boot as this file does."""

    schema: int
    loaded: dict[str, Loaded]  # by UUID
    asleep: tuple[str, ...]  # UUIDs of cards found without persistence, though the plan keeps it
    not_held: tuple[str, ...]
    time_s: float
    reset: tuple[str, ...] = ()  # UUIDs of cards found at what they boot with, though nothing counts their drivers
    again: tuple[str, ...] = ()  # cards (`gpu.UUID`) and settings that boot or a repair left undone
    told: Optional[dict[str, Any]] = None  # settings of cards that drifted: what was found
    asked: tuple[str, ...] = ()  # clock locks that were on record, and not told as drift


def read_watched(machine: Machine) -> Watched:
    """The last look in this boot, or one that saw nothing."""
    try:
        found = document.read(Watched, json.loads(machine.read_text(WATCHED) or ""))
    except (json.JSONDecodeError, InputError):
        return Watched(SCHEMA, {}, (), (), 0.0)
    return found if found.schema == SCHEMA else Watched(SCHEMA, {}, (), (), 0.0)


def write_watched(machine: Machine, watched: Watched) -> None:
    """The record on disk; raises `WriteFailed`."""
    machine.make_directories(RUN_DIRECTORY)
    machine.replace_file(WATCHED, document.text(watched).encode(), 0o644)


def lost_requests(machine: Machine, before: Watched) -> list[str]:
    """Locks of which no record is left, though nobody is known to have taken them back; none while somebody works."""
    return [] if is_held(machine) else sorted(set(before.asked) - set(locks_on_record(machine)))


def still_asked(machine: Machine, before: Watched, drifted: Container[str]) -> tuple[str, ...]:
    """What the next look takes for lost where its record is gone; what drifted is left to whoever moved it."""
    on_record = locks_on_record(machine)
    lost = [setting for setting in before.asked if setting not in on_record]
    return tuple(sorted([*lost, *(setting for setting in on_record if setting not in drifted)]))


def drivers_now(machine: Machine, nvml: Nvml, cards: Iterable[Card]) -> dict[str, Loaded]:
    """Which driver each card runs on, by UUID."""
    version = nvml.driver_version()
    return {card.uuid: loaded_now(machine, version, nvml.energy_mj(card)) for card in cards}


def stayed_loaded(machine: Machine, nvml: Nvml, card: Card) -> bool:
    """Whether it is proven that this card's driver was not loaded again since it was last written or looked at."""
    before = read_watched(machine).loaded.get(card.uuid)
    if before is None or before.energy_mj is None:  # nothing to prove it by, so the card is not asked
        return False
    with contextlib.suppress(NvmlError):
        return before.stays(drivers_now(machine, nvml, [card])[card.uuid])
    return False


def remember_applied(machine: Machine, knobs: Iterable[Knob], report: Report) -> None:
    """The cards of these knobs were written on the driver of now, and may be looked at again.

    Written only where that is news, so that an apply that changes nothing writes nothing. A failure is a remark: the
    next look then notices less, and that is all.
    """
    try:
        _remember_applied(machine, knobs)
    except NvmlError as error:
        report.note(f"{WATCHED}: not written; {error.evidence}")
    except WriteFailed as error:
        report.note(f"{error.problem.path}: {error.problem.message}")


def remember_undone(machine: Machine, left: Sequence[str], report: Report) -> None:
    """Cards and settings that are to be applied at the next look. A failure is a remark."""
    before = read_watched(machine)
    if set(left) - set(before.again):
        try:
            write_watched(machine, dataclasses.replace(before, again=tuple(sorted({*before.again, *left}))))
        except WriteFailed as error:
            report.note(f"{error.problem.path}: {error.problem.message}")


def remember_awake(machine: Machine, knobs: Iterable[Knob], report: Report) -> None:
    """The cards of these knobs that keep their driver loaded again may be looked at. A failure is a remark."""
    before = read_watched(machine)
    found = {knob.card.uuid: knob for knob in knobs if isinstance(knob, CardKnob) and not report.check}
    try:
        awake = [u for u in before.asleep if u in found and found[u].nvml.persistence_mode(found[u].card)]
        if awake:
            asleep = tuple(uuid for uuid in before.asleep if uuid not in awake)
            write_watched(machine, dataclasses.replace(before, asleep=asleep))
    except NvmlError as error:
        report.note(f"{WATCHED}: not written; {error.evidence}")
    except WriteFailed as error:
        report.note(f"{error.problem.path}: {error.problem.message}")


def _remember_applied(machine: Machine, knobs: Iterable[Knob]) -> None:
    found = {knob.card.uuid: knob for knob in knobs if isinstance(knob, CardKnob)}
    if not found:
        return
    nvml = next(iter(found.values())).nvml
    now = drivers_now(machine, nvml, [knob.card for knob in found.values()])
    before = read_watched(machine)
    known = {uuid: before.loaded[uuid] for uuid in now if uuid in before.loaded}
    again = tuple(what for what in before.again if what.split(".")[1] not in now)
    same = len(known) == len(now) and not any(known[u].reload_signs(now[u]) for u in now)
    asleep = tuple(uuid for uuid in before.asleep if uuid not in now)
    others = [setting for setting in before.asked if setting.split(".")[1] not in now]
    asked = tuple(sorted([*others, *(s for s in locks_on_record(machine) if s.split(".")[1] in now)]))
    if same and (asleep, again, asked) == (before.asleep, before.again, before.asked):
        return
    loaded = {**before.loaded, **now}
    write_watched(machine, dataclasses.replace(before, loaded=loaded, asleep=asleep, again=again, asked=asked))
