"""What decides about a passed-through card, as far as it can be seen from inside the virtual machine.

Source of the prerequisites: formula `host.passthrough`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SMALL_BAR_MIB = 256
"""The window of a card without resizable BAR. Source: formula `host.passthrough`."""


def controlled_elsewhere(facts: Mapping[str, Any]) -> list[str]:
    """What the hypervisor controls, and no setting in here can change."""
    if facts["virtualization"] in (None, "none"):
        return []
    said = [f"{facts['virtualization']} owns the sockets and NUMA nodes that this guest sees"]
    if not facts["cpu"]["cpufreq"]:
        said.append(f"{facts['virtualization']} owns the processor's frequency: no governor in here")
    modes = {gpu["virtualization_mode"] for gpu in facts["gpus"] if gpu["virtualization_mode"] not in (None, "none")}
    return said + [f"the card comes as {mode}" for mode in sorted(modes)]


def prerequisites(facts: Mapping[str, Any]) -> Iterator[str]:
    """One line per prerequisite of ESXi passthrough: what was seen, and what to set where it is missing."""
    if facts["virtualization"] != "vmware" or not facts["gpus"]:
        return
    yield "firmware: EFI" if facts["firmware"] == "efi" else "firmware: BIOS; set the machine's firmware to EFI"
    largest = [max(gpu["bars"], key=lambda bar: bar["mib"], default=None) for gpu in facts["gpus"]]
    wide = [bar for bar in largest if bar is not None]
    above = [bar for bar in wide if bar["wide"] and bar["above_4_gib"]]
    if wide and len(above) == len(facts["gpus"]):
        yield "64-bit MMIO: in use, the cards' windows lie above 4 GiB"
    else:
        size = mmio_gib(facts)
        yield (
            "64-bit MMIO: not seen; set pciPassthru.use64bitMMIO = TRUE"
            + (f" and pciPassthru.64bitMMIOSizeGB = {size}" if size else "")
        )
    for number, bar in enumerate(largest):
        if bar is None:
            yield f"gpus[{number}]: no memory window is to be seen"
        elif bar["mib"] <= SMALL_BAR_MIB:
            yield f"gpus[{number}]: a window of {bar['mib']:g} MiB, so no resizable BAR"
        else:
            yield f"gpus[{number}]: a window of {bar['mib'] / 1024:g} GiB"
    reserved, memory = facts["memory_reserved_mib"], facts["memory_mib"]
    if reserved is None:
        yield "memory reservation: not to be seen without vmware-toolbox-cmd; passthrough wants all of it reserved"
    elif memory and reserved < memory:
        yield f"memory reservation: {reserved} of {memory} MiB; reserve all guest memory"
    else:
        yield f"memory reservation: {reserved} MiB, which is all"


def mmio_gib(facts: Mapping[str, Any]) -> int:
    """Twice the cards' memory, rounded up to a power of two, in GiB; 0 where that is not known."""
    total = sum(gpu["memory_mib"] or 0 for gpu in facts["gpus"]) / 1024
    return 1 << (int(2 * total) - 1).bit_length() if total else 0
