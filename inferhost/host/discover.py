"""What this host is made of and what it does now, for `inferhost discover`: reads, and writes nothing at all.

On top of the stable facts come readings that a person needs once: who serves or computes, how the settings stand,
what the desktop takes of a card, and what of a passthrough can be seen from inside a virtual machine. Secrets stay
here: their values are hidden before anything leaves the host.
"""

from __future__ import annotations

import os
from typing import Any

from inferhost.host.facts import PCI, observe_facts
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError, open_nvml
from inferhost.host.gpu.occupants import Occupant, as_owner, card_holders, listeners, occupant
from inferhost.host.gpu.power_limit import watts
from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.service.processes import HIDDEN, SECRET

ENGINES = ("llama-server", "sglang", "vllm", "sfllm", "tabby")
"""What stands in the command line of something that serves; the controller decides what it is."""
MEMORY_64 = 0x00100000  # Source: linux include/linux/ioport.h (IORESOURCE_MEM_64)
FOUR_GIB = 2**32


def observe_host(machine: Machine, report: Report) -> None:
    """Fills `report.facts` with the facts of `observe_facts` and with what is set and running now."""
    observe_facts(machine, report)
    holders: dict[int, int] = {}
    settings: dict[str, dict[str, Any]] = {}
    try:
        with open_nvml(machine.before_write) as nvml:
            for card in nvml.cards():
                settings[card.pci_bus_id] = _settings(nvml, card)
                for pid, used_mib in card_holders(nvml, card):
                    holders[pid] = holders.get(pid, 0) + used_mib
    except NvmlError as error:
        report.note(f"settings of the cards are not known: {error.evidence}")
    for gpu in report.facts["gpus"]:
        bars = _bars(machine, gpu["pci_bus_id"])
        gpu.update({**_no_settings(), **settings.get(gpu["pci_bus_id"], {}), "bars": bars})
    report.facts.update(
        {
            "processes": _processes(machine, holders),
            "firmware": "efi" if machine.exists("/sys/firmware/efi") else "bios",
            "memory_reserved_mib": _reserved_mib(machine),
            "swappiness": _number(machine.read_text("/proc/sys/vm/swappiness")),
            "hostname": (machine.read_text("/proc/sys/kernel/hostname") or "").split(".")[0],
            "root": os.geteuid() == 0,
        }
    )


def _settings(nvml: Nvml, card: Card) -> dict[str, Any]:
    """How a card is set now, and what draws on its memory that is no computation."""
    limit = _asked(lambda: nvml.power_limit_mw(card))
    return {
        "power_limit_w": None if limit is None else watts(limit),
        "persistence_mode": _asked(lambda: nvml.persistence_mode(card)),
        "display_mib": _asked(lambda: nvml.display_bytes(card) // 2**20) or 0,
    }


def _no_settings() -> dict[str, Any]:
    return {"power_limit_w": None, "persistence_mode": None, "display_mib": 0}


def _processes(machine: Machine, holders: dict[int, int]) -> list[dict[str, Any]]:
    """Everything that holds a card's memory or looks like an engine, with what it was started with."""
    ports: dict[int, list[int]] = {}
    for listener in listeners(machine):
        if listener.pid is not None:
            ports.setdefault(listener.pid, []).append(listener.port)
    found = []
    for pid in sorted(int(name) for name in machine.entries("/proc") if name.isdigit()):
        who = occupant(machine, pid)
        if who is None or pid == os.getpid() or not who.words:
            continue
        looks = any(mark in word.lower() for word in who.words[:6] for mark in ENGINES)
        if pid in holders or looks:
            found.append(_process(machine, who, holders.get(pid, 0), sorted(set(ports.get(pid, [])))))
    return found


def _process(machine: Machine, who: Occupant, used_mib: int, ports: list[int]) -> dict[str, Any]:
    return {
        "pid": who.pid,
        "words": list(who.words),
        "unit": who.unit,
        "adoptable": who.adoptable,
        "user": _user(machine, who.pid),
        "directory": _directory(machine, who.pid),
        "environment": _environment(machine, who.pid),
        "ports": ports,
        "gpu_memory_mib": used_mib,
    }


def _environment(machine: Machine, pid: int) -> dict[str, str]:
    """The variables that a process was started with; the value of what may be a secret is hidden."""
    path = f"/proc/{pid}/environ"
    text = machine.read_text(path) or as_owner(machine, pid, ["cat", path])
    pairs = (entry.partition("=") for entry in text.split("\0") if "=" in entry)
    return {name: HIDDEN if SECRET.search(name) else value for name, _, value in pairs}


def _directory(machine: Machine, pid: int) -> str:
    path = f"/proc/{pid}/cwd"
    try:
        return os.readlink(machine.at(path))
    except OSError:
        return as_owner(machine, pid, ["readlink", path]).strip()


def _user(machine: Machine, pid: int) -> str:
    """The name of a process's user; its number where it has no local name."""
    status = (machine.read_text(f"/proc/{pid}/status") or "").splitlines()
    uid = next((line.split()[1] for line in status if line.startswith("Uid:")), "")
    entries = (line.split(":") for line in (machine.read_text("/etc/passwd") or "").splitlines())
    return next((e[0] for e in entries if len(e) > 2 and e[2] == uid), uid)


def _bars(machine: Machine, bus_id: str) -> list[dict[str, Any]]:
    """The memory windows of a card: size, whether 64 bit wide, and whether above 4 GiB."""
    found = []
    for line in (machine.read_text(f"{PCI}/{bus_id}/resource") or "").splitlines()[:6]:
        start, end, flags = (int(field, 16) for field in line.split())
        if end > start:
            wide = bool(flags & MEMORY_64)
            found.append({"mib": (end - start + 1) / 2**20, "wide": wide, "above_4_gib": start >= FOUR_GIB})
    return found


def _reserved_mib(machine: Machine) -> int | None:
    """Memory that ESXi keeps for this guest, as VMware's tools say; None where nobody can be asked."""
    done = machine.command(["vmware-toolbox-cmd", "stat", "memres"])
    return _number(done.stdout.split()[0]) if done.code == 0 and done.stdout.split() else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _asked(question: Any) -> Any:
    """The answer of one NVML question, None where the card has none."""
    try:
        return question()
    except NvmlError:
        return None
