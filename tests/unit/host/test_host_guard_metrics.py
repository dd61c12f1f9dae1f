"""The guard's own metric: written when it latches and lets go, beside the watch, by nobody else."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import pytest

from inferhost.host.guard.latch import UNIT
from inferhost.host.guard.told import AGAIN_S, FILE, LATCHED, NOT_DOWN
from inferhost.host.record.lock import locked
from inferhost.schema.plan import BASE, UNIT_DIRECTORY, File
from tests.unit.host.fake_host import FakeHost, with_gpu
from tests.unit.host.simulated import UUID
from tests.unit.host.test_host_guard import LOCK, PLANNED_MW, ROOM, RULE, SAFE_MW, Run, made_hot
from tests.unit.host.test_host_metrics import FOLDER, samples

GUARD_UNIT = File(f"{UNIT_DIRECTORY}/{UNIT}", BASE, "0644", None, UNIT, "none")
METRIC = f'{LATCHED}{{gpu="{UUID}"}}'
PATH = f"{FOLDER}/{FILE}"


class TellingRun(Run):
    """A guard whose writes are over when its run is."""

    def until(self, over: Callable[[], bool], most_s: float = 600.0) -> None:
        super().until(over, most_s)
        settle()

    def said(self) -> float:
        return samples(self.host.read(PATH))[METRIC]


def settle() -> None:
    for thread in threading.enumerate():
        if thread.name == FILE:
            thread.join()


@pytest.fixture
def run(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> TellingRun:
    """A guard over a card that gets hot, beside a node exporter."""
    host.at(FOLDER).mkdir(parents=True)
    made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE))
    return TellingRun(host, monkeypatch)


def test_it_is_told_from_the_start_when_a_card_is_latched_and_when_it_is_let_go(run: TellingRun):
    run.for_s(1)
    assert run.said() == 0
    run.until(lambda: run.state() == "latched")
    run.for_s(1)
    assert run.said() == 1
    run.host.sim("set", "ambient_celsius", ROOM)
    run.until(lambda: run.state() == "free")
    run.for_s(1)
    assert run.said() == 0


@pytest.mark.parametrize(("code", "not_down"), [("off", 0), (3, 1)])
def test_a_card_of_which_nothing_could_be_lowered_is_told(run: TellingRun, code: object, not_down: float):
    run.host.sim("fail", "nvmlDeviceSetPowerManagementLimit", code)
    run.until(lambda: run.state() == "latched")
    run.for_s(2)
    assert run.said() == 1
    assert samples(run.host.read(PATH))[f'{NOT_DOWN}{{gpu="{UUID}"}}'] == not_down


def test_it_is_written_only_when_it_changes_and_by_nobody_else(run: TellingRun):
    steps: list[str] = []
    run.before_write = steps.append
    run.until(lambda: run.state() == "latched")
    run.for_s(20)
    assert steps.count(f"rename {PATH}") == 3  # two guards began, and one latched
    run.host.run("watch", before_write=steps.append)
    assert steps.count(f"rename {PATH}") == 3
    assert LATCHED not in run.host.read(f"{FOLDER}/inferhost.prom")


def test_the_watch_never_waits_for_the_disk(run: TellingRun):
    """The thread that looks at the card is not the one that meets the exporter's folder."""
    writers = set()
    run.before_write = lambda step: writers.add(threading.current_thread()) if FOLDER in step else None
    run.until(lambda: run.state() == "latched")
    run.for_s(1)
    assert run.said() == 1
    assert threading.main_thread() not in writers


def test_while_one_write_hangs_there_is_no_other_that_it_could_undo(run: TellingRun):
    goes_on = threading.Event()
    run.before_write = lambda step: goes_on.wait() if step == f"fill {PATH}" else None
    writers: list[int] = []

    def over() -> bool:
        writers.append(sum(thread.name == FILE for thread in threading.enumerate()))
        if run.host.passed_s > 120:
            goes_on.set()
        return goes_on.is_set()

    run.until(over)
    assert (run.state(), max(writers)) == ("latched", 1)


def test_a_card_is_down_before_the_file_says_so(run: TellingRun):
    cards = []

    def look(step: str) -> None:
        if step == f"rename {PATH}":
            card = run.host.card()
            cards.append((card["power_limit_mw"], card[LOCK]))

    run.before_write = look
    run.until(lambda: settle() or run.state() == "latched")
    run.for_s(1)
    assert cards[0] == (PLANNED_MW, [2100, 2400])
    assert cards[-1] == (SAFE_MW, None)


def test_a_guard_that_died_left_its_card_latched_and_says_so(run: TellingRun, monkeypatch: pytest.MonkeyPatch):
    run.for_s(1)
    monkeypatch.setenv("SERVICE_RESULT", "watchdog")
    run.host.run("guard", "--plan", str(run.host.folder / "plan.json"), "--after-end")
    assert run.said() == 1


def test_a_guard_that_is_stopped_says_what_stays_held(run: TellingRun):
    run.until(lambda: run.state() == "latched")
    run.for_s(1)
    run.stop()
    assert run.said() == 1


def test_a_guard_that_is_stopped_writes_what_it_could_not_write_before(run: TellingRun):
    failed: list[str] = []

    def full(step: str) -> None:
        if FOLDER in step and not failed:
            failed.append(step)
            raise OSError(28, "No space left on device")

    run.before_write = full
    run.stop()
    assert (len(failed), run.said()) == (1, 0)


def test_a_disk_that_is_full_keeps_no_card_hot_and_the_same_guard_writes_later(run: TellingRun):
    full, tried_s = [True], []

    def fill(step: str) -> None:
        if full and FOLDER in step:
            tried_s.append(run.host.passed_s)
            raise OSError(28, "No space left on device")

    def over() -> bool:
        settle()
        if run.state() == "latched" and run.host.passed_s > tried_s[0] + 100:
            full.clear()
        return run.host.at(PATH).exists()

    run.before_write = fill
    run.until(over, 200)
    assert run.host.card()["power_limit_mw"] == SAFE_MW
    assert run.said() == 1
    assert len(tried_s) <= (tried_s[-1] - tried_s[0]) / AGAIN_S + 2
    assert ["No space left" in line for line in run.lines] == [True, False]


def test_the_guard_waits_for_no_lock(run: TellingRun):
    with locked(run.machine):
        run.until(lambda: run.state() == "latched")
        assert run.host.card()["power_limit_mw"] == SAFE_MW
        assert not run.host.at(PATH).exists()
    run.for_s(AGAIN_S + 1)
    assert run.said() == 1


def test_a_revert_removes_the_file_and_a_guard_that_still_runs_makes_none(run: TellingRun):
    run.until(lambda: run.state() == "latched")
    run.for_s(1)
    assert run.host.run("revert").code == 0
    assert not run.host.at(PATH).exists()
    run.for_s(30)
    assert not run.host.at(PATH).exists()
    assert not run.host.at("/var/lib/inferhost").exists()


def test_the_file_stays_for_as_long_as_the_plan_has_a_guard(run: TellingRun):
    guard = run.host.plan.files
    run.host.plan = dataclasses.replace(run.host.plan, files=(*guard, GUARD_UNIT))
    assert run.host.run("install").code == 0
    run.for_s(1)
    assert run.host.run("install").said == (False, [])
    assert run.said() == 0
    run.host.plan = dataclasses.replace(run.host.plan, files=guard)
    assert run.host.run("install").code == 0
    assert not run.host.at(PATH).exists()


def test_without_an_exporter_there_is_no_file(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    made_hot(host, with_gpu(guard=RULE))
    run = TellingRun(host, monkeypatch)
    run.until(lambda: run.state() == "latched")
    run.for_s(1)
    assert not host.at(FOLDER).exists()
