"""Services of somebody else: found in the way before anything is written, taken over when asked for, given back.

What serves now may hold the card or the port that the plan wants. It is named and refused, unless the plan adopts its
unit: then that is stopped and disabled just before our engine starts, its state is on record, and revert restores it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from inferhost.host.gpu import which
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError, open_nvml
from inferhost.host.gpu.occupants import Listener, Occupant, card_holders, listeners, occupant
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import Report
from inferhost.host.service.container import is_of_ours
from inferhost.host.service.processes import unit_state
from inferhost.host.waiting import told
from inferhost.schema.plan import Plan, Service
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict
from inferhost.schema.units import CONTAINED

TOLERATED_MIB = 512
"""What a monitor may hold: a bare CUDA context takes about 450 MiB. Source: catalogue engines, context_bytes."""
ADOPT = "inferhost_service_adopt"
ALIVE = ("active", "activating", "reloading")


def conflicts(machine: Machine, plan: Plan, report: Report) -> list[Problem]:
    """Who stands in the way of the plan's engines, one problem each."""
    if "service" not in plan.manage or not plan.service:
        return []
    problems = [*_missing(machine, plan), *_taken_ports(machine, plan)]
    try:
        with open_nvml(machine.before_write) as nvml:
            problems += _taken_cards(machine, nvml, plan, report)
            for lost in nvml.unreadable:
                report.note(f"a card does not answer: {lost.evidence}")
    except NvmlError as error:
        report.note(f"nobody could be asked who holds the cards: {error.evidence}")
    return problems


def adoption_records(machine: Machine, plan: Plan) -> dict[str, Record]:
    """What each unit to adopt does now: whether it runs, and whether it starts at boot."""
    return {f"unit:{unit}": Record("service", _state(machine, unit), {}) for unit in plan.adopt}


def adopt_units(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Stops and disables the units that the plan adopts, and gives back those that it no longer does."""
    left = {k: r for k, r in baseline.of("unit", ["service"]).items() if k not in plan.adopt}
    restore_units(machine, left, baseline, report)
    for unit in plan.adopt:
        before = _state(machine, unit)
        if _resting(before):
            continue
        report.change(f"adopt.{unit}", _shown(before), "stopped, disabled")
        if not report.check:
            _systemctl(machine, ["disable", "--now", "--", unit], report, unit)


def verify_adoption(machine: Machine, plan: Plan, report: Report) -> None:
    """An adopted unit neither runs nor starts at boot."""
    for unit in plan.adopt:
        found = _state(machine, unit)
        verdict = ("held", "none") if _resting(found) else ("overridden", "other_writer")
        report.verdicts.append(
            Verdict(f"adopt.{unit}", "stopped, disabled", _shown(found), *verdict, "systemctl show")
        )


def restore_units(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """Gives adopted units back: enabled and started where they were."""
    for unit, record in records.items():
        before = _state(machine, unit)
        if before != record.found:
            report.change(f"adopt.{unit}", _shown(before), _shown(record.found))
            if not report.check:
                for verb in _ways_back(before, record.found):
                    _systemctl(machine, [verb, "--", unit], report, unit)
        after = record.found if report.check else _state(machine, unit)
        back = after == record.found
        verdict = ("held", "none") if back else ("ignored", "unexplained")
        wanted, found = _shown(record.found), _shown(after)
        report.verdicts.append(Verdict(f"adopt.{unit}", wanted, found, *verdict, "as recorded"))
        if back:
            baseline.drop([f"unit:{unit}"], report.check)


def _missing(machine: Machine, plan: Plan) -> Iterator[Problem]:
    for unit in plan.adopt:
        if unit_state(machine, unit).get("LoadState") == "not-found":
            hint = "name a unit that systemctl list-units shows, or leave it out"
            yield Problem(ADOPT, f'found "{unit}", which is no unit of this host', hint, "adopt-missing")


def _taken_ports(machine: Machine, plan: Plan) -> Iterator[Problem]:
    """Listeners on the ports of the plan that are neither ours nor adopted."""
    found = listeners(machine)
    for entry in plan.service:
        for listener in found:
            if listener.port != entry.port or not _meets(listener, entry):
                continue
            who = occupant(machine, listener.pid) if listener.pid is not None else None
            if who is None or not _known(machine, who, plan):
                name = who.shown() if who else "a program that cannot be seen from here"
                variable = "port" if len(plan.service) == 1 else f"instances.{entry.instance}.port"
                message = f"port {entry.port} is taken by {name}"
                yield Problem(f"inferhost_service_{variable}", message, _hint(who, "another port"), "port-taken")
                break


def _taken_cards(machine: Machine, nvml: Nvml, plan: Plan, report: Report) -> Iterator[Problem]:
    """Processes on the plan's cards that are neither ours nor adopted."""
    cards = nvml.cards()
    sliced = {service.slice.gpu for service in plan.service if service.slice is not None}
    divided = dataclasses.replace(plan, gpus=tuple(gpu for gpu in plan.gpus if gpu.select in sliced))
    on_slices = which.selected_cards(divided, nvml, machine)
    for number, card in enumerate(cards):
        if card not in on_slices and not _used(card, number, plan, bool(sliced)):
            continue
        for pid, used_mib in card_holders(nvml, card):
            who = occupant(machine, pid)
            if who is None:
                report.note(f"{card.uuid}: process {pid} holds {used_mib} MiB and cannot be seen from here")
            elif used_mib > TOLERATED_MIB and not _known(machine, who, plan):
                message = f"{used_mib} MiB of {card.uuid} are held by {who.shown()}"
                hint = _hint(who, "another card")
                yield Problem(f"inferhost_hardware.gpus[{number}]", message, hint, "card-taken")


def _hint(who: Occupant | None, other: str) -> str:
    """What a person can do about it."""
    if who is not None and who.adoptable:
        return f"{ADOPT}: [{who.unit}] takes it over and gives it back on revert; or use {other}"
    if who is not None and who.unit is not None and who.unit.endswith(".scope"):
        where = "a container" if who.unit.startswith(("docker-", "libpod-", "crio-", "cri-")) else "a login session"
        return f"it runs in {where}: stop it there, or use {other}"
    return f"stop it first, or use {other}"


def _known(machine: Machine, who: Occupant, plan: Plan) -> bool:
    """Whether a process belongs to us or to a unit that is being adopted."""
    unit = who.unit or ""
    if unit.startswith(("inferhost-serve@", CONTAINED)) or unit in plan.adopt:
        return True
    return is_of_ours(machine, unit)


def _meets(listener: Listener, entry: Service) -> bool:
    """Whether a listener and an engine want the same address."""
    everywhere = ("0.0.0.0", "::", "", "*")
    return listener.everywhere or entry.host in everywhere or listener.address in (entry.host, "127.0.0.1", "::1")


def _used(card: Card, number: int, plan: Plan, otherwise: bool) -> bool:
    """Whether an engine of the plan runs on this whole card; every card where the plan names none of any kind."""
    named = [v["CUDA_VISIBLE_DEVICES"] for v in plan.env.values() if "CUDA_VISIBLE_DEVICES" in v]
    entries = [entry.strip() for value in named for entry in value.split(",")]
    if not entries:
        return not otherwise
    return any(e == str(number) or (e.startswith("GPU-") and card.uuid.startswith(e)) for e in entries)


def _state(machine: Machine, unit: str) -> dict[str, bool]:
    """Whether a unit runs and whether it starts at boot."""
    active = unit_state(machine, unit).get("ActiveState", "")
    enabled = machine.command(["systemctl", "is-enabled", "--", unit]).stdout.strip()
    return {"active": active in ALIVE, "enabled": enabled == "enabled"}


def _resting(state: Mapping[str, bool]) -> bool:
    return not state["active"] and not state["enabled"]


def _shown(state: Mapping[str, bool]) -> str:
    active = "running" if state["active"] else "stopped"
    return f"{active}, {'enabled' if state['enabled'] else 'disabled'}"


def _ways_back(before: Mapping[str, bool], original: Mapping[str, bool]) -> Sequence[str]:
    """The verbs from one state to another; enabling first, so that a crash in between leaves it at boot."""
    verbs = []
    if before["enabled"] != original["enabled"]:
        verbs.append("enable" if original["enabled"] else "disable")
    if before["active"] != original["active"]:
        verbs.append("start" if original["active"] else "stop")
    return verbs


def _systemctl(machine: Machine, arguments: Sequence[str], report: Report, unit: str) -> None:
    said = f"systemctl {' '.join(arguments)}"
    machine.before_write(said)
    with told(report.progress, f"adopt.{unit}: {said}"):
        done = machine.command(["systemctl", *arguments])
    if done.code != 0:
        why = done.stderr.strip().splitlines() or [f"exit status {done.code}"]
        hint = f"see: journalctl -u {unit}"
        report.problems.append(Problem(f"adopt.{unit}", f"systemctl {arguments[0]}: {why[0]}", hint, "adopt"))
