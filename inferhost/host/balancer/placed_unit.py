"""The balancer's unit and packages: refused where it cannot stand, running with the files on disk, taken back.

A changed configuration is a reload, which keeps every stream; a changed unit is a restart. Both follow from the age
of what runs and of the files, so that a run that was killed between the two is finished by the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from inferhost.host.balancer import runtime
from inferhost.host.driver.packages import installed, removed_with, with_needs
from inferhost.host.gpu.occupants import listeners, occupant
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.record.placed import restore_files
from inferhost.host.report import HostError, Report
from inferhost.host.service.processes import unit_state
from inferhost.host.waiting import told
from inferhost.schema.plan import UNIT_DIRECTORY, Balancer, Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

SECTION = "balancer"
BEFORE = "balancer:before"
FAMILY = "apt"
UNIT_PREFIX = f"{UNIT_DIRECTORY}/inferhost-"
DISTRIBUTION_UNITS = {"haproxy": "haproxy.service", "nginx-light": "nginx.service"}
LOOSE = 0o007
RELOAD_S = 90
"""systemd's own patience (DefaultTimeoutStartSec), after which it gives a reload up."""
LOOK_S = 0.2


def balancer_records(machine: Machine, plan: Plan, baseline: Baseline) -> dict[str, Record]:
    """Which packages there are before ours come."""
    if SECTION not in plan.manage or plan.balancer is None or BEFORE in baseline:
        return {}
    return {BEFORE: Record(SECTION, sorted(installed(machine, FAMILY).versions), {})}


def balancer_facts(machine: Machine, plan: Plan) -> dict[str, Any]:
    """What the role has to know of this host: whether the package is still to come."""
    if SECTION not in plan.manage or plan.balancer is None:
        return {}
    return {"fresh": plan.balancer.package not in installed(machine, FAMILY).versions}


def balancer_problems(machine: Machine, plan: Plan, baseline: Baseline) -> list[Problem]:
    """Why the balancer could not stand here: a port that somebody holds, a certificate or key that is not there."""
    wanted = plan.balancer
    if SECTION not in plan.manage or wanted is None:
        return []
    # What another program of ours holds, the plan takes from it.
    return [*_taken_port(machine, wanted, {wanted.unit, *_recorded_units(baseline)}), *_certificate(machine, wanted)]


def apply_balancer(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """The unit runs with the files on disk, and starts at boot; a program that the plan no longer has is retired."""
    wanted = plan.balancer
    if wanted is None:
        return
    _retire(machine, wanted, baseline, report)
    setting = "balancer.active"
    state = unit_state(machine, wanted.unit)
    if not state:
        said = "systemctl does not answer here"
        report.verdicts.append(Verdict(setting, "active", None, "unverified", "no_interface", said))
        return
    _leave_the_distributions(machine, wanted, baseline, report)
    why = _out_of_date(machine, wanted, report)
    if why:
        report.change(setting, why, "active")
    if report.check:
        return
    if why:
        _systemctl(machine, ["daemon-reload"], report)
        _systemctl(machine, ["enable", "--quiet", wanted.unit], report)
        machine.command(["systemctl", "reset-failed", "--", wanted.unit])
        if why == "running with an older configuration":
            runtime.remember_drained(machine, wanted)
            _systemctl(machine, ["reload", wanted.unit], report)
        else:
            _systemctl(machine, ["restart", wanted.unit], report)
    after = _out_of_date(machine, wanted, report)
    if after:
        hint = f"see: journalctl -u {wanted.unit}"
        report.problems.append(Problem(setting, f"found {after}, wanted active", hint, "balancer-not-started"))
    verdict = ("refused", "unexplained") if after else ("held", "none")
    report.verdicts.append(Verdict(setting, "active", after or "active", *verdict, f"systemctl show {wanted.unit}"))


def verify_balancer(machine: Machine, plan: Plan, report: Report) -> None:
    """Whether the balancer runs with these files, and what it says of each member."""
    wanted = plan.balancer
    if wanted is None:
        return
    why = _out_of_date(machine, wanted, report)
    verdict = ("overridden", "other_writer") if why else ("held", "none")
    report.verdicts.append(
        Verdict("balancer.active", "active", why or "active", *verdict, f"systemctl show {wanted.unit}")
    )
    if why or wanted.socket is None:
        return
    try:
        members = runtime.seen_members(machine, wanted)
    except HostError as error:
        report.problems.append(error.problem)
        return
    for member in wanted.members:
        found = members.get(member.name)
        state = found.state if found else "unknown to it"
        # A member that is down or drained is its own host's matter, or somebody at work: told, and no drift here.
        verdict = ("held", "none") if found and found.up else ("unverified", "none")
        evidence = f"HAProxy's checks; {found.in_flight} in flight" if found else "HAProxy's checks"
        report.verdicts.append(Verdict(f"balancer.members.{member.name}", "UP", state, *verdict, evidence))


def balancer_revert(machine: Machine, baseline: Baseline, report: Report) -> dict[str, Any]:
    """What the role has to stop and to remove; packages that somebody else needs by now stay."""
    if BEFORE not in baseline:
        return {}
    there = installed(machine, FAMILY)
    ours = sorted(with_needs(machine, FAMILY, list(DISTRIBUTION_UNITS), there) - set(baseline[BEFORE].found))
    foreign = sorted(removed_with(machine, FAMILY, ours) - set(ours))
    if foreign:
        report.note(f"{', '.join(ours)} stay: removing them would remove {', '.join(foreign)} too")
    return {"units": _recorded_units(baseline), "remove": [] if foreign else ours}


def restore_balancer(machine: Machine, sections: Sequence[str], baseline: Baseline, report: Report) -> None:
    """Compares the packages with the record, and forgets it once they are back; it removes none itself."""
    if SECTION not in sections or BEFORE not in baseline:
        return
    left = balancer_revert(machine, baseline, report)["remove"]
    if left:
        evidence = "packages are removed by playbooks/revert.yml, never by this program"
        verdict = ("pending", "none") if report.check else ("ignored", "unexplained")
        report.verdicts.append(Verdict("balancer.packages", "as before", ", ".join(left), *verdict, evidence))
        return
    report.verdicts.append(Verdict("balancer.packages", "as before", "as before", "held", "none", "compared"))
    baseline.drop([BEFORE], report.check)


def _settled(machine: Machine, unit: str, report: Report) -> dict[str, str]:
    """What systemd says of the unit once its reload is over, which HAProxy tells systemd after `systemctl` returned.

    A unit that is met in its reload and taken for one that does not run would be restarted, and its streams cut.
    """
    clock = machine.clock
    end_s = clock.now_s() + RELOAD_S
    with told(report.progress, f"balancer: {unit} reads its configuration, for at most {RELOAD_S} s"):
        while True:
            state = unit_state(machine, unit)
            if state.get("ActiveState") != "reloading" or clock.now_s() >= end_s:
                return state
            clock.sleep(LOOK_S)


def _out_of_date(machine: Machine, wanted: Balancer, report: Report) -> str:
    """Why the unit has to be started, restarted or reloaded; empty where it runs with what is on disk and at boot."""
    state = _settled(machine, wanted.unit, report)
    if state.get("ActiveState") != "active":
        return "not running" if state.get("ActiveState") == "inactive" else state.get("ActiveState", "unknown")
    if machine.command(["systemctl", "is-enabled", "--", wanted.unit]).stdout.strip() != "enabled":
        return "not enabled"
    started_s = int(state.get("ExecMainStartTimestamp", "@0").lstrip("@") or 0)
    units = [state.get("FragmentPath", ""), *state.get("DropInPaths", "").split()]
    if state.get("NeedDaemonReload") == "yes" or any(_written_s(machine, path) > started_s for path in units if path):
        return "running with an older unit"
    argv = ["systemctl", "show", "--timestamp=unix", "-p", "StateChangeTimestamp", "--value", "--", wanted.unit]
    loaded_s = int(machine.command(argv).stdout.strip().lstrip("@") or 0)
    certificate = [wanted.tls_certificate, f"{wanted.tls_certificate}.key"] if wanted.tls_certificate else []
    newest = max(_written_s(machine, path) for path in (wanted.config, *certificate))
    return "running with an older configuration" if newest > max(started_s, loaded_s) else ""


def _written_s(machine: Machine, path: str) -> int:
    """When a file was last written, in whole seconds; 0 where it is not there or its time lies in the future."""
    try:
        found = int(os.stat(machine.at(path)).st_mtime)
    except OSError:
        return 0
    return found if found <= time.time() else 0


def _taken_port(machine: Machine, wanted: Balancer, ours: Collection[str]) -> Iterator[Problem]:
    for listener in listeners(machine):
        if listener.port != wanted.port or not (
            listener.everywhere or listener.address == wanted.host or _any(wanted)
        ):
            continue
        who = occupant(machine, listener.pid) if listener.pid is not None else None
        # HAProxy lets nobody look into its process where root has lost that right, as in a container.
        unseen = who is None and any(unit_state(machine, unit).get("ActiveState") == "active" for unit in ours)
        if not unseen and (who is None or who.unit not in ours):
            name = who.shown() if who else "a program that cannot be seen from here"
            hint = "stop it first, or use another port"
            yield Problem("inferhost_balancer_port", f"port {wanted.port} is taken by {name}", hint, "port-taken")
            return


def _any(wanted: Balancer) -> bool:
    return wanted.host in ("0.0.0.0", "::")


def _certificate(machine: Machine, wanted: Balancer) -> Iterator[Problem]:
    if wanted.tls_certificate is None:
        return
    option = "inferhost_balancer_tls_certificate"
    for path in (wanted.tls_certificate, f"{wanted.tls_certificate}.key"):
        if not machine.exists(path):
            hint = "put the certificate chain there, and its key beside it with .key at the end"
            yield Problem(option, f"{path} is not on this host", hint, "not-there")
    mode = machine.mode(f"{wanted.tls_certificate}.key")
    if mode is not None and mode & LOOSE:
        message = f"{wanted.tls_certificate}.key can be read by everybody (mode {mode:04o})"
        yield Problem(option, message, f"chmod 0600 {wanted.tls_certificate}.key", "loose-key")


def _recorded_units(baseline: Baseline) -> list[str]:
    paths = baseline.of("file", [SECTION])
    return sorted(os.path.basename(path) for path in paths if path.startswith(UNIT_PREFIX))


def _retire(machine: Machine, wanted: Balancer, baseline: Baseline, report: Report) -> None:
    """The other program's unit and configuration go, once the plan has changed its mind."""
    keep = {f"{UNIT_DIRECTORY}/{wanted.unit}", wanted.config}
    records = {p: r for p, r in baseline.of("file", [SECTION]).items() if p not in keep}
    for unit in (u for u in _recorded_units(baseline) if u != wanted.unit):
        if not report.check:
            _systemctl(machine, ["disable", "--quiet", "--now", unit], report)
        report.change(f"balancer.{unit}", "placed", "retired")
    restore_files(machine, records, baseline, report)


def _leave_the_distributions(machine: Machine, wanted: Balancer, baseline: Baseline, report: Report) -> None:
    """A package that came with us brings a unit that nobody asked for: it does not run. One that was there does."""
    unit = DISTRIBUTION_UNITS[wanted.package]
    if wanted.package in (baseline[BEFORE].found if BEFORE in baseline else [wanted.package]):
        return
    if machine.command(["systemctl", "is-enabled", "--", unit]).stdout.strip() != "enabled":
        return
    report.change(f"balancer.{unit}", "enabled", "disabled")
    if not report.check:
        _systemctl(machine, ["disable", "--quiet", "--now", unit], report)


def _systemctl(machine: Machine, arguments: Sequence[str], report: Report) -> None:
    machine.before_write(f"systemctl {' '.join(arguments)}")
    with told(report.progress, f"balancer: systemctl {' '.join(arguments)}"):
        done = machine.command(["systemctl", *arguments])
    if done.code != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.code}"]
        report.problems.append(
            Problem("balancer.active", f"systemctl {' '.join(arguments)}: {said[0]}", "", "systemctl")
        )
