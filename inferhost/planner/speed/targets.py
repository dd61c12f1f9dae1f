"""Whether asked latencies are possible: time to first token (TTFT) and time per output token (TPOT).

What physics rules out is refused, with the limit and with what could move it. What lies between the limit and the
expectation is planned and pending: only a measurement on the host settles it. Prefill is bounded by arithmetic where
the card's tensor rate is known, and always by one read of the weights.
"""

from __future__ import annotations

from typing import Any

from inferhost.catalogue.rows import ModelRow
from inferhost.planner.machine.clock_locks import MEMORY
from inferhost.planner.memory.weights import bytes_read_per_token, head_bytes, linear_parameters
from inferhost.planner.request import Instance
from inferhost.planner.speed.roofline import BATCH_CONTEXT_TOKENS, Speed
from inferhost.schema.plan import Pending
from inferhost.schema.problems import InputError, Problem

TERA = 1e12
TPOT, TTFT = "target_tpot_ms", "target_ttft_ms"
MEASURED = "a measurement on the host"


def prefill_ceiling_tok_s(model: ModelRow, tensor_tflops: float, shares: int) -> float:
    """Most prompt tokens per second: two operations per weight that a token passes through.

    Source: formula `roofline.prefill`.
    """
    return shares * tensor_tflops * TERA / (2 * max(1, linear_parameters(model, True)))


def prefill(speed: Speed) -> dict[str, Any]:
    """The plan's `prefill`: the bound, or that it is not known for this card, and the least TTFT that follows."""
    chip = speed.cards.chip
    tflops = chip.tensor_tflops_16bit if chip else None
    most = prefill_ceiling_tok_s(speed.model, tflops, speed.cards.shares) if tflops else None
    return {
        "ceiling_tok_s": round(most, 1) if most else None,
        "tensor_tflops_16bit": tflops,
        "prompt_tokens": BATCH_CONTEXT_TOKENS,
        "least_ttft_ms": round(least_ttft_ms(speed), 2),
        "source": f"catalogue:chips/{chip.key}#tensor_tflops_16bit" if chip else "formula:roofline.prefill",
    }


def least_ttft_ms(speed: Speed) -> float:
    """Milliseconds below which no first token of a 1,024 token prompt comes on an idle engine, nothing cached.

    Source: formula `roofline.ttft`.
    """
    read_s = 1 / speed.alone.ceiling_tok_s
    chip = speed.cards.chip
    if chip is None or chip.tensor_tflops_16bit is None:
        return 1000 * read_s
    most = prefill_ceiling_tok_s(speed.model, chip.tensor_tflops_16bit, speed.cards.shares)
    return 1000 * max(read_s, BATCH_CONTEXT_TOKENS / most)


def asked_latencies(instance: Instance, speed: Speed | None) -> list[Pending]:
    """What of the asked latencies only the host can settle, or `InputError` for what physics rules out."""
    asked = {option: instance.integer(option) for option in (TPOT, TTFT)}
    problems = [
        Problem(instance.path(option), f"found {value}, wanted milliseconds", "0 asks for nothing")
        for option, value in asked.items()
        if value < 0
    ]
    if problems:
        raise InputError(problems)
    wanted = {option: value for option, value in asked.items() if value}
    if speed is None or speed.model.random:
        because = "no speed is predicted for this card and model"
        return [Pending(f"service.{instance.name}.{option}", MEASURED, because) for option in wanted]
    problems = [p for option, value in wanted.items() if (p := _impossible(option, value, instance, speed))]
    if problems:
        raise InputError(problems)
    found = (_unsettled(option, value, instance, speed) for option, value in wanted.items())
    return [pending for pending in found if pending]


def _impossible(option: str, asked_ms: int, instance: Instance, speed: Speed) -> Problem | None:
    alone = speed.alone
    if option == TTFT:
        least = least_ttft_ms(speed)
        if asked_ms >= least:
            return None
        found = (
            f"found {asked_ms}, but the first token of a {BATCH_CONTEXT_TOKENS} token prompt takes "
            f"at least {least:.0f} ms here"
        )
        return Problem(
            instance.path(option), found, "fewer weights, shorter prompts, or more cards", "ttft-impossible"
        )
    bound = alone.ceiling_tok_s * speed.bandwidth.bound_bytes_s / speed.bandwidth.max_clock_bytes_s
    if 1000 / asked_ms <= bound:
        return None
    read = bytes_read_per_token(speed.model) * bound * asked_ms / 1000
    bits = 8 * (read - head_bytes(speed.model)) / max(1, linear_parameters(speed.model, True))
    fewer = f"at most {bits:.1f} bits per weight" if bits >= 2 else "a much smaller model"
    many = f"{-(-1000 // (asked_ms * bound)):.0f} such cards in tensor parallel"
    cards = many if speed.splits else "a faster card" if speed.whole_card else "a larger slice or the whole card"
    clocks = "clocks, power limit and flags cannot"
    if speed.bandwidth.unlocked_bytes_s:
        clocks = f"{MEMORY.option}: unlocked gives more"
    return Problem(
        instance.path(option),
        f"found {asked_ms}, which is {1000 / asked_ms:.0f} tok/s, but the memory bounds one request to "
        f"{bound:.1f} tok/s ({1000 / bound:.0f} ms)",
        f"{fewer}, speculative decoding with a draft that is not planned yet, or {cards}; {clocks}",
        "tpot-impossible",
    )


def _unsettled(option: str, asked_ms: int, instance: Instance, speed: Speed) -> Pending | None:
    setting = f"service.{instance.name}.{option}"
    if option == TTFT:
        least = least_ttft_ms(speed)
        return Pending(
            setting, MEASURED, f"at least {least:.0f} ms are physics; how near an engine comes is not known"
        )
    rate = speed.rate(1, BATCH_CONTEXT_TOKENS)
    expected_ms = 1000 / rate.expected_tok_s
    if asked_ms >= 1000 / rate.low_tok_s:
        return None
    word = "expected" if asked_ms >= expected_ms else "not expected"
    because = (
        f"{asked_ms} ms for one request is {word}: {expected_ms:.1f} ms, {1000 / rate.high_tok_s:.1f} to "
        f"{1000 / rate.low_tok_s:.1f} ms, at {BATCH_CONTEXT_TOKENS} tokens of context"
    )
    return Pending(setting, MEASURED, because)


def energy(speed: Speed, power_limit_w: int | None, sequences: int) -> dict[str, Any]:
    """Tokens per joule of the board at its power limit, alone and with all sequences: what it gives at the least.

    A board draws at most its limit, so a rate over the limit bounds tokens per joule from below; a card that waits
    for memory draws less. Source: formula `roofline.energy`.
    """
    if not power_limit_w:
        return {"power_limit_w": None, "note": "the power limit is not known before the host is asked"}
    alone, full = speed.rate(1, BATCH_CONTEXT_TOKENS), speed.rate(sequences, BATCH_CONTEXT_TOKENS)
    watts = power_limit_w * speed.cards.shares
    return {
        "power_limit_w": watts,
        "least_tok_per_j": round(alone.expected_tok_s / watts, 3),
        "least_tok_per_j_batched": round(sequences * full.expected_tok_s / watts, 3),
        "sequences": sequences,
        "note": "expected rate over the power limit; a board that waits for memory draws less and gives more",
    }
