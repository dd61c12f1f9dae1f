"""The verbs before a plan is applied: install places it, and records first what it may change; record only records.

Every refusal that needs no write comes here, before anything is placed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from inferhost.host.balancer import placed_unit
from inferhost.host.cpu import cpufreq, cpuidle, sysctl
from inferhost.host.driver import state
from inferhost.host.gpu.session import gpu_knobs
from inferhost.host.guard.latch import held_problems
from inferhost.host.knob import Knob, forget_outlived, originals
from inferhost.host.machine import CONFIG_DIRECTORY, PLAN, PROGRAM, Machine
from inferhost.host.models import fetch as models_fetch
from inferhost.host.models import state as models
from inferhost.host.record import base_units, placed
from inferhost.host.record.baseline import BASELINE, Baseline, Record, read_baseline
from inferhost.host.record.lock import lock_unless_check
from inferhost.host.report import Report
from inferhost.host.runtime import containers
from inferhost.host.runtime import state as runtime
from inferhost.host.service import account, adopt, container, engine, key, readable
from inferhost.host.service import install as engine_install
from inferhost.host.watch.writers import warn
from inferhost.schema.parts import gguf_parts
from inferhost.schema.plan import BASE, SECTIONS, Plan
from inferhost.schema.problems import InputError, Problem


def install(machine: Machine, plan: Plan, plan_content: bytes, program: bytes, report: Report) -> None:
    """Records every original that the plan may change, then places the program and the plan where they differ."""
    with lock_unless_check(machine, report):
        baseline = read_baseline(machine)
        _preflight(machine, plan, baseline, report)
        found = _plan_records(machine, plan, baseline, report)
        _remember(found, baseline, report)
        if "service" in plan.manage:
            users = account.named_users(plan)
            report.facts["users_absent"] = [u for u in users if account.uid_of(machine, u) is None]
        report.facts["driver"] = state.driver_facts(machine, plan, baseline)
        report.facts["balancer"] = placed_unit.balancer_facts(machine, plan)
        report.facts["runtime"] = runtime.runtime_facts(machine, plan, baseline)
        placed.place(machine, PROGRAM, program, 0o755, report)
        placed.place(machine, PLAN, plan_content, 0o640, report)
        for file in placed.placed_files(plan, [BASE]):
            placed.place(machine, file.path, file.content, file.mode, report)
        base_units.switch_on(machine, plan, baseline, report)


def record(machine: Machine, plan: Plan, sections: Sequence[str], report: Report) -> None:
    """Records the originals of what has no file, and places nothing: for NixOS, which places the files itself."""
    with lock_unless_check(machine, report):
        baseline = read_baseline(machine)
        _remember(_knob_records(machine, plan, managed(plan, sections, report), baseline, report), baseline, report)


def record_new(knobs: Sequence[Knob], baseline: Baseline, report: Report) -> None:
    """Originals that install could not read yet (no driver then) or that came with a new plan."""
    forget_outlived(knobs, baseline, report)
    new = originals(knobs, baseline)
    if new:
        baseline.add(new, report.check)
        report.note(f"recorded: {', '.join(sorted(new))}")
    baseline.number([knob.context() for knob in knobs], report.check)


def managed(plan: Plan, sections: Iterable[str], report: Report) -> list[str]:
    """The sections to look at, in the order of placing."""
    asked = [s for s in SECTIONS if s in set(sections)]
    for section in asked:
        if section not in plan.manage:
            report.note(f"section {section} is not managed on this host: untouched")
    return [s for s in asked if s in plan.manage]


def _remember(found: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """The record with these keys as well; one that is new is a change even if it stays empty."""
    before, fresh = "\n".join(baseline) if baseline.on_disk else "absent", not baseline.on_disk
    if baseline.add(found, report.check) or fresh:
        report.change(BASELINE, before, "\n".join(baseline))
    baseline.number([one.context for one in found.values()], report.check)


def _preflight(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Refuses, before anything is placed, an engine that is not there, has no model, or finds its place taken."""
    warn(machine, plan, report)
    problems = adopt.conflicts(machine, plan, report) + state.driver_problems(machine, plan, baseline)
    problems += placed_unit.balancer_problems(machine, plan, baseline)
    problems += engine_install.install_problems(machine, plan)
    problems += container.container_problems(machine, plan)
    problems += readable.reading_problems(machine, plan)
    problems += base_units.mps_problems(machine, plan, report) + held_problems(machine, plan)
    problems += key.key_problems(machine, plan) if "service" in plan.manage else ()
    problems += models.model_problems(machine, plan) if "models" in plan.manage else ()
    packages = [*state.to_move(machine, plan, baseline), *runtime.to_move(machine, plan, baseline)]
    problems += containers.reload_problems(machine, plan, packages, report)
    problems += runtime.runtime_problems(machine, plan, baseline)
    for entry in plan.service if "service" in plan.manage else ():
        parts = gguf_parts(entry.model_path)
        for path, option in ((entry.argv[0], "engine_path"), *((part, "model_path") for part in parts)):
            made = option == "engine_path" and (entry.install or entry.container) is not None
            if not machine.exists(path) and not made and not models.brings(plan, path):
                whole = f", and the engine reads all {len(parts)} parts of its model" if path in parts[1:] else ""
                message = f"{path} is not on this host{whole}"
                hint = "install or copy it first, or name the place where it is"
                problems.append(Problem(f"inferhost_service_{option}", message, hint, "not-there"))
        problems += engine.argument_problems(machine, entry, report)
        problems += engine.overruling_problems(machine, entry)
    if problems:
        raise InputError(problems)


def _plan_records(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> dict[str, Record]:
    """Everything that the managed sections may change, as it is now, for keys that are not on record yet."""
    found: dict[str, Record] = {}
    found.update(_knob_records(machine, plan, plan.manage, baseline, report))
    files = [(f.path, f.section) for f in placed.placed_files(plan, [*plan.manage, BASE])]
    files += [(path, "driver") for path in state.driver_files(plan)]
    files += [(plan.runtime.key, "runtime")] if plan.runtime is not None and plan.runtime.key else []
    found.update(placed.file_records(machine, files))
    found.update(state.driver_records(machine, plan, baseline))
    found.update(placed_unit.balancer_records(machine, plan, baseline))
    if "models" in plan.manage:
        found.update(models_fetch.model_records(machine, plan))
        for key in list(found):
            kind, _, path = key.partition(":")
            if kind == "model":
                found.update(placed.directory_records(machine, os.path.dirname(path), "models"))
    found.update(runtime.runtime_records(machine, plan))
    if "service" in plan.manage:
        found.update(account.account_records(machine, account.named_users(plan)))
        found.update(adopt.adoption_records(machine, plan))
        for tree, one in engine_install.install_records(machine, plan).items():
            found[tree] = one
            found.update(placed.directory_records(machine, os.path.dirname(tree.partition(":")[2]), "service"))
    # Last: a section may have a file there too, and the folder goes with the plan, after every section.
    for folder in (CONFIG_DIRECTORY, os.path.dirname(PROGRAM)):
        found.update(placed.directory_records(machine, folder, BASE))
    return found


def _knob_records(
    machine: Machine, plan: Plan, sections: Iterable[str], baseline: Baseline, report: Report
) -> dict[str, Record]:
    """What these sections may change without a file, as it is now."""
    found: dict[str, Record] = {}
    if "gpu" in sections:
        found.update(_gpu_records(machine, plan, baseline, report))
    if "cpu" in sections:
        cpu = [*cpufreq.touched(machine, plan.cpu), *cpuidle.knobs(machine, plan.cpu)]
        forget_outlived(cpu, baseline, report)
        found.update(originals([*sysctl.knobs(machine, plan.sysctl), *cpu], baseline))
    return found


def _gpu_records(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> dict[str, Record]:
    """The GPUs' originals. The refusals of `apply` come here already, so that nothing is placed for a wrong plan."""
    own = Report(report.check)
    try:
        with gpu_knobs(machine, plan, own, whole=True) as knobs:
            found = originals(knobs, baseline, report.note)
    except InputError:
        report.verdicts.extend(own.verdicts)
        raise
    for verdict in own.verdicts:
        report.note(f"{verdict.setting}: {verdict.verdict}, not recorded; {verdict.evidence}")
    for note in own.notes:
        report.note(note)
    return found
