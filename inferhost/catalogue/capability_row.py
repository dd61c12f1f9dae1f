"""The row of `capabilities.json`: what all cards of one compute capability share, whatever they are called."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class CapabilityRow:
    """One compute capability, as `GpuRow.compute_capability` says it."""

    key: str
    architecture: str
    first_cuda: str  # the first toolkit that compiles for it
    first_driver_branch: int  # of that toolkit's driver: an older one does not know the cards
    source: str
