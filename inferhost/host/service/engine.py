"""Starts an engine, and restarts it when it runs with older files than those on disk.

An Ansible handler is lost when the run is killed between a file and its handler; the age of the running process is
not. So the question is always the same: is the unit active, and did it start after its unit files were last
written? A restart is proven by asking systemd again. The files themselves are placed by Ansible or NixOS.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline
from inferhost.host.record.placed import placed_files, restore_directories, restore_files
from inferhost.host.report import Report
from inferhost.host.service.container import is_generated
from inferhost.host.service.diagnosis import engine_problem
from inferhost.host.service.processes import unit_state
from inferhost.host.waiting import told
from inferhost.schema.plan import SLICE_DIRECTORY, Plan, Service
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict
from inferhost.schema.units import CONTAINED, unit_of

ENABLED = ("enabled", "static", "indirect", "generated")


def apply_engines(machine: Machine, plan: Plan, report: Report) -> None:
    """Every engine of the plan runs with the files on disk, and starts at boot."""
    outdated = {f.path for f in placed_files(plan, ["service"]) if machine.read_bytes(f.path) != f.content}
    for service in plan.service:
        if not unit_state(machine, service.unit):
            setting, said = f"service.{service.instance}.active", "systemctl does not answer here"
            report.verdicts.append(Verdict(setting, "active", None, "unverified", "no_interface", said))
            continue
        template = service.unit.partition("@")[0] + "@."
        mine = [path for path in outdated if unit_of(path) == service.unit or template in path]
        if service.container is None or service.container.mode != "quadlet":  # whose file itself says that
            _enable(machine, service.instance, service.unit, report)
        _start(machine, service.instance, service.unit, mine, report)


def stop_engines(machine: Machine, plan: Plan, report: Report) -> None:
    """No engine of the plan runs; each ends what it sends first, as far as its unit waits for that."""
    for service in plan.service:
        setting, state = (
            f"service.{service.instance}.active",
            unit_state(machine, service.unit).get("ActiveState", ""),
        )
        if state in ("", "inactive", "failed"):
            continue
        report.change(setting, state, "stopped")
        if not report.check:
            with told(report.progress, f"{setting}: systemctl stop {service.unit}"):
                _systemctl(machine, setting, ["stop", service.unit], report)


def argument_problems(machine: Machine, service: Service, report: Report) -> list[Problem]:
    """What the engine itself says against its new arguments, while the old ones still serve.

    Only where it can read them and end. It runs as nobody: what cannot be started so is told and not refused.
    """
    if not service.check_argv or not machine.exists(service.check_argv[0]):
        return []
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--"]
    done = machine.command([*nobody, *service.check_argv])
    if done.code == 0:
        return []
    said = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()]
    if not said:
        report.note(f"service.{service.instance}: its arguments could not be tried here (exit status {done.code})")
        return []
    message = f"{service.engine} {service.engine_version} refuses its arguments: {said[0].strip()}"
    hint = "look at the engine's --help at this version; what serves now goes on"
    return [Problem("inferhost_service_extra_args", message, hint, "arguments")]


def overruling_problems(machine: Machine, service: Service) -> list[Problem]:
    """Files of somebody that the engine would read beside its arguments: the plan would not say what runs."""
    found = [path for path in service.overruled_by if machine.exists(path)]
    hint = "move it away; inferhost import --tabbyapi FILE says which options mean the same"
    return [
        Problem(
            "inferhost_service_engine",
            f"{service.engine} reads {path}, which changes what is planned",
            hint,
            "overruled",
        )
        for path in found
    ]


def recorded_units(baseline: Baseline) -> list[str]:
    """The service units that we made or gave a drop-in, by the record: true even when the plan is new, broken or
    gone."""
    return sorted({unit for path in baseline.of("file", ["service"]) if (unit := unit_of(path))})


def retire_engines(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Stops and removes instances of ours that the plan no longer names: they would keep the card and the port."""
    for unit in recorded_units(baseline):
        if unit in {service.unit for service in plan.service}:
            continue
        setting = f"service.{unit}"
        state = unit_state(machine, unit).get("ActiveState", "unknown")
        if not report.check and not _stopped(machine, setting, unit, report):
            continue
        report.change(setting, state, "retired")
        records = {p: r for p, r in baseline.of("file", ["service"]).items() if unit_of(p) == unit}
        gone = restore_files(machine, records, baseline, report)
        used = {os.path.dirname(p) for p in records}
        folders = {p: r for p, r in baseline.of("dir", ["service"]).items() if p in used}
        restore_directories(machine, folders, gone, baseline, report)


def _stopped(machine: Machine, setting: str, unit: str, report: Report) -> bool:
    """Stops a unit for good; whether systemd says so afterwards. One that runs on keeps its files and its record."""
    with told(report.progress, f"{setting}: systemctl disable --now {unit}"):
        _systemctl(machine, setting, switching_off(machine, unit), report)
    after = unit_state(machine, unit).get("ActiveState", "unknown")
    if after in ("inactive", "failed"):
        return True
    verdict = ("unverified", "no_interface") if after == "unknown" else ("refused", "unexplained")
    report.verdicts.append(Verdict(setting, "retired", after, *verdict, f"systemctl disable --now {unit}: {after}"))
    return False


def switching_off(machine: Machine, unit: str) -> list[str]:
    """What systemctl is told so that a unit stops and stays so; a generated one goes with its file."""
    if is_generated(unit_state(machine, unit)):
        return ["stop", "--", unit]
    return ["disable", "--quiet", "--now", "--", unit]


def reason_to_restart(machine: Machine, unit: str, outdated: Sequence[str]) -> str:
    """Why the unit has to be (re)started, in the words of a state; empty when it runs with the files on disk."""
    state = unit_state(machine, unit)
    active = state.get("ActiveState", "unknown")
    if active != "active":
        return "not running" if active == "inactive" else active
    instance = (unit.partition("@")[2] or unit.removeprefix(CONTAINED)).partition(".")[0]
    slice_file = f"{SLICE_DIRECTORY}/{instance}.env"  # where it runs on a slice
    made = state.get("FragmentPath", "") if not is_generated(state) else ""  # written anew with every reload
    files = [made, state.get("SourcePath", ""), *state.get("DropInPaths", "").split(), slice_file]
    started_s = int(state.get("ExecMainStartTimestamp", "@0").lstrip("@") or 0)
    if state.get("NeedDaemonReload") == "yes" or outdated:
        return "running with older files"
    # Whole seconds: a file of the same second as the start is the one that it started with, else systemd asks for a
    # reload. A time in the future says nothing, and would restart the engine for ever.
    written_s = [int(os.stat(machine.at(f)).st_mtime) for f in files if f and machine.exists(f)]
    return "running with older files" if any(started_s < w <= time.time() for w in written_s) else ""


def _start(machine: Machine, instance: str, unit: str, outdated: Sequence[str], report: Report) -> None:
    setting = f"service.{instance}.active"
    before = reason_to_restart(machine, unit, outdated)
    if not before:
        report.verdicts.append(Verdict(setting, "active", "active", "held", "none", f"{unit} runs with these files"))
        return
    if report.check:
        report.change(setting, before, "active")
        report.verdicts.append(Verdict(setting, "active", before, "unverified", "none", "check mode: not started"))
        return
    _systemctl(machine, setting, ["daemon-reload"], report)
    # After some failed starts systemd refuses further ones; a person who repaired the cause and runs again means it.
    machine.command(["systemctl", "reset-failed", "--", unit])
    with told(report.progress, f"{setting}: systemctl restart {unit}"):
        _systemctl(machine, setting, ["restart", unit], report)
    after = reason_to_restart(machine, unit, ())
    if after != before:
        report.change(setting, before, after or "active")
    if after:
        found = Verdict(setting, "active", after, "refused", "unexplained", f"systemctl restart {unit}: {after}")
        what = {"message": f"found {after}, wanted active", "otherwise": "", "name": "engine-not-started"}
        report.problems.append(engine_problem(machine, unit, setting, **what))
    else:
        found = Verdict(setting, "active", "active", "held", "none", f"systemctl restart {unit}, then active")
    report.verdicts.append(found)


def _enable(machine: Machine, instance: str, unit: str, report: Report) -> None:
    """The unit starts at boot. Asked before the start, so that a unit that is not there yet is simply not enabled."""
    setting = f"service.{instance}.enabled"
    if _enabled(machine, unit):
        return
    if not report.check:
        _systemctl(machine, setting, ["enable", "--quiet", unit], report)
    if report.check or _enabled(machine, unit):
        report.change(setting, "disabled", "enabled")
    else:
        report.problems.append(Problem(setting, "found disabled, wanted enabled", "", "engine-not-enabled"))


def _enabled(machine: Machine, unit: str) -> bool:
    return machine.command(["systemctl", "is-enabled", "--", unit]).stdout.strip() in ENABLED


def _systemctl(machine: Machine, setting: str, arguments: Sequence[str], report: Report) -> None:
    machine.before_write(f"systemctl {' '.join(arguments)}")
    done = machine.command(["systemctl", *arguments])
    if done.code != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.code}"]
        report.problems.append(Problem(setting, f"systemctl {' '.join(arguments)}: {said[0]}", "", "systemctl"))
