"""Options of the nvidia kernel module: which it reads, how it shows them, and what takes the place of the others."""
# ruff: noqa: UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
from typing import Optional


@dataclasses.dataclass(frozen=True)
class ModuleOptionRow:
    """One option as modprobe knows it; `shown_as` is its name in /proc/driver/nvidia/params."""

    key: str
    shown_as: str
    kind: str  # "number" or "text"
    default: Optional[str]
    status: str  # "real", "renamed" or "placebo"
    replacement: Optional[str]
    effect: str
    source: str
