"""Whether an engine runs as planned, from the running process and never from the unit file.

systemd says whether the unit is active and which process is its main one; /proc of that process says the arguments,
the limits and the environment. A container without CAP_SYS_RESOURCE cannot raise limits: a lower one is then
`unsupported`, `read_only`. The value of anything that looks like a secret is compared and never shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.service.account import uid_of
from inferhost.host.service.container import first_process
from inferhost.schema.plan import Service
from inferhost.schema.result import Verdict

CAP_SYS_RESOURCE = 24  # Source: linux/capability.h
LIMITS = {"limit_nofile": "Max open files", "limit_memlock": "Max locked memory"}
PROPERTIES = (
    "LoadState", "ActiveState", "SubState", "MainPID", "NeedDaemonReload", "FragmentPath", "DropInPaths",
    "SourcePath", "ExecMainStartTimestamp", "Result",
)  # fmt: skip
SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
HIDDEN = "(hidden)"


def verify_service(machine: Machine, service: Service, environment: Mapping[str, str], report: Report) -> None:
    """Verdicts on one instance: active, arguments, limits, environment."""
    state = unit_state(machine, service.unit)
    active = state.get("ActiveState", "")
    evidence = f"systemctl: {service.unit} is {state.get('LoadState')}, {active}, {state.get('SubState')}"
    setting = f"service.{service.instance}.active"
    if not state:
        said = "systemctl does not answer here"
        report.verdicts.append(Verdict(setting, "active", None, "unverified", "no_interface", said))
        return
    if active != "active":
        # An engine that systemd starts again and again is "activating" most of the time, and never serves.
        verdict = ("overridden", "unexplained") if down(state) else ("unverified", "needs_load")
        report.verdicts.append(Verdict(setting, "active", active, *verdict, evidence))
        return
    report.verdicts.append(Verdict(setting, "active", active, "held", "none", evidence))
    process = f"/proc/{first_process(machine, service, state)}"
    report.verdicts.append(_user(machine, service, process))
    report.verdicts.append(_arguments(machine, service, process))
    for name, value in (("limit_nofile", str(service.limit_nofile)), ("limit_memlock", service.limit_memlock)):
        report.verdicts.append(_limit(machine, f"service.{service.instance}.{name}", name, value, process))
    if service.container is not None and service.container.cpus is not None:
        report.verdicts.append(_cpus(machine, service.instance, service.container.cpus, process))
    report.verdicts.extend(_environment(machine, service.instance, environment, process))


def down(state: Mapping[str, str]) -> str:
    """Why this unit will not answer, in systemd's words; empty where it runs or is still starting."""
    active, sub = state.get("ActiveState", "active"), state.get("SubState", "")
    starting = active in ("activating", "reloading") and sub != "auto-restart"
    if active == "active" or starting:
        return ""
    return f"the unit is {active} ({sub}), result {state.get('Result', 'unknown')}"


def unit_state(machine: Machine, unit: str) -> dict[str, str]:
    """What systemd says of a unit; empty where systemd does not answer."""
    done = machine.command(["systemctl", "show", "--timestamp=unix", "-p", ",".join(PROPERTIES), "--", unit])
    if done.code != 0:
        return {}
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _status(machine: Machine, process: str, field: str) -> str | None:
    """One field of /proc/PID/status."""
    lines = (line.partition(":\t") for line in (machine.read_text(f"{process}/status") or "").splitlines())
    return next((value.strip() for name, _, value in lines if name == field), None)


def _cpus(machine: Machine, instance: str, wanted: str, process: str) -> Verdict:
    """The process may run on no other CPUs than those of its card's node."""
    setting, evidence = f"service.{instance}.cpus", f"{process}/status: Cpus_allowed_list"
    found = _status(machine, process, "Cpus_allowed_list")
    if found is None:
        return Verdict(setting, wanted, None, "unverified", "no_interface", f"{evidence} is not readable")
    verdict = ("held", "none") if cpu_numbers(found) <= cpu_numbers(wanted) else ("overridden", "other_writer")
    return Verdict(setting, wanted, found, *verdict, evidence)


def cpu_numbers(text: str) -> set[int]:
    """The CPUs of a list as the kernel writes it: 0-3,8."""
    ranges = (part.partition("-") for part in text.split(",") if part)
    return {number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)}


def _user(machine: Machine, service: Service, process: str) -> Verdict:
    """The process runs as the planned user, by the ids that the kernel knows."""
    setting, where = f"service.{service.instance}.user", f"{process}/status"
    uid = (_status(machine, process, "Uid") or "").partition("\t")[0]
    if not uid:
        return Verdict(setting, service.user, None, "unverified", "no_interface", f"{where} is not readable")
    wanted = int(service.user) if service.user.isdigit() else uid_of(machine, service.user)
    if wanted is not None and int(uid) == wanted:
        return Verdict(setting, service.user, service.user, "held", "none", f"{where}: uid {uid}")
    return Verdict(setting, service.user, f"uid {uid}", "overridden", "other_writer", f"{where}: uid {uid}")


def _arguments(machine: Machine, service: Service, process: str) -> Verdict:
    """The process runs the planned arguments, directly, under an interpreter, or handed on by a wrapper."""
    setting, wanted = f"service.{service.instance}.argv", list(service.argv)
    where = f"{process}/cmdline"
    found = (machine.read_text(where) or "").rstrip("\0").split("\0")
    count = f"{len(wanted)} arguments"
    if found == [""]:
        return Verdict(setting, count, None, "unverified", "no_interface", f"{where} is empty or not readable")
    if found == wanted:
        return Verdict(setting, count, count, "held", "none", f"{where} equals the plan's argv")
    if found[-len(wanted) :] == wanted or (len(wanted) > 1 and found[-len(wanted) + 1 :] == wanted[1:]):
        return Verdict(
            setting, count, count, "held", "none", f"{where} ends in the plan's arguments, run by {found[0]}"
        )
    return Verdict(
        setting,
        count,
        f"{len(found)} arguments",
        "overridden",
        "other_writer",
        # A wrapper stands in front: the arguments are compared from the end.
        _first_difference(where, found[max(0, len(found) - len(wanted)) :], wanted),
    )


def _first_difference(where: str, found: Sequence[str], wanted: Sequence[str]) -> str:
    """Where two argument lists part, without a value that may be a secret."""
    for number, planned in enumerate(wanted):
        running = found[number] if number < len(found) else "nothing"
        if running != planned:
            words = (wanted[number - 1] if number else "", planned, running)
            if any(SECRET.search(word) for word in words):
                return f"{where}[{number}]: found another value {HIDDEN}"
            return f'{where}[{number}]: found "{running}", wanted "{planned}"'
    return f"{where} has {len(found) - len(wanted)} arguments more than the plan"


def _limit(machine: Machine, setting: str, name: str, wanted: str, process: str) -> Verdict:
    found = soft_limit(machine.read_text(f"{process}/limits") or "", LIMITS[name])
    evidence = f"{process}/limits: {LIMITS[name]}"
    if found is None:
        return Verdict(setting, wanted, None, "unverified", "no_interface", f"{evidence} is not readable")
    if _amount(found) >= _amount(wanted):
        return Verdict(setting, wanted, found, "held", "none", evidence)
    if not may_raise_limits(machine):
        why = "PID 1 lacks CAP_SYS_RESOURCE here, so no unit can raise it"
        return Verdict(setting, wanted, found, "unsupported", "read_only", f"{evidence}; {why}")
    return Verdict(setting, wanted, found, "overridden", "unexplained", evidence)


def soft_limit(limits: str, name: str) -> str | None:
    """The soft limit of one row of /proc/PID/limits: a number or "unlimited"."""
    row = next((line for line in limits.splitlines() if line.startswith(name)), "")
    fields = row[len(name) :].split()
    return fields[0] if fields else None


def may_raise_limits(machine: Machine) -> bool:
    """Whether PID 1 may raise hard limits; believed to be so where its status cannot be read."""
    status = machine.read_text("/proc/1/status") or ""
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), None)
    return mask is None or bool(int(mask, 16) >> CAP_SYS_RESOURCE & 1)


def _amount(limit: str) -> float:
    return float("inf") if limit in ("infinity", "unlimited") else float(limit)


def _environment(machine: Machine, instance: str, wanted: Mapping[str, str], process: str) -> list[Verdict]:
    """One verdict per planned variable, from the environment that the process was started with."""
    where = f"{process}/environ"
    entries = (machine.read_text(where) or "").split("\0")
    running = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    verdicts = []
    for name, value in sorted(wanted.items()):
        setting, found = f"service.{instance}.env.{name}", running.get(name)
        planned = HIDDEN if SECRET.search(name) else value
        present = None if found is None else HIDDEN if SECRET.search(name) else found
        if not running:
            verdict = ("unverified", "no_interface", f"{where} is not readable")
        elif found == value:
            verdict = ("held", "none", where)
        else:
            verdict = (
                "overridden",
                "other_writer",
                f"{where} {'lacks it' if found is None else 'has another value'}",
            )
        verdicts.append(Verdict(setting, planned, present, *verdict))
    return verdicts
