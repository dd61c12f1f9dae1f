"""A guarded card that is lost costs its neighbour nothing: neither its settings nor the guard's attention."""

from __future__ import annotations

import dataclasses
from typing import Any

import pynvml
import pytest

from inferhost.host.guard import daemon
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID
from tests.unit.host.test_host_guard import BURNING, LOCK, PLANNED_MW, ROOM, RULE, Run, made_hot

LOCKED = with_gpu(graphics_clock_lock_mhz=(1500, 1500), guard=RULE).gpus[0]
LOST_AT_S, SEEN_S = 3.0, 300.0


def both(**changes: Any) -> Any:
    """Both cards of a pair, guarded."""
    card = dataclasses.replace(LOCKED, **changes)
    return plan(gpus=(card, dataclasses.replace(card, select=dataclasses.replace(card.select, ordinal=1))))


@pytest.fixture
def searched(pair: FakeHost, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the guard searched for cards."""
    times: list[float] = []
    real = daemon._Watcher.search
    monkeypatch.setattr(daemon._Watcher, "search", lambda watcher: times.append(pair.passed_s) or real(watcher))
    return times


@pytest.fixture
def opened(pair: FakeHost, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the guard opened NVML."""
    times: list[float] = []
    real = daemon.open_nvml
    monkeypatch.setattr(daemon, "open_nvml", lambda before_write: times.append(pair.passed_s) or real(before_write))
    return times


def lose_the_second(pair: FakeHost, run: Run) -> dict[str, Any]:
    """The guard watches, the second card leaves, and time goes on; what the first is then."""
    gone: list[float] = []
    first: list[dict[str, Any]] = []
    end_s = pair.passed_s + SEEN_S

    def over() -> bool:
        if pair.passed_s >= LOST_AT_S and not gone:
            gone.append(pair.passed_s)
            pair.sim("lost", 1)
        if pair.passed_s >= end_s - 1 and not first:
            first.append(pair.card(0))
        return False

    run.until(over, SEEN_S)
    return first[0]


def test_what_only_the_guard_keeps_loaded_outlives_the_loss_of_a_neighbour(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    """Without persistence the driver unloads with its last client, and takes limit and lock with it."""
    pair.sim("set", "persistence", 0)
    pair.plan = both(persistence_mode=False)
    run = Run(pair, monkeypatch)
    watch = daemon._Watcher.turn
    pynvml.nvmlInit()  # an engine, until the guard is there
    engine = [pynvml.nvmlShutdown]

    def turn(watcher: Any) -> None:
        watch(watcher)
        if engine:
            engine.pop()()

    monkeypatch.setattr(daemon._Watcher, "turn", turn)
    pair.run("install")
    pair.place()
    assert pair.run("apply", "--section", "gpu").code == 0
    first = lose_the_second(pair, run)
    assert not engine
    assert (first["power_limit_mw"], first[LOCK]) == (PLANNED_MW, [1500, 1500])


def test_cards_that_answer_are_searched_for_once(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch, searched: list[float]
):
    made_hot(pair, both()).sim("set", "ambient_celsius", ROOM)
    Run(pair, monkeypatch).for_s(3 * daemon.RETRY_S)
    assert len(searched) == 1


def test_a_card_that_is_lost_is_searched_for_less_and_less_often(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch, opened: list[float], searched: list[float]
):
    made_hot(pair, both()).sim("set", "ambient_celsius", ROOM)
    lose_the_second(pair, Run(pair, monkeypatch))
    assert len(opened) == 1
    after = [now_s for now_s in searched if now_s >= LOST_AT_S]
    gaps = [after[n + 1] - after[n] for n in range(len(after) - 1)]
    assert gaps[0] < 2 * daemon.RETRY_S
    assert gaps == sorted(gaps)
    assert daemon.RETRY_S_MAX <= gaps[-1] <= daemon.RETRY_S_MAX + 2 * daemon.PERIOD_S


def test_a_card_that_comes_back_beside_another_is_guarded_again(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch, opened: list[float]
):
    made_hot(pair, both()).sim("set", "ambient_celsius", ROOM)
    personality = pair.folder / "personality.txt"
    whole = personality.read_text()
    personality.write_text("[gpu]".join(whole.split("[gpu]")[:2]))
    pair.sim("init", personality)
    run = Run(pair, monkeypatch)

    def over() -> bool:
        if pair.passed_s >= LOST_AT_S + 20 and personality.read_text() != whole:
            personality.write_text(whole)
            pair.sim("init", personality)
            pair.sim("load", "on", "--gpu", 1)
            pair.sim("set", "ambient_celsius", BURNING, "--gpu", 1)
        return run.state(SECOND_UUID) == "latched"

    run.until(over)
    assert len(opened) == 1
    assert [run.state(), run.state(SECOND_UUID)] == ["free", "latched"]
    assert "gpus[1] (NVIDIA RTX PRO 6000) is not there" in run.lines[0]
    assert f"{SECOND_UUID}: is there again" in run.lines[1]


def test_a_guard_that_ended_as_by_a_crash_leaves_nothing_open_in_this_process(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    """Else its session would end amid whatever test runs when memory is tidied, and take that test's own with it."""
    made_hot(pair, both()).sim("set", "ambient_celsius", ROOM)
    lose_the_second(pair, Run(pair, monkeypatch))
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlShutdown()
