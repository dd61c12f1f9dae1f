"""Random verbs, plans, kills and driver reloads against a dumb oracle: what was found first is what comes back.

The oracle is the host's own snapshot from before; it knows nothing of baselines. Seeds are fixed, so a failure
repeats.
"""

from __future__ import annotations

import random

import pytest

from tests.faults.test_every_write import BOOT_ID, killed_at, same
from tests.unit.host.fake_host import FakeHost, plan, with_gpu

PLANS = (
    plan(),
    with_gpu(power_limit_w=520),
    with_gpu(power_limit_w="max", persistence_mode=False),
    with_gpu(graphics_clock_lock_mhz=(2100, 2400)),
    with_gpu(graphics_clock_lock_mhz=(1800, 1800), persistence_mode=False),
    plan(manage=("gpu", "cpu")),
    plan(sysctl={"vm.swappiness": "1"}),
)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_between_revert_ends_where_we_began(host: FakeHost, seed: int):
    chance = random.Random(seed)
    host.sim("load", "on")
    before = same(host.snapshot())
    for number in range(8):
        what = chance.choice(("install", "way", "kill", "partial", "reload", "other plan"))
        if what == "other plan":
            host.plan = chance.choice(PLANS)
        elif what == "install":
            assert host.run("install").code == 0
        elif what == "way":
            host.run("install")
            host.place()
            assert host.run("apply").code == 0
        elif what == "kill":
            killed_at(host, chance.choice(("install", "apply", "revert")), chance.randint(1, 30))
        elif what == "partial":
            assert host.run("revert", "--section", chance.choice(("gpu", "cpu", "service"))).code == 0
        elif gpu_is_on_record(host):  # before that, a reload changes the original itself
            host.sim("reload")
            host.sim("load", "on")
            host.write(BOOT_ID, f"boot-{number + 2}\n")
    assert host.run("revert").code == 0
    assert same(host.snapshot()) == before


def gpu_is_on_record(host: FakeHost) -> bool:
    recorded = host.run("status").document["facts"].get("recorded", {})
    return "gpu" in recorded
