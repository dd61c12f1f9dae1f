"""The container that an engine runs in, as the plan carries it: all that it is given, and the file that says so."""

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple


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
