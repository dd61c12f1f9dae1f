"""Drift that was told before the sign of a reload is somebody's: it stays told, and is never written over."""

from __future__ import annotations

import dataclasses
import json

import pytest

from inferhost.schema.plan import GpuSelector
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.simulated import SECOND_UUID, UUID
from tests.unit.host.test_host_watch import WATCHED

LIMIT, LOCK = "power_limit_w", "graphics_clock_lock_mhz"
DEFAULT_MW = 600000


@pytest.fixture
def watched(pair: FakeHost) -> FakeHost:
    """Two cards as planned and looked at, whose energy counters count."""
    first = dataclasses.replace(plan().gpus[0], graphics_clock_lock_mhz=(2100, 2100))
    pair.plan = plan(gpus=(first, dataclasses.replace(first, select=GpuSelector(None, "2BB1", 1))))
    pair.converge()
    pair.wait(60)
    assert pair.run("watch").code == 0
    return pair


def reset_alone(pair: FakeHost) -> None:
    """What the next look sees of a reset of the first card: its counter fell, and its settings are gone."""
    seen = json.loads(pair.read(WATCHED))
    seen["loaded"][UUID]["energy_mj"] = 10**12
    pair.write(WATCHED, json.dumps(seen))
    pair.sim("set", LIMIT.replace("_w", "_mw"), DEFAULT_MW, "--gpu", 0)
    pair.sim("set", LOCK, "none", "--gpu", 0)


@pytest.mark.parametrize("limit_mw", [DEFAULT_MW, 300000], ids=["what it boots with", "another"])
def test_beside_a_card_that_was_reset_what_was_told_of_its_neighbour_stays(watched: FakeHost, limit_mw: int):
    watched.sim("set", "power_limit_mw", limit_mw, "--gpu", 1)
    for _ in range(2):
        answer = watched.run("watch")
        assert (answer.code, answer.verdict(f"{SECOND_UUID}.{LIMIT}")[0]) == (3, "overridden")
    reset_alone(watched)
    for _ in range(2):
        answer = watched.run("watch")
        assert (answer.code, answer.verdict(f"{SECOND_UUID}.{LIMIT}")[0]) == (3, "overridden")
    assert [watched.card(n)["power_limit_mw"] for n in (0, 1)] == [450000, limit_mw]
    assert watched.card(0)[LOCK] == [2100, 2100]


def test_what_outlived_the_sign_of_a_reload_stays_and_the_rest_of_its_card_is_asked_for_again(watched: FakeHost):
    """After a suspend nobody knows of the lock; the limit can be read, and is as it was told."""
    watched.sim("set", "power_limit_mw", 300000, "--gpu", 1)
    assert watched.run("watch").code == 3
    watched.slept_s = 600
    watched.sim("set", LOCK, "none")
    answer = watched.run("watch")
    assert (answer.code, answer.verdict(f"{SECOND_UUID}.{LIMIT}")) == (3, ("overridden", "other_writer"))
    assert [watched.card(n)["power_limit_mw"] for n in (0, 1)] == [450000, 300000]
    assert [watched.card(n)[LOCK] for n in (0, 1)] == [[2100, 2100]] * 2


@pytest.mark.parametrize("limit_mw", [DEFAULT_MW, 300000], ids=["what it boots with", "another"])
def test_what_was_lost_with_the_driver_is_planned_again_whoever_wrote_it(watched: FakeHost, limit_mw: int):
    watched.sim("set", "power_limit_mw", limit_mw, "--gpu", 1)
    assert watched.run("watch").code == 3
    watched.sim("reload")
    watched.sim("set", "persistence", 1)
    assert watched.run("watch").code == 0
    assert [watched.card(n)["power_limit_mw"] for n in (0, 1)] == [450000, 450000]


def test_a_look_that_was_written_down_before_told_was_kept_is_read(watched: FakeHost):
    seen = json.loads(watched.read(WATCHED))
    del seen["told"]
    seen["not_held"] = ["marked"]
    watched.write(WATCHED, json.dumps(seen))
    assert watched.run("status").document["facts"]["not_held"] == ["marked"]
