"""What board and firmware give a card: link, memory window, error correction, virtualisation, place, event reasons.

Looked at under load, because an idle link trains down. None of it is a setting that a plan could write, so what falls
short is a remark and never drift: the remedy is a slot, a cable or the firmware's set-up. Unknown stays None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from inferhost.host.gpu import load
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError
from inferhost.host.gpu.sample import Sample
from inferhost.host.machine import Machine
from inferhost.host.report import Report

SMALL_BAR_MIB = 256
"""The window of a card without resizable BAR. Source: facts-nvml.md A.2, formula `host.passthrough`."""

READINGS = {
    "pcie_generation": "nvmlDeviceGetCurrPcieLinkGeneration",
    "pcie_generation_max": "nvmlDeviceGetMaxPcieLinkGeneration",  # of this card in this slot
    "pcie_generation_card": "nvmlDeviceGetGpuMaxPcieLinkGeneration",
    "pcie_width": "nvmlDeviceGetCurrPcieLinkWidth",
    "pcie_width_max": "nvmlDeviceGetMaxPcieLinkWidth",
}
"""Source: nvml.h of NVML API 13."""


def observe_boards(
    machine: Machine, nvml: Nvml, series: Sequence[tuple[Card, Sequence[Sample]]], report: Report
) -> None:
    """Fills `report.facts.boards`, by UUID, with a remark on each thing that falls short."""
    boards: dict[str, dict[str, Any]] = {}
    report.facts["boards"] = boards
    several_nodes = sum(name[4:].isdigit() for name in machine.entries("/sys/devices/system/node")) > 1
    for card, samples in series:
        try:
            found = boards[card.uuid] = _board(machine, nvml, card, samples)
        except NvmlError as error:
            report.note(f"gpu.{card.uuid}: what its board gives it is not known; {error.evidence}")
            continue
        for text in shortfalls(found, several_nodes):
            report.note(f"gpu.{card.uuid}: {text}")


def shortfalls(board: dict[str, Any], several_nodes: bool) -> Iterator[str]:
    """What is less than it could be, each with where to look."""
    if not board["under_load"]:
        yield "its link was not judged: an idle one trains down"
    else:
        yield from _link(board)
    able, allowed = board["pcie_generation_card"], board["pcie_generation_max"]
    if able is not None and allowed is not None and allowed < able:
        yield f"the slot allows PCIe generation {allowed}, the card can do {able}; see the firmware's set-up"
    if board["bar1_mib"] is not None and board["bar1_mib"] <= SMALL_BAR_MIB:
        switches = "where the card can have one, the firmware calls it Above 4G Decoding and Resizable BAR"
        yield f"a window of {board['bar1_mib']} MiB, so no resizable BAR; {switches}"
    if several_nodes and board["numa_node"] is None and board["virtualization_mode"] in (None, "none"):
        yield "the firmware does not say at which NUMA node it is, so nothing can be bound near it"


def _link(board: dict[str, Any]) -> Iterator[str]:
    for name, shown in (("pcie_generation", "generation"), ("pcie_width", "width")):
        now, most = board[name], board[f"{name}_max"]
        if now is not None and most is not None and now < most:
            where = "see how it sits in its slot, the riser, and the firmware's set-up"
            yield f"its link runs at PCIe {shown} {now} of {most} under load; {where}"


def _board(machine: Machine, nvml: Nvml, card: Card, samples: Sequence[Sample]) -> dict[str, Any]:
    busy = load.settled(samples)
    said = [sample.event_reasons for sample in busy if sample.event_reasons is not None]
    counts = Counter(reason for names in said for reason in names)
    bar1 = nvml.reading("nvmlDeviceGetBAR1MemoryInfo", card.handle)
    ecc = nvml.reading("nvmlDeviceGetEccMode", card.handle)
    node = machine.read_text(f"/sys/bus/pci/devices/{card.pci_bus_id}/numa_node")
    links = {name: nvml.reading(function, card.handle) for name, function in READINGS.items()}
    return {
        **{name: None if value is None else int(value) for name, value in links.items()},
        "under_load": len(busy) >= load.SAMPLES_MIN,
        "bar1_mib": None if bar1 is None else int(bar1.bar1Total) // 2**20,
        "ecc": None if ecc is None else bool(ecc[0]),
        "virtualization_mode": _mode(nvml, card),
        "numa_node": int(node) if node is not None and int(node) >= 0 else None,  # -1: the firmware names none
        "event_reasons": {name: round(count / len(said), 2) for name, count in sorted(counts.items())}
        if said or not busy
        else None,
    }


def _mode(nvml: Nvml, card: Card) -> str | None:
    try:
        return nvml.virtualization_mode(card)
    except NvmlError as error:
        if error.verdict != "unsupported":
            raise
        return None
