"""What the boot unit runs: `apply`, section by section and to each card as soon as it is there.

It never stops the boot. A section that was taken back is left alone. A card that is missing is told, and written down
for the drift timer, which gives it its settings when it is there. The same unit runs after a suspend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from inferhost.host import verbs
from inferhost.host.gpu import which
from inferhost.host.gpu.nvml import NvmlError, open_nvml
from inferhost.host.machine import Machine
from inferhost.host.record import base_units, left
from inferhost.host.record.baseline import read_baseline
from inferhost.host.report import HostError, Report
from inferhost.host.watch.watched import remember_undone
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError, Problem

GPU = "gpu"
SECTIONS = (GPU, "cpu")
"""What has no file; systemd starts the engines itself."""

POLL_S = 0.5
NO_ANSWER = "nvml"
"""Where a problem is that is no card's own: NVML does not answer at all."""
NOT_COMING = (12, 18)
"""NVML codes that no waiting mends: no library on this host, or one of another version than the loaded driver."""


def boot(machine: Machine, plan: Plan, asked: Sequence[str] | None, wait_s: float, report: Report) -> None:
    """Applies the sections that stand, or those asked for by name; cards have `wait_s` seconds to come."""
    standing = base_units.standing(plan, read_baseline(machine))
    chosen = [s for s in SECTIONS if s in (asked or standing) and s in plan.manage]
    for section in (s for s in SECTIONS if s in plan.manage and s not in chosen):
        report.note(f"section {section} was taken back: not applied")
    for section in chosen:  # what stops one leaves the next its turn
        if section == GPU:
            _apply_to_cards(machine, plan, wait_s, report)
        else:
            _apply(machine, plan, section, report)
    if GPU in chosen:
        _came_to_its_end(lambda: left.give_back(machine, plan, report), report)


def _apply_to_cards(machine: Machine, plan: Plan, wait_s: float, report: Report) -> None:
    """Each card gets its settings as soon as it is there; what is left undone is the drift timer's to do."""
    start_s, slept = machine.clock.now_s(), False
    names, todo, undone = which.known_names(plan, machine), set(range(len(plan.gpus))), set[int]()
    while True:
        missing, mended_by_waiting = _missing(machine, plan)
        come = sorted(todo - missing.keys())
        if come:
            here = dataclasses.replace(plan, gpus=tuple(plan.gpus[number] for number in come))
            undone |= set() if _apply(machine, here, GPU, report) else set(come)
            todo -= set(come)
        waited_s = machine.clock.now_s() - start_s
        if not todo or not mended_by_waiting or waited_s >= wait_s:
            break
        machine.clock.sleep(min(POLL_S, wait_s - waited_s))
        slept = True
    if slept:
        report.note(f"waited {waited_s:.1f} s for the cards")
    if todo and is_silent(missing):
        _apply(machine, plan, GPU, report)  # which says it of each setting
    else:
        report.problems.extend(missing[number] for number in sorted(todo))
    in_use = [verdict.setting for verdict in report.verdicts if verdict.cause == "other_writer"]
    failed = [p.path for p in report.problems if p.path.startswith("gpu.") and p.path not in in_use]
    if not report.check:
        remember_undone(machine, [*(f"gpu.{names[number]}" for number in sorted(todo | undone)), *failed], report)


def _apply(machine: Machine, plan: Plan, section: str, report: Report) -> bool:
    return _came_to_its_end(lambda: verbs.apply(machine, plan, [section], report), report)


def _came_to_its_end(step: Callable[[], None], report: Report) -> bool:
    """What ends a step early is told, and the next one follows."""
    try:
        step()
    except InputError as error:
        report.stopped(error.problems)
        return False
    except HostError as error:
        report.stopped([error.problem])
        return False
    return True


def with_cards_that_are_here(machine: Machine, plan: Plan, report: Report) -> tuple[Plan, Mapping[int, Problem]]:
    """The plan for the cards that answer; each of the others is a problem of its own, told once, and numbered.

    Where nobody answers at all it is the whole plan, and whoever follows it says so.
    """
    missing, _ = _missing(machine, plan)
    if is_silent(missing):
        return plan, missing
    report.problems.extend(missing.values())
    here = tuple(entry for number, entry in enumerate(plan.gpus) if number not in missing)
    return dataclasses.replace(plan, gpus=here), missing


def is_silent(missing: Mapping[int, Problem]) -> bool:
    """Whether these are no cards of their own: NVML does not answer at all."""
    return any(problem.path == NO_ANSWER for problem in missing.values())


def _missing(machine: Machine, plan: Plan) -> tuple[dict[int, Problem], bool]:
    """The plan's cards that do not answer now, by their number in the plan, and whether they may still come."""
    try:
        with open_nvml(machine.before_write, machine.cards) as nvml:
            return which.missing_cards(plan, nvml, machine), True
    except NvmlError as error:
        problem = Problem(NO_ANSWER, error.evidence, error.hint, "nvml")
        return dict.fromkeys(range(len(plan.gpus)), problem), error.code not in NOT_COMING
