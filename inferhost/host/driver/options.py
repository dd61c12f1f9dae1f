"""Whether the running kernel module took the options of the plan, from what it shows of them itself.

The file for modprobe says what the next load gets; only /proc/driver/nvidia/params says what this one has.
"""

from __future__ import annotations

from inferhost.host.driver.module import kernels
from inferhost.host.machine import Machine
from inferhost.schema.plan import DriverPackages
from inferhost.schema.result import Verdict

PARAMS = "/proc/driver/nvidia/params"
"""Source: NVIDIA open-gpu-kernel-modules, nv-procfs.c (`name: number`, texts in quotes)."""


def option_verdicts(machine: Machine, install: DriverPackages) -> list[Verdict]:
    """One verdict per option."""
    shown = _shown(machine.read_text(PARAMS) or "")
    return [_verdict(shown, *option) for option in install.module_options]


def waits_for_restart(machine: Machine, install: DriverPackages) -> bool:
    """Whether a loaded module has other options than the plan, on a host that loads its own."""
    waiting = (v for v in option_verdicts(machine, install) if v.verdict == "pending" and v.found is not None)
    return bool(kernels(machine)) and any(waiting)


def _verdict(shown: dict[str, str], name: str, shown_as: str, wanted: str) -> Verdict:
    setting, found = f"driver.option.{name}", shown.get(shown_as)
    if not shown:
        return Verdict(setting, wanted, None, "pending", "needs_driver", "no module is loaded")
    if found is None:
        said = f"the running module shows no {shown_as}: it is of another version"
        return Verdict(setting, wanted, None, "ignored", "no_interface", said)
    if found == _as_shown(wanted):
        return Verdict(setting, wanted, wanted, "held", "none", PARAMS)
    said = "the module reads its options when it is loaded: restart the host"
    return Verdict(setting, wanted, found, "pending", "needs_reboot", said)


def _shown(text: str) -> dict[str, str]:
    pairs = (line.split(": ", 1) for line in text.splitlines() if ": " in line)
    return {name: value.strip().strip('"') for name, value in pairs}


def _as_shown(wanted: str) -> str:
    """A number as the kernel prints it."""
    if wanted.lower().startswith("0x"):
        return str(int(wanted, 16))
    return str(int(wanted)) if wanted.isdigit() else wanted
