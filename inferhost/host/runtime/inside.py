"""What a running container has of the card, looked at from inside: through the root of its first process.

A container keeps the driver's libraries that it was started with. After a driver change it has those of a driver
that is not loaded any more, and everything that opens the card in it fails: it has to be started again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inferhost.host.gpu.occupants import card_places
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
    """One verdict per running container of the plan, and per one that got cards by CDI from the plan's engine."""
    planned = {s.container.name: s.container for s in plan.service if s.container is not None}
    engines = {container.engine for container in planned.values()}
    own = {plan.runtime.engine} if plan.runtime is not None else set()
    there = [one for engine in sorted(engines | own) for one in containers.running(machine, engine)]
    looked_at = [one for one in there if one.name in planned or (one.by_cdi and one.engine in own)]
    loaded = cdi.loaded_driver(machine) if looked_at else None
    for container in looked_at:
        cards = planned[container.name].devices if container.name in planned else None
        report.verdicts.append(_verdict(machine, container, loaded, plan.host.simulated, cards))


def _verdict(
    machine: Machine,
    container: containers.Container,
    loaded: str | None,
    simulated: bool,
    cards: Sequence[str] | None,
) -> Verdict:
    """`cards` are the CDI names that the plan gives it; None where it is none of the plan's."""
    setting, root = f"runtime.container.{container.name}", f"/proc/{container.pid}/root"
    wanted = f"driver {loaded}" if loaded else "the loaded driver"
    if loaded is None:
        return Verdict(setting, wanted, None, "pending", "needs_driver", "no driver answers")
    try:
        names = [name for folder in FOLDERS for name in machine.entries(f"{root}{folder}")]
        inside = machine.entries(f"{root}/dev")
    except OSError as error:
        return Verdict(setting, wanted, None, "unverified", "no_interface", f"{root}: {error.strerror}")
    devices = [name for name in inside if DEVICE.fullmatch(name)]
    versions = sorted({match[1] for name in names if (match := LIBRARY.fullmatch(name))})
    found = f"driver {' and '.join(versions)}" if versions else "no driver"
    if not versions:
        return Verdict(setting, wanted, found, "overridden", "unexplained", f"{root}: no library of the driver")
    if versions != [loaded]:
        said = f"{root}: libraries of {found}, and {loaded} is loaded; start the container again"
        return Verdict(setting, wanted, found, "overridden", "driver_reload", said)
    if not devices and not simulated:
        return Verdict(setting, wanted, "no card", "overridden", "unexplained", f"{root}/dev: no card")
    if devices and cards is not None and len(cards) != len(devices):
        said = f"{root}/dev: {', '.join(sorted(devices))}, and the plan gives it {len(cards)}"
        return Verdict(setting, wanted, f"{len(devices)} cards", "overridden", "other_writer", said)
    nodes = _nodes(machine, cards or ())
    if devices and nodes and set(nodes) != set(devices):
        said = f"{root}/dev: {', '.join(sorted(devices))}, and the plan's cards are {', '.join(sorted(nodes))}"
        return Verdict(setting, wanted, "another card", "overridden", "other_writer", said)
    if devices and cdi.UVM in cdi.device_numbers(machine) and cdi.UVM not in inside:
        said = f"{root}/dev: no {cdi.UVM}, without which CUDA does not start; start the container again"
        return Verdict(setting, wanted, f"no {cdi.UVM}", "overridden", "driver_reload", said)
    shown = f"{len(devices)} cards" if devices else "simulated cards without a device"
    return Verdict(setting, wanted, found, "held", "none", f"{root}: the loaded driver's libraries; {shown}")


def _nodes(machine: Machine, cards: Sequence[str]) -> list[str]:
    """The nodes of these cards by the driver's own list; empty where it does not know each by this name."""
    found = {uuid: node for uuid, (_, node) in card_places(machine).items()}
    names = [card.partition("=")[2] for card in cards]
    return [found[name] for name in names] if all(name in found for name in names) else []
