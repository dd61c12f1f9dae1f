"""The guard against the simulator's heat: down at once, held, given back after the cool-down, never silent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inferhost.host.guard import daemon
from inferhost.host.guard.latch import LATCH, read_latches
from inferhost.host.report import Report
from inferhost.schema.plan import Guard
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID

RULE = Guard(limit_c=85, resume_c=75, power_w="min", cool_down_s=30)
SAFE_MW, PLANNED_MW = 150000, 450000
BURNING, ROOM = 70, 33
LOCK = "graphics_clock_lock_mhz"


class Run:
    """A guard in this process, its journal, and what systemd was told."""

    def __init__(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, self.lines, self.told = host, [], []
        self.before_write: Callable[[str], None] = lambda _: None
        monkeypatch.setattr(daemon, "notify", self.told.append)

    def until(self, over: Callable[[], bool], most_s: float = 600.0) -> None:
        """Runs the guard until `over`, or for that many seconds of the cards' time; it then ends as by a crash."""
        end_s = self.host.passed_s + most_s

        def stopped() -> bool:
            if over() or self.host.passed_s >= end_s:
                raise Gone
            return False

        with contextlib.suppress(Gone):
            daemon.watch(self.machine, self.host.plan, Report(check=False), stopped, self.lines.append)

    def for_s(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def stop(self) -> None:
        """A start and a normal stop."""
        answers: Iterator[bool] = iter([False, True])
        daemon.watch(self.machine, self.host.plan, Report(check=False), lambda: next(answers), self.lines.append)

    @property
    def machine(self) -> Any:
        return self.host.machine(str(self.host.root), self.before_write)

    def state(self, uuid: str = UUID) -> str:
        hold = read_latches(self.machine).get(uuid)
        return hold.state if hold else "free"


class Gone(Exception):
    """The guard is gone without having been asked to go."""


@pytest.fixture
def hot(host: FakeHost) -> FakeHost:
    """A loaded card with a lock and 450 W as planned, in a place that gets hotter and hotter."""
    return made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE))


@pytest.fixture
def run(hot: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(hot, monkeypatch)


def made_hot(host: FakeHost, wanted: Any) -> FakeHost:
    host.plan = wanted
    host.sim("load", "on")
    assert host.run("install").code == 0
    host.place()
    assert host.run("apply", "--section", "gpu").code == 0
    host.sim("set", "ambient_celsius", BURNING)
    return host


def temperature_c(host: FakeHost, number: int = 0) -> float:
    card = json.loads(host.sim("dump", "--all"))["gpus"][number]
    return float(card["temperature_millicelsius"]) / 1000


def test_past_the_limit_power_falls_and_clocks_are_unlocked_within_a_second(hot: FakeHost, run: Run):
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (PLANNED_MW, [2100, 2400])
    hottest: list[tuple[float, float]] = []
    run.until(lambda: hottest.append((hot.passed_s, temperature_c(hot))) or run.state() == "latched")
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (SAFE_MW, None)
    crossed_s = next(now_s for now_s, celsius in hottest if celsius >= RULE.limit_c)
    assert hottest[-1][0] - crossed_s < 1.0
    assert len(run.lines) == 1
    assert "85 C, 5 C from its own limit; the limit is 85 C: power 450 -> 150 W, clocks unlocked" in run.lines[0]


def test_a_guard_that_finds_a_hot_card_brings_it_down_in_its_first_turn(hot: FakeHost, run: Run):
    while temperature_c(hot) < RULE.limit_c:
        hot.wait(1)
    run.stop()
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (SAFE_MW, None)


def test_a_cool_card_is_never_touched(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)).sim("set", "ambient_celsius", ROOM)
    before = host.snapshot()["cards"]["gpus"]
    run = Run(host, monkeypatch)
    run.for_s(120)
    after = host.snapshot()["cards"]["gpus"]
    assert [(c["power_limit_mw"], c[LOCK]) for c in after] == [(c["power_limit_mw"], c[LOCK]) for c in before]
    assert not run.lines
    assert not host.at(LATCH).exists()


def test_systemd_hears_of_the_start_and_of_every_turn(run: Run):
    run.for_s(3)
    assert run.told[0] == "READY=1"
    assert run.told[1:] == ["WATCHDOG=1"] * 10


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
def test_systemd_is_told_through_the_socket_that_it_names(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
):
    """Source: sd_notify(3)."""
    place = f"\0inferhost-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(place)
        monkeypatch.setenv("NOTIFY_SOCKET", place.replace("\0", "@"))
        daemon.notify("WATCHDOG=1")
        assert systemd.recv(64, socket.MSG_DONTWAIT) == b"WATCHDOG=1"


@pytest.mark.parametrize("place", ["", "/nonexistent/notify"])
def test_without_a_systemd_that_listens_the_guard_goes_on(monkeypatch: pytest.MonkeyPatch, place: str):
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    daemon.notify("WATCHDOG=1")


def test_the_card_s_own_limit_counts_where_it_is_lower(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    hot = made_hot(host, with_gpu(guard=Guard(limit_c=99, resume_c=89, power_w="min", cool_down_s=30)))
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched")
    assert 90 <= temperature_c(hot) < 91.5
    assert "it slows itself below the limit of 99 C" in run.lines[0]


def test_a_card_that_tells_no_margin_is_guarded_by_its_temperature(hot: FakeHost, run: Run):
    hot.sim("fail", "nvmlDeviceGetMarginTemperature", 13)
    run.until(lambda: run.state() == "latched")
    assert hot.card()["power_limit_mw"] == SAFE_MW


def test_apply_leaves_a_held_card_alone_and_says_so(hot: FakeHost, run: Run):
    run.until(lambda: run.state() == "latched")
    for verb in ("apply", "verify"):
        answer = hot.run(verb, "--section", "gpu")
        assert answer.code == 3
        assert answer.verdict("power_limit_w") == ("overridden", "thermal")
        assert answer.verdict(LOCK) == ("overridden", "thermal")
        assert "the guard holds the card" in answer.evidence("power_limit_w")
        assert answer.verdict("persistence_mode") == ("held", "none")
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (SAFE_MW, None)
    assert not hot.run("apply", "--section", "gpu", "--check").changed


def test_a_latch_means_nothing_where_the_plan_no_longer_guards(hot: FakeHost, run: Run):
    run.until(lambda: run.state() == "latched")
    hot.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400))
    assert hot.run("apply", "--section", "gpu").verdict("power_limit_w") == ("held", "none")
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (PLANNED_MW, [2100, 2400])


def test_after_the_cool_down_the_plan_s_values_are_back(hot: FakeHost, run: Run):
    run.until(lambda: run.state() == "latched")
    hot.sim("set", "ambient_celsius", ROOM)
    cool_s: list[float] = []
    run.until(lambda: (cool_s.append(hot.passed_s) if temperature_c(hot) < 76 else None) or run.state() == "free")
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (PLANNED_MW, [2100, 2400])
    assert cool_s[-1] - cool_s[0] >= RULE.cool_down_s
    assert len(run.lines) == 2
    assert "cool again: persistence_mode True held; power_limit_w 450 held" in run.lines[1]
    assert hot.run("apply", "--section", "gpu").code == 0


def test_a_card_that_warms_up_again_in_the_wait_waits_anew(hot: FakeHost, run: Run):
    run.until(lambda: run.state() == "latched")
    hot.sim("set", "ambient_celsius", ROOM)
    run.until(lambda: temperature_c(hot) < 74)
    run.for_s(5)
    hot.sim("set", "ambient_celsius", 120)
    run.until(lambda: temperature_c(hot) > 77)
    hot.sim("set", "ambient_celsius", ROOM)
    run.until(lambda: temperature_c(hot) < 74)
    run.for_s(20)
    assert run.state() == "latched"
    run.for_s(20)
    assert run.state() == "free"


def test_each_further_trip_of_an_hour_doubles_the_wait(hot: FakeHost, run: Run):
    waits = []
    for _ in range(3):
        hot.sim("set", "ambient_celsius", BURNING)
        run.until(lambda: run.state() == "latched")
        waits.append(run.lines[-1].partition("after ")[2].partition(" s at")[0])
        hot.sim("set", "ambient_celsius", ROOM - 20)
        run.until(lambda: run.state() == "free")
    assert waits == ["30", "60", "120"]


def test_another_writer_that_raises_the_limit_is_lowered_again_and_told_once(hot: FakeHost, run: Run):
    run.until(lambda: run.state() == "latched")
    found = []

    def fights() -> bool:
        if len(run.told) % 10 == 0:
            found.append(hot.card()["power_limit_mw"])
            hot.sim("set", "power_limit_mw", 600000)
        return False

    run.until(fights, 20)
    assert found[1:] == [SAFE_MW] * len(found[1:])
    assert len(found) > 4
    assert ["raised" in line for line in run.lines] == [False, True]


def test_another_writer_that_never_rests_is_answered_once_a_second(hot: FakeHost, run: Run):
    run.until(lambda: run.state() == "latched")
    steps: list[str] = []
    run.before_write = steps.append
    run.until(lambda: bool(hot.sim("set", "power_limit_mw", 600000)), 20)
    assert 10 <= steps.count(f"nvml {UUID} power_limit") <= 20


def test_an_apply_that_was_writing_when_the_latch_came_is_undone_and_later_done_again(hot: FakeHost, run: Run):
    """Two writers: the apply looked at the latch, then the guard came, then the apply wrote."""
    hot.sim("set", "power_limit_mw", 600000)
    hot.plan = with_gpu(graphics_clock_lock_mhz=(2000, 2300), guard=RULE)
    latched = []

    def guard_comes(step: str) -> None:
        if step.startswith("nvml") and not latched:
            latched.append(step)
            run.until(lambda: run.state() == "latched")

    hot.run("apply", "--section", "gpu", before_write=guard_comes)
    assert latched
    assert hot.card()["power_limit_mw"] > SAFE_MW  # the apply had the last word
    run.for_s(15)
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (SAFE_MW, None)
    hot.sim("set", "ambient_celsius", ROOM)
    run.until(lambda: run.state() == "free")
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (PLANNED_MW, [2002, 2302])


def test_the_latch_is_on_disk_before_the_card_is_touched(hot: FakeHost, run: Run):
    order: list[str] = []
    run.before_write = order.append
    run.until(lambda: run.state() == "latched")
    assert order.index(f"rename {LATCH}") < order.index(f"nvml {UUID} power_limit")


def test_a_guard_that_comes_back_goes_on_where_the_last_one_was(hot: FakeHost, run: Run):
    run.until(lambda: run.state() == "latched")
    assert run.state() == "latched"  # the first one is gone by now, as by kill -9
    hot.sim("set", "ambient_celsius", ROOM)
    run.until(lambda: run.state() == "free")
    assert hot.card()["power_limit_mw"] == PLANNED_MW


@pytest.mark.parametrize("result", ["watchdog", "signal", "exit-code", "core-dump", "timeout"])
def test_after_a_crash_or_a_hang_the_safe_state_is_left(
    hot: FakeHost, run: Run, result: str, monkeypatch: pytest.MonkeyPatch
):
    run.for_s(1)
    monkeypatch.setenv("SERVICE_RESULT", result)
    answer = hot.run("guard", "--plan", str(hot.folder / "plan.json"), "--after-end")
    assert answer.code == 0
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (SAFE_MW, None)
    assert run.state() == "latched"
    assert f"the guard ended ({result})" in answer.prose
    assert hot.run("apply", "--section", "gpu").verdict("power_limit_w") == ("overridden", "thermal")


def test_after_a_normal_stop_nothing_is_touched(hot: FakeHost, run: Run, monkeypatch: pytest.MonkeyPatch):
    run.stop()
    monkeypatch.setenv("SERVICE_RESULT", "success")
    assert hot.run("guard", "--plan", str(hot.folder / "plan.json"), "--after-end").code == 0
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (PLANNED_MW, [2100, 2400])


def test_a_revert_takes_a_held_card_back_and_the_guard_lets_go(hot: FakeHost, run: Run):
    reverted: list[int] = []

    def revert_once() -> bool:
        if run.state() == "latched" and not reverted:
            reverted.append(hot.run("revert").code)
            assert hot.card()["power_limit_mw"] == 480000
        return False

    run.until(revert_once, 150)
    assert reverted == [0]
    assert hot.card()["power_limit_mw"] == 480000
    assert not hot.at("/run/inferhost").exists()


def test_a_card_whose_original_is_not_on_record_is_not_touched(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.plan = with_gpu(guard=RULE)
    host.sim("load", "on")
    host.sim("set", "ambient_celsius", BURNING)
    run = Run(host, monkeypatch)
    run.for_s(150)
    assert host.card()["power_limit_mw"] == 480000
    assert ["not on record" in line for line in run.lines] == [True]
    assert not host.at("/run/inferhost").exists()


def test_the_other_card_goes_on(pair: FakeHost, monkeypatch: pytest.MonkeyPatch):
    gpu = with_gpu(guard=RULE).gpus[0]
    second = dataclasses.replace(gpu, select=dataclasses.replace(gpu.select, ordinal=1))
    made_hot(pair, plan(gpus=(gpu, second))).sim("set", "ambient_celsius", ROOM, "--gpu", 1)
    run = Run(pair, monkeypatch)
    limits: list[tuple[int, int]] = []

    def the_first_is_lost_and_the_second_gets_hot() -> bool:
        if run.state() == "latched" and not limits:
            limits.append((pair.card(0)["power_limit_mw"], pair.card(1)["power_limit_mw"]))
            pair.sim("lost", 0)
            pair.sim("set", "ambient_celsius", BURNING, "--gpu", 1)
        return run.state(SECOND_UUID) == "latched"

    run.until(the_first_is_lost_and_the_second_gets_hot)
    assert limits == [(SAFE_MW, PLANNED_MW)]
    assert pair.card(1)["power_limit_mw"] == SAFE_MW
    assert ["GpuIsLost" in line for line in run.lines] == [False, True, True, False]
    assert "gpus[0]" in run.lines[2]


@pytest.mark.parametrize("wanted", [plan(), plan(gpus=with_gpu(guard=RULE).gpus, manage=("cpu",))])
def test_a_plan_without_a_guarded_card_is_bad_input(host: FakeHost, wanted: Any):
    host.plan = wanted
    host.run("install")
    answer = host.run("guard", "--check")
    assert (answer.code, answer.problems[0]["id"]) == (2, "no-guard")


def test_check_looks_once_and_writes_nothing(hot: FakeHost, run: Run):
    run.until(lambda: temperature_c(hot) > 84)
    before = hot.snapshot()
    hot.run("install")
    answer = hot.run("guard", "--check")
    assert answer.code == 0
    assert answer.document["facts"]["guard"][UUID]["safe_power_w"] == 150
    assert hot.snapshot()["cards"]["gpus"] == before["cards"]["gpus"]


def test_a_new_plan_ends_the_guard_so_that_systemd_starts_it_anew(hot: FakeHost, run: Run):
    run.until(lambda: run.state() == "latched")
    hot.plan = with_gpu(guard=Guard(90, 80, 300, 60))
    installed = []

    def install_once() -> bool:
        if not installed:
            installed.append(hot.run("install").code)
        assert len(run.told) < 2000
        return False

    daemon.watch(run.machine, hot.plan, Report(check=False), install_once, run.lines.append)
    assert run.lines[-1] == "plan or program changed: starting again"
    assert run.state() == "latched"
