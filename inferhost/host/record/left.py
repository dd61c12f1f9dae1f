"""Cards on record that the plan means no more: `apply` gives them back, as a revert would, and verify names them.

Nobody gives a card back while it is not clear which cards the plan means, so these verbs are told the whole plan: a
part of one, as a repair has, means fewer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from inferhost.host.gpu import which
from inferhost.host.gpu.nvml import Nvml, NvmlError, open_nvml
from inferhost.host.gpu.occupants import card_places
from inferhost.host.guard.latch import forget_latches, say_unguarded
from inferhost.host.knob import restore_knobs, verify_knobs
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Record, read_baseline
from inferhost.host.record.lock import lock_unless_check
from inferhost.host.record.revert import original_knobs, without_gone
from inferhost.host.report import Report
from inferhost.schema.plan import Plan
from inferhost.schema.result import DRIFT

IN_NO_PLAN = "its card is in no plan any more, and inferhost apply gives it back"


def give_back(machine: Machine, plan: Plan, report: Report, *, forgets_gone: bool = False) -> None:
    """Puts back what was here before us on the cards that the plan means no more, and lets their latches go.

    One that is not here stays on record, unless it `forgets_gone`.
    """
    if not _any_left(machine, plan):
        return
    with (
        lock_unless_check(machine, report),
        contextlib.suppress(NvmlError),
        _opened(machine) as nvml,
    ):  # apply told why
        baseline, found = read_baseline(machine), _left(machine, nvml, plan)
        if forgets_gone:
            found = without_gone(nvml, found, baseline, report)
        found = _here(machine, nvml, found, report)
        uuids = dict.fromkeys(_uuid(name) for name in found)
        for uuid in uuids:
            report.note(f"{uuid}: in no plan any more: it goes back to what it was before inferhost")
        say_unguarded(machine, uuids, report)
        restore_knobs(original_knobs(machine, nvml, found, report), baseline, report)
        if not report.check:
            forget_latches(machine, uuids, report)


def tell(machine: Machine, plan: Plan, report: Report) -> None:
    """What of such a card is not as it was before us, as drift."""
    if not _any_left(machine, plan):
        return
    with contextlib.suppress(NvmlError), _opened(machine) as nvml:
        own = Report(check=True)
        found = _here(machine, nvml, _left(machine, nvml, plan), report)
        verify_knobs(original_knobs(machine, nvml, found, own), own)
        for verdict in own.verdicts:
            if verdict.verdict in DRIFT:
                evidence = f"{IN_NO_PLAN}; {verdict.evidence}"
                report.verdicts.append(replace(verdict, cause="none", evidence=evidence))


def tell_beside(machine: Machine, plan: Plan, report: Report) -> None:
    """The same while a card of the plan stays closed: only such cards are opened, by the driver's own list.

    Says nothing while one of the plan's is not known by its UUID.
    """
    names, places = which.known_names(plan, machine), card_places(machine)
    recorded = dict.fromkeys(_uuid(key.partition(":")[2]) for key in which.recorded_keys(machine))
    cards = tuple(places[uuid][0] for uuid in recorded if uuid in places and uuid not in names)
    if cards and recorded.keys() >= set(names):
        known = [replace(gpu, select=replace(gpu.select, uuid=name)) for gpu, name in zip(plan.gpus, names)]
        tell(replace(machine, cards=cards), replace(plan, gpus=tuple(known)), report)


def _opened(machine: Machine) -> contextlib.AbstractContextManager[Nvml]:
    return open_nvml(machine.before_write, machine.cards)


def _any_left(machine: Machine, plan: Plan) -> bool:
    """Whether it is worth to open NVML: not where every card on record is one that the plan is known to mean."""
    names = which.known_names(plan, machine)
    return any(_uuid(key.partition(":")[2]) not in names for key in which.recorded_keys(machine))


def _left(machine: Machine, nvml: Nvml, plan: Plan) -> dict[str, Record]:
    """The originals of these cards, by what follows `gpu:`."""
    meant = which.meant_cards(plan, nvml, machine)
    if meant is None:
        return {}
    recorded = {key.partition(":")[2]: record for key, record in which.recorded_keys(machine).items()}
    return {name: record for name, record in recorded.items() if _uuid(name) not in meant}


def _here(machine: Machine, nvml: Nvml, left: Mapping[str, Record], report: Report) -> dict[str, Record]:
    """The originals of the cards that are here; the others are told."""
    here = {card.uuid for card in nvml.cards()}
    for uuid in dict.fromkeys(_uuid(name) for name in left):
        if uuid not in here and machine.cards is None:  # else it may be one that was not opened
            ways = "apply gives it back when it is here again; gone for good: inferhost apply --gone forgets it"
            report.note(f"{uuid}: in no plan any more, and not on this host: {ways}")
    return {name: record for name, record in left.items() if _uuid(name) in here}


def _uuid(name: str) -> str:
    return name.rpartition(":")[0]
