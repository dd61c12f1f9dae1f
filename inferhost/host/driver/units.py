"""Units of the driver's packages that have to start at boot, such as the fabric manager of an HGX."""

from __future__ import annotations

from inferhost.host.machine import Machine
from inferhost.schema.result import Verdict

WANTED = "enabled, active"


def starts_at_boot(machine: Machine, unit: str) -> bool:
    """Whether systemd starts the unit at boot; no for one that is not there."""
    return _asked(machine, "is-enabled", unit) == "enabled"


def is_disabled(machine: Machine, unit: str) -> bool:
    """Whether the unit is there and could start at boot; one that somebody masked is left alone."""
    return _asked(machine, "is-enabled", unit) == "disabled"


def unit_verdict(machine: Machine, unit: str, running: Verdict) -> Verdict:
    """Whether the unit is enabled and runs, which it cannot before the module does (`running`)."""
    setting = f"driver.unit.{unit}"
    found = f"{_asked(machine, 'is-enabled', unit)}, {_asked(machine, 'is-active', unit)}"
    if found == WANTED:
        return Verdict(setting, WANTED, found, "held", "none", "systemctl")
    if running.cause == "needs_reboot":
        return Verdict(setting, WANTED, found, "pending", "needs_reboot", "it waits for the module")
    evidence = f"run systemctl enable --now {unit}, and read its journal"
    return Verdict(setting, WANTED, found, "ignored", "unexplained", evidence)


def _asked(machine: Machine, verb: str, unit: str) -> str:
    return machine.command(["systemctl", verb, "--", unit]).stdout.strip() or "not there"
