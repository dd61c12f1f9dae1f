"""What was proven of each model: `/var/lib/inferhost/models.json`, so that nothing is hashed or fetched twice.

A file counts as proven as long as its size and time are those that it had when its checksum was right. The record
is a help and no baseline: where it is lost or unreadable, the files are hashed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from typing import Any, Dict  # noqa: UP035 (the document reader resolves the hints of Python 3.9)

from inferhost.host.machine import STATE_DIRECTORY, Machine
from inferhost.schema import document
from inferhost.schema.problems import InputError

KEPT = f"{STATE_DIRECTORY}/models.json"


@dataclasses.dataclass(frozen=True)
class KeptFile:
    """One proven file."""

    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Kept:
    """One place: what it was fetched from, whether that is complete, and its files by their name below it."""

    source: str
    complete: bool
    ours: bool  # fetched or made by us, not found
    files: Dict[str, KeptFile]  # noqa: UP006


def read_kept(machine: Machine) -> dict[str, Kept]:
    """The record by path; empty where there is none that can be read."""
    try:
        found = json.loads((machine.read_bytes(KEPT) or b"{}").decode())
        return {str(path): document.read(Kept, value) for path, value in found.items()}
    except (OSError, ValueError, AttributeError, InputError):
        return {}


def write_kept(machine: Machine, kept: dict[str, Kept]) -> None:
    """The record, whole or not at all; no file where nothing is left."""
    if not kept:
        machine.remove_file(KEPT)
        return
    machine.make_directories(STATE_DIRECTORY, 0o700)
    content = {path: document.plain(one) for path, one in kept.items()}
    machine.replace_file(KEPT, document.text(content).encode(), 0o600)


def as_found(machine: Machine, path: str, sha256: str) -> KeptFile:
    """A file as it is now, with the checksum that it was proven to have."""
    status = os.stat(machine.at(path))
    return KeptFile(status.st_size, status.st_mtime_ns, sha256)


def changed_files(machine: Machine, path: str, kept: Kept) -> list[str]:
    """The names whose file is gone or not the proven one any more."""
    found = []
    for name, one in sorted(kept.files.items()):
        now: Any = None
        with contextlib.suppress(OSError):
            now = os.stat(machine.at(place(path, name)))
        if now is None or (now.st_size, now.st_mtime_ns) != (one.size_bytes, one.mtime_ns):
            found.append(name)
    return found


def place(path: str, name: str) -> str:
    """Where a file of a model lies; the empty name is the model itself."""
    return os.path.join(path, name) if name else path
