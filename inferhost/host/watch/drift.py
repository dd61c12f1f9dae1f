"""What the drift timer runs: `verify`, without waking a card, and `apply` where the driver was loaded again.

Looking through NVML at a card without persistence loads its driver and unloads it again, which drops what it was set
to: such a card stays closed until a program holds it open, or somebody else looked and found persistence on; its
neighbours are opened by their bus ids meanwhile. A driver that was loaded again shows in its version, in its kernel
module or in the energy counter, which starts at zero then; the counter is all that can be seen of a recovery from an
Xid. A card without one (before Volta) shows less: there a reload is believed where every setting that a driver
forgets is back at what the card boots with, and no program is known that writes one of them; and once only, until a
look finds the settings holding. What another program wrote is told, and never fought over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Container, Sequence
from typing import Any

from inferhost.host import verbs
from inferhost.host.gpu import which
from inferhost.host.gpu.card_knob import Again, CardKnob, is_among
from inferhost.host.gpu.clock_record import LOCKS, Loaded, unfinished
from inferhost.host.gpu.nvml import NvmlError, open_nvml
from inferhost.host.gpu.occupants import card_places, held_open
from inferhost.host.gpu.session import gpu_knobs
from inferhost.host.knob import Unusable
from inferhost.host.machine import Machine
from inferhost.host.record import base_units, left
from inferhost.host.record.baseline import read_baseline
from inferhost.host.report import HostError, Report
from inferhost.host.watch import boot
from inferhost.host.watch.metrics import write_metrics
from inferhost.host.watch.watched import (
    Watched,
    drivers_now,
    lost_requests,
    read_watched,
    still_asked,
    write_watched,
)
from inferhost.host.watch.writers import other_writers
from inferhost.schema import result
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.result import DRIFT, Verdict

FORGOTTEN = "all at what the card boots with"
NOT_LOOKED_AT = "looking would load the driver and unload it again; inferhost verify looks all the same"


def watch(machine: Machine, plan: Plan, metrics_folder: str | None, report: Report) -> None:
    """One look at every section that stands; what it found goes to the node exporter as well, however it ended."""
    before = read_watched(machine)
    cards: dict[str, bool] = {}

    def write_down(now: Watched, stopped: Sequence[Problem], code: int) -> None:
        if not report.check:
            write_watched(machine, dataclasses.replace(now, not_held=_not_held(report, stopped), told=_told(report)))
            found = report.verdicts
            write_metrics(machine, plan, found, metrics_folder, time.time(), exit_code=code, cards=cards)

    try:
        now = _look(machine, plan, before, cards, report)
    except InputError as error:
        with contextlib.suppress(HostError):  # the first failure is the one to tell
            write_down(before, error.problems, result.EXIT_BAD_INPUT)
        raise
    except HostError as error:
        with contextlib.suppress(HostError):
            write_down(before, [error.problem], error.exit_code)
        raise
    write_down(now, (), report.exit_code())


def _not_held(report: Report, stopped: Sequence[Problem]) -> tuple[str, ...]:
    """What is not as planned, for `status`: settings, cards that are not there, and what cut the look short."""
    settings = {verdict.setting for verdict in report.verdicts}
    not_so = [v for v in report.verdicts if v.verdict in DRIFT or v.verdict == "pending"]
    drifted = [f"{v.setting}: {v.verdict} ({v.cause})" for v in not_so]
    problems = [*report.problems, *stopped]
    return (*drifted, *(f"{p.path}: {p.message}" for p in problems if p.path not in settings))


def _told(report: Report) -> dict[str, Any]:
    """The settings of cards that were told as drift, with what was found of each."""
    cards = [v for v in report.verdicts if v.setting.startswith("gpu.") and v.verdict in DRIFT]
    return {v.setting: v.found for v in cards if v.found is not None}


def _look(machine: Machine, plan: Plan, before: Watched, cards: dict[str, bool], report: Report) -> Watched:
    """The look itself, and what the next one has to know; `cards` says which of the plan's answer."""
    names = which.known_names(plan, machine)
    meant = [f"gpu.{name}" for name in names]
    again = tuple(what for what in before.again if is_among(what, meant))
    now = dataclasses.replace(before, time_s=machine.clock.now_s(), again=again)
    sections = base_units.standing(plan, read_baseline(machine))
    if "gpu" in sections:
        awake = held_open(machine) if before.asleep else []
        now = dataclasses.replace(
            now, asleep=tuple(uuid for uuid in before.asleep if uuid in names and uuid not in awake)
        )
        unseen = _unseen(plan, names, now.asleep)
        report.verdicts += unseen.values()
        if unseen:
            left.tell_beside(machine, plan, report)
            machine, plan = _beside(machine, plan, names, unseen)
        else:
            left.tell(machine, plan, report)
        if unseen and not plan.gpus:
            sections.remove("gpu")
        else:
            plan, now = _repaired(machine, plan, now, cards, report)
    seen = _verified(machine, plan, sections, report)
    uncounted = [uuid for uuid, driver in now.loaded.items() if driver.energy_mj is None]
    reset = _reset_cards(machine, plan, uncounted, report) if "gpu" in sections else []
    fresh = [uuid for uuid in reset if uuid not in before.reset]
    if fresh:
        _apply_again(machine, plan, {f"gpu.{uuid}": FORGOTTEN for uuid in fresh}, before, report)
        now, seen = _drivers(machine, plan, now), _verified(machine, plan, sections, report)
    drifted = {verdict.setting for verdict in seen.verdicts if verdict.verdict in DRIFT}
    now = dataclasses.replace(now, reset=tuple(reset), asked=still_asked(machine, before, drifted))
    _take_over(seen, report)
    return now


def _repaired(
    machine: Machine, plan: Plan, before: Watched, cards: dict[str, bool], report: Report
) -> tuple[Plan, Watched]:
    """The plan of the cards that answer, after what of them has to be applied again."""
    names = which.known_names(plan, machine)
    plan, missing = boot.with_cards_that_are_here(machine, plan, report)
    cards.update({name: number not in missing for number, name in enumerate(names)})
    if boot.is_silent(missing):
        if before.loaded.keys() & set(names):  # in this boot they answered
            report.problems.append(missing[0])
        return plan, before
    now = _drivers(machine, plan, before)
    again = _why_again(machine, plan, before, now.loaded, report)
    failed = _apply_again(machine, plan, again, before, report)
    here = [f"gpu.{name}" for name, answers in cards.items() if answers]
    later = [what for what in before.again if not is_among(what, here)]
    return plan, dataclasses.replace(_drivers(machine, plan, now) if again else now, again=(*later, *failed))


def _unseen(plan: Plan, names: Sequence[str], asleep: Sequence[str]) -> dict[str, Verdict]:
    """The cards that stay closed, with their verdicts without a look; one that was found asleep is still drift."""
    found = {}
    for entry, name in zip(plan.gpus, names):
        setting = f"gpu.{name}.persistence_mode"
        if not entry.persistence_mode:
            said = f"off by plan; {NOT_LOOKED_AT}"
            found[name] = Verdict(setting, False, None, "unverified", "none", said)
        elif name in asleep:
            said = f"found off by an earlier look; {NOT_LOOKED_AT}, and inferhost apply turns it on"
            found[name] = Verdict(setting, True, False, "overridden", "other_writer", said)
    return found


def _beside(machine: Machine, plan: Plan, names: Sequence[str], unseen: Container[str]) -> tuple[Machine, Plan]:
    """The plan of the other cards, as far as the driver's own list says where they are, and what opens only those."""
    places = card_places(machine)
    others = [
        dataclasses.replace(entry, select=dataclasses.replace(entry.select, uuid=name))
        for entry, name in zip(plan.gpus, names)
        if name not in unseen and name in places
    ]
    opened = tuple(places[entry.select.uuid or ""][0] for entry in others)
    return dataclasses.replace(machine, cards=opened), dataclasses.replace(plan, gpus=tuple(others))


def _drivers(machine: Machine, plan: Plan, now: Watched) -> Watched:
    """The driver and the persistence of each card of the plan that answers; as before for the others."""
    loaded, asleep = dict(now.loaded), list(now.asleep)
    with contextlib.suppress(NvmlError), open_nvml(machine.before_write, machine.cards) as nvml:
        for card in which.selected_cards(plan, nvml, machine):
            with contextlib.suppress(NvmlError):  # verify says why; its neighbours are looked at
                asleep = [uuid for uuid in asleep if uuid != card.uuid]
                asleep += [] if nvml.persistence_mode(card) else [card.uuid]
                loaded.update(drivers_now(machine, nvml, [card]))
    return dataclasses.replace(now, loaded=loaded, asleep=tuple(asleep))


def _why_again(
    machine: Machine, plan: Plan, before: Watched, now: dict[str, Loaded], report: Report
) -> dict[str, str]:
    """What is applied again, and why: a card (`gpu.UUID`) or one setting of it, and nothing beside them.

    A card whose driver was loaded again, a request of ours that stopped half way or of which the record is lost, and
    what of those failed last time.
    """
    names = which.known_names(plan, machine)
    wished = [f"gpu.{n}.{k}" for n, entry in zip(names, plan.gpus) for k in LOCKS if getattr(entry, k) is not None]
    here = [f"gpu.{name}" for name in names]
    found = {what: "left undone by the boot or by a repair" for what in before.again if is_among(what, here)}
    found |= {s: "its record of this boot is lost" for s in lost_requests(machine, before) if s in wished}
    found |= {s: "a request of ours did not come to its end" for s in unfinished(machine) if is_among(s, here)}
    for uuid in (uuid for uuid in now if uuid in before.loaded):
        signs = before.loaded[uuid].reload_signs(now[uuid])
        if signs:
            found[f"gpu.{uuid}"] = f"the driver was loaded again since the last look ({', '.join(signs)})"
    others = [uuid for uuid in now if f"gpu.{uuid}" not in found]
    if len(others) < len(now):  # a counter that was young then tells nothing now
        drifted = {setting.split(".")[1] for setting in before.told or {}}  # so before the neighbour's driver went
        forgot = _reset_cards(machine, plan, [uuid for uuid in others if uuid not in drifted], report)
        found |= {f"gpu.{uuid}": FORGOTTEN for uuid in forgot}
    return found


def _apply_again(
    machine: Machine, plan: Plan, again: dict[str, str], before: Watched, report: Report
) -> tuple[str, ...]:
    """Applies these cards and settings; those of them that failed, so that the next look tries them again."""
    if not again:
        return ()
    for why in dict.fromkeys(again.values()):
        report.note(f"{', '.join(what for what in again if again[what] == why)}: {why}: settings are applied")
    own = Report(report.check)
    failed: Sequence[str] = list(again)
    try:
        verbs.apply(machine, plan, ["gpu"], own, again=Again(again, before.told or {}))
        failed = [problem.path for problem in own.problems]
        failed += [verdict.setting for verdict in own.verdicts if verdict.verdict == "pending"]
    except HostError as error:
        own.stopped([error.problem])
    for verdict in own.verdicts:
        if (verdict.verdict in DRIFT or verdict.verdict == "pending") and is_among(verdict.setting, again):
            report.note(f"{verdict.setting}: {verdict.verdict}; {verdict.evidence}")
    own.verdicts.clear()  # the look that follows has them
    _take_over(own, report)
    return tuple(sorted({what for what in failed if is_among(what, again)}))


def _reset_cards(machine: Machine, plan: Plan, uuids: Sequence[str], report: Report) -> list[str]:
    """Those of these cards whose every forgettable setting stands at what the card boots with."""
    if not uuids:
        return []
    written = {name for writer in other_writers(machine) for name in writer.settings}
    standing: dict[str, list[bool]] = {}
    own = Report(check=True)
    with contextlib.suppress(InputError, HostError), gpu_knobs(machine, plan, own) as knobs:
        for knob in (k for k in knobs if isinstance(k, CardKnob) and k.card.uuid in uuids):
            try:
                boots_with = knob.boots_with()
                if boots_with is not None and boots_with != knob.wanted:
                    stands = knob.name in written or knob.observe() != boots_with
                    standing.setdefault(knob.card.uuid, []).append(stands)
            except Unusable as error:
                report.note(f"{knob.setting}: nobody can tell whether it was lost with the driver; {error.evidence}")
                standing.setdefault(knob.card.uuid, []).append(True)
    for problem in own.problems:  # a setting that does not answer has no knob, and may stand all the same
        standing.setdefault(problem.path.removeprefix("gpu.").partition(".")[0], []).append(True)
    return [uuid for uuid, stands in standing.items() if not any(stands)]


def _verified(machine: Machine, plan: Plan, sections: list[str], report: Report) -> Report:
    """What verify says, apart from the report; one that ends early is told at once."""
    own = Report(report.check)
    try:
        verbs.verify(machine, plan, sections, own)
    except (InputError, HostError):
        _take_over(own, report)
        raise
    return own


def _take_over(own: Report, report: Report) -> None:
    """What one step said is said by the whole."""
    report.changes += own.changes
    report.verdicts += own.verdicts
    report.problems += [problem for problem in own.problems if problem not in report.problems]
    for note in own.notes:
        report.note(note)
