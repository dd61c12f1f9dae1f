"""What SGLang chooses by itself, version by version: chunk, decode graphs and the fraction of its static pool.

SGLang measures nothing: what is left of the memory that was free before loading, after a share for activations and
graphs, is weights and cache. The share comes from a table of card sizes, which has changed four times.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from inferhost.catalogue.rows import ModelRow, VisionShape
from inferhost.planner.versions import Version

MIB, GIB = 2**20, 2**30
FLAT_FRACTIONS = ((16, 0.79), (8, 0.81), (4, 0.85), (2, 0.87), (1, 0.88))
"""Least number of cards, and the fraction, up to 0.4.6."""
LOAD_GIB = 0.1
STATE_TO_CACHE_RATIO = 0.9
"""Memory of the states of a hybrid model over that of its cache (`mamba_full_memory_ratio`)."""

WEIGHTS_SPREAD, LOAD_SPREAD_GIB = 0.005, 0.05


@dataclasses.dataclass(frozen=True)
class Tier:
    """What SGLang chooses below a total memory: chunk, and largest decode graph under and from four cards."""

    below_mib: float
    chunk_tokens: int
    graph_sequences: int
    graph_sequences_tp4: int


TIERS_0_5_3 = (
    Tier(20 * 1024, 2048, 8, 8),
    Tier(35 * 1024, 2048, 24, 80),
    Tier(60 * 1024, 4096, 32, 160),
    Tier(160 * 1024, 8192, 256, 512),
    Tier(math.inf, 16384, 512, 512),
)
STEPS_MIB = tuple(row.below_mib for row in TIERS_0_5_3[:-1])
TIERS_0_5_20 = (TIERS_0_5_3[0], Tier(35 * 1024, 4096, 48, 160), *TIERS_0_5_3[2:])


@dataclasses.dataclass(frozen=True)
class SglangRun:
    """One start of SGLang, before its defaults are filled in. `total_mib` is what nvidia-smi says."""

    version: Version
    total_mib: float
    cards: int = 1
    chunk_tokens: int | None = None
    sequences: int | None = None


def tier(run: SglangRun) -> Tier:
    """The row of the table for a card of this size.

    Source: formula `memory.sglang_tiers`.
    """
    tiers = TIERS_0_5_20 if run.version >= (0, 5, 20) else TIERS_0_5_3
    return next(row for row in tiers if run.total_mib < row.below_mib)


@functools.cache
def prefill_graphs(chunk_tokens: int) -> int:
    """How many prefill graphs are captured for a chunk size.

    Source: formula `memory.sglang_reserve`.
    """
    sizes = [*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)]
    sizes += [*range(1280, 4097, 256), *range(4608, chunk_tokens + 1, 512)]
    return sum(size <= chunk_tokens for size in sizes)


def reserve_mib(run: SglangRun, model: ModelRow) -> float:
    """What is kept beside the static pool for activations and graphs, from 0.5.3.

    Source: formula `memory.sglang_reserve`.
    """
    return max(needed_mib(run, model), 10240 if run.total_mib > 60 * 1024 else 0)


def needed_mib(run: SglangRun, model: ModelRow) -> float:
    """The same without the 10 GiB that SGLang keeps at least on cards above 60 GiB."""
    row = tier(run)
    chunk = run.chunk_tokens or row.chunk_tokens
    graphs = row.graph_sequences_tp4 if run.cards >= 4 else row.graph_sequences
    mib = 512 + 1.5 * max(chunk, 2048) + 1024 * run.cards / 8 + 2 * min(graphs, run.sequences or graphs)
    if run.version >= (0, 5, 10) and model.vision is None:
        mib += 1536 if model.mla is not None else 8 * prefill_graphs(chunk)
    return mib


def reserve_mib_0_4_9(run: SglangRun) -> float:
    """The same from 0.4.7 to 0.5.2: a table of card sizes alone."""
    if run.total_mib < 35 * 1024:
        return 1024 * (2.8 + run.cards / 10)
    if run.total_mib < 90 * 1024:
        return 1024 * (9.5 + run.cards / 2)
    return 1024 * (12 + run.cards / 2) if run.total_mib < 160 * 1024 else 32 * 1024


def default_fraction(run: SglangRun, model: ModelRow) -> float:
    """`mem_fraction_static` where nobody sets it.

    Source: formulas `memory.sglang_tiers` and `memory.sglang_reserve`.
    """
    if run.version < (0, 4, 7):
        return _flat_fraction(run)
    reserve = reserve_mib_0_4_9(run) if run.version < (0, 5, 3) else reserve_mib(run, model)
    fraction = round((run.total_mib - reserve) / run.total_mib, 3)
    return fraction if model.vision is None else fraction * vision_factor(model.vision)


def _flat_fraction(run: SglangRun) -> float:
    """Up to 0.4.6: by the number of cards; 0.4.6 gives cards above 96 GiB more."""
    fraction = next(share for least, share in FLAT_FRACTIONS if run.cards >= least)
    if run.version >= (0, 4, 6) and run.total_mib > 81920:
        fraction = 0.88
    if run.version >= (0, 4, 6) and run.total_mib > 96 * 1024:
        more = fraction + 48 * 1024 * (1 - fraction) / run.total_mib
        return min(more, (run.total_mib - 18 * 1024) / run.total_mib)
    return fraction


def vision_factor(vision: VisionShape) -> float:
    """By what a vision tower lowers the fraction.

    Source: formula `memory.sglang_vision`.
    """
    layers, hidden = vision.config_layers or 24, vision.config_hidden_size or 1024
    complexity = layers * hidden**2 / (24 * 1024**2)
    return 0.95 * max(0.8, min(1.05, 1.0 - 0.1 * (complexity - 1.0)))


def spread_bytes(weights: float, cards: int, free_measured: bool) -> float:
    """By how much the pool differs from the estimate in nine cases of ten, for a known fraction.

    Weights are known to half a percent; what is free before loading is a prediction unless it was measured.
    Source: formula `memory.sglang_spread`.
    """
    return WEIGHTS_SPREAD * weights + (LOAD_SPREAD_GIB if free_measured else 0.2 + 0.3 * (cards > 1)) * GIB


def load_bytes(cards: int) -> int:
    """What loading takes beside the weights themselves: scratch of the loader and of the libraries it wakes.

    Source: formula `memory.sglang_load`.
    """
    return round((LOAD_GIB + 0.05 * (cards - 1)) * GIB)
