"""The CDI specification: whether it is there, and whether it still names this driver's files.

It is a generated file on a tmpfs. Nothing reads YAML here: the lines that name files and devices of the host are
looked at, and each has to exist; a driver version in a library's name has to be the loaded driver's, and a device's
number the one that the kernel gave when the module was loaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inferhost.host.gpu.nvml import NO_DRIVER, NvmlError, open_nvml
from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.runtime import cdi_folders
from inferhost.schema.container import Runtime
from inferhost.schema.plan import Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

SETTING = "runtime.cdi_spec"
UNIT = "inferhost-cdi.service"
HOST_PATH = re.compile(r"^[\s-]*\"?hostPath\"?:\s*\"?([^\"\s,]+)", re.MULTILINE)
NODE = re.compile(r"^[\s-]*path: (/dev/nvidia\S*)(\n\s+hostPath: \S+)?(?:\n\s+major: (\d+))?$", re.MULTILINE)
"""A device with its number, in the order in which nvidia-ctk writes them. Source: its internal/edits/device.go."""
UVM = "nvidia-uvm"
NUMBERED_ANEW = {UVM: f"/dev/{UVM}", "nvidia-caps": "/dev/nvidia-caps/"}
"""Drivers in /proc/devices whose number may be another one after each load, and how their devices' paths begin."""
LIBRARY_VERSION = re.compile(r"/lib(?:cuda|nvidia-ml)\.so\.(\d{3}(?:\.\d+){1,2})")


def planned_names(plan: Plan) -> list[str]:
    """The names of the cards that the plan gives to containers; those of slices are read when a unit starts."""
    given = {device for s in plan.service if s.container is not None for device in s.container.devices}
    return sorted(device.partition("=")[2] for device in given if "$" not in device)


def apply_cdi(machine: Machine, runtime: Runtime, report: Report, names: Sequence[str] = ()) -> None:
    """Has the specification made again where it is missing or stale. It is a cache: no change of a setting."""
    why = stale(machine, runtime, names)
    if why and not report.check and loaded_driver(machine) is not None:
        machine.before_write(f"systemctl start {UNIT}")
        done = machine.command(["systemctl", "start", UNIT])
        report.note(f"{runtime.cdi_spec} was made again: {why}")
        if done.code != 0:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.code}"])[0]
            report.problems.append(Problem(SETTING, f"{UNIT}: {said}", f"see: journalctl -u {UNIT}", "cdi"))
    verify_cdi(machine, runtime, report, names)


def verify_cdi(machine: Machine, runtime: Runtime, report: Report, names: Sequence[str] = ()) -> None:
    """The verdict on the specification that is there now, and on files that keep engines from it."""
    why, wanted = stale(machine, runtime, names), "this driver's"
    rivals = cdi_folders.rivals(machine, runtime)
    if rivals and not why:
        said = f"{rivals[0].path} {rivals[0].message}"
        report.verdicts.append(Verdict(SETTING, wanted, "another's", "overridden", "other_writer", said))
    elif not why:
        said = "every file that it names is there"
        report.verdicts.append(Verdict(SETTING, wanted, wanted, "held", "none", said))
    elif loaded_driver(machine) is None:
        said = f"{why}; it names the driver's files, and no driver answers"
        report.verdicts.append(Verdict(SETTING, wanted, None, "pending", "needs_driver", said))
    elif report.check:
        report.verdicts.append(Verdict(SETTING, wanted, None, "unverified", "none", f"{why}; made at the next run"))
    else:
        report.verdicts.append(Verdict(SETTING, wanted, "stale", "overridden", "driver_reload", why))


def stale(machine: Machine, runtime: Runtime, names: Sequence[str] = ()) -> str:
    """Why the specification cannot be used; empty where it can. `names`: the cards that containers are given."""
    text = machine.read_text(runtime.cdi_spec)
    if text is None:
        return f"{runtime.cdi_spec} is not there"
    missing = [path for path in HOST_PATH.findall(text) if not machine.exists(path)]
    missing += [path for path, elsewhere, _ in NODE.findall(text) if not elsewhere and not machine.exists(path)]
    if missing:
        return f"it names {missing[0]}, which is not on this host"
    other = _renumbered(machine, text)
    if other:
        return other
    named, loaded = set(LIBRARY_VERSION.findall(text)), loaded_driver(machine)
    if loaded is not None and named and named != {loaded}:
        return f"it names libraries of driver {' and '.join(sorted(named))}, and {loaded} is loaded"
    lacking = [name for name in names if name not in cdi_folders.device_names(text)]
    return f"it does not name {lacking[0]}, which the plan gives to a container" if lacking else ""


def device_numbers(machine: Machine) -> dict[str, str]:
    """The major number of each driver that has devices now, as /proc/devices lists them."""
    lines = (line.split() for line in (machine.read_text("/proc/devices") or "").splitlines())
    return {words[1]: words[0] for words in lines if len(words) == 2 and words[0].isdigit()}


def _renumbered(machine: Machine, text: str) -> str:
    """Which device the specification has by a number of an earlier load, or lacks; empty where there is none."""
    given, nodes = device_numbers(machine), NODE.findall(text)
    for driver, begins in NUMBERED_ANEW.items():
        now = given.get(driver)
        if now is None:
            continue
        mine = [(path, number) for path, _, number in nodes if path.startswith(begins)]
        for path, number in mine:
            if number not in ("", now):
                return f"it names {path} by number {number}, and the module has {now} since it was loaded"
        if driver == UVM and not mine:
            return f"it does not name {begins}, without which CUDA does not start"
    return ""


def loaded_driver(machine: Machine) -> str | None:
    """The version of the loaded driver; None where none answers."""
    try:
        with open_nvml(machine.before_write) as nvml:
            return nvml.driver_version()
    except NvmlError as error:
        if error.code in NO_DRIVER:
            return None
        raise
