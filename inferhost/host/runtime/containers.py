"""Running containers, and those that would be hurt: by a reload of systemd's units, or by a restart of docker.

A container that got its cards from NVIDIA's hook loses them when systemd reloads its units, because the engine never
told systemd of the devices; one that got them by CDI or by name keeps them. Source: formula `runtime.cdi`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline
from inferhost.host.record.placed import placed_files
from inferhost.host.report import Report
from inferhost.schema.plan import BASE, SECTIONS, UNIT_DIRECTORY, Plan
from inferhost.schema.problems import Problem
from inferhost.schema.units import CONTAINED

ENGINES = ("docker", "podman")
OPTION = "inferhost_runtime_spare_containers"
WAYS_OUT = f"stop them first, or start them with --device nvidia.com/gpu=all; {OPTION}: false goes on all the same"
WARNING = "containers:"
"""How a remark begins that a playbook shows as a warning."""
UNIT_FOLDERS = (UNIT_DIRECTORY, "/etc/containers/systemd")
NONE_VISIBLE = ("", "void", "none")
HOOK_FOLDERS = ("/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d")


@dataclasses.dataclass(frozen=True)
class Container:
    """One running container: whether it got cards by CDI, or behind the engine's back; `pid` is its first process."""

    engine: str
    name: str
    hooked: bool
    by_cdi: bool
    pid: int


def running(machine: Machine, engine: str) -> list[Container]:
    """What runs in one engine; nothing where it is not there or does not answer."""
    listed = machine.command([engine, "ps", "--quiet", "--no-trunc"])
    ids = listed.stdout.split()
    if listed.code != 0 or not ids:
        return []
    try:
        found = json.loads(machine.command([engine, "inspect", "--type", "container", *ids]).stdout)
    except ValueError:
        return []
    hooks = engine == "docker" or _has_hook(machine)
    return [
        Container(
            engine,
            str(one.get("Name", "")).lstrip("/"),
            hooks and _hooked(one),
            _by_cdi(one),
            int((one.get("State") or {}).get("Pid") or 0),
        )
        for one in found
        if isinstance(one, dict)
    ]


def endangered(machine: Machine) -> list[Container]:
    """The containers that lose their cards when systemd reloads its units."""
    found = []
    for engine in ENGINES:
        hooked = [container for container in running(machine, engine) if container.hooked]
        if hooked and _systemd_has_its_cgroups(machine, engine):
            found += hooked
    return found


def others(machine: Machine, engine: str) -> list[str]:
    """The running containers that are not ours, by name."""
    return [container.name for container in running(machine, engine) if not container.name.startswith(CONTAINED)]


def reload_problems(machine: Machine, plan: Plan, packages: Sequence[str], report: Report) -> list[Problem]:
    """The refusal of a run that would reload systemd's units, naming the containers; a warning with consent.

    `packages` are those that come or get another version: scripts of packages reload the units as well.
    """
    hurt = endangered(machine)
    if not hurt:
        return []
    files = placed_files(plan, [*plan.manage, BASE])
    new = [f.path for f in files if f.path.startswith(UNIT_FOLDERS) and machine.read_bytes(f.path) != f.content]
    changes = ", ".join(packages or new[:1])
    if not changes:
        return []
    message = f"{named(hurt)} would lose the cards: {changes} changes, and systemd has to read its units again"
    if not plan.spare_containers:
        report.note(f"{WARNING} {message}")
        return []
    return [Problem(OPTION, message, WAYS_OUT, "containers")]


def hurt_by_revert(
    machine: Machine, baseline: Baseline, plan: Plan | None, report: Report, packages: Sequence[str] = ()
) -> str:
    """Which containers a revert would take the cards from, by the units that go with it, or the packages that go or
    come back; empty where none, or where the installed plan consents."""
    ours = [path for path in baseline.of("file", [*SECTIONS, BASE]) if path.startswith(UNIT_FOLDERS)]
    hurt = endangered(machine) if packages or any(machine.exists(path) for path in ours) else []
    if not hurt:
        return ""
    message = f"{named(hurt)} would lose the cards: systemd has to read its units again without ours"
    if plan is not None and not plan.spare_containers:
        report.note(f"{WARNING} {message}")
        return ""
    return message


def named(found: list[Container]) -> str:
    """The containers as a sentence begins with them."""
    names = ", ".join(f"{container.name} ({container.engine})" for container in found)
    return f"container {names}" if len(found) == 1 else f"containers {names}"


def _has_hook(machine: Machine) -> bool:
    """Whether podman runs NVIDIA's hook; docker knows it by name of its own."""
    return any("nvidia" in name for folder in HOOK_FOLDERS for name in machine.entries(folder))


def _hooked(one: Mapping[str, Any]) -> bool:
    host, config = one.get("HostConfig") or {}, one.get("Config") or {}
    requests = host.get("DeviceRequests") or []
    devices = [str(device.get("PathOnHost", "")) for device in host.get("Devices") or []]
    words = " ".join(str(word) for word in config.get("CreateCommand") or [])
    if any(path.startswith("/dev/nvidia") for path in devices) or "nvidia.com/" in words:
        return False
    if any((r.get("Driver") or "nvidia") == "nvidia" for r in requests if _asks_for_cards(r)):
        return True
    if _by_cdi(one):  # whatever the image's variable says: a specification of nvidia-ctk sets it to void
        return False
    pairs = (entry.partition("=") for entry in config.get("Env") or [])
    visible = {name: value for name, _, value in pairs}.get("NVIDIA_VISIBLE_DEVICES", "")
    by_hook = host.get("Runtime") == "nvidia" or "CreateCommand" in config
    return by_hook and visible not in NONE_VISIBLE and "nvidia.com/" not in visible


def _by_cdi(one: Mapping[str, Any]) -> bool:
    """Docker keeps the names as requests of the driver cdi, podman in the command that made the container."""
    requests = (one.get("HostConfig") or {}).get("DeviceRequests") or []
    names = [str(name) for request in requests for name in request.get("DeviceIDs") or []]
    words = [str(word) for word in (one.get("Config") or {}).get("CreateCommand") or []]
    return any("nvidia.com/gpu=" in word for word in (*names, *words))


def _asks_for_cards(request: Mapping[str, Any]) -> bool:
    return any("gpu" in group for group in request.get("Capabilities") or [])


def _systemd_has_its_cgroups(machine: Machine, engine: str) -> bool:
    form = "{{.CgroupDriver}}" if engine == "docker" else "{{.Host.CgroupManager}}"
    return machine.command([engine, "info", "--format", form]).stdout.strip() == "systemd"
