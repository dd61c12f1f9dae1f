"""The rows of attention.json: what each engine computes attention with, card by card."""
# ruff: noqa: UP006, UP035, UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple


@dataclasses.dataclass(frozen=True)
class AttentionRow:
    """One attention backend of an engine's pinned version: on which cards it runs, and where nobody need ask for it.

    Cards are pairs of compute capabilities, first and last one.
    """

    key: str
    engine: str
    backend: str  # as the engine's flag takes it
    compressed: Optional[bool]  # for models with compressed attention (MLA), or for all others; None: both
    runs_on: Tuple[Tuple[str, ...], ...]
    default_on: Tuple[Tuple[str, ...], ...]
    notes: str
    source: str
