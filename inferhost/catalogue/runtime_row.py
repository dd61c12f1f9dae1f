"""The row of `runtimes.json`: a container engine as a distribution packages it, and NVIDIA's toolkit beside it."""

# ruff: noqa: UP006, UP035 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
from typing import Tuple


@dataclasses.dataclass(frozen=True)
class RuntimeRow:
    """One container engine of one distribution."""

    key: str
    os: Tuple[str, ...]  # as `Hardware.os` begins
    engine: str  # "docker" or "podman"
    version: str
    family: str  # "apt" or "dnf"
    packages: Tuple[str, ...]
    compose: Tuple[str, ...]  # what brings Docker Compose; none: not packaged, or too old for CDI
    preferred: bool  # where the host has none and the wish names none
    toolkit: Tuple[str, ...]  # NVIDIA's packages
    toolkit_folder: str  # below the repository's address
    toolkit_suites: Tuple[str, ...]
    notes: str
    source: str
    toolkit_pinned: Tuple[str, ...] = ("nvidia-container-toolkit*", "libnvidia-container*")
    tools: Tuple[str, ...] = ()  # what the package manager needs to hold them
