"""How long one decode step takes: the time that memory, other work and launches need, by engine and card.

A step reads every weight in use once. Reading and the other work per weight overlap, so the slower one sets the pace;
launching a layer's kernels, choosing experts and joining the parts of a split layer come on top. The matrices of
chosen experts are small, and small reads reach less of the bandwidth. The rates of `speeds.json` and `decode.json`
were fitted on published figures by `python -m tests.reality.fit_decode`, which also measures how wrong they are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping

from inferhost.catalogue.rows import ChipRow, DecodeRow, SpeedRow

OVERLAP_POWER = 5
"""How sharply the slower of two overlapping streams wins: 1 would add them, infinity would hide the faster one."""

ALL_REDUCES_PER_LAYER = 2
STATE_PASSES = 2
"""A step reads the state of linear attention and writes it back."""

UNKNOWN_MEMORY = "gddr"
OTHER_WORK = "other work per weight (fitted)"
"""Unpacking, arithmetic, whatever else a kernel does per weight: a fitted rate, of which arithmetic may be little."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step has to do, for all its sequences together."""

    bytes_read: float  # weights and KV cache
    weights: float  # that are computed with: how many numbers, not bytes
    family: str  # of their format
    layers: int
    expert_bytes: float = 0.0  # of the bytes read: experts that a router chose, matrix by small matrix
    mixture_layers: int = 0
    recurrent_layers: int = 0  # of linear attention
    latent_layers: int = 0  # of compressed attention


@dataclasses.dataclass(frozen=True)
class Cards:
    """What a step runs on. Cards that hold layers each work in turn, so `shares` counts those that work at once."""

    bandwidth_bytes_s: float  # of one card, data sheet
    chip: ChipRow | None  # None: only its bandwidth is known
    shares: int = 1  # tensor parallel size


def ceiling_tok_s(bytes_read: float, cards: Cards) -> float:
    """Most tokens per second that one sequence can decode.

    Every weight in use is read once per token, so bandwidth over bytes is a ceiling, and no clock, limit or flag
    moves it. It bounds decoding without speculation.
    Source: formula `roofline.decode_batch1`.
    """
    return cards.shares * cards.bandwidth_bytes_s / bytes_read


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a step's time is made of, in seconds. Reading and other work overlap; the other two come on top."""

    reading_s: float
    other_work_s: float  # all that is done per weight besides; 0 where nothing is known of the chip
    launching_s: float
    joining_s: float

    @property
    def step_s(self) -> float:
        """Source: formula `decode.step`."""
        return _slower(self.reading_s, self.other_work_s) + self.launching_s + self.joining_s

    @property
    def paced_by(self) -> str:
        """What the step waits for most."""
        parts = {
            "memory": self.reading_s,
            OTHER_WORK: self.other_work_s,
            "launches": self.launching_s,
            "joining parts": self.joining_s,
        }
        return max(parts, key=lambda name: parts[name])


def step_s(step: Step, cards: Cards, speed: SpeedRow, constants: Mapping[str, DecodeRow]) -> float:
    """Seconds of one step; its inverse is the rate of each sequence in it.

    Source: formula `decode.step`.
    """
    return step_parts(step, cards, speed, constants).step_s


def step_parts(step: Step, cards: Cards, speed: SpeedRow, constants: Mapping[str, DecodeRow]) -> Parts:
    """The parts of one step's time."""
    chip, shares = cards.chip, cards.shares
    efficiency = constants[f"efficiency.{chip.memory if chip else UNKNOWN_MEMORY}"].value
    if chip and chip.inline_ecc:
        efficiency *= constants["efficiency.inline_ecc"].value
    slower = step.expert_bytes * (1 / _own(constants, "experts", speed) - 1)
    reading_s = (step.bytes_read + slower) / (shares * cards.bandwidth_bytes_s * efficiency)
    other_work_s = joining_s = 0.0
    if chip:
        per_second = chip.sm_count * chip.graphics_clock_mhz * 1e6 * speed.weights_per_clock[step.family]
        other_work_s = step.weights / (shares * per_second)
    more = {"mixture": step.mixture_layers, "recurrent": step.recurrent_layers, "latent": step.latent_layers}
    more_us = sum(layers * _own(constants, kind, speed) for kind, layers in more.items() if layers)
    each_us, usual_us = overhead_us_per_layer(speed, chip), speed.overhead_us_per_layer
    launching_s = (step.layers * each_us + more_us * (each_us / usual_us if usual_us else 1)) * 1e-6
    if shares > 1:
        link = "nvlink" if chip and chip.nvlink else "pcie"
        joins = ALL_REDUCES_PER_LAYER * step.layers * math.log2(shares)
        joining_s = joins * constants[f"all_reduce.{link}"].value * 1e-6
    return Parts(reading_s, other_work_s, launching_s, joining_s)


def _own(constants: Mapping[str, DecodeRow], kind: str, speed: SpeedRow) -> float:
    """The engine's own constant of a kind, else the one for any engine."""
    return constants.get(f"{kind}.{speed.key}", constants[f"{kind}.any"]).value


def band(step: Step, speed: SpeedRow, constants: Mapping[str, DecodeRow]) -> tuple[float, float]:
    """The ratios to the expectation between which about nine figures in ten lie: wider for mixtures of experts.

    Widest where the kernels of experts differ by version and card, which is so for all engines but llama.cpp.
    """
    if not step.mixture_layers:
        return speed.low_ratio, speed.high_ratio
    return _own(constants, "mixture_band.low", speed), _own(constants, "mixture_band.high", speed)


def overhead_us_per_layer(speed: SpeedRow, chip: ChipRow | None) -> float:
    """Microseconds per layer that the card waits for launches; more where the engine has no CUDA graphs.

    Source: formula `decode.overhead`.
    """
    least = speed.graphs_min_compute_capability
    if chip and least and capability(chip.compute_capability) < capability(least):
        return speed.overhead_without_graphs_us_per_layer
    return speed.overhead_us_per_layer


def distinct_experts(experts: int, per_token: int, sequences: int) -> float:
    """How many different experts of a layer a step of independent sequences reads.

    Source: formula `decode.distinct_experts`.
    """
    return float(experts * (1 - (1 - per_token / experts) ** sequences))


@functools.cache
def capability(text: str) -> tuple[int, int]:
    """A compute capability as it compares: 12.0 is above 8.9."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def below_ceiling(promised_tok_s: float, most_tok_s: float) -> float:
    """The promise, or `ValueError`: above the ceiling either the bytes or the card are wrong."""
    if promised_tok_s > most_tok_s:
        raise ValueError(f"{promised_tok_s:.1f} tok/s is promised above the ceiling of {most_tok_s:.1f}")
    return promised_tok_s


def speed_row(engine: str, version: str, rows: Iterable[SpeedRow]) -> SpeedRow:
    """The fit for this engine and version, else the one over everything, which has no names."""
    name = engine.lower()
    for row in rows:
        if not row.names or (any(part in name for part in row.names) and _holds(row, version)):
            return row
    raise ValueError("speeds.json has no row for any engine")


VERSIONS = {
    "date": re.compile(r"\b(20\d\d-\d\d)"),
    "build": re.compile(r"\bb(\d{3,})\b"),
    "version": re.compile(r"^v?(\d+(?:\.\d+)+)"),
}
"""How published figures name a version. A bare year is its first half: later builds get their month told."""


def min_compute_capability(row: SpeedRow, version: str) -> str | None:
    """The least compute capability that an engine has code for; a version that says nothing is the newest."""
    found = VERSIONS["version"].search(version)
    own = [least for first, least in row.min_compute_capability.items() if not found or _reached(found[1], first)]
    return own[-1 if found or not version else 0] if own else None


def _reached(version: str, first: str) -> bool:
    return _ordered(version) >= _ordered(first)


def _holds(row: SpeedRow, version: str) -> bool:
    """Whether a version lies before the row's end; one that says nothing is current."""
    if not row.before:
        return True
    text = f"{version}-01" if re.fullmatch(r"20\d\d", version) else version
    for kind, end in row.before.items():
        found = VERSIONS[kind].search(text)
        if found:
            return _ordered(found[1]) < _ordered(end)
    return False


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _slower(a_s: float, b_s: float) -> float:
    """Two overlapping times: the greater one, and a little more where both are near.

    Source: formula `decode.overlap`.
    """
    longer, shorter = max(a_s, b_s), min(a_s, b_s)
    return longer * float((1 + (shorter / longer) ** OVERLAP_POWER) ** (1 / OVERLAP_POWER))
