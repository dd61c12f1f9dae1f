"""Unit files and drop-ins: how they are written, and which unit a file of ours belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Optional

DROPIN_FILE = "10-inferhost.conf"
CONTAINED = "inferhost-serve-"
"""How the containers of engines, their units and their files begin."""


def unit_text(entries: Iterable[tuple[str, ...]], own: str) -> str:
    """Ordered `[section, key, value]` as systemd reads them; an empty value resets a key first."""
    lines = [f"# Placed by inferhost; put your own settings into {own}."]
    current = None
    for section, key, value in entries:
        if section != current:
            lines += ["", f"[{section}]"]
            current = section
        lines.append(f"{key}={value}")
    return "\n".join(lines) + "\n"


def unit_of(path: str) -> Optional[str]:
    """The unit that a file of the service section belongs to; None for one that several share."""
    folder, name = os.path.split(path)
    if name == DROPIN_FILE:
        return os.path.basename(folder)[: -len(".d")]
    stem = os.path.splitext(name)[0]
    return f"{stem}.service" if stem.startswith(CONTAINED) else None
