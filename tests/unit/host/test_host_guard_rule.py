"""When a card is too hot, cool again, and how long it waits: from readings alone; and what else a held card loses."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.guard.latch import FREE, LATCHED, NOTHING, RESTORING, read_latches, write_latches
from inferhost.host.guard.rule import (
    WAIT_S_MAX,
    WINDOW_S,
    Reading,
    advanced,
    eases,
    freed,
    is_cool,
    too_hot,
    tripped,
    unlocked_since_trip,
    wait_s,
)
from tests.unit.host.fake_host import FakeHost, p4_plan, with_gpu
from tests.unit.host.simulated import P4, P4_UUID, UUID
from tests.unit.host.test_host_guard import ROOM, RULE, SAFE_MW, Run, made_hot

MEMORY_LOCK = "memory_clock_lock_mhz"


@pytest.mark.parametrize(
    ("celsius", "margin_c", "hot", "cool"),
    [
        (84, None, False, False),
        (85, None, True, False),
        (75, None, False, True),
        (76, None, False, False),
        (60, 0, True, False),
        (60, 1, False, False),
        (60, 9, False, False),  # as far from its own limit as `resume_c` is from ours, and no nearer
        (60, 10, False, True),
        (76, 10, False, False),
    ],
)
def test_both_limits_count_for_hot_and_for_cool(celsius: int, margin_c: int | None, hot: bool, cool: bool):
    reading = Reading(celsius, margin_c)
    assert (bool(too_hot(reading, RULE)), is_cool(reading, RULE)) == (hot, cool)


def test_trips_of_more_than_an_hour_ago_no_longer_count():
    hold = tripped(tripped(NOTHING, "hot", 0.0), "hot", 60.0)
    assert wait_s(hold, RULE, 60.0) == 2 * RULE.cool_down_s
    assert wait_s(hold, RULE, 60.0 + WINDOW_S) == RULE.cool_down_s
    again = tripped(hold, "hot", 61.0 + WINDOW_S)
    assert again.trips_s == (61.0 + WINDOW_S,)


def test_no_wait_is_longer_than_an_hour_unless_the_plan_asks_for_it():
    hold = dataclasses.replace(NOTHING, trips_s=tuple(float(n) for n in range(20)))
    assert wait_s(hold, RULE, 20.0) == WAIT_S_MAX
    patient = dataclasses.replace(RULE, cool_down_s=7200)
    assert wait_s(hold, patient, 20.0) == 7200


def test_the_wait_begins_anew_with_each_look_that_is_not_cool():
    held = tripped(NOTHING, "hot", 0.0)
    waiting = advanced(held, True, RULE, 10.0)
    assert (waiting.state, waiting.cool_since_s) == (LATCHED, 10.0)
    assert advanced(waiting, False, RULE, 20.0).cool_since_s is None
    assert advanced(waiting, True, RULE, 10.0 + RULE.cool_down_s - 0.1).state == LATCHED
    assert advanced(waiting, True, RULE, 10.0 + RULE.cool_down_s).state == RESTORING
    assert freed(waiting).state == FREE


def test_a_limit_eases_a_card_only_where_it_is_below_what_the_card_drew_by_more_than_the_reading_errs():
    assert eases(150_000, 392_000)
    assert not eases(400_000, 218_000)
    assert not eases(400_000, 419_000)
    assert not eases(None, 392_000)
    assert not eases(150_000, None)


def test_a_trip_forgets_what_the_last_one_drew_and_unlocked():
    first = dataclasses.replace(tripped(NOTHING, "hot", 0.0), drew_mw=392_000, left="nothing lowered", unlocked_s=0.5)
    second = tripped(first, "hot", 100.0)
    assert (second.drew_mw, second.left) == (None, "")
    assert (unlocked_since_trip(first), unlocked_since_trip(second)) == (True, False)


def test_what_was_held_in_another_boot_is_held_no_longer(host: FakeHost):
    machine = host.machine(str(host.root))
    write_latches(machine, {UUID: tripped(NOTHING, "hot", 0.0)})
    assert read_latches(machine)[UUID].state == LATCHED
    host.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    assert read_latches(machine) == {}


def test_a_memory_lock_goes_with_the_graphics_lock(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    hot = made_hot(host, with_gpu(memory_clock_lock_mhz=(7001, 7001), guard=RULE))
    assert hot.card()[MEMORY_LOCK] == [7001, 7001]
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched")
    assert hot.card()[MEMORY_LOCK] is None


def test_application_clocks_of_the_plan_go_to_what_the_card_boots_with(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    found = host.card()["application_clocks_mhz"]
    hot = made_hot(host, p4_plan(application_clocks_mhz=(3003, 1531), power_limit_w=75, guard=RULE))
    assert hot.card()["application_clocks_mhz"] == [3003, 1531] != found
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state(P4_UUID) == "latched")
    assert hot.card()["application_clocks_mhz"] == found
    assert not [line for line in run.lines if "keeps trying" in line]  # to unlock what this card never could lock


def test_a_limit_that_is_lower_than_the_safe_one_stays(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    hot = made_hot(host, with_gpu(guard=dataclasses.replace(RULE, power_w=400)))
    hot.sim("set", "power_limit_mw", SAFE_MW)
    hot.sim("set", "ambient_celsius", 110)
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched")
    assert hot.card()["power_limit_mw"] == SAFE_MW


def test_a_guard_that_gives_a_card_back_waits_for_no_lock(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    """A guard that waited would be blind for other cards meanwhile."""
    hot = made_hot(host, with_gpu(guard=RULE))
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched")
    waited: list[float | None] = []

    def apply(*_: object, lock_wait_s: float | None = None) -> None:
        waited.append(lock_wait_s)

    monkeypatch.setattr("inferhost.host.guard.card.verbs.apply", apply)
    hot.sim("set", "ambient_celsius", ROOM)
    run.until(lambda: run.state(UUID) == "free")
    assert waited == [0.0]
