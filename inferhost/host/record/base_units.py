"""The units of Inferhost itself: switched on when the plan is installed, and off with the last of ours.

Their files are placed and taken back like any other of the plan. A section that was taken back stays so: the record
says which, and neither the boot nor the drift timer applies it until somebody does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from inferhost.host.gpu.occupants import occupant
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.record.placed import restore_files
from inferhost.host.report import Report
from inferhost.host.watch import textfile
from inferhost.schema.plan import BASE, SECTIONS, UNIT_DIRECTORY, Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

REVERTED = "reverted"
GUARD = "inferhost-guard.service"
MPS = "inferhost-mps.service"
MPS_PROGRAM = "/usr/bin/nvidia-cuda-mps-control"
LASTING = (".timer", GUARD, MPS)
"""Ends of the names of units that run for as long as the plan stands, and are therefore switched now."""
STARTED_BY_OTHERS = ("inferhost-uvm.service", "inferhost-verify.service")
"""Units without an [Install] section: another unit starts them."""
SYSTEMD_RUNS = "/run/systemd/system"  # Source: sd_booted(3)
OFF = ("disabled", "masked", "masked-runtime")
IN_BETWEEN = ("activating", "deactivating", "reloading")
"""States that pass by themselves, unless a unit fails again and again. Source: systemctl(1) of systemd 252."""
PASSES_S, AGAIN_S = 10.0, 0.5
"""The guard ends by itself when its plan changes, and is back about two seconds later."""


def switched(paths: Iterable[str]) -> list[str]:
    """The units among these files that are switched on and off."""
    names = [os.path.basename(path) for path in sorted(paths) if os.path.dirname(path) == UNIT_DIRECTORY]
    return [name for name in names if name not in STARTED_BY_OTHERS]


def switch_on(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Every unit of the plan starts at boot, timers now; those that the plan no longer has are taken back."""
    planned = [file.path for file in plan.files if file.section == BASE]
    kept = {*planned, *_metrics(machine, plan, planned)}
    _retire(machine, {p for p in baseline.of("file", [BASE]) if p not in kept}, baseline, report)
    if any(change.setting in planned for change in report.changes):
        _systemctl(machine, ["daemon-reload"], report)
    for unit in switched(planned):
        found = _settled(machine, unit)
        if found is None or _is_on(unit, found):
            continue
        _systemctl(machine, ["enable", "--quiet", *_now(unit), "--", unit], report)
        after = "enabled" if report.check else shown(unit, state(machine, unit))
        if after != shown(unit, found):
            report.change(setting(unit), shown(unit, found), after)


def verify_switches(machine: Machine, plan: Plan, report: Report) -> None:
    """Whether the units of the plan start at boot, and its timer runs."""
    for unit in switched(file.path for file in plan.files if file.section == BASE):
        found, name = _settled(machine, unit), setting(unit)
        if found is None:
            said = "systemd does not run this machine"
            report.verdicts.append(Verdict(name, "enabled", None, "unverified", "no_interface", said))
            continue
        verdict = ("held", "none") if _is_on(unit, found) else ("overridden", "other_writer")
        report.verdicts.append(Verdict(name, "enabled", shown(unit, found), *verdict, "systemctl is-enabled"))


def switch_off(machine: Machine, baseline: Baseline, report: Report) -> None:
    """No unit of ours starts any more, and no timer runs."""
    _switch_off(machine, switched(baseline.of("file", [BASE])), report)


def stop_for_revert(machine: Machine, baseline: Baseline, report: Report) -> None:
    """Nobody brings a card down again while it is put back, and nobody keeps it in use.

    A guard without its cards' originals does nothing; an MPS server holds its card until the daemon ends.
    """
    for unit in (GUARD, MPS):
        found = state(machine, unit) if f"file:{UNIT_DIRECTORY}/{unit}" in baseline else None
        if found is not None and found[1] == "active":
            report.change(setting(unit), "running", "stopped")
            _systemctl(machine, ["stop", "--", unit], report)


def mps_problems(machine: Machine, plan: Plan, report: Report) -> list[Problem]:
    """A daemon to run whose program is not on this host; one of somebody else is a remark."""
    wanted = any(file.package_file == MPS for file in plan.files)
    for pid in (name for name in machine.entries("/proc") if wanted and name.isdigit()):
        found = occupant(machine, int(pid))
        if found is not None and found.unit != MPS and MPS_PROGRAM.endswith(f"/{found.name}"):
            stop = f": systemctl disable --now {found.unit}" if found.adoptable else ""
            text = f"inferhost_gpu_mps: {found.shown()} is another MPS daemon, and a card in exclusive_process mode"
            report.note(f"{text} has room for one of the two; stop it{stop}")
    if not wanted or machine.exists(MPS_PROGRAM):
        return []
    hint = "install it: Debian has it in nvidia-cuda-mps, Ubuntu in nvidia-compute-utils of the driver's branch"
    return [Problem("inferhost_gpu_mps", f"{MPS_PROGRAM} is not on this host", hint, "not-there")]


def reload(machine: Machine, baseline: Baseline, report: Report) -> None:
    """systemd forgets the files that were removed."""
    if any(c.setting.startswith(f"file:{UNIT_DIRECTORY}/") for c in report.changes):
        _systemctl(machine, ["daemon-reload"], report)


def remember_reverts(sections: Iterable[str], baseline: Baseline, report: Report) -> None:
    """Marks the sections as taken back, before anything of them is."""
    if baseline.on_disk:
        marks = {f"{REVERTED}:{section}": Record(BASE, None, {}) for section in sections}
        baseline.add(marks, report.check)


def forget_reverts(sections: Iterable[str], baseline: Baseline, report: Report) -> None:
    """These sections are wanted again."""
    baseline.drop([f"{REVERTED}:{section}" for section in sections], report.check)


def standing(plan: Plan, baseline: Baseline) -> list[str]:
    """The managed sections that were not taken back."""
    return [s for s in SECTIONS if s in plan.manage and f"{REVERTED}:{s}" not in baseline]


def setting(unit: str) -> str:
    """The unit's name in verdicts and diffs."""
    return f"unit.{unit}"


def state(machine: Machine, unit: str) -> tuple[str, str] | None:
    """What systemd says of a unit, is-enabled and is-active; None where it is not the one that runs this machine."""
    if not machine.exists(SYSTEMD_RUNS):
        return None
    enabled = machine.command(["systemctl", "is-enabled", "--", unit])
    active = machine.command(["systemctl", "is-active", "--", unit]).stdout.strip() if unit.endswith(LASTING) else ""
    return enabled.stdout.strip() or "disabled", active


def _settled(machine: Machine, unit: str) -> tuple[str, str] | None:
    """The same of a unit that may be about to run: a state that passes is looked at again for some seconds."""
    found, end_s = state(machine, unit), machine.clock.now_s() + PASSES_S
    while found is not None and found[1] in IN_BETWEEN and machine.clock.now_s() < end_s:
        machine.clock.sleep(AGAIN_S)
        found = state(machine, unit)
    return found


def shown(unit: str, found: tuple[str, str] | None) -> str:
    """A state in words: enabled means that it starts at boot and, for a timer, that it runs."""
    if found is None:
        return "unknown"
    if found[0] in OFF:
        return "disabled"
    return "enabled, not running" if unit.endswith(LASTING) and found[1] != "active" else "enabled"


def _metrics(machine: Machine, plan: Plan, planned: Iterable[str]) -> list[str | None]:
    """Where the files for a node exporter belong: the plan says where, and not that they are."""
    names = [textfile.LOOKED, *([textfile.GUARDED] if f"{UNIT_DIRECTORY}/{GUARD}" in planned else [])]
    return [textfile.path_of(machine, plan, name) for name in names]


def _is_on(unit: str, found: tuple[str, str]) -> bool:
    return shown(unit, found) == "enabled"


def _now(unit: str) -> Sequence[str]:
    """A timer is switched now; the settings themselves are applied by whoever installs."""
    return ["--now"] if unit.endswith(LASTING) else []


def _retire(machine: Machine, paths: set[str], baseline: Baseline, report: Report) -> None:
    _switch_off(machine, switched(paths), report)
    restore_files(machine, {p: r for p, r in baseline.of("file", [BASE]).items() if p in paths}, baseline, report)
    reload(machine, baseline, report)


def _switch_off(machine: Machine, units: Sequence[str], report: Report) -> None:
    for unit in units:
        found = state(machine, unit)
        if found is None or (shown(unit, found) == "disabled" and found[1] != "active"):
            continue
        report.change(setting(unit), shown(unit, found), "disabled")
        _systemctl(machine, ["disable", "--quiet", *_now(unit), "--", unit], report)


def _systemctl(machine: Machine, arguments: Sequence[str], report: Report) -> None:
    if report.check or not machine.exists(SYSTEMD_RUNS):
        return
    machine.before_write(f"systemctl {' '.join(arguments)}")
    done = machine.command(["systemctl", *arguments])
    if done.code != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.code}"]
        report.problems.append(
            Problem(
                setting(arguments[-1]), f"systemctl {arguments[0]}: {said[0]}", "see: systemctl status", "systemctl"
            )
        )
