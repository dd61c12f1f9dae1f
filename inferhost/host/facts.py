"""What this host is made of, for `inferhost discover`: ids, totals, ranges and topology, never readings.

Works without a driver: the cards are then found on the PCI bus and what only NVML knows is None. Unknown stays None;
nothing is guessed from a name.
"""

from __future__ import annotations

import dataclasses
import platform
import re
from typing import Any

from inferhost.host.cpu.cpufreq import Preference
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError, open_nvml
from inferhost.host.gpu.power_limit import watts
from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.watch.writers import other_writers

PCI = "/sys/bus/pci/devices"
CPU = "/sys/devices/system/cpu"
NODES = "/sys/devices/system/node"
NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")  # VGA controller, 3D controller. Source: pci.ids
SWITCH_CLASSES = ("0x0680",)
"""A bridge that is none of the others, which NVIDIA's driver takes for an NVSwitch. Those of NVLink 5 are none of
these. Source: NVIDIA open-gpu-kernel-modules, kernel-open/nvidia/linux_nvswitch.c and nv-pci-table.c."""


def observe_facts(machine: Machine, report: Report) -> None:
    """Fills `report.facts`; what kept NVML from answering is a note."""
    cards = pci_cards(machine)
    driver: dict[str, Any] = {"driver_version": None, "simulated": None}
    try:
        with open_nvml(machine.before_write) as nvml:
            driver = {"driver_version": nvml.driver_version(), "simulated": nvml.simulated()}
            cards = [_card(machine, nvml, card) for card in nvml.cards()]
            for error in nvml.unreadable:
                report.note(f"a card does not answer: {error.evidence}")
    except NvmlError as error:
        report.note(f"GPUs as the PCI bus shows them: {error.evidence}")
    report.facts.update(
        {
            "gpus": cards,
            "nvswitches": len(_pci_devices(machine, SWITCH_CLASSES)),
            **driver,
            "cpu": cpu_facts(machine),
            "memory_mib": memory_mib(machine),
            "virtualization": virtualization(machine),
            "os": os_name(machine),
            "container_engines": container_engines(machine),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "other_writers": [dataclasses.asdict(writer) for writer in other_writers(machine)],
        }
    )


def container_engines(machine: Machine) -> list[str]:
    """Docker and podman with their versions, where they are installed and answer."""
    found = []
    for engine in ("docker", "podman"):
        done = machine.command([engine, "--version"])
        version = re.search(r"\d+(?:\.\d+)+", done.stdout)
        if done.code == 0 and version:
            found.append(f"{engine} {version[0]}")
    return found


def pci_cards(machine: Machine) -> list[dict[str, Any]]:
    """NVIDIA's display devices on the PCI bus, in bus order, with what sysfs knows of them."""
    found = []
    for bus_id in _pci_devices(machine, DISPLAY_CLASSES):
        device = (machine.read_text(f"{PCI}/{bus_id}/device") or "").replace("0x", "").upper()
        found.append(_row(machine, bus_id, {"pci_device_id": device}))
    return found


def _pci_devices(machine: Machine, classes: tuple[str, ...]) -> list[str]:
    """NVIDIA's devices of these classes, by bus id."""
    return [
        bus_id
        for bus_id in machine.entries(PCI)
        if machine.read_text(f"{PCI}/{bus_id}/vendor") == NVIDIA_VENDOR
        and (machine.read_text(f"{PCI}/{bus_id}/class") or "")[:6] in classes
    ]


def cpu_facts(machine: Machine) -> dict[str, Any]:
    """Sockets, physical cores and NUMA nodes as the kernel numbers them, and whether it governs the frequency."""
    cpus = [n for n in machine.entries(CPU) if n.startswith("cpu") and n[3:].isdigit()]
    places = set()
    for cpu in cpus:
        socket = machine.read_text(f"{CPU}/{cpu}/topology/physical_package_id")
        core = machine.read_text(f"{CPU}/{cpu}/topology/core_id")
        if socket is not None and core is not None:
            places.add((socket, core))
    nodes = [int(n[4:]) for n in machine.entries(NODES) if n.startswith("node") and n[4:].isdigit()]
    lists = [machine.read_text(f"{NODES}/node{number}/cpulist") or "" for number in range(max(nodes, default=0) + 1)]
    model = _field(machine, "/proc/cpuinfo", "model name")
    governed = [f"{CPU}/{cpu}/cpufreq" for cpu in cpus if machine.exists(f"{CPU}/{cpu}/cpufreq/scaling_governor")]
    drivers = {machine.read_text(f"{folder}/scaling_driver") for folder in governed}
    offered = [machine.read_text(f"{folder}/{Preference.offered}") for folder in governed]
    common = set.intersection(*(set((words or "").split()) for words in offered)) if offered else set()
    return {
        "model": model,
        "sockets": len({socket for socket, _ in places}) or None,
        "cores": len(places) or None,
        "threads": len(cpus) or None,
        "numa_nodes": len(nodes) or 1,
        "node_cpus": lists if nodes else [],
        "cpufreq": bool(governed),
        "scaling_driver": drivers.pop() if len(drivers) == 1 else None,
        "energy_performance_preferences": sorted(common),
    }


def memory_mib(machine: Machine) -> int | None:
    """All memory that the kernel manages."""
    total = _field(machine, "/proc/meminfo", "MemTotal")
    return int(total.split()[0]) // 1024 if total else None


def virtualization(machine: Machine) -> str | None:
    """What systemd-detect-virt calls it, e.g. "vmware" or "none"; None where it cannot be asked."""
    done = machine.command(["systemd-detect-virt"])  # exits 1 for "none"
    return done.stdout.strip() or None


def os_name(machine: Machine) -> str | None:
    """Distribution and version as in the hardware file, e.g. "ubuntu-22.04"."""
    text = machine.read_text("/etc/os-release") or machine.read_text("/usr/lib/os-release") or ""
    values = {k: v.strip().strip("\"'") for k, _, v in (line.partition("=") for line in text.splitlines())}
    parts = [values.get("ID", ""), values.get("VERSION_ID", "")]
    return "-".join(p for p in parts if p) or None


def _card(machine: Machine, nvml: Nvml, card: Card) -> dict[str, Any]:
    limits = _asked(lambda: nvml.power_limit_range_mw(card)) or (None, None)
    default = _asked(lambda: nvml.default_power_limit_mw(card))
    return _row(
        machine,
        card.pci_bus_id,
        {
            "name": card.name,
            "uuid": card.uuid,
            "pci_device_id": card.pci_device_id,
            "memory_mib": _asked(lambda: nvml.memory_total_mib(card)),
            "power_min_w": None if limits[0] is None else watts(limits[0]),
            "power_default_w": None if default is None else watts(default),
            "power_max_w": None if limits[1] is None else watts(limits[1]),
            "virtualization_mode": _asked(lambda: nvml.virtualization_mode(card)),
        },
    )


def _row(machine: Machine, bus_id: str, known: dict[str, Any]) -> dict[str, Any]:
    """A card with every key, so that a reader finds the same ones with and without a driver."""
    node = machine.read_text(f"{PCI}/{bus_id}/numa_node")
    empty: dict[str, Any] = dict.fromkeys(
        ("name", "uuid", "memory_mib", "power_min_w", "power_default_w", "power_max_w", "virtualization_mode")
    )
    # sysfs says -1 where the firmware names no node
    numa_node = int(node) if node is not None and int(node) >= 0 else None
    return {**empty, **known, "pci_bus_id": bus_id, "numa_node": numa_node}


def _asked(question: Any) -> Any:
    """The answer of one NVML question, None where the card has none."""
    try:
        return question()
    except NvmlError:
        return None


def _field(machine: Machine, path: str, name: str) -> str | None:
    """The value of the first `name: value` line."""
    for line in (machine.read_text(path) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
