"""What the card's memory lets an engine decode, what to expect of it, and what could raise it.

Physics first: bandwidth over bytes read is a ceiling that no clock, power limit or flag moves. The expectation is the
decode model fitted on published figures (`planner.decode`), its band cut at the ceiling; an expectation above the
ceiling is an error in the catalogue, never a promise.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow, SpeedRow
from inferhost.planner.machine.mig import sliced_chip
from inferhost.planner.memory.budget import Budget
from inferhost.planner.memory.kv_cache import state_bytes
from inferhost.planner.memory.weights import (
    bytes_read_per_token,
    head_bytes,
    linear_parameters,
    rest_bytes,
    routed_bytes,
)
from inferhost.planner.names import format_named
from inferhost.planner.request import CardSlice
from inferhost.planner.speed.decode import (
    STATE_PASSES,
    Cards,
    Parts,
    Step,
    band,
    below_ceiling,
    ceiling_tok_s,
    distinct_experts,
    speed_row,
    step_parts,
    step_s,
)

GB = 1e9
BATCH_CONTEXT_TOKENS = 1024
CLOCKS_CANNOT = (
    "GPU clocks and power limit cannot lift this ceiling: the memory is what every token waits for. "
    "Batching, speculative decoding and fewer bits per weight can"
)
CLOCKS_MATTER = (
    "GPU clocks and power limit cannot lift this ceiling. Whether a lower graphics clock costs speed below it only a "
    "measurement tells: other work per weight (fitted) takes about as long as reading. Batching and speculative "
    "decoding can"
)
CLOCKS_MATTER_FROM = 0.8
"""Fitted other work over reading time from which a measurement is asked for; 1 is where both are equal."""

RANDOM_NOTE = "random numbers: no speed is predicted"


@dataclasses.dataclass(frozen=True)
class Bandwidth:
    """Bytes per second at the highest memory clock and at the clock that CUDA programs get, where known."""

    max_clock_bytes_s: float
    running_clock_bytes_s: float | None
    unlocked_bytes_s: float | None = None
    """At the highest memory clock, where the wish locks this one below it."""

    @property
    def bound_bytes_s(self) -> float:
        """What the card will really give: the running clock where it was read."""
        return self.running_clock_bytes_s or self.max_clock_bytes_s


@dataclasses.dataclass(frozen=True)
class Rate:
    """Tokens per second of each of `sequences`: the ceiling, the expectation and its band."""

    sequences: int
    ceiling_tok_s: float
    expected_tok_s: float
    low_tok_s: float
    high_tok_s: float


@dataclasses.dataclass(frozen=True)
class Speed:
    """One model on one engine and card, ready to be asked for rates."""

    model: ModelRow
    engine: EngineRow
    bandwidth: Bandwidth
    cards: Cards
    row: SpeedRow
    kv_bytes_per_token: int
    catalogue: Catalogue
    whole_card: bool = True  # not a slice of a divided one
    memory_lock_mhz: int | None = None  # the most that the wish lets the memory clock be

    def with_shares(self, shares: int) -> Speed:
        """The same over so many cards that each read their part at once."""
        return dataclasses.replace(self, cards=dataclasses.replace(self.cards, shares=shares))

    @property
    def splits(self) -> bool:
        """Whether more such cards would read at once: slices of a divided card cannot reach each other's memory.

        Source: formula `engine.tensor_parallel`.
        """
        return self.whole_card and "tensor_parallel_size" in self.engine.flags

    @functools.cached_property
    def alone(self) -> Rate:
        """One request at an empty context, which all else is compared with."""
        return self.rate(1, 0)

    def rate(self, sequences: int, context_tokens: float, *, linear_bits: float | None = None) -> Rate:
        """What each of so many sequences gets at so much context, weights at `linear_bits` where given.

        A plan speaks of some rates several times, so what was told once is kept. The model was fitted on data sheet
        bandwidth, so that is what it is applied to; the running clock then cuts.
        Source: formulas `decode.step` and `roofline.batching`.
        """
        asked = (sequences, context_tokens, linear_bits)
        if asked not in self._told:
            self._told[asked] = self._rate(*asked)
        return self._told[asked]

    def _rate(self, sequences: int, context_tokens: float, linear_bits: float | None) -> Rate:
        step = self._step(sequences, context_tokens, linear_bits)
        at_most = dataclasses.replace(self.cards, bandwidth_bytes_s=self.bandwidth.max_clock_bytes_s)
        most = ceiling_tok_s(step.bytes_read, at_most)
        bound = most * self.bandwidth.bound_bytes_s / self.bandwidth.max_clock_bytes_s
        modelled = 1 / step_s(step, self.cards, self.row, self.catalogue.decode)
        expected = below_ceiling(min(modelled, bound), most)
        low, high = (modelled * ratio for ratio in band(step, self.row, self.catalogue.decode))
        return Rate(sequences, most, expected, min(low, expected), min(high, bound))

    def parts(self) -> Parts:
        """What the time of one sequence's step at an empty context is made of."""
        return step_parts(self._step(1, 0, None), self.cards, self.row, self.catalogue.decode)

    @property
    def clocks_matter(self) -> bool:
        """Whether reading does not hide the other work, so that nothing can be said of a lower graphics clock."""
        parts = self.parts()
        return parts.other_work_s > CLOCKS_MATTER_FROM * parts.reading_s

    # What every rate asks for again; a plan asks for some twenty.
    @functools.cached_property
    def _told(self) -> dict[tuple[int, float, float | None], Rate]:
        return {}

    @functools.cached_property
    def _read_bytes(self) -> tuple[float, float]:
        """Of one step: what is read whatever is chosen, and all routed experts."""
        if self.model.moe is None:
            return float(bytes_read_per_token(self.model)), 0.0
        return rest_bytes(self.model), routed_bytes(self.model)

    @functools.cached_property
    def _family(self) -> str:
        return weight_family(self.model, self.model.linear_bits, self.catalogue)

    @functools.cached_property
    def _weights(self) -> int:
        return linear_parameters(self.model, True) + self.model.vocabulary_size * self.model.hidden_size

    @functools.cached_property
    def _state_bytes(self) -> int:
        return 0 if self.model.state is None else state_bytes(self.model.state)

    def _step(self, sequences: int, context_tokens: float, linear_bits: float | None) -> Step:
        model = self.model
        family = self._family if linear_bits is None else weight_family(model, linear_bits, self.catalogue)
        cached = sequences * (context_tokens * self.kv_bytes_per_token + STATE_PASSES * self._state_bytes)
        recurrent = 0 if model.state is None else model.state.layers
        latent = 0 if model.mla is None else model.layers
        always, routed = self._read_bytes
        if linear_bits is not None:
            always, routed = rest_bytes(model, linear_bits), routed_bytes(model, linear_bits)
        if model.moe is None:
            return Step(always + cached, self._weights, family, model.layers, 0, 0, recurrent, latent)
        moe = model.moe
        routed *= distinct_experts(moe.experts, moe.experts_per_token, sequences) / moe.experts
        read = always + routed + cached
        mixed = model.layers - moe.dense_layers
        return Step(read, self._weights, family, model.layers, routed, mixed, recurrent, latent)


def memory_bandwidth(card: GpuRow, lock_mhz: int | None = None) -> Bandwidth | None:
    """The card's memory bandwidth, or nothing where neither data sheet nor clock is known.

    The data sheet bounds both: the clock formula overshoots it on the H200. A lock of the memory clock bounds both
    too; it lifts neither, because a card under CUDA stays at the clock of its power state.
    Source: formula `roofline.memory_bandwidth`.
    """
    per_mhz = 2 * 1e6 * card.memory_bus_bits / 8 if card.memory_bus_bits else None
    if card.memory_bandwidth_gb_s is not None:
        most = card.memory_bandwidth_gb_s * GB
    elif per_mhz and card.memory_clock_max_mhz:
        most = per_mhz * card.memory_clock_max_mhz
    else:
        return None
    running = None
    if per_mhz and card.memory_clock_under_cuda_mhz:
        running = min(per_mhz * card.memory_clock_under_cuda_mhz, most)
    locked = per_mhz * lock_mhz if per_mhz and lock_mhz else most
    if locked >= most:
        return Bandwidth(most, running)
    return Bandwidth(locked, min(running or locked, locked), most)


def weight_family(model: ModelRow, bits: float, catalogue: Catalogue) -> str:
    """Which kernels read the weights: by the checkpoint's format, at other bits by what such formats are."""
    if bits == model.linear_bits:
        named = format_named(model.quantisation, catalogue)
        if named is not None:
            return named.family
    if bits >= 12:
        return "16bit"
    if bits > 6.6:
        return "8bit"
    return "4bit" if bits >= 4 or model.format != "gguf" else "3bit"


def speed_of(
    card: GpuRow,
    model: ModelRow,
    engine: EngineRow,
    *,
    kv_bytes_per_token: int,
    shares: int,
    catalogue: Catalogue,
    part: CardSlice | None = None,
    memory_lock_mhz: int | None = None,
) -> Speed | None:
    """The model on that engine and `shares` such cards at once, or nothing where the bandwidth is unknown.

    `card` is the slice of a divided card where `part` says which.
    """
    free, bandwidth = memory_bandwidth(card), memory_bandwidth(card, memory_lock_mhz)
    if free is None or bandwidth is None:
        return None
    # The fit is to the data sheet at the clock that CUDA gets, so only a lock below that clock slows it.
    fitted_bytes_s = free.max_clock_bytes_s * bandwidth.bound_bytes_s / free.bound_bytes_s
    chip = catalogue.chips.get(card.key)
    chip = sliced_chip(chip, part) if chip is not None and part is not None else chip
    cards = Cards(fitted_bytes_s, chip, shares)
    row = speed_row(engine.engine, engine.version, catalogue.speeds.values())
    known = (model, engine, bandwidth, cards, row, kv_bytes_per_token, catalogue)
    return Speed(*known, whole_card=part is None, memory_lock_mhz=memory_lock_mhz)


def shown_volume(count: float) -> str:
    """Bytes in decimal units, as bandwidth counts them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def arithmetic(card: GpuRow, speed: Speed) -> str:
    """How the ceilings came about, so that a person can check them with a pocket calculator."""
    model, bandwidth, read = speed.model, speed.bandwidth, bytes_read_per_token(speed.model)
    if model.weights_bytes is not None:
        made_of = f"a file of {shown_volume(model.weights_bytes)} without the input embedding"
    else:
        linear = shown_volume(linear_parameters(model, True) * model.linear_bits / 8)
        made_of = f"weights of {model.linear_bits:g} bit {linear}, output layer {shown_volume(head_bytes(model))}"
    most, volume, lock = bandwidth.max_clock_bytes_s, shown_volume(read), speed.memory_lock_mhz
    highest = "the highest memory clock"
    if bandwidth.unlocked_bytes_s:
        highest += f" that the lock allows, {lock} MHz"
    lines = [
        f"{volume} per token ({made_of}); KV cache {shown_volume(speed.kv_bytes_per_token)} per token of context",
        f"{most / GB:.0f} GB/s / {volume} = {most / read:.1f} tok/s at {highest}",
    ]
    running = bandwidth.running_clock_bytes_s
    if running:
        clock = min(mhz for mhz in (card.memory_clock_under_cuda_mhz, lock) if mhz)
        bus = card.memory_bus_bits
        formula = f"2 x {clock} MHz x {bus} bit / 8 = {running / GB:.0f} GB/s"
        lines.append(f"{formula} under CUDA: {running / read:.1f} tok/s")
    else:
        lines.append("the memory clock under CUDA was never read on this model, so no second ceiling")
    if speed.cards.shares > 1:
        lines.append(f"{speed.cards.shares} cards read their parts at once: that many times all of this")
    return "; ".join(lines)


def document(card: GpuRow, speed: Speed, budget: Budget) -> dict[str, Any]:
    """The roofline of one instance, at batch 1 and an empty context where nothing else is said."""
    model, bandwidth = speed.model, speed.bandwidth
    alone, full, parts = speed.alone, speed.rate(1, budget.context_tokens), speed.parts()
    running = bandwidth.running_clock_bytes_s
    lowered = (running or 0.0) / bandwidth.max_clock_bytes_s
    return {
        "bound": "memory bandwidth",
        "bytes_read_per_token": bytes_read_per_token(model),
        "kv_bytes_per_token": speed.kv_bytes_per_token,
        "tensor_parallel_size": speed.cards.shares,
        "memory_bandwidth_max_clock_bytes_s": round(bandwidth.max_clock_bytes_s),
        "memory_bandwidth_running_clock_bytes_s": round(running) if running else None,
        "ceiling_tok_s_max_clock": round(alone.ceiling_tok_s, 1),
        "ceiling_tok_s_running_clock": round(alone.ceiling_tok_s * lowered, 1) if running else None,
        "ceiling_tok_s_at_context": round(full.ceiling_tok_s, 1),
        "context_tokens": budget.context_tokens,
        "expected_tok_s": round(alone.expected_tok_s, 1),
        "expected_band_tok_s": [round(alone.low_tok_s, 1), round(alone.high_tok_s, 1)],
        "expected_tok_s_at_context": round(full.expected_tok_s, 1),
        "expected_source": f"catalogue:speeds/{speed.row.key}#overhead_us_per_layer",
        "arithmetic": arithmetic(card, speed),
        "batches": _batches(speed, budget),
        "paced_by": parts.paced_by,
        "parts_ms": {
            "reading": round(1000 * parts.reading_s, 2),
            "other_work": round(1000 * parts.other_work_s, 2),
            "launching": round(1000 * parts.launching_s, 2),
            "joining": round(1000 * parts.joining_s, 2),
        },
        "conclusion": conclusion(speed),
        "note": RANDOM_NOTE if model.random else "",
    }


def conclusion(speed: Speed) -> str:
    """What clocks can do for the ceiling: unlocking a locked memory clock lifts it, nothing else does."""
    if speed.bandwidth.unlocked_bytes_s:
        unlocked = speed.alone.ceiling_tok_s * speed.bandwidth.unlocked_bytes_s / speed.bandwidth.max_clock_bytes_s
        return f"the lock of the memory clock holds this ceiling down: unlocked it is {unlocked:.1f} tok/s"
    return CLOCKS_MATTER if speed.clocks_matter else CLOCKS_CANNOT


def batch_sizes(budget: Budget) -> list[int]:
    """Numbers of requests at once that the plan speaks of: none that the cache does not hold at the asked context."""
    most = budget.concurrent_requests
    return sorted({count for count in (1, 2, 4, 8) if count <= most} | {min(budget.sequences, most)})


def _batches(speed: Speed, budget: Budget) -> list[dict[str, Any]]:
    """All sequences together and each of them, at 1024 tokens of context."""
    rates = [speed.rate(count, BATCH_CONTEXT_TOKENS) for count in batch_sizes(budget)]
    return [
        {
            "sequences": rate.sequences,
            "ceiling_tok_s": round(rate.sequences * rate.ceiling_tok_s, 1),
            "expected_tok_s": round(rate.sequences * rate.expected_tok_s, 1),
            "each_tok_s": round(rate.expected_tok_s, 1),
            "tpot_ms": round(1000 / rate.expected_tok_s, 1),
        }
        for rate in rates
    ]
