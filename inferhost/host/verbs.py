"""The verbs that follow an installed plan: apply and verify; and status, which needs none.

A verb fills a report and prints nothing. What writes holds the lock, refuses before its first write, and records
originals before anything else. Only sections in `plan.manage` are looked at; the others are named as untouched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from inferhost.host.balancer import placed_unit
from inferhost.host.cpu import cpufreq, cpuidle, sysctl
from inferhost.host.driver import state
from inferhost.host.gpu import challenge, load
from inferhost.host.gpu.card_knob import Again, CardKnob, only_again
from inferhost.host.gpu.sample import checked_period
from inferhost.host.gpu.session import gpu_knobs, verify_under_load
from inferhost.host.guard.latch import forget_latches, read_latches, say_unguarded
from inferhost.host.install import managed, record_new
from inferhost.host.knob import apply_knobs, restore_knobs, verify_knobs
from inferhost.host.machine import Machine
from inferhost.host.models import state as models
from inferhost.host.record import base_units, placed
from inferhost.host.record.baseline import read_baseline
from inferhost.host.record.lock import lock_unless_check
from inferhost.host.report import DriverFailed, Report
from inferhost.host.runtime import containers, inside
from inferhost.host.runtime import state as runtime
from inferhost.host.service import adopt, container, engine, exercise, processes, slices
from inferhost.host.watch.watched import read_watched, remember_applied, remember_awake
from inferhost.host.watch.writers import name_writers
from inferhost.schema.plan import BASE, SECTIONS, Plan


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
    chosen = managed(plan, sections, report)
    with lock_unless_check(machine, report, lock_wait_s):
        baseline = read_baseline(machine)
        base_units.forget_reverts(chosen, baseline, report)
        if "driver" in chosen:
            state.apply_driver(machine, plan, baseline, report)
        if "gpu" in chosen:
            with gpu_knobs(machine, plan, report, whole=whole) as found:
                knobs = found if again is None else only_again(found, again)
                record_new(knobs, baseline, report)
                unguarded = {k.card.uuid for k in knobs if isinstance(k, CardKnob) and not k.guarded}
                say_unguarded(machine, unguarded, report)
                apply_knobs([knob for knob in knobs if not knob.gives_back], baseline, report)
                restore_knobs([knob for knob in knobs if knob.gives_back], baseline, report)
                slices.apply_slices(machine, plan, knobs, report)
                if not report.check:
                    remember_applied(machine, knobs, report)
                    forget_latches(machine, unguarded, report)
        if "cpu" in chosen:
            knobs = sysctl.knobs(machine, plan.sysctl)
            record_new(
                knobs + cpufreq.touched(machine, plan.cpu) + cpuidle.knobs(machine, plan.cpu), baseline, report
            )
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
    chosen = managed(plan, sections, report)
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
def _driver_failure_told(report: Report) -> Iterator[None]:
    """A driver that fails is a problem; the rest of the host is looked at all the same."""
    try:
        yield
    except DriverFailed as error:
        report.problems.append(error.problem)
