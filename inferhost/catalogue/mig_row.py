"""How cards can be divided (MIG): the profiles of each family, and where on the card an instance of one may start."""
# ruff: noqa: UP006, UP035 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
from typing import Dict, Tuple


@dataclasses.dataclass(frozen=True)
class MigProfile:
    """One size of instance. `memory_mib` is what nvidia-smi mig -lgip shows, the least of the drivers seen."""

    slices: int  # of the card's multiprocessors
    memory_mib: int
    size: int  # units of memory, see `MigRow.units`
    starts: Tuple[int, ...]  # the units at which an instance may begin


@dataclasses.dataclass(frozen=True)
class MigRow:
    """A family of cards that are divided alike: into `units` of memory and `slices` of multiprocessors."""

    key: str
    gpus: Tuple[str, ...]  # rows of the table gpus
    units: int
    slices: int
    profiles: Dict[str, MigProfile]
    notes: str
    source: str
