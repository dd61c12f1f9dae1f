"""`verify --challenge`: what samples cannot decide is moved, sampled and put back; never where anybody is served."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from inferhost.host.gpu import nvml as inferhost_nvml
from inferhost.host.guard.latch import LATCHED, Hold, write_latches
from inferhost.host.machine import PLAN
from inferhost.host.record import lock
from inferhost.host.record.baseline import BASELINE
from inferhost.host.report import Locked
from inferhost.schema.plan import Guard
from tests.unit.host.fake_host import UNIT, Answer, FakeHost, p4_plan, plan, with_gpu
from tests.unit.host.simulated import P4, UUID

LOCK, MEMORY, CLOCKS = "graphics_clock_lock_mhz", "memory_clock_lock_mhz", "application_clocks_mhz"
RECORD = "/run/inferhost/clocks.json"
OWN_MHZ = 2790  # of the simulated card: guide 003
LOAD_PID = 900
KILLED = 9


@pytest.fixture
def locked(host: FakeHost) -> FakeHost:
    """A lock at the clock that the card has by itself, under a load of a known process."""
    return set_up(host, with_gpu(graphics_clock_lock_mhz=(OWN_MHZ, OWN_MHZ), power_limit_w=600))


@pytest.fixture
def p4(host: FakeHost) -> FakeHost:
    """The same with application clocks, at the pair that the card boots with."""
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    return set_up(host, p4_plan(application_clocks_mhz=(3003, 885)))


def set_up(host: FakeHost, wanted: Any) -> FakeHost:
    host.plan = wanted
    host.converge()
    host.stop_engine()
    host.sim("load", "on", "--pid", LOAD_PID)
    host.sim("advance", 30)
    return host


def challenged(host: FakeHost, *arguments: str, before_write: Callable[[str], None] = lambda _: None) -> Answer:
    words = ("--section", "gpu", "--challenge", "--load-pid", str(LOAD_PID), "--seconds", "4", *arguments)
    return host.run("verify", *words, before_write=before_write)


def asked(host: FakeHost) -> dict[str, Any]:
    return dict(json.loads(host.read(RECORD))["asked"][UUID])


def test_a_lock_that_samples_cannot_tell_is_proven_put_back_and_kept(locked: FakeHost):
    assert locked.run("verify", "--under-load", "--seconds", "4").verdict(LOCK) == ("unverified", "indistinguishable")
    order: list[str] = []
    answer = challenged(locked, before_write=order.append)
    assert (answer.code, answer.verdict(LOCK)) == (0, ("held", "none"))
    assert [s for s in order if s.startswith("nvml")] == [f"nvml {UUID} graphics_clock_lock"] * 2
    seen = "15 of 20 samples under load, 5.0 per second: 1545 to"
    assert answer.evidence(LOCK).startswith(f"challenged: asked for 1545 MHz, {seen}")
    assert f"; asked for {OWN_MHZ} again: the card may run there by itself; " in answer.evidence(LOCK)
    assert locked.card()[LOCK] == [OWN_MHZ, OWN_MHZ]
    assert (asked(locked)["confirmed"], asked(locked)["challenged"]) == (True, False)
    later = locked.run("verify", "--section", "gpu")
    assert later.verdict(LOCK) == ("unverified", "needs_load")
    assert "then held: challenged: " in later.evidence(LOCK)
    assert later.evidence(LOCK).endswith(" ago")
    assert locked.run("apply", "--section", "gpu").said == (False, [])


def test_no_card_is_moved_while_another_one_of_the_plan_is_missing(locked: FakeHost):
    first = locked.plan.gpus[0]
    gone = dataclasses.replace(first, select=dataclasses.replace(first.select, uuid="GPU-gone"))
    locked.plan = dataclasses.replace(locked.plan, gpus=(first, gone))
    order: list[str] = []
    answer = challenged(locked, before_write=order.append)
    assert (answer.code, answer.problems[0]["id"], order) == (2, "gpu-missing", [])


def test_a_power_cap_that_keeps_it_from_moving_decides_nothing(locked: FakeHost):
    """Then the clock is below what was asked for the moment, and that says nothing of the lock."""

    def capped(step: str) -> None:
        if step == f"nvml {UUID} graphics_clock_lock":
            locked.sim("set", "power_limit_mw", 150000 if locked.card()[LOCK] == [OWN_MHZ, OWN_MHZ] else 600000)

    answer = challenged(locked, before_write=capped)
    assert answer.verdict(LOCK) == ("unverified", "indistinguishable")
    assert "sw_power_cap" in answer.evidence(LOCK)


def test_a_lock_that_does_nothing_is_caught(locked: FakeHost):
    locked.sim("fault", "graphics_clock", "accepted_ignored")
    answer = challenged(locked)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("ignored", "unexplained"))
    assert answer.evidence(LOCK).startswith("challenged: asked for 1545 MHz, above the range; ")
    assert f"{OWN_MHZ} MHz" in answer.evidence(LOCK)


def test_a_lock_that_is_not_followed_up_again_is_caught(locked: FakeHost):
    """It obeys downwards; the clock it had by itself it does not reach again."""

    def fade(step: str) -> None:
        if step == f"nvml {UUID} graphics_clock_lock" and locked.card()[LOCK] != [OWN_MHZ, OWN_MHZ]:
            locked.sim("fault", "graphics_clock", "clamped", 1900)

    answer = challenged(locked, before_write=fade)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("clamped", "unexplained"))


def test_a_memory_lock_is_proven_too(host: FakeHost):
    set_up(host, with_gpu(memory_clock_lock_mhz=(13365, 13365), power_limit_w=600))
    answer = challenged(host)
    assert (answer.code, answer.verdict(MEMORY)) == (0, ("held", "none"))
    assert "asked for 7001 MHz" in answer.evidence(MEMORY)
    assert host.card()[MEMORY] == [13365, 13365]
    host.sim("fault", "memory_clock", "accepted_ignored")
    assert challenged(host).verdict(MEMORY) == ("ignored", "memory_pstate")


def test_application_clocks_are_proven_and_their_verdict_is_kept(p4: FakeHost):
    assert p4.run("verify", "--under-load", "--seconds", "4").verdict(CLOCKS) == ("unverified", "indistinguishable")
    answer = challenged(p4)
    assert (answer.code, answer.verdict(CLOCKS)) == (0, ("held", "none"))
    assert p4.card()[CLOCKS] == [3003, 885]
    p4.wait(600)
    later = p4.run("verify")
    assert later.verdict(CLOCKS) == ("unverified", "needs_load")
    assert "then held: challenged: " in later.evidence(CLOCKS)
    assert later.evidence(CLOCKS).endswith("; under load 10 min ago")


def test_application_clocks_that_do_nothing_are_caught(p4: FakeHost, monkeypatch: pytest.MonkeyPatch):
    own = inferhost_nvml.Nvml.set_application_clocks

    def deaf(nvml: inferhost_nvml.Nvml, card: inferhost_nvml.Card, memory_mhz: int, graphics_mhz: int) -> None:
        if graphics_mhz == 885:
            own(nvml, card, memory_mhz, graphics_mhz)

    monkeypatch.setattr(inferhost_nvml.Nvml, "set_application_clocks", deaf)
    assert challenged(p4).verdict(CLOCKS) == ("ignored", "unexplained")


def test_an_engine_that_serves_refuses_it_before_a_card_is_touched(locked: FakeHost):
    locked.start_engine()
    before = locked.snapshot()
    answer = challenged(locked)
    assert answer.code == 2
    assert [p["message"] for p in answer.problems] == [f"{UNIT} is active"]
    assert locked.snapshot() == before


@pytest.mark.parametrize("known_by", ["the plan", "the record"])
def test_an_engine_that_only_one_of_them_knows_is_in_the_way_too(locked: FakeHost, known_by: str):
    if known_by == "the record":
        locked.plan = dataclasses.replace(locked.plan, service=())
    else:
        locked.at(BASELINE).unlink()
        locked.at(PLAN).unlink()
    locked.start_engine()
    answer = challenged(locked)
    assert (answer.code, [p["message"] for p in answer.problems]) == (2, [f"{UNIT} is active"])


def test_an_engine_that_starts_while_samples_are_taken_is_not_disturbed(locked: FakeHost):
    wait = locked.wait

    def starts(seconds: float) -> None:
        wait(seconds)
        locked.start_engine()

    locked.wait = starts  # type: ignore[method-assign]
    order: list[str] = []
    answer = challenged(locked, before_write=order.append)
    assert answer.code == 2
    assert not [step for step in order if step.startswith("nvml")]


@pytest.mark.parametrize("allowed", [None, 1234], ids=["nobody", "another process"])
def test_a_process_on_the_card_that_is_not_the_load_refuses_it_and_is_named(locked: FakeHost, allowed: int | None):
    locked.process(LOAD_PID, ["/opt/train"], "train.service")
    words = [] if allowed is None else ["--load-pid", str(allowed)]
    answer = locked.run("verify", "--section", "gpu", "--challenge", "--seconds", "4", *words)
    assert answer.code == 2
    assert [p["message"] for p in answer.problems] == [
        f"gpu.{UUID} is in use by train (process {LOAD_PID}, train.service)"
    ]
    assert locked.card()[LOCK] == [OWN_MHZ, OWN_MHZ]


def test_a_child_of_the_load_belongs_to_it(locked: FakeHost):
    locked.sim("load", "on", "--pid", 901)
    locked.write("/proc/901/status", f"Name:\tworker\nPPid:\t{LOAD_PID}\n")
    assert challenged(locked).verdict(LOCK) == ("held", "none")


def test_without_load_nothing_is_moved(locked: FakeHost):
    locked.sim("load", "off")
    order: list[str] = []
    answer = challenged(locked, before_write=order.append)
    assert answer.verdict(LOCK) == ("unverified", "needs_load")
    assert not [step for step in order if step.startswith("nvml")]
    assert "nothing to challenge" in answer.prose


@pytest.mark.parametrize(("kind", "name"), [("locked", LOCK), ("p4", CLOCKS)])
@pytest.mark.parametrize(("writes", "cause"), [(1, "indistinguishable"), (2, "needs_load")], ids=["moved", "back"])
def test_a_load_that_ends_meanwhile_proves_nothing_and_leaves_nothing_moved(
    request: pytest.FixtureRequest, kind: str, name: str, writes: int, cause: str
):
    host: FakeHost = request.getfixturevalue(kind)
    wanted = host.card()[name]
    met: list[str] = []

    def end(step: str) -> None:
        met.extend([step] if step.startswith("nvml") else [])
        if len(met) == writes:
            host.sim("load", "off")

    answer = challenged(host, before_write=end)
    assert (answer.code, answer.verdict(name)) == (0, ("unverified", cause))
    assert "0 of 20 samples under load" in answer.evidence(name)
    assert host.card()[name] == wanted
    asked = json.loads(host.read(RECORD))["asked"] if host.at(RECORD).exists() else {}
    assert all(record["confirmed"] for record in asked.values())


def test_nobody_else_writes_meanwhile(locked: FakeHost):
    tried: list[int] = []

    def meanwhile(step: str) -> None:
        if step.startswith("nvml"):
            with pytest.raises(Locked), lock.locked(locked.machine(str(locked.root)), 0):
                tried.append(1)
            tried.append(0)

    assert challenged(locked, before_write=meanwhile).verdict(LOCK) == ("held", "none")
    assert tried == [0, 0]


def test_check_mode_says_what_would_be_moved(locked: FakeHost):
    before = {k: v for k, v in locked.snapshot().items() if k != "cards"}
    answer = challenged(locked, "--check")
    assert "check mode: it would be moved to 1545 MHz and back" in answer.prose
    assert {k: v for k, v in locked.snapshot().items() if k != "cards"} == before


def test_a_card_that_the_guard_holds_is_left_alone(host: FakeHost):
    rule = Guard(limit_c=85, resume_c=75, cool_down_s=60, power_w=300)
    set_up(host, with_gpu(graphics_clock_lock_mhz=(OWN_MHZ, OWN_MHZ), power_limit_w=600, guard=rule))
    taken: list[str] = []

    def trip(step: str) -> None:
        if step == f"nvml {UUID} graphics_clock_lock":
            taken.append(step)
            host.sim("set", LOCK, "none")
            write_latches(host.machine(str(host.root)), {UUID: Hold(LATCHED, "hot", None, (1.0,), 9e9)})

    answer = challenged(host, before_write=trip)
    assert len(taken) == 1
    assert answer.verdict(LOCK) == ("overridden", "thermal")


def killed_at(host: FakeHost, number: int) -> bool:
    """A challenge in a process that dies before its n-th write; whether it came that far."""
    count = iter(range(1, 1000))

    def die(_: str) -> None:
        if next(count) == number:
            os._exit(KILLED)

    child = os.fork()
    if child == 0:
        code = challenged(host, before_write=die).code
        os._exit(0 if code == 0 else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), number
    return status == KILLED


@pytest.mark.parametrize("way_back", [("apply", "--section", "gpu"), ("watch",), ("revert",)], ids=lambda way: way[0])
@pytest.mark.parametrize("kind", ["locked", "p4"])
def test_a_kill_at_any_write_is_told_and_healed(request: pytest.FixtureRequest, kind: str, way_back: tuple[str, ...]):
    host: FakeHost = request.getfixturevalue(kind)
    name, wanted = (LOCK, [OWN_MHZ, OWN_MHZ]) if kind == "locked" else (CLOCKS, [3003, 885])
    moved = 0
    number = 1
    while killed_at(host, number):
        where = f"killed at write {number}"
        if host.card()[name] != wanted:
            moved += 1
            answer = host.run("verify", "--section", "gpu")
            assert answer.verdict(name) == ("overridden", "unexplained"), where
            assert "a challenge moved it" in answer.evidence(name), where
        host.sim("load", "off")
        assert host.run(*way_back).problems == [], where
        if way_back == ("revert",):
            assert host.card()[name] in (None, wanted), where
            host.converge()
            host.stop_engine()
        assert host.card()[name] == wanted, where
        assert host.run("verify", "--section", "gpu").code == 0, where
        host.sim("load", "on", "--pid", LOAD_PID)
        host.sim("advance", 30)
        number += 1
    assert number > 8
    assert moved


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_only_after_the_clock_is_back(locked: FakeHost, number: signal.Signals):
    wait = locked.wait

    def interrupted(seconds: float) -> None:
        wait(seconds)
        if locked.card()[LOCK] == [1545, 1545]:
            os.kill(os.getpid(), number)

    locked.wait = interrupted  # type: ignore[method-assign]
    answer = challenged(locked)
    assert answer.code == 8
    assert "stopped by a signal before its end" in answer.prose
    assert locked.card()[LOCK] == [OWN_MHZ, OWN_MHZ]
    assert asked(locked)["confirmed"]


def test_a_card_that_is_lost_meanwhile_is_told_and_stays_on_record_as_moved(locked: FakeHost):
    wait = locked.wait

    def lose(seconds: float) -> None:
        wait(seconds)
        if locked.card()[LOCK] == [1545, 1545]:
            locked.sim("lost", 0)

    locked.wait = lose  # type: ignore[method-assign]
    answer = challenged(locked)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("refused", "needs_reboot"))
    assert "not put back: nvmlDeviceSetGpuLockedClocks: GpuIsLost" in answer.prose
    assert asked(locked)["challenged"]


def test_a_disk_that_fills_up_meanwhile_still_lets_the_clock_back(locked: FakeHost):
    full: list[str] = []

    def fill(step: str) -> None:
        if step.startswith(f"nvml {UUID}"):
            full.append(step)
        if full and "clocks.json" in step:
            raise OSError(28, "No space left on device")

    answer = challenged(locked, before_write=fill)
    assert answer.code == 3
    assert locked.card()[LOCK] == [OWN_MHZ, OWN_MHZ]
    assert "put back, but /run/inferhost/clocks.json" in answer.prose
    assert locked.run("apply", "--section", "gpu").code == 0
    assert asked(locked)["confirmed"]


@pytest.mark.parametrize("words", [["--load-pid", "7"], ["--load-pid", "7", "--under-load"]])
def test_a_load_is_named_for_a_challenge_only(locked: FakeHost, words: list[str]):
    answer = locked.run("verify", *words)
    assert (answer.code, answer.problems[0]["message"]) == (2, "is for --challenge only")


def test_nothing_of_a_plan_without_clocks_is_moved(host: FakeHost):
    set_up(host, plan())
    assert "nothing to challenge" in challenged(host).prose
