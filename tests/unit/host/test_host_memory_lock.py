"""The memory clock lock: asked for as the graphics lock is, and judged by the memory clock alone."""

from __future__ import annotations

import pytest

from tests.unit.host.fake_host import FakeHost, with_gpu
from tests.unit.host.simulated import UUID

LOCK = "memory_clock_lock_mhz"
GPU = ("--section", "gpu")


def applied(host: FakeHost, *lock_mhz: int) -> None:
    host.plan = with_gpu(memory_clock_lock_mhz=lock_mhz, power_limit_w=600)
    host.run("install")
    assert host.run("apply", *GPU).code == 0


def under_load(host: FakeHost):
    host.sim("load", "on")
    return host.run("verify", *GPU, "--under-load")


def test_it_is_asked_for_recorded_as_unknown_and_unverified_until_there_is_load(host: FakeHost):
    host.plan = with_gpu(memory_clock_lock_mhz=(7001, 7001))
    host.run("install")
    foretold = host.run("apply", *GPU, "--check")
    answer = host.run("apply", *GPU)
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unverified", "needs_load"))
    assert answer.said == foretold.said
    assert host.card()[LOCK] == [7001, 7001]
    assert host.baseline()[f"gpu:{UUID}:{LOCK}"]["found"] == "unknown"
    assert host.run("apply", *GPU).said == (False, [])


def test_under_load_a_clock_that_programs_would_not_get_is_held_and_kept(host: FakeHost):
    applied(host, 7001)
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (0, ("held", "none"))
    assert "7001 to 7001 MHz" in answer.evidence(LOCK)
    later = host.run("verify", *GPU)
    assert later.verdict(LOCK) == ("unverified", "needs_load")
    assert "then held: " in later.evidence(LOCK)


def test_a_lock_that_the_card_ignores_is_drift(host: FakeHost):
    applied(host, 7001)
    host.sim("fault", "memory_clock", "accepted_ignored")
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("ignored", "memory_pstate"))
    assert "13365" in answer.evidence(LOCK)


@pytest.mark.parametrize("fault", ["off", "accepted_ignored"])
def test_the_clock_that_programs_get_anyway_proves_nothing(host: FakeHost, fault: str):
    applied(host, 13365)
    host.sim("fault", "memory_clock", fault)
    assert under_load(host).verdict(LOCK) == ("unverified", "indistinguishable")


def test_a_power_cap_says_nothing_about_the_memory_clock(host: FakeHost):
    applied(host, 7001)
    host.sim("set", "power_limit_mw", 250000)
    assert under_load(host).verdict(LOCK) == ("held", "none")


@pytest.mark.parametrize("mhz", [3002, 14100, 7100])
def test_a_clock_that_the_card_does_not_list_is_refused_before_anything_is_written(host: FakeHost, mhz: int):
    host.plan = with_gpu(memory_clock_lock_mhz=(mhz, mhz))
    before = host.snapshot()
    answer = host.run("apply", *GPU)
    assert (answer.code, answer.verdict(LOCK)) == (2, ("refused", "none"))
    assert answer.problems[0]["path"] == "inferhost_gpu_memory_clock_lock"
    assert "14001 MHz" in answer.problems[0]["message"]
    assert host.snapshot() == before


def test_a_card_that_refuses_the_call_is_unsupported(host: FakeHost):
    host.sim("fail", "nvmlDeviceSetMemoryLockedClocks", 3)
    host.plan = with_gpu(memory_clock_lock_mhz=(7001, 7001))
    host.run("install")
    answer = host.run("apply", *GPU)
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unsupported", "no_interface"))
    assert host.card()[LOCK] is None


def test_both_locks_live_side_by_side_and_each_is_reset_and_said_so(host: FakeHost):
    before = host.snapshot()
    host.plan = with_gpu(memory_clock_lock_mhz=(7001, 7001), graphics_clock_lock_mhz=(2100, 2100), power_limit_w=600)
    host.run("install")
    host.run("apply", *GPU)
    answer = under_load(host)
    assert answer.verdict(LOCK) == answer.verdict("graphics_clock_lock_mhz") == ("held", "none")
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100), power_limit_w=600)
    assert host.run("apply", *GPU).verdict(LOCK) == ("unverified", "no_interface")
    assert (host.card()[LOCK], host.card()["graphics_clock_lock_mhz"]) == (None, [2100, 2100])
    host.sim("load", "off")
    answer = host.run("revert")
    assert answer.code == 0
    said = [note for note in answer.document["notes"] if "has no getter; it is reset to unlocked" in note]
    assert len(said) == 1  # the other went back with its wish
    assert host.snapshot() == before


def test_without_a_driver_it_waits(host: FakeHost):
    host.plan = with_gpu(memory_clock_lock_mhz=(7001, 7001))
    host.sim("fail", "nvmlInitWithFlags", 9)
    assert host.run("apply", *GPU).verdict(LOCK) == ("pending", "needs_driver")
