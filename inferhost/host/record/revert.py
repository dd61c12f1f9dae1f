"""Puts back what was here before us, from the record alone: the plan may be new, broken or gone.

Power limits first and persistence last among the GPU settings, because persistence off may unload the driver and the
limit with it. Every key is proven by reading back before it is forgotten. What cannot be proven stays on record, is
said, and keeps the program installed; when nothing stays, Inferhost itself goes too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence

from inferhost.host.balancer.placed_unit import restore_balancer
from inferhost.host.cpu.cpufreq import restore_frequency
from inferhost.host.cpu.cpuidle import restore_idle
from inferhost.host.cpu.sysctl import restore_sysctl
from inferhost.host.driver import changed_plan, state
from inferhost.host.gpu import selection, which
from inferhost.host.gpu.clock_lock import ClockLock
from inferhost.host.gpu.clock_record import CLOCKS
from inferhost.host.gpu.idle_knob import IdleCardKnob
from inferhost.host.gpu.nvml import NO_DRIVER, Nvml, NvmlError, open_nvml
from inferhost.host.gpu.persistence import Persistence
from inferhost.host.gpu.power_limit import PowerLimit, limit_mw
from inferhost.host.guard.latch import LATCH, LATCHED, NOTHING, Hold, forget_latches, read_latches
from inferhost.host.knob import Knob, restore_knobs
from inferhost.host.machine import PLAN, PROGRAM, STATE_DIRECTORY, Machine
from inferhost.host.models.kept import KEPT
from inferhost.host.models.state import restore_models
from inferhost.host.record import base_units, placed
from inferhost.host.record.baseline import BASELINE, MARK, Baseline, Record, boot_id, read_baseline
from inferhost.host.record.lock import FETCH_LOCK, lock_unless_check, locked
from inferhost.host.report import NothingTouched, Report
from inferhost.host.runtime.containers import OPTION, WAYS_OUT, hurt_by_revert
from inferhost.host.runtime.state import restore_runtime
from inferhost.host.service import account, adopt, slices
from inferhost.host.service.gate import WARM
from inferhost.host.service.rollback import BEFORE, SERVED
from inferhost.host.watch.watched import WATCHED, remember_applied
from inferhost.schema.plan import BASE, SECTIONS, Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

GONE = "inferhost revert --section gpu --gone"
"""What forgets the cards that are not here, beside putting the others back."""
GPU_ORDER = (
    "mig",
    "graphics_clock_lock_mhz",
    "memory_clock_lock_mhz",
    "application_clocks_mhz",
    "compute_mode",
    "ecc",
    "power_limit_mw",
    "persistence_mode",
)


def revert(
    machine: Machine,
    sections: Sequence[str],
    report: Report,
    purge: bool = False,
    *,
    plan: Plan | None = None,
    forgets_gone: bool = False,
) -> None:
    """Restores the sections; a revert of every section removes Inferhost as well. Models go only with `purge`.

    What is on record of a card that is not here stays there, unless it `forgets_gone`.
    The installed `plan`, where it can be read, says whether containers may lose their cards by it, and what was ours.
    """
    with _no_fetch(machine, sections, report), lock_unless_check(machine, report):
        baseline = read_baseline(machine)
        hurt = hurt_by_revert(machine, baseline, plan, report)
        if hurt:
            raise NothingTouched(Problem(OPTION, hurt, WAYS_OUT, "containers"))
        everything = set(sections) >= set(SECTIONS)
        base_units.remember_reverts(sections, baseline, report)
        before = _Before(plan, read_latches(machine), forgets_gone)
        if "gpu" in sections:
            base_units.stop_for_revert(machine, baseline, report)
        _restore_gpus(machine, baseline.of("gpu", sections), baseline, report, before)
        if "gpu" in sections and not report.check:
            forget_latches(machine, read_latches(machine), report)
        if {"gpu", "service"} & set(sections):
            slices.remove_slices(machine, report)
        restore_sysctl(machine, baseline.of("sysctl", sections), baseline, report)
        restore_frequency(machine, baseline.of("cpu", sections), baseline, report)
        restore_runtime(machine, sections, baseline, report)
        restore_idle(machine, baseline.of("cpuidle", sections), baseline, report)
        gone = placed.restore_files(machine, baseline.of("file", sections), baseline, report)
        # What a package of the driver made goes after the package.
        others = [section for section in sections if section != state.SECTION]
        gone |= account.restore_trees(machine, baseline.of("tree", others), baseline, report)
        gone |= restore_models(machine, sections, purge, baseline, report)
        kept = placed.restore_directories(machine, baseline.of("dir", sections), gone, baseline, report)
        state.restore_driver(machine, sections, baseline, report)
        # The user of a package that is still there is needed.
        users_of = [s for s in sections if s != state.SECTION or changed_plan.BEFORE not in baseline]
        account.restore_users(machine, baseline.of("user", users_of), baseline, report)
        adopt.restore_units(machine, baseline.of("unit", sections), baseline, report)
        restore_balancer(machine, sections, baseline, report)
        if everything:
            _leave_to_others(kept, baseline, report)
            _finish(machine, baseline, gone, report)


def _no_fetch(machine: Machine, sections: Sequence[str], report: Report) -> contextlib.AbstractContextManager[None]:
    """No fetch is under way while models are forgotten."""
    if report.check or "models" not in sections or not machine.exists(FETCH_LOCK):
        return contextlib.nullcontext()
    return locked(machine, lock=FETCH_LOCK)


@dataclasses.dataclass(frozen=True)
class _Before:
    """What counts beside the record of a card: the plan, what the guard held, and whether it may be forgotten."""

    plan: Plan | None
    holds: Mapping[str, Hold]
    forgets_gone: bool


def _restore_gpus(
    machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report, before: _Before
) -> None:
    """Each card's own values, limits before persistence over all cards."""
    if not records:
        return
    try:
        with open_nvml(machine.before_write) as nvml:
            if before.forgets_gone:
                records = without_gone(nvml, records, baseline, report)
            knobs = original_knobs(machine, nvml, records, report)
            _say_what_to_know(knobs, records, boot_id(machine), report)
            for knob in knobs:
                if isinstance(knob, PowerLimit):
                    _say_of_power(machine, knob, before, report)
            restore_knobs(knobs, baseline, report)
            if not report.check:
                remember_applied(machine, knobs, report)  # a lock that was taken back is not lost
    except NvmlError as error:  # files and kernel settings go back all the same
        if error.code not in NO_DRIVER:
            report.problems.append(Problem("nvml", error.evidence, error.hint, "nvml"))
        for name, record in records.items():
            _keep(name, record, error, report)


def without_gone(nvml: Nvml, records: Mapping[str, Record], baseline: Baseline, report: Report) -> dict[str, Record]:
    """The records of the cards that are here; the others are said and forgotten, while every card answers."""
    here = {card.uuid for card in nvml.cards()}
    gone = {name: record for name, record in records.items() if name.rpartition(":")[0] not in here}
    if nvml.unreadable:  # it may be the silent one
        return dict(records)
    for uuid in dict.fromkeys(name.rpartition(":")[0] for name in gone):
        values = [f"{name.rpartition(':')[2]} {gone[name].found}" for name in gone if name.startswith(f"{uuid}:")]
        report.note(f"{uuid}: not on this host: forgotten with {', '.join(values)}")
    baseline.drop([f"gpu:{name}" for name in gone], report.check)
    return {name: record for name, record in records.items() if name not in gone}


def original_knobs(machine: Machine, nvml: Nvml, records: Mapping[str, Record], report: Report) -> list[Knob]:
    """The originals of cards as knobs to restore, in order; a card that is not there is said, and its keys stay."""
    cards = {card.uuid: card for card in nvml.cards()}
    found = []
    for name in sorted(records, key=lambda n: (_rank(n), n)):
        uuid, _, key_name = name.rpartition(":")
        wanted = records[name].found
        try:
            knob = selection.card_knob(key_name, machine, nvml, cards[uuid], wanted) if uuid in cards else None
        except NvmlError as error:  # of this card; its neighbours go back all the same
            _keep(name, records[name], error, report)
            continue
        if knob is not None:
            found.append(knob)
            continue
        lost = "".join(f"; {error.evidence}" for error in nvml.unreadable)
        message, hint = "this version knows no such setting", "revert with the version that recorded it"
        if uuid not in cards:
            message = f"this host has no such card now{lost}"
            hint = f"put the card back and revert again; gone for good: {GONE}"
        report.problems.append(Problem(f"gpu:{name}", message, hint, "gpu-missing"))
        report.verdicts.append(
            Verdict(f"gpu:{name}", wanted, None, "unverified", "none", f"{message}; kept on record")
        )
    return found


def _keep(name: str, record: Record, error: NvmlError, report: Report) -> None:
    """The key stays on record, and why."""
    setting, evidence = f"gpu:{name}", f"{error.evidence}; kept on record"
    report.verdicts.append(Verdict(setting, record.found, None, error.verdict, error.cause, evidence))
    if error.verdict != "pending":
        hint = "repair the cause and revert again"
        report.problems.append(Problem(setting, f"not put back: {error.evidence}", hint, "not-restored"))


def _say_what_to_know(knobs: Sequence[Knob], records: Mapping[str, Record], boot: str, report: Report) -> None:
    for knob in knobs:
        record = records[knob.key.partition(":")[2]]
        if isinstance(knob, IdleCardKnob):
            knob.programs_end_first = report.check  # the engine would be stopped by then
        if isinstance(knob, ClockLock):
            report.note(f"{knob.setting}: what was set before inferhost has no getter; it is reset to unlocked")
        elif record.context.get("boot_id", boot) != boot:
            report.note(f"{knob.setting}: {knob.shown(record.found)} was found in an earlier boot")
        if isinstance(knob, Persistence) and knob.wanted is False:
            report.note(f"{knob.setting}: off, as it was; a restored power limit goes when the driver unloads")


def _say_of_power(machine: Machine, knob: PowerLimit, before: _Before, report: Report) -> None:
    """A limit that neither we nor the record knows goes as well, and so does one that keeps a hot card cool."""
    hold = before.holds.get(knob.card.uuid, NOTHING)
    names = [] if before.plan is None else which.known_names(before.plan, machine)
    wishes = [e.power_limit_w for n, e in zip(names, before.plan.gpus if before.plan else ()) if n == knob.card.uuid]
    try:
        found, ours = knob.observe(), [limit_mw(knob.nvml, knob.card, wish) for wish in wishes]
    except NvmlError as error:
        report.note(f"{knob.setting}: whose value it was is not known, {error.evidence}")
        return
    back = f"{knob.shown(found)} W, it goes back to {knob.shown(knob.wanted)} W all the same"
    if hold.state == LATCHED:
        report.note(f"{knob.setting}: the guard held this card, {hold.why}; found {back}")
    elif ours and found not in (knob.wanted, *ours):
        report.note(f"{knob.setting}: neither ours nor the original; found {back}")


def _rank(name: str) -> int:
    key_name = name.rpartition(":")[2]
    return GPU_ORDER.index(key_name) if key_name in GPU_ORDER else -1


def _leave_to_others(kept: set[str], baseline: Baseline, report: Report) -> None:
    """Folders that we made and others use now are theirs."""
    for path in sorted(kept):
        report.note(f"{path}: was not there before us, but holds files that are not ours; left")
        baseline.drop([f"dir:{path}"], report.check)


def _finish(machine: Machine, baseline: Baseline, gone: set[str], report: Report) -> None:
    """Nothing of ours is left but ourselves: plan, program, record, and the folders that came with them."""
    kept = [key for key in baseline if baseline[key].section != BASE]
    if kept:
        report.note(f"still on record, so plan and program stay: {', '.join(kept)}")
        return
    if baseline.on_disk:
        base_units.switch_off(machine, baseline, report)
        gone.update(placed.restore_files(machine, baseline.of("file", [BASE]), baseline, report))
        base_units.reload(machine, baseline, report)
        for path in (PLAN, PROGRAM):
            _remove_own(machine, path, gone, report)
        left = placed.restore_directories(machine, baseline.of("dir", [BASE]), gone, baseline, report)
        _leave_to_others(left, baseline, report)
    present = baseline.on_disk
    if not report.check:
        machine.remove_file(CLOCKS)
        machine.remove_file(WATCHED)
        machine.remove_file(LATCH)
        machine.remove_file(WARM)
        machine.remove_file(SERVED)
        machine.remove_file(BEFORE)
        machine.remove_file(KEPT)
        machine.remove_file(MARK)
        machine.remove_file(BASELINE)
        _remove_state_directory(machine)
    if present:
        report.change(BASELINE, "present", "absent")


def _remove_own(machine: Machine, path: str, gone: set[str], report: Report) -> None:
    if os.path.islink(machine.at(path)):  # NixOS placed it and takes it away itself
        report.note(f"{path}: is a link, not placed by us; left")
        return
    present = machine.exists(path)
    if not report.check:
        machine.remove_file(path)
    if present:
        report.change(path, "present", "absent")
    gone.add(path)


def _remove_state_directory(machine: Machine) -> None:
    if not machine.entries(STATE_DIRECTORY):
        machine.remove_directory(STATE_DIRECTORY)
