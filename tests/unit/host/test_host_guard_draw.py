"""The guard never makes a card draw more: a lock is let go only where the limit is below what the card drew."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from inferhost.host.gpu.nvml import Nvml
from inferhost.host.guard import daemon
from tests.faults import cells
from tests.faults.test_planted import CLOCKS, KINDS, Kind
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.test_host_guard import BURNING, LOCK, PLANNED_MW, ROOM, RULE, SAFE_MW, Run, made_hot

SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9) if cells.SLOW else (0.4,)
"""Clocks to lock to, of each card's highest one."""
FURNACE = 95
"""Ambient in degrees Celsius at which any card gets too hot, whatever it draws."""
ENFORCED, DRAW = "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerUsage"


def draw_mw(host: FakeHost) -> int:
    return int(json.loads(host.sim("dump", "--all"))["gpus"][0]["power_mw"])


def planned(kind: Kind, share: float) -> Any:
    """One card with a lock at this share of its highest clock, and the guard."""
    at: dict[str, Any] = {LOCK: (kind.step(share), kind.step(share))}
    if not kind.can_lock:
        at = {CLOCKS: (kind.number("memory_clock_steps_mhz"), kind.step(share))}
    return plan(gpus=(kind.gpu(**at, guard=RULE),), manage=("gpu",), files=(), dropins=(), service=(), env={})


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.path.stem)
def test_the_guard_never_makes_the_draw_rise(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, kind: Kind, share: float
):
    host.sim("init", kind.path)
    host.sim("set", "persistence", 1)
    hot = made_hot(host, planned(kind, share))
    hot.sim("advance", 5)  # the clock has settled
    hot.sim("set", "ambient_celsius", FURNACE)
    run = Run(hot, monkeypatch)
    before: list[int] = []
    run.until(lambda: before.append(draw_mw(hot)) or run.state(kind.fields["uuid"]) == "latched")
    hot.sim("set", "ambient_celsius", ROOM)  # so that the card does not slow itself
    after: list[int] = []
    run.until(lambda: after.append(draw_mw(hot)) or False, 12)
    assert run.lines
    assert max(after) <= max(before[:-1])


def test_a_lock_of_somebody_else_that_comes_while_the_card_is_held_is_left_alone(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    run = Run(made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch)
    run.until(lambda: run.state() == "latched")
    assert host.card()[LOCK] is None
    host.sim("set", LOCK, "600,600")
    run.for_s(5)
    host.sim("set", "power_limit_mw", 600000)
    run.for_s(15)
    assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (SAFE_MW, [600, 600])


def test_a_limit_that_is_accepted_and_ignored_is_not_told_as_done(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    hot = made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE))
    hot.sim("fault", "power_limit", "accepted_ignored")
    run = Run(hot, monkeypatch)
    run.for_s(100)
    assert "power NOT lowered (accepted, still 450 W), clock lock kept" in run.lines[0]
    assert ["NOT brought down" in line for line in run.lines] == [False, True]
    hot.sim("fault", "power_limit", "off")
    run.for_s(3)
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (SAFE_MW, None)


def test_a_limit_that_is_not_in_force_is_not_told_as_done(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    run = Run(made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch)
    monkeypatch.setattr(Nvml, "enforced_power_limit_mw", lambda *_: PLANNED_MW)
    run.until(lambda: run.state() == "latched")
    assert "power NOT lowered (accepted, still 450 W), clock lock kept" in run.lines[0]
    assert host.card()[LOCK] == [2100, 2400]


@pytest.mark.parametrize(("function", "code", "lock"), [(ENFORCED, 3, None), (DRAW, 3, [2100, 2400])])
def test_what_a_card_does_not_tell_shows_nothing(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, function: str, code: int, lock: object
):
    run = Run(made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch)
    host.sim("fail", function, code)
    run.until(lambda: run.state() == "latched")
    assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (SAFE_MW, lock)


def test_a_cool_card_whose_guard_died_is_no_alarm(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    run = Run(made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch)
    host.sim("load", "off")
    host.sim("advance", 5)
    daemon.after_the_end(run.machine, host.plan, "watchdog", run.lines.append)
    assert (run.state(), host.card()["power_limit_mw"], host.card()[LOCK]) == ("latched", SAFE_MW, [2100, 2400])
    assert "power 450 -> 150 W, clock lock kept" in run.lines[0]
    assert not any("NOT brought down" in line for line in run.lines)


def test_a_safe_limit_above_the_draw_keeps_the_lock_and_is_told(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    rule = dataclasses.replace(RULE, power_w=440)
    run = Run(made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=rule)), monkeypatch)
    run.until(lambda: run.state() == "latched")
    assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (440000, [2100, 2400])
    evidence = host.run("verify", "--section", "gpu").evidence("power_limit_w")
    assert "NOT brought down (power 450 -> 440 W, clock lock kept" in evidence


def test_each_trip_of_a_card_that_cannot_be_lowered_is_told(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.sim("fail", "nvmlDeviceSetPowerManagementLimit", 3)
    run = Run(made_hot(host, with_gpu(power_limit_w=480, guard=RULE)), monkeypatch)
    trips = 0

    def over() -> bool:
        nonlocal trips
        state = run.state()
        if (state == "latched") == (trips % 2 == 0):
            trips += 1
            host.sim("set", "ambient_celsius", ROOM - 20 if state == "latched" else BURNING)
        return trips == 3

    run.until(over)
    assert ["NOT brought down" in line for line in run.lines[:5]] == [False, True, False, False, True]
