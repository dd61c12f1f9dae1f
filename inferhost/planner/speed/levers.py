"""What could raise the decode rate, each lever with its ceiling, its expectation and where that comes from.

Clocks come last and say so: they cannot lift what the memory bounds. What a lever costs (quality, a draft model, more
cards) stands beside what it gives.
"""

from __future__ import annotations

from typing import Any

from inferhost.planner.memory.budget import Budget
from inferhost.planner.memory.weights import bytes_read_per_token, head_bytes, linear_parameters
from inferhost.planner.speed.roofline import BATCH_CONTEXT_TOKENS, Speed, batch_sizes, shown_volume

DRAFTED_TOKENS = (2, 4)
ACCEPTANCE = 0.7
"""An acceptance rate to do the arithmetic with; the true one is measured on one's own prompts."""


def levers(speed: Speed, budget: Budget) -> list[dict[str, Any]]:
    """Batching, speculation, fewer bits, more cards, and clocks last."""
    return [
        *_batching(speed, budget),
        *_speculation(speed),
        *_fewer_bits(speed),
        *_more_cards(speed),
        _clocks(speed),
    ]


def drafted_tokens_per_step(acceptance: float, drafted: int) -> float:
    """Tokens that one step gives when each drafted one is accepted with the same chance, the step's own included.

    Source: formula `roofline.acceptance`.
    """
    if acceptance >= 1:
        return drafted + 1.0
    return float((1 - acceptance ** (drafted + 1)) / (1 - acceptance))


def _batching(speed: Speed, budget: Budget) -> list[dict[str, Any]]:
    alone = speed.rate(1, BATCH_CONTEXT_TOKENS)
    found = []
    for count in batch_sizes(budget)[1:]:
        rate = speed.rate(count, BATCH_CONTEXT_TOKENS)
        times = count * rate.ceiling_tok_s / alone.ceiling_tok_s
        effect = (
            f"at most {times:.1f} times the tokens in all, {rate.ceiling_tok_s:.1f} tok/s each, at "
            f"{BATCH_CONTEXT_TOKENS} tokens of context"
        )
        if speed.model.experts:
            effect += "; more sequences read more experts, which is counted"
        most, expected = count * rate.ceiling_tok_s, count * rate.expected_tok_s
        found.append(_lever(f"batching, {count} requests at once", effect, most, expected, "roofline.batching"))
    return found


def _speculation(speed: Speed) -> list[dict[str, Any]]:
    """Published gains, and the arithmetic at one acceptance rate; no expectation without a measured rate."""
    alone = speed.alone
    shown = " or ".join(
        f"{drafted_tokens_per_step(ACCEPTANCE, n):.1f} tokens per step with {n} drafted" for n in DRAFTED_TOKENS
    )
    effect = (
        "1.5 to 1.9 times published at batch 1, less with batching, 1.06 times in one case; needs a draft, which "
        f"is not planned yet. If {100 * ACCEPTANCE:.0f} % of the drafted tokens are accepted: {shown}, so at "
        f"most that many times {alone.expected_tok_s:.1f} tok/s, less what drafting costs"
    )
    return [_lever("speculative decoding", effect, None, None, "roofline.speculation")]


def _fewer_bits(speed: Speed) -> list[dict[str, Any]]:
    """What fewer bits per weight would give, the integer work of unpacking them counted.

    Source: formula `roofline.fewer_bits`.
    """
    model, alone = speed.model, speed.alone
    now = model.linear_bits
    steps = (8, 4.25) if now > 12 else (4.5, 3.5) if now > 6 else tuple(b for b in (3.5, 3.0, 2.5) if b < now)
    found = []
    for bits in steps:
        read = linear_parameters(model, True) * bits / 8 + head_bytes(model)
        if read >= bytes_read_per_token(model):
            continue
        rate = speed.rate(1, 0, linear_bits=bits)
        effect = f"{shown_volume(read)} per token; costs quality, to be measured"
        if rate.expected_tok_s <= alone.expected_tok_s:
            effect = f"{shown_volume(read)} per token, yet no faster here: fewer bytes, but more integer work"
        found.append(
            _lever(
                f"{bits:g} bits per weight", effect, rate.ceiling_tok_s, rate.expected_tok_s, "roofline.fewer_bits"
            )
        )
    return found


def _more_cards(speed: Speed) -> list[dict[str, Any]]:
    """A second card of the same kind, where the engine splits layers; cards that take turns add no speed."""
    if not speed.splits:
        return []
    twice = speed.with_shares(2 * speed.cards.shares).alone
    link = "NVLink" if speed.cards.chip and speed.cards.chip.nvlink else "PCIe"
    effect = f"each reads its part of every layer; two joins per layer over {link} are counted"
    name = f"tensor parallel over {2 * speed.cards.shares} such cards"
    return [_lever(name, effect, twice.ceiling_tok_s, twice.expected_tok_s, "decode.all_reduce")]


def _clocks(speed: Speed) -> dict[str, Any]:
    bandwidth = speed.bandwidth
    running, most = bandwidth.running_clock_bytes_s, bandwidth.max_clock_bytes_s
    memory = (
        f"at most +{100 * (most / running - 1):.1f} % from the memory clock" if running else "memory clock: unknown"
    )
    if bandwidth.unlocked_bytes_s:
        more = 100 * (bandwidth.unlocked_bytes_s / bandwidth.bound_bytes_s - 1)
        effect = f"at most +{more:.1f} % from unlocking the memory clock; 0 from the graphics clock and power"
        unlocked = speed.alone.ceiling_tok_s * bandwidth.unlocked_bytes_s / most
        return _lever("clocks and power limit", effect, unlocked, None, "roofline.clocks")
    effect = f"cannot lift the ceiling: 0 from graphics clock and power while memory is the bound; {memory}"
    if speed.clocks_matter:
        effect = (
            "cannot lift the ceiling; whether a lower graphics clock or power limit costs speed only a measurement "
            f"tells: other work per weight (fitted) is not hidden behind reading here; {memory}"
        )
    return _lever("clocks and power limit", effect, speed.alone.ceiling_tok_s, None, "roofline.clocks")


def _lever(name: str, effect: str, most: float | None, expected: float | None, formula: str) -> dict[str, Any]:
    return {
        "lever": name,
        "effect": effect,
        "ceiling_tok_s": None if most is None else round(most, 1),
        "expected_tok_s": None if expected is None else round(expected, 1),
        "source": f"formula:{formula}",
    }
