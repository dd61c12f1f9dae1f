"""Containers as the plan carries them: what runs them on the host, and all that an engine's container is given."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Optional, Tuple


@dataclasses.dataclass(frozen=True)
class Runtime:
    """The container engine, NVIDIA's toolkit beside it, and how cards get into containers: by a CDI specification."""

    engine: str  # "docker" or "podman"
    version: str  # what the host has or its distribution brings
    family: str  # "apt" or "dnf"
    packages: Tuple[str, ...]  # of the engine; none where the host's own is kept
    toolkit: Tuple[str, ...]
    key: Optional[str]  # where the toolkit repository's key goes; None: it is there
    unit: Optional[str]  # the engine's daemon
    cdi_spec: str  # gone with every boot, made again before the first container starts
    daemon: Dict[str, Any]  # what is ours in the daemon's configuration file
    toolkit_version: Optional[str] = None  # as its packages match it, 1.20.1-*; None: the newest, once
    toolkit_pinned: Tuple[str, ...] = ()  # patterns of the packages that move together
    tools: Tuple[str, ...] = ()  # what the package manager needs to hold them


@dataclasses.dataclass(frozen=True)
class Container:
    """What an engine's container is made of; arguments, environment and limits are the service's own."""

    mode: str  # "quadlet" or "compose"
    engine: str  # "podman" or "docker"
    name: str
    file: str  # what describes it to its engine
    image: str  # by digest
    command: Tuple[str, ...]  # the service's argv, or a shell that gives it the key and becomes it
    user: int  # number of its user and group, which need no account
    devices: Tuple[str, ...]  # CDI names
    mounts: Tuple[Tuple[str, ...], ...]  # place on the host, place inside, "ro" or "rw"
    working_directory: str
    shared_memory_mib: Optional[int]  # None: the engine's default
    host_ipc: bool
    health: Tuple[str, ...]
    health_start_s: int
    stop_s: int
    cpus: Optional[str] = None  # those of the card's NUMA node, as the kernel lists them; None: all
