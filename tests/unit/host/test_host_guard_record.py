"""A record that cannot be read any more keeps no card hot, and is told as what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inferhost.host.guard.told import READABLE
from inferhost.host.record.baseline import BASELINE
from tests.unit.host.fake_host import FakeHost, with_gpu
from tests.unit.host.test_host_guard import LOCK, PLANNED_MW, ROOM, RULE, SAFE_MW, made_hot
from tests.unit.host.test_host_guard_metrics import PATH, TellingRun, settle
from tests.unit.host.test_host_metrics import FOLDER, samples

Damage = Callable[[FakeHost], None]


def cut_short(host: FakeHost) -> None:
    text = host.read(BASELINE)
    host.write(BASELINE, text[: len(text) // 2], 0o600)


def failing_disk(host: FakeHost) -> None:
    """Reading it is an error of the system: here, a folder in its place."""
    host.at(BASELINE).unlink()
    host.at(BASELINE).mkdir()


def repaired(host: FakeHost, text: str) -> None:
    if host.at(BASELINE).is_dir():
        host.at(BASELINE).rmdir()
    host.write(BASELINE, text, 0o600)


@pytest.fixture
def run(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> TellingRun:
    host.at(FOLDER).mkdir(parents=True)
    made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE))
    return TellingRun(host, monkeypatch)


def readable(run: TellingRun) -> float:
    settle()
    return samples(run.host.read(PATH))[READABLE]


@pytest.mark.parametrize("damage", [cut_short, failing_disk])
def test_what_was_on_record_when_the_guard_began_counts(run: TellingRun, damage: Damage):
    host, text = run.host, run.host.read(BASELINE)
    told: list[float] = []

    def over() -> bool:
        if host.passed_s > 5 and not told:
            told.append(readable(run))
            damage(host)
        if run.state() == "latched":
            host.sim("set", "ambient_celsius", ROOM)
        if run.state() == "restoring" and len(told) == 1:
            told.append(host.passed_s)
            assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (SAFE_MW, None)
        if len(told) == 2 and host.passed_s > told[1] + 20:
            told.append(readable(run))
            repaired(host, text)
        return run.state() == "free" and len(told) == 3

    run.until(over)
    assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (PLANNED_MW, [2100, 2400])
    assert (told[0], told[2]) == (1, 0)
    first = ("the record cannot be read", "power 450 -> 150 W, clocks unlocked", "not given back yet")
    wanted = (*first, "the record can be read again", "cool again")
    assert len(wanted) == len(run.lines)
    assert all(words in line for words, line in zip(wanted, run.lines))  # noqa: B905 (Python 3.9)


def test_a_guard_whose_card_is_cool_tells_of_it_too(run: TellingRun):
    run.host.sim("set", "ambient_celsius", ROOM)
    told: list[float] = []

    def over() -> bool:
        if run.host.passed_s > 1 and not told:
            told.append(readable(run))
            cut_short(run.host)
        return False

    run.until(over, 8)
    assert (told, readable(run)) == ([1], 0)


def test_a_guard_that_never_read_it_touches_no_card_and_says_why(run: TellingRun):
    cut_short(run.host)
    run.for_s(120)
    assert (run.host.card()["power_limit_mw"], run.host.card()[LOCK]) == (PLANNED_MW, [2100, 2400])
    assert "no card is brought down" in run.lines[0]
    assert "NOT touched: the record cannot be read" in run.lines[-1]


def test_a_guard_that_never_read_it_holds_what_was_held(run: TellingRun):
    run.until(lambda: run.state() == "latched")
    cut_short(run.host)
    run.for_s(1)
    assert (run.state(), run.said()) == ("latched", 1)


def test_status_and_metrics_say_that_the_record_cannot_be_read(run: TellingRun):
    run.for_s(1)
    cut_short(run.host)
    answer = run.host.run("status")
    assert (answer.code, answer.problems[0]["path"]) == (5, BASELINE)
    run.for_s(1)
    assert readable(run) == 0
