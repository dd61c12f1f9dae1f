"""The row of `installs.json`: how one engine version gets onto a host, each into a folder of its own."""

# ruff: noqa: UP006, UP035, UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple


@dataclasses.dataclass(frozen=True)
class InstallRow:
    """What pip, git or a container engine fetches for the engine row of the same key; empty: not this way."""

    key: str
    prefix: Optional[str]  # the folder of this version; an upgrade goes beside it
    python_min: Optional[str]  # of the environment's interpreter
    requirements: Tuple[str, ...]  # pip's, from an index
    prerelease: bool  # whether pip has to take versions that are no releases
    repository: Optional[str]
    commit: Optional[str]
    source_arguments: Tuple[str, ...]  # of pip, inside the checkout
    image: Optional[str]  # of the container that the engine's authors publish
    image_command: Tuple[str, ...]  # what starts the engine in it, the executable first
    image_shared_memory_mib: Optional[int]  # what its processes pass to each other; none: it is one process
    build_argument: Tuple[
        str, ...
    ]  # of our Containerfile: its name and form, {digits} of the card; none: no such file
    compiles_with: Tuple[str, ...]  # what of the host makes its kernels at run time, which no index brings
    package: Optional[str]  # of a distribution
    notes: str
    source: str
    build_targets: Tuple[int, ...] = ()  # what that build has code for, as digits; none: any card
