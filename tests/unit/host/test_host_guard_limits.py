"""A guard that cannot do everything: it does the rest, says what it could not, and nothing is lost by it."""

from __future__ import annotations

import pytest

from inferhost.host.guard.latch import read_latches
from tests.unit.host.fake_host import UUID, FakeHost, with_gpu
from tests.unit.host.test_host_guard import LOCK, PLANNED_MW, ROOM, RULE, SAFE_MW, Run, made_hot

LOCKED = with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)
UNLOCK, UNLOCK_MEMORY = "nvmlDeviceResetGpuLockedClocks", "nvmlDeviceResetMemoryLockedClocks"
POWER_CALLS = tuple(
    f"nvmlDevice{name}"
    for name in (
        "GetPowerManagementLimit",
        "GetPowerManagementLimitConstraints",
        "GetPowerManagementDefaultLimit",
        "SetPowerManagementLimit",
    )
)
"""What a laptop's card and a vGPU answer with NotSupported."""


def test_a_card_without_a_power_limit_is_unlocked_all_the_same(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    for function in POWER_CALLS:
        host.sim("fail", function, 3)
    hot = made_hot(host, LOCKED)
    assert hot.card()[LOCK] == [2100, 2400]
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched", 150)
    assert hot.card()[LOCK] is None
    assert "power NOT lowered" in run.lines[0]
    hot.sim("set", "ambient_celsius", ROOM - 20)
    run.until(lambda: run.state() == "free", 200)
    assert hot.card()[LOCK] == [2100, 2400]


@pytest.mark.parametrize("verb", ["install", "apply"])
def test_a_guard_that_cannot_lower_the_power_is_told_before_it_is_needed(host: FakeHost, verb: str):
    host.plan = LOCKED
    said = f"{UUID}: the guard cannot lower its power, it can only unlock its clocks"
    host.run("install")
    assert said not in host.run(verb).prose
    for function in POWER_CALLS:
        host.sim("fail", function, 3)
    assert said in host.run(verb).prose


def test_a_limit_whose_original_is_not_on_record_is_not_lowered(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    run = Run(
        made_hot(host, with_gpu(power_limit_w=None, graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch
    )
    run.until(lambda: run.state() == "latched", 150)
    run.for_s(15)
    assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (480000, None)
    assert "power NOT lowered (its original is not on record)" in run.lines[0]


@pytest.mark.parametrize("code", [999, 3])
def test_a_lock_that_could_not_be_taken_back_is_told_and_not_forgotten(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, code: int
):
    hot = made_hot(host, LOCKED)
    hot.sim("fail", UNLOCK, code)
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched", 150)
    assert f"power 450 -> 150 W, clocks NOT unlocked ({LOCK})" in run.lines[-1]
    assert "keeps trying" in run.lines[0]
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (SAFE_MW, [2100, 2400])
    assert read_latches(run.machine)[UUID].unlocked_s is None
    run.stop()
    hot.sim("fail", UNLOCK, "off")
    hot.plan = with_gpu()
    answer = hot.run("apply", "--section", "gpu")
    assert answer.verdict(LOCK) == ("unverified", "no_interface")
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (PLANNED_MW, None)


def test_a_lock_that_went_while_another_did_not_is_asked_for_again(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    wanted = with_gpu(graphics_clock_lock_mhz=(2100, 2400), memory_clock_lock_mhz=(7001, 7001), guard=RULE)
    hot = made_hot(host, wanted)
    hot.sim("fail", UNLOCK_MEMORY, 999)
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched", 150)
    assert (hot.card()[LOCK], hot.card()["memory_clock_lock_mhz"]) == (None, [7001, 7001])
    run.stop()
    answer = hot.run("apply", "--section", "gpu")
    assert hot.card()[LOCK] == [2100, 2400]
    assert "began to take it back" in answer.evidence(LOCK)


def test_what_others_locked_stays_because_nobody_could_lock_it_again(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.sim("set", "memory_clock_lock_mhz", "13365,13365")
    run = Run(made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch)
    run.until(lambda: run.state() == "latched", 200)
    run.for_s(15)
    assert (host.card()[LOCK], host.card()["memory_clock_lock_mhz"]) == (None, [13365, 13365])
