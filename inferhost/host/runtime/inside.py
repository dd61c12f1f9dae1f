"""What a running container has of the card, looked at from inside: through the root of its first process.

A container keeps the driver's libraries that it was started with. After a driver change it has those of a driver
that is not loaded any more, and everything that opens the card in it fails: it has to be started again.
"""

from __future__ import annotations

import re

from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.runtime import cdi, containers
from inferhost.schema.plan import Plan
from inferhost.schema.result import Verdict

FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
"""Where a specification puts the driver's libraries: where the host has them."""
LIBRARY = re.compile(r"lib(?:cuda|nvidia-ml)\.so\.(\d{3}(?:\.\d+){1,2})")
DEVICE = re.compile(r"nvidia\d+")


def verify_inside(machine: Machine, plan: Plan, report: Report) -> None:
    """One verdict per running container that got cards by CDI."""
    if plan.runtime is None:
        return
    loaded = cdi.loaded_driver(machine)
    planned = {s.container.name: len(s.container.devices) for s in plan.service if s.container is not None}
    for container in containers.running(machine, plan.runtime.engine):
        if container.by_cdi:
            cards = planned.get(container.name)
            report.verdicts.append(_verdict(machine, container, loaded, plan.host.simulated, cards))


def _verdict(
    machine: Machine, container: containers.Container, loaded: str | None, simulated: bool, cards: int | None
) -> Verdict:
    """`cards` is how many the plan gives it; None where it is none of the plan's."""
    setting, root = f"runtime.container.{container.name}", f"/proc/{container.pid}/root"
    wanted = f"driver {loaded}" if loaded else "the loaded driver"
    if loaded is None:
        return Verdict(setting, wanted, None, "pending", "needs_driver", "no driver answers")
    try:
        names = [name for folder in FOLDERS for name in machine.entries(f"{root}{folder}")]
        devices = [name for name in machine.entries(f"{root}/dev") if DEVICE.fullmatch(name)]
    except OSError as error:
        return Verdict(setting, wanted, None, "unverified", "no_interface", f"{root}: {error.strerror}")
    versions = sorted({match[1] for name in names if (match := LIBRARY.fullmatch(name))})
    found = f"driver {' and '.join(versions)}" if versions else "no driver"
    if not versions:
        return Verdict(setting, wanted, found, "overridden", "unexplained", f"{root}: no library of the driver")
    if versions != [loaded]:
        said = f"{root}: libraries of {found}, and {loaded} is loaded; start the container again"
        return Verdict(setting, wanted, found, "overridden", "driver_reload", said)
    if not devices and not simulated:
        return Verdict(setting, wanted, "no card", "overridden", "unexplained", f"{root}/dev: no card")
    if devices and cards not in (None, len(devices)):
        said = f"{root}/dev: {', '.join(sorted(devices))}, and the plan gives it {cards}"
        return Verdict(setting, wanted, f"{len(devices)} cards", "overridden", "other_writer", said)
    shown = f"{len(devices)} cards" if devices else "simulated cards without a device"
    return Verdict(setting, wanted, found, "held", "none", f"{root}: the loaded driver's libraries; {shown}")
