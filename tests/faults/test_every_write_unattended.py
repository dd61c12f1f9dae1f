"""The same as test_every_write.py for what runs while nobody is there: the boot, the drift timer and the guard.

Each is killed, or fails, at its n-th write, for every n. The next run of it ends where an undisturbed one ends, what
was here before us stays on record, and a revert brings it back. A guard that dies leaves its card down.
"""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inferhost.host.guard.told import FILE
from tests.faults import cells
from tests.faults.test_every_code import rebooted
from tests.faults.test_every_write import BUG, assert_record_intact, comparable, every, failing, killed_at, steps
from tests.unit.host.fake_host import FakeHost, plan, simulator_state, with_gpu
from tests.unit.host.test_host_guard import BURNING, LOCK, PLANNED_MW, ROOM, RULE, SAFE_MW, Gone, Run
from tests.unit.host.test_host_metrics import FOLDER

Make = Callable[[str], FakeHost]


def unattended(host: FakeHost) -> None:
    """A card with a lock and a guard, a processor, a node exporter; no engine, which would have to run."""
    guarded = with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE).gpus
    files = tuple(file for file in plan().files if file.section == "cpu")
    host.plan = plan(gpus=guarded, manage=("gpu", "cpu"), files=files, dropins=(), service=(), env={})
    host.at(FOLDER).mkdir(parents=True)
    host.sim("set", "power_limit_mw", 480000)
    host.sim("set", "persistence", 1)


def restarted(host: FakeHost) -> None:
    """The host was restarted: the kernel and the driver forgot."""
    rebooted(host)
    host.write("/proc/sys/vm/swappiness", "60\n")
    for cpu in range(2):
        host.write(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "powersave\n")


def reloaded(host: FakeHost) -> None:
    """The driver was loaded again after a look that saw it."""
    host.wait(60)
    assert host.run("watch").code == 0
    host.sim("reload")


BEFORE = {"boot": restarted, "watch": reloaded}


@pytest.fixture
def fresh(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[Make]:
    numbers = iter(range(10000))

    def make(verb: str) -> FakeHost:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        os.environ["INFERHOST_SIM_DIR"] = str(folder / "sim")
        host = FakeHost(folder, simulator_build, program)
        unattended(host)
        if verb == "bare":
            return host
        assert host.run("install").code == 0
        host.place()
        assert host.run("apply").code == 0
        BEFORE.get(verb, lambda _: None)(host)
        return host

    with simulator_state(tmp_path):
        yield make


def same(host: FakeHost, boot: bool = True) -> dict[str, Any]:
    """The host without the time in its metrics, and for a host that went back: without which boot it is."""
    found = comparable(host.snapshot())
    path = f"{FOLDER}/inferhost.prom"
    if path in found:
        found[path] = [line for line in host.read(path).splitlines() if "timestamp_seconds" not in line]
    return found if boot else {name: value for name, value in found.items() if not name.endswith("/boot_id")}


def end_states(fresh: Make, verb: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The host before anything, the host after an undisturbed run, and the number of its writes."""
    bare = same(fresh("bare"), boot=False)
    host = fresh(verb)
    count = len(steps(host, verb))
    assert count > 5
    return bare, same(host), count


def assert_ends_right(host: FakeHost, verb: str, wanted: dict[str, Any], bare: dict[str, Any], where: str) -> None:
    assert_record_intact(host, where)
    answer = host.run(verb)
    if verb == "watch" and answer.code == 3:  # a card that was left without persistence is not woken by a timer
        assert answer.verdict("persistence_mode")[0] == "overridden", where
        assert host.run("apply").code == 0, where
        answer = host.run(verb)
    assert answer.code == 0, where
    assert same(host) == wanted, where
    assert host.run("revert").code == 0, where
    assert same(host, boot=False) == bare, where


@pytest.mark.parametrize("verb", BEFORE)
def test_a_kill_at_any_write_is_healed_by_the_next_run_and_by_a_revert(fresh: Make, verb: str):
    bare, wanted, count = end_states(fresh, verb)
    for number in every(count):
        host = fresh(verb)
        assert killed_at(host, verb, number)
        assert_ends_right(host, verb, wanted, bare, f"{verb} killed at write {number} of {count}")
    assert not killed_at(fresh(verb), verb, count + 1)


@pytest.mark.parametrize("verb", BEFORE)
def test_a_kill_at_any_write_followed_by_revert_alone_leaves_the_host_as_it_was(fresh: Make, verb: str):
    bare, _, count = end_states(fresh, verb)
    for number in every(count):
        host = fresh(verb)
        assert killed_at(host, verb, number)
        assert host.run("revert").code == 0, number
        assert same(host, boot=False) == bare, f"{verb} killed at write {number} of {count}, then reverted"


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("verb", BEFORE)
def test_a_failure_at_any_write_is_told_and_healed(fresh: Make, verb: str, for_good: bool):
    bare, wanted, count = end_states(fresh, verb)
    for number in every(count):
        host, where = fresh(verb), f"{verb} failed at write {number} of {count}"
        answer = host.run(verb, before_write=failing(number, for_good))
        assert answer.code != BUG, where
        assert "Traceback" not in answer.prose, where
        assert_ends_right(host, verb, wanted, bare, where)


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
    bare = same(fresh("bare"))
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
        assert host.run("revert").code == 0, where
        assert same(host) == bare, where
