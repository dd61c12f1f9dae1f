"""A power budget per host: the limits of its cards add up to no more, in numbers, or the wish is refused."""

import pytest

from tests.unit.planner_wishes import gpu, hardware, planned, refusal, wish

BUDGET = "inferhost_gpu_power_budget_w"
KNOWN = {"power_min_w": 100, "power_default_w": 350, "power_max_w": 400}


def two_cards(limit, budget, **own):
    values = wish("rtx-3090", "qwen3-4b", gpu_power_limit=limit, gpu_power_budget_w=budget, **own)
    return {**values, "inferhost_hardware": hardware(gpu("rtx-3090", **KNOWN), gpu("rtx-3090", **KNOWN))}


@pytest.mark.parametrize(("limit", "budget"), [("300", 600), ("default", 700), ("max", 800)])
def test_limits_within_the_budget_are_planned_and_their_sum_is_told(limit, budget):
    plan = planned(two_cards(limit, budget))
    told = next(r for r in plan.reasons if r.setting == "gpus.power_sum_w")
    assert told.value == sum(card.power_limit_w for card in plan.gpus) <= budget


def test_limits_above_the_budget_are_refused_with_the_numbers():
    assert refusal(two_cards("default", 600)) == (
        f"error: {BUDGET}: found 600 W for 350 + 350 = 700 W\n"
        "hint: inferhost_gpu_power_limit: 300 at most, if the limits are to be equal, or a larger budget"
    )


def test_a_limit_that_only_the_host_knows_cannot_be_counted():
    values = {**two_cards("default", 600), "inferhost_hardware": hardware(gpu("rtx-3090"))}
    assert refusal(values) == (
        f"error: {BUDGET}: cannot be kept: the limit of gpus[0] is not known in watts\n"
        "hint: watts in inferhost_gpu_power_limit, or the boards' own ranges in inferhost_hardware.gpus"
    )


def test_a_circuit_without_a_budget_is_refused_and_so_is_a_budget_without_a_circuit():
    assert "error: inferhost_gpu_circuit_budget_w: is not set" in refusal(two_cards("300", 0, gpu_circuit="rack"))
    assert "error: inferhost_gpu_circuit: is not set" in refusal(two_cards("300", 0, gpu_circuit_budget_w=900))
    assert planned(two_cards("300", 0, gpu_circuit="rack", gpu_circuit_budget_w=900))


def test_a_negative_budget_is_refused():
    assert refusal(two_cards("300", -1)).startswith(f"error: {BUDGET}: found -1, wanted watts\nhint: for example")


def test_a_word_stays_a_word_until_this_boards_own_range_was_read():
    unread = dict.fromkeys(("power_min_w", "power_default_w", "power_max_w"))
    values = wish("l40s", "qwen3-4b", gpu_power_limit="max")
    assert planned(values).gpus[0].power_limit_w == 350
    plan = planned({**values, "inferhost_hardware": hardware(gpu("l40s", **unread))})
    assert plan.gpus[0].power_limit_w == "max"
    assert "gpus[0].power_limit_w" in [pending.setting for pending in plan.pending]
