"""The row of `drivers.json`: packages, which unlike cards and engines have a distribution."""

# ruff: noqa: UP006, UP035, UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple


@dataclasses.dataclass(frozen=True)
class DriverRow:
    """How one repository packages the driver for some distributions; `{branch}` and `{kernel}` are filled in."""

    key: str
    os: Tuple[str, ...]  # as `Hardware.os` begins
    repository: str  # "distribution" or "nvidia"
    family: str  # "apt" or "dnf"
    branches: Tuple[int, ...]  # of which `auto` takes the newest that drives the cards
    last_version: Optional[str]  # of its branches, where the distribution takes nothing newer
    packages_open: Tuple[str, ...]
    packages_proprietary: Tuple[str, ...]
    tools: Tuple[str, ...]  # installed first, out of the host's own sources: they build the module and hold versions
    module_stream_open: Optional[str]  # dnf's name:stream
    module_stream_proprietary: Optional[str]
    pinned: Tuple[str, ...]  # patterns of all packages that a driver version consists of
    fabric_manager: Optional[str]
    headers: str  # the package that brings headers for later kernels of the distribution's first flavour
    headers_for_kernel: str
    persistenced_command: Optional[str]  # what the packaged unit should start; None: it does already
    suites: Tuple[str, ...]
    components: Tuple[str, ...]
    folder: str  # below the repository's address
    keyring: Optional[str]  # on the host already; None: it has to be brought
    notes: str
    source: str
    signed: Tuple[str, ...] = ()  # built and signed by the distribution; {open} is -open or nothing
    branches_by_name: Tuple[int, ...] = ()  # it holds these too, and only a wish takes them
    subnet_manager: Tuple[str, ...] = ()  # beside the fabric manager, for cards whose `nvswitch_subnet` is true
    subnet_tools: Tuple[str, ...] = ()  # what that runs; as `tools`, never held
