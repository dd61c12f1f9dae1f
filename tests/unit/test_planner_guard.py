"""The guard: none unless the wish asks for it; its values with reasons, or a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from inferhost.schema.plan import Guard
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import gpu, hardware, planned


def gpu_wish(**own: Any) -> dict[str, Any]:
    """An RTX PRO 6000: 150 to 600 W."""
    plain = {"inferhost_hardware": hardware(gpu("rtx-pro-6000-bw-ws")), "inferhost_manage": ["gpu"]}
    return {**plain, **{f"inferhost_gpu_{name}": value for name, value in own.items()}}


def test_no_guard_unless_the_wish_asks_for_one():
    plan = planned(gpu_wish())
    assert plan.gpus[0].guard is None
    assert [(r.value, r.source) for r in plan.reasons if ".guard" in r.setting] == [(None, "formula:gpu.guard")]


def test_it_acts_at_85_degrees_and_lowers_to_the_least_that_the_card_accepts():
    plan = planned(gpu_wish(guard=True))
    assert plan.gpus[0].guard == Guard(limit_c=85, resume_c=75, power_w="min", cool_down_s=300)
    found = {r.setting.rpartition(".")[2]: (r.value, r.source) for r in plan.reasons if ".guard." in r.setting}
    assert found == {
        "limit_c": (85, "wish:inferhost_gpu_guard_limit"),
        "resume_c": (75, "formula:gpu.guard"),
        "power_w": ("min", "wish:inferhost_gpu_guard_power"),
        "cool_down_s": (300, "wish:inferhost_gpu_guard_cool_down"),
    }


def test_the_wish_s_own_values():
    plan = planned(gpu_wish(guard=True, guard_limit=80, guard_power="200", guard_cool_down=60))
    assert plan.gpus[0].guard == Guard(limit_c=80, resume_c=70, power_w=200, cool_down_s=60)


@pytest.mark.parametrize(
    ("own", "option", "message"),
    [
        ({"guard_limit": 40}, "guard_limit", "found 40, wanted 50 to 100 C"),
        ({"guard_limit": 101}, "guard_limit", "found 101, wanted 50 to 100 C"),
        ({"guard_cool_down": 5}, "guard_cool_down", "found 5, wanted 30 to 3600 seconds"),
        ({"guard_power": "low"}, "guard_power", 'found "low", wanted min or watts'),
        (
            {"guard_power": "100"},
            "guard_power",
            "found 100, wanted 150 to 600 W: from the lowest to the planned limit of gpus[0] (rtx-pro-6000-bw-ws)",
        ),
        (
            {"guard_power": "500", "power_limit": "450"},
            "guard_power",
            "found 500, wanted 150 to 450 W: from the lowest to the planned limit of gpus[0] (rtx-pro-6000-bw-ws)",
        ),
        ({"persistence_mode": False}, "guard", "found true, and inferhost_gpu_persistence_mode false"),
    ],
)
def test_what_cannot_be_is_refused_with_the_setting_at_fault(own: dict[str, Any], option: str, message: str):
    with pytest.raises(InputError) as refused:
        planned(gpu_wish(guard=True, **own))
    assert [(p.path, p.message) for p in refused.value.problems] == [(f"inferhost_gpu_{option}", message)]


def test_all_that_is_wrong_is_told_at_once():
    own = {"guard_limit": 0, "guard_power": "x", "guard_cool_down": 0, "persistence_mode": False}
    with pytest.raises(InputError) as refused:
        planned(gpu_wish(guard=True, **own))
    assert len(refused.value.problems) == 4
