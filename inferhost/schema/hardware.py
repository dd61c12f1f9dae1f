"""What a host is made of, as `inferhost discover` writes it and a person reviews it in git.

Only stable facts: ids, totals, ranges and topology, never readings. `None` means unknown, and unknown stays
unknown: the planner then leaves the decision to the host and says so in `pending`.
"""

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple


@dataclasses.dataclass(frozen=True)
class HardwareGpu:
    """One card. `model` is a catalogue key; memory is what CUDA reports, which is less than the label says.

    `pci_address` is spelled as in sysfs, for example 0000:03:00.0.
    """

    model: str
    uuid: Optional[str]
    pci_device_id: str
    memory_mib: int
    power_min_w: Optional[int]
    power_default_w: Optional[int]
    power_max_w: Optional[int]
    numa_node: Optional[int]
    pci_address: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class HardwareCpu:
    """The processors. `cpufreq` says whether this kernel can set frequencies at all, `scaling_driver` by what.

    An empty list of energy performance preferences is a driver that has none. `node_cpus` are the CPUs of each NUMA
    node by its number, as the kernel lists them, for example 0-9,20-29.
    """

    sockets: int
    cores: int
    numa_nodes: int
    cpufreq: bool
    scaling_driver: Optional[str] = None
    energy_performance_preferences: Optional[Tuple[str, ...]] = None
    node_cpus: Optional[Tuple[str, ...]] = None


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One host. `virtualization` is `none`, `vmware`, `kvm` or what systemd-detect-virt says."""

    gpus: Tuple[HardwareGpu, ...]
    cpu: HardwareCpu
    memory_mib: int
    virtualization: str
    os: str
    driver_version: Optional[str]
    container_engines: Tuple[str, ...] = ()  # such as "docker 26.1.5"
    nvswitches: int = 0  # on the PCI bus, where those of NVLink 5 are not
