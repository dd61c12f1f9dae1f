"""The verbs that follow a plan: install, record, apply, verify; and status, which needs none.

A verb fills a report and prints nothing. What writes holds the lock, refuses before its first write, and records
originals before anything else. Only sections in `plan.manage` are looked at; the others are named as untouched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from inferhost.host.balancer import placed_unit
from inferhost.host.cpu import cpufreq, cpuidle, sysctl
from inferhost.host.driver import state
from inferhost.host.gpu import challenge, load, selection
from inferhost.host.gpu.board import observe_boards
from inferhost.host.gpu.card_knob import Again, CardKnob, only_again
from inferhost.host.gpu.clock_lock import GraphicsClockLock
from inferhost.host.gpu.natural import keep_natural
from inferhost.host.gpu.nvml import NO_DRIVER, NvmlError, open_nvml
from inferhost.host.gpu.sample import Series, checked_period, take_samples
from inferhost.host.guard.latch import forget_latches, held_problems, read_latches
from inferhost.host.knob import Knob, apply_knobs, forget_outlived, originals, restore_knobs, tell, verify_knobs
from inferhost.host.machine import CONFIG_DIRECTORY, PLAN, PROGRAM, Machine
from inferhost.host.models import fetch as models_fetch
from inferhost.host.models import state as models
from inferhost.host.record import base_units, placed
from inferhost.host.record.baseline import BASELINE, Baseline, Record, read_baseline
from inferhost.host.record.lock import locked
from inferhost.host.report import DriverFailed, Report
from inferhost.host.runtime import containers, inside
from inferhost.host.runtime import state as runtime
from inferhost.host.service import account, adopt, container, engine, exercise, key, processes, readable, slices
from inferhost.host.service import install as engine_install
from inferhost.host.watch.watched import read_watched, remember_applied, remember_awake
from inferhost.host.watch.writers import name_writers, warn
from inferhost.schema import document
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
        _remember(_knob_records(machine, plan, _chosen(plan, sections, report), baseline, report), baseline, report)


def _remember(found: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """The record with these keys as well; one that is new is a change even if it stays empty."""
    before, fresh = "\n".join(baseline) if baseline.on_disk else "absent", not baseline.on_disk
    if baseline.add(found, report.check) or fresh:
        report.change(BASELINE, before, "\n".join(baseline))


def _preflight(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Refuses, before anything is placed, an engine that is not there, has no model, or finds its place taken."""
    warn(machine, plan, report)
    problems = adopt.conflicts(machine, plan, report) + state.driver_problems(machine, plan, baseline)
    problems += placed_unit.balancer_problems(machine, plan, baseline)
    problems += engine_install.install_problems(machine, plan)
    problems += container.container_problems(machine, plan)
    problems += readable.reading_problems(machine, plan)
    problems += base_units.mps_problems(machine, plan) + held_problems(machine, plan)
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


def apply(
    machine: Machine,
    plan: Plan,
    sections: Sequence[str],
    report: Report,
    lock_wait_s: float | None = None,
    *,
    again: Again | None = None,
    whole: bool = False,
) -> None:
    """Writes what has no file and differs from the plan, in the given sections.

    What a card does not take costs only itself; with `whole`, the plan is refused before any card is written.
    With `again`, only those cards and settings, and no request that was made of them is believed.
    """
    chosen = _chosen(plan, sections, report)
    with lock_unless_check(machine, report, lock_wait_s):
        baseline = read_baseline(machine)
        base_units.forget_reverts(chosen, baseline, report)
        if "driver" in chosen:
            state.apply_driver(machine, plan, baseline, report)
        if "gpu" in chosen:
            with gpu_knobs(machine, plan, report, whole=whole) as found:
                knobs = found if again is None else only_again(found, again)
                _record(knobs, baseline, report)
                apply_knobs([knob for knob in knobs if not knob.gives_back], baseline, report)
                restore_knobs([knob for knob in knobs if knob.gives_back], baseline, report)
                slices.apply_slices(machine, plan, knobs, report)
                if not report.check:
                    remember_applied(machine, knobs, report)
                    unguarded = {k.card.uuid for k in knobs if isinstance(k, CardKnob) and not k.guarded}
                    forget_latches(machine, unguarded, report)
        if "cpu" in chosen:
            knobs = sysctl.knobs(machine, plan.sysctl)
            _record(knobs + cpufreq.touched(machine, plan.cpu) + cpuidle.knobs(machine, plan.cpu), baseline, report)
            apply_knobs(knobs, baseline, report)
            cpufreq.apply_frequency(machine, plan.cpu, baseline, report)
            cpuidle.apply_idle(machine, plan.cpu, baseline, report)
        with report.wholly():  # programs, and no settings of which one may drift alone
            if "runtime" in chosen:
                runtime.apply_runtime(machine, plan, baseline, report)
            if "service" in chosen:
                engine.retire_engines(machine, plan, baseline, report)
                adopt.adopt_units(machine, plan, baseline, report)
                engine.apply_engines(machine, plan, report)
            if "balancer" in chosen:
                placed_unit.apply_balancer(machine, plan, baseline, report)


def verify(
    machine: Machine,
    plan: Plan,
    sections: Sequence[str],
    report: Report,
    load_s: float | None = None,
    *,
    challenged: challenge.Asked | None = None,
    exercised: bool = False,
) -> None:
    """Compares the host with the plan and writes nothing; with `load_s` it samples that long whatever load there is.

    A verdict under load is kept in `/run/inferhost`, for those who look later without load. Engines are `exercised`
    meanwhile where that was asked for. What samples cannot decide may be `challenged`, and that alone writes to the
    cards.
    """
    if load_s is not None:
        checked_period(load_s, load.HZ, load.SECONDS_MIN)
    chosen = _chosen(plan, sections, report)
    if "driver" in chosen:
        state.verify_driver(machine, plan, read_baseline(machine), report)
    if "gpu" in chosen:
        with _driver_failure_told(report), gpu_knobs(machine, plan, report, whole=challenged is not None) as knobs:
            if load_s is None:
                verify_knobs(knobs, report)
            elif challenged is None:
                with exercise.exercised(machine, plan, report) if exercised else contextlib.nullcontext():
                    verify_under_load(machine, knobs, load_s, report)
            else:
                challenge.refuse_where_in_use(machine, plan, knobs, challenged)
                verify_under_load(machine, knobs, load_s, report)
                challenge.prove(machine, plan, knobs, challenged, report, seconds=load_s)
            slices.verify_slices(machine, plan, knobs, report)
            remember_awake(machine, knobs, report)
    if "cpu" in chosen:
        verify_knobs(sysctl.knobs(machine, plan.sysctl), report)
        cpufreq.verify_frequency(machine, plan.cpu, report)
        cpuidle.verify_idle(machine, plan.cpu, report)
    whole = set(chosen) >= set(plan.manage)
    placed.verify_files(machine, placed.placed_files(plan, [*chosen, BASE] if whole else chosen), report)
    if whole:
        base_units.verify_switches(machine, plan, report)
    if "service" in chosen:
        adopt.verify_adoption(machine, plan, report)
        for entry in plan.service:
            environment = {**plan.env.get(entry.instance, {}), **slices.slice_environment(machine, entry)}
            processes.verify_service(machine, entry, environment, report)
    for owners, verified in VERIFIED:
        if owners & set(chosen):
            verified(machine, plan, report)
    name_writers(machine, report)


VERIFIED: tuple[tuple[set[str], Callable[[Machine, Plan, Report], None]], ...] = (
    ({"runtime"}, runtime.verify_runtime),
    ({"runtime", "service"}, inside.verify_inside),
    ({"models"}, models.verify_models),
    ({"balancer"}, placed_unit.verify_balancer),
)
"""What one function compares, and the sections with one of which it is asked."""


def verify_under_load(machine: Machine, knobs: Sequence[Knob], seconds: float, report: Report) -> None:
    """Samples the cards of the knobs, judges each knob by them as well, and keeps what they show of the clocks."""
    found = [knob for knob in knobs if isinstance(knob, CardKnob)]
    if not found:
        return
    cards = {knob.card.uuid: knob.card for knob in found}
    series = {
        one.card.uuid: one for one in take_samples(found[0].nvml, cards.values(), seconds, load.HZ, machine.clock)
    }
    report.facts["samples"] = {uuid: document.plain(one.samples) for uuid, one in series.items()}
    answering = [(one.card, one.samples) for one in series.values() if one.error is None]
    observe_boards(machine, found[0].nvml, answering, report)
    for knob in found:
        one = series[knob.card.uuid]
        verify_knobs([knob], report)
        if one.error is not None:
            report.verdicts.pop()
            tell(knob, one.error, report)
        else:
            report.verdicts[-1] = knob.under_load(report.verdicts[-1], one.samples)
    if not report.check and machine.exists(BASELINE):
        with locked(machine):
            _keep(machine, found, series, report)


def _keep(machine: Machine, knobs: Sequence[CardKnob], series: dict[str, Series], report: Report) -> None:
    verdicts = {verdict.setting: verdict for verdict in report.verdicts}
    for knob in knobs:
        if series[knob.card.uuid].error is None:
            knob.keep(verdicts[knob.setting])
    locked_cards = {knob.card.uuid for knob in knobs if isinstance(knob, GraphicsClockLock)}
    unlocked = [one for uuid, one in series.items() if uuid not in locked_cards and one.error is None]
    keep_natural(machine, knobs[0].nvml, unlocked, report)


def status(machine: Machine, plan: Plan | None, report: Report) -> None:
    """The installed plan, what is on record, and the units of ours, from the record rather than from the plan."""
    baseline = read_baseline(machine)
    recorded: dict[str, int] = {}
    for section in SECTIONS:
        count = sum(baseline[key].section == section for key in baseline)
        recorded.update({section: count} if count else {})
    units = engine.recorded_units(baseline)
    back = {
        "driver": state.driver_revert(baseline, machine, report),
        "balancer": placed_unit.balancer_revert(machine, baseline, report),
        "runtime": runtime.runtime_revert(machine, baseline, report),
    }
    packages = [name for one in back.values() for name in (*one.get("remove", ()), *one.get("restore", ()))]
    report.facts.update(
        {
            "plan_id": plan.plan_id if plan else None,
            "host": plan.host.name if plan else None,
            "simulated": plan.host.simulated if plan else None,
            "manage": list(plan.manage) if plan else [],
            "recorded": recorded,
            "not_held": list(read_watched(machine).not_held),
            "guard": {
                uuid: {"state": hold.state, "why": hold.why, "not_brought_down": hold.left}
                for uuid, hold in read_latches(machine).items()
            },
            "units": units,
            "generated_units": [u for u in units if container.is_generated(processes.unit_state(machine, u))],
            **back,
            "endangered": containers.hurt_by_revert(machine, baseline, plan, report, packages),
            "unit_states": {
                unit: processes.unit_state(machine, unit).get("ActiveState", "unknown") for unit in units
            },
        }
    )


@contextlib.contextmanager
def gpu_knobs(machine: Machine, plan: Plan, report: Report, *, whole: bool = False) -> Iterator[list[Knob]]:
    """The plan's GPU knobs while NVML is open; none, and every setting pending, where no driver answers.

    What does not fit its card is told, or with `whole` one `InputError`.
    """
    with contextlib.ExitStack() as stack:
        found: list[Knob] = []
        try:
            nvml = stack.enter_context(open_nvml(machine.before_write, machine.cards))
            found = selection.knobs(plan, nvml, machine, report, whole=whole)
        except NvmlError as error:
            if error.code not in NO_DRIVER:
                raise DriverFailed(Problem("nvml", error.evidence, error.hint, "nvml")) from error
            selection.waiting(machine, plan, error, report)
        yield found


@contextlib.contextmanager
def _driver_failure_told(report: Report) -> Iterator[None]:
    """A driver that fails is a problem; the rest of the host is looked at all the same."""
    try:
        yield
    except DriverFailed as error:
        report.problems.append(error.problem)


def lock_unless_check(
    machine: Machine, report: Report, wait_s: float | None = None
) -> contextlib.AbstractContextManager[None]:
    """The lock for a run that writes; check mode neither needs nor leaves one."""
    return contextlib.nullcontext() if report.check else locked(machine, wait_s)


def _chosen(plan: Plan, sections: Iterable[str], report: Report) -> list[str]:
    """The sections to look at, in the order of placing."""
    asked = [s for s in SECTIONS if s in set(sections)]
    for section in asked:
        if section not in plan.manage:
            report.note(f"section {section} is not managed on this host: untouched")
    return [s for s in asked if s in plan.manage]


def _record(knobs: Sequence[Knob], baseline: Baseline, report: Report) -> None:
    """Originals that install could not read yet (no driver then) or that came with a new plan."""
    forget_outlived(knobs, baseline, report)
    new = originals(knobs, baseline)
    if new:
        baseline.add(new, report.check)
        report.note(f"recorded: {', '.join(sorted(new))}")


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
