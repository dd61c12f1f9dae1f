"""The same as test_every_write.py for the guard: one that ends at its n-th write leaves its card down.

The next guard gives the card back, what was here before us stays on record, and a revert brings it back.
"""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Iterator

import pytest

from inferhost.host.guard.told import FILE
from tests.faults import cells
from tests.faults.test_every_write import Make, assert_goes_back, assert_record_intact, hosts, same, unattended
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.test_host_guard import BURNING, LOCK, PLANNED_MW, ROOM, SAFE_MW, Gone, Run


@pytest.fixture
def fresh(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[Make]:
    with hosts(unattended, tmp_path, simulator_build, program) as make:
        yield make


class GuardRun(Run):
    """A guard that ends at its n-th write, as by kill -9; what is written beside the watch is not counted."""

    def __init__(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch, number: int = 0) -> None:
        super().__init__(host, monkeypatch)
        self.steps: list[str] = []
        self.number = number
        self.before_write = self._count

    def _count(self, step: str) -> None:
        if threading.current_thread() is threading.main_thread():
            self.steps.append(step)
            if len(self.steps) == self.number:
                raise Gone

    def way(self, over: str) -> None:
        """Goes on until the card is in this state, or until the n-th write."""
        self.until(lambda: self.state() == over)
        for thread in threading.enumerate():
            if thread.name == FILE:
                thread.join()

    @property
    def died(self) -> bool:
        return 0 < self.number <= len(self.steps)


def about_to_be_hot(fresh: Make) -> FakeHost:
    host = fresh("guard")
    host.sim("load", "on")
    host.sim("set", "ambient_celsius", BURNING)
    host.sim("advance", 78)
    return host


def cooled(run: GuardRun) -> None:
    run.host.sim("set", "ambient_celsius", ROOM - 20)
    run.way("free")


def test_a_guard_that_dies_at_any_write_leaves_its_card_down_and_the_next_one_gives_it_back(
    fresh: Make, monkeypatch: pytest.MonkeyPatch
):
    bare = same(fresh("").snapshot())
    whole = GuardRun(about_to_be_hot(fresh), monkeypatch)
    whole.way("latched")
    cooled(whole)
    assert len(whole.steps) > 10
    monkeypatch.setenv("SERVICE_RESULT", "signal")
    for number in range(1, len(whole.steps) + 1, 1 if cells.SLOW else 5):
        host, where = about_to_be_hot(fresh), f"killed at write {number}: {whole.steps[number - 1]}"
        run = GuardRun(host, monkeypatch, number)
        run.way("latched")
        if not run.died:
            cooled(run)
        assert run.died, where
        assert host.run("guard", "--plan", str(host.folder / "plan.json"), "--after-end").code == 0, where
        assert (host.card()["power_limit_mw"], run.state() == "free") == (SAFE_MW, False), where
        assert_record_intact(host, where)
        cooled(GuardRun(host, monkeypatch))
        assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (PLANNED_MW, [2100, 2400]), where
        host.sim("load", "off")
        assert_goes_back(host, bare, where)
