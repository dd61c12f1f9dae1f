"""What the card's memory lets one sequence decode, what to expect of it, and what could raise it.

Physics first: bandwidth over bytes read is a ceiling that no clock, power limit or flag moves. The expectation is
a two-term model fitted on published figures, its band cut at the ceiling; an expectation above the ceiling is an
error in the catalogue, never a promise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow, SpeedRow
from inferhost.planner.engine import capability
from inferhost.planner.memory import Budget
from inferhost.planner.weights import bytes_read_per_token, head_bytes, linear_parameters

BATCH_CONTEXT_TOKENS = 1024
GB = 1e9
CLOCKS_CANNOT = (
    "GPU clocks and power limit cannot lift this ceiling: the memory is what every token waits for. "
    "Batching, speculative decoding and fewer bits per weight can"
)
RANDOM_NOTE = "random numbers: no speed is predicted"


@dataclasses.dataclass(frozen=True)
class Bandwidth:
    """Bytes per second at the highest memory clock and at the clock that CUDA programs get, where known."""

    max_clock_bytes_s: float
    running_clock_bytes_s: float | None


def memory_bandwidth(card: GpuRow) -> Bandwidth | None:
    """The card's memory bandwidth, or nothing where neither data sheet nor clock is known.

    The data sheet bounds both: the clock formula overshoots it on the H200.
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
    return Bandwidth(most, running)


def decode_ceiling_tok_s(bytes_per_token: float, memory_bandwidth_bytes_s: float) -> float:
    """Most tokens per second that one sequence can decode.

    Every weight in use is read once per token, so bandwidth over bytes is a ceiling. It bounds batch 1
    without speculative decoding; a mixture of experts counts its active weights only.
    Source: formula `roofline.decode_batch1`.
    """
    return memory_bandwidth_bytes_s / bytes_per_token


def batch_ceiling_tok_s(
    weight_bytes: float, kv_bytes: float, sequences: int, memory_bandwidth_bytes_s: float
) -> float:
    """Most tokens per second of all sequences together, while memory is the bound.

    Source: formula `roofline.batching`.
    """
    return sequences * memory_bandwidth_bytes_s / (weight_bytes + sequences * kv_bytes)


def speed_row(engine: EngineRow, card: GpuRow, catalogue: Catalogue) -> SpeedRow:
    """The fit for this engine on this card, else the one over everything."""
    have = capability(card.compute_capability)
    for row in catalogue.speeds.values():
        below = row.below_compute_capability
        fits = capability(row.min_compute_capability) <= have and (below is None or have < capability(below))
        if row.engine == engine.engine and fits:
            return row
    return catalogue.speeds["any"]


def expected_tok_s(
    bytes_per_token: float, bandwidth: Bandwidth, layers: int, speed: SpeedRow
) -> tuple[float, float, float]:
    """Expected, least and most tokens per second of one sequence.

    The fits were made on data sheet bandwidth, so that is what they are applied to; the running clock then cuts.
    Source: formula `decode.two_term`.
    """
    step_s = bytes_per_token / (bandwidth.max_clock_bytes_s * speed.efficiency_ratio)
    expected = 1 / (step_s + layers * speed.overhead_us_per_layer * 1e-6)
    ceiling = decode_ceiling_tok_s(bytes_per_token, bandwidth.running_clock_bytes_s or bandwidth.max_clock_bytes_s)
    checked = below_ceiling(
        min(expected, ceiling), decode_ceiling_tok_s(bytes_per_token, bandwidth.max_clock_bytes_s)
    )
    return checked, min(expected * speed.low_ratio, ceiling), min(expected * speed.high_ratio, ceiling)


def below_ceiling(promised_tok_s: float, ceiling_tok_s: float) -> float:
    """The promise, or `ValueError`: above the ceiling either the bytes or the card are wrong."""
    if promised_tok_s > ceiling_tok_s:
        raise ValueError(f"{promised_tok_s:.1f} tok/s is promised above the ceiling of {ceiling_tok_s:.1f}")
    return promised_tok_s


def roofline(
    card: GpuRow,
    model: ModelRow,
    engine: EngineRow,
    *,
    budget: Budget,
    catalogue: Catalogue,
) -> dict[str, Any]:
    """The roofline of one instance: ceilings, expectation, arithmetic and levers at batch 1 and an empty context."""
    bandwidth = memory_bandwidth(card)
    read, kv_bytes_per_token = bytes_read_per_token(model), budget.kv_bytes_per_token
    context_tokens, speed = budget.context_tokens, speed_row(engine, card, catalogue)
    if bandwidth is None:
        return {"bytes_read_per_token": read, "bound": "unknown", "note": "bandwidth unknown"}
    running = bandwidth.running_clock_bytes_s
    ceiling = decode_ceiling_tok_s(read, bandwidth.max_clock_bytes_s)
    expected, low, high = expected_tok_s(read, bandwidth, model.layers, speed)
    at_context = decode_ceiling_tok_s(read + context_tokens * kv_bytes_per_token, bandwidth.max_clock_bytes_s)
    return {
        "bound": "memory bandwidth",
        "bytes_read_per_token": read,
        "kv_bytes_per_token": kv_bytes_per_token,
        "memory_bandwidth_max_clock_bytes_s": round(bandwidth.max_clock_bytes_s),
        "memory_bandwidth_running_clock_bytes_s": round(running) if running else None,
        "ceiling_tok_s_max_clock": round(ceiling, 1),
        "ceiling_tok_s_running_clock": round(decode_ceiling_tok_s(read, running), 1) if running else None,
        "ceiling_tok_s_at_context": round(at_context, 1),
        "context_tokens": context_tokens,
        "expected_tok_s": round(expected, 1),
        "expected_band_tok_s": [round(low, 1), round(high, 1)],
        "expected_source": f"catalogue:speeds/{speed.key}#efficiency_ratio",
        "arithmetic": _arithmetic(card, model, bandwidth, read, kv_bytes_per_token),
        "levers": _levers(model, bandwidth, read, budget, speed),
        "conclusion": CLOCKS_CANNOT,
        "note": RANDOM_NOTE if model.random else "",
    }


def _arithmetic(card: GpuRow, model: ModelRow, bandwidth: Bandwidth, read: int, kv_bytes: int) -> str:
    if model.weights_bytes is not None:
        made_of = f"a file of {shown_volume(model.weights_bytes)} without the input embedding"
    else:
        linear = shown_volume(linear_parameters(model, True) * model.linear_bits / 8)
        made_of = f"weights of {model.linear_bits:g} bit {linear}, output layer {shown_volume(head_bytes(model))}"
    most, volume = bandwidth.max_clock_bytes_s, shown_volume(read)
    lines = [
        f"{volume} per token ({made_of}); KV cache {shown_volume(kv_bytes)} per token of context",
        f"{most / GB:.0f} GB/s / {volume} = {most / read:.1f} tok/s at the highest memory clock",
    ]
    running = bandwidth.running_clock_bytes_s
    if running:
        clock, bus = card.memory_clock_under_cuda_mhz, card.memory_bus_bits
        formula = f"2 x {clock} MHz x {bus} bit / 8 = {running / GB:.0f} GB/s"
        lines.append(f"{formula} under CUDA: {running / read:.1f} tok/s")
    else:
        lines.append("the memory clock under CUDA was never read on this model, so no second ceiling")
    return "; ".join(lines)


def shown_volume(count: float) -> str:
    """Bytes in decimal units, as bandwidth counts them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def _levers(
    model: ModelRow, bandwidth: Bandwidth, read: int, budget: Budget, speed: SpeedRow
) -> list[dict[str, Any]]:
    most = bandwidth.max_clock_bytes_s
    batches = sorted(({2, 4, 8} | {budget.sequences}) - {1})
    cached = BATCH_CONTEXT_TOKENS * budget.kv_bytes_per_token
    alone = batch_ceiling_tok_s(read, cached, 1, most)
    totals = {n: batch_ceiling_tok_s(read, cached, n, most) for n in batches}
    levers = [
        _lever(
            f"batching, {n} requests at once",
            f"{total / alone:.1f} times the tokens in all, {total / n:.1f} tok/s each, at 1024 tokens of context"
            + (" (a mixture of experts reads more weights then: less)" if model.experts else ""),
            total,
            "formula:roofline.batching",
        )
        for n, total in totals.items()
    ]
    levers.append(
        _lever(
            "speculative decoding",
            "1.5 to 1.9 times published at batch 1, less with batching, 1.06 times in one case; needs a draft",
            None,
            "formula:roofline.speculation",
        )
    )
    levers += _bit_levers(model, most, speed)
    levers.append(_clock_lever(bandwidth, read))
    return levers


def _clock_lever(bandwidth: Bandwidth, read: int) -> dict[str, Any]:
    running, most = bandwidth.running_clock_bytes_s, bandwidth.max_clock_bytes_s
    memory = (
        f"at most +{100 * (most / running - 1):.1f} % from the memory clock" if running else "memory clock: unknown"
    )
    return _lever(
        "clocks and power limit",
        f"cannot lift the ceiling: 0 from graphics clock and power while memory is the bound; {memory}",
        decode_ceiling_tok_s(read, most),
        "formula:roofline.clocks",
    )


def _bit_levers(model: ModelRow, bandwidth_bytes_s: float, speed: SpeedRow) -> list[dict[str, Any]]:
    """What fewer bits per weight would give, where fewer bytes are not paid for with more arithmetic.

    Source: formula `roofline.fewer_bits`.
    """
    now = model.linear_bits
    steps = (8, 4.25) if now > 12 else (4.5, 3.5) if now > 6 else tuple(b for b in (3.5, 3.0, 2.5) if b < now)
    least = speed.slower_below_bits or 0
    levers = []
    for bits in (b for b in steps if b >= least):
        lower = linear_parameters(model, True) * bits / 8 + head_bytes(model)
        effect = f"{shown_volume(lower)} per token; costs quality, to be measured"
        ceiling = decode_ceiling_tok_s(lower, bandwidth_bytes_s)
        levers.append(_lever(f"{bits:g} bits per weight", effect, ceiling, "formula:roofline.fewer_bits"))
    if least:
        effect = "measured slower on this architecture: fewer bytes, but more integer work"
        source = f"catalogue:speeds/{speed.key}#slower_below_bits"
        levers.append(_lever(f"below {least:g} bits per weight", effect, None, source))
    return levers


def _lever(name: str, effect: str, ceiling_tok_s: float | None, source: str) -> dict[str, Any]:
    rounded = None if ceiling_tok_s is None else round(ceiling_tok_s, 1)
    return {"lever": name, "effect": effect, "ceiling_tok_s": rounded, "source": source}
