"""A driver that is on a host of the RHEL 9 family already, and whose choice its module stream was.

dnf moves no package to another stream by itself. The first plan of ours moves somebody else's driver with consent
alone, and a lock of theirs never. Source of the file: dnf's documentation of modularity.
"""

from __future__ import annotations

import configparser

from inferhost.host.driver.changed_plan import moves, recorded
from inferhost.host.driver.packages import Installed
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline
from inferhost.schema.plan import DriverPackages
from inferhost.schema.problems import Problem

CONSENT = "inferhost_driver_replace_packages"


def stream_file(module_stream: str) -> str:
    """Where dnf keeps which stream of that module is enabled."""
    return f"/etc/dnf/modules.d/{module_stream.partition(':')[0]}.module"


def enabled_stream(text: str) -> str:
    """`MODULE:STREAM` as such a file says it; empty where none is enabled."""
    found = configparser.ConfigParser(interpolation=None)
    try:
        found.read_string(text)
    except configparser.Error:
        return ""
    for module in found.sections():
        if found[module].get("state") == "enabled" and found[module].get("stream"):
            return f"{module}:{found[module]['stream']}"
    return ""


def stream_as_now(machine: Machine, install: DriverPackages) -> list[str]:
    """What to tell `dnf module` so that it gets back the stream of now: it hides the packages of every other one."""
    if install.module_stream is None:
        return []
    stream = enabled_stream(machine.read_text(stream_file(install.module_stream)) or "")
    return ["enable", stream] if stream else ["reset", install.module_stream.partition(":")[0]]


def stream_problems(machine: Machine, install: DriverPackages, there: Installed, baseline: Baseline) -> list[Problem]:
    """The refusal to move what somebody else installed, enabled or locked, with what would work."""
    if install.module_stream is None:
        return []
    asked = moves(machine, install, there, baseline)
    problems = []
    locked = [
        f"{name} {asked['held_by_others'][name]}" for name in asked["replace"] if name in asked["held_by_others"]
    ]
    if locked:
        names = " ".join(name.partition(" ")[0] for name in locked)
        message = f"{', '.join(locked)}: locked by somebody else, and this plan is another driver's"
        hint = f"dnf versionlock delete {names} lets it change; or plan the driver that it is locked at"
        problems.append(Problem("inferhost_driver_branch", message, hint, "locked-packages"))
    stream = enabled_stream(machine.read_text(stream_file(install.module_stream)) or "")
    found = [stream] if stream not in ("", install.module_stream) else []
    found += [f"{name} {there.versions[name]}" for name in asked["replace"]]
    if found and not install.may_replace and not recorded(baseline):
        message = f"found false, and this host has {', '.join(found)} of somebody else"
        hint = f"true moves it to the stream {install.module_stream}, and a revert gives stream and versions back"
        problems.append(
            Problem(CONSENT, message, f"{hint}; or leave driver out of inferhost_manage", "another-driver")
        )
    return problems
