"""The record of what was asked of the clocks is lost while a lock stands: it is asked for anew, as no call reads it.

That is the drift timer's to do, within its own rules: no card that the guard holds, nothing that was told as drift.
"""

from __future__ import annotations

import json

import pytest

from inferhost.host.gpu.clock_lock import LOST, NOT_ON_RECORD
from inferhost.host.gpu.clock_record import CLOCKS
from inferhost.host.guard.latch import FREE, LATCHED, Hold, write_latches
from inferhost.host.record import lock
from inferhost.schema.plan import Guard
from tests.unit.host.fake_host import Answer, FakeHost, with_gpu
from tests.unit.host.simulated import UUID
from tests.unit.host.test_host_watch import WATCHED

LOCK = "graphics_clock_lock_mhz"
DAMAGE = {
    "gone": lambda text: None,
    "cut short": lambda text: text[: len(text) // 2],
    "of another version": lambda text: text.replace('"schema": 1', '"schema": 9'),
}


def lose(host: FakeHost, how: str = "gone") -> None:
    """The record of this boot is damaged, and the card's lock with it, so that one asked for again shows."""
    left = DAMAGE[how](host.read(CLOCKS))
    host.at(CLOCKS).unlink()
    if left is not None:
        host.write(CLOCKS, left)
    host.sim("set", LOCK, "none")


def looked(host: FakeHost) -> tuple[Answer, list[str]]:
    """One look of the drift timer, and what it asked of NVML."""
    order: list[str] = []
    answer = host.run("watch", before_write=order.append)
    return answer, [step for step in order if step.startswith("nvml")]


@pytest.mark.parametrize("seen", [True, False], ids=["after a look", "before the first look"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_lock_whose_record_is_lost_is_asked_for_again_once_and_alone(placed: FakeHost, how: str, seen: bool):
    if seen:
        assert placed.run("watch").code == 0
    lose(placed, how)
    answer = placed.run("verify", "--section", "gpu")
    assert (answer.code, answer.verdict(LOCK), answer.evidence(LOCK)) == (3, ("overridden", "unexplained"), LOST)
    placed.sim("set", "power_limit_mw", 300000)  # `nvidia-smi -pl` of somebody
    answer, asked = looked(placed)
    assert f"gpu.{UUID}.{LOCK}: its record of this boot is lost: settings are applied" in answer.document["notes"]
    assert (answer.verdict(LOCK), len(asked)) == (("unverified", "needs_load"), 1)
    assert answer.verdict("power_limit_w") == ("overridden", "other_writer")
    assert (placed.card()[LOCK], placed.card()["power_limit_mw"]) == ([2100, 2100], 300000)
    answer, asked = looked(placed)
    assert (answer.verdict(LOCK), asked) == (("unverified", "needs_load"), [])


def test_check_mode_says_that_it_would_be_asked_for_again(placed: FakeHost):
    assert placed.run("watch").code == 0
    lose(placed)
    before = placed.snapshot()
    answer = placed.run("watch", "--check")
    assert f"gpu.{UUID}.{LOCK}" in [change["setting"] for change in answer.document["diff"]]
    assert placed.snapshot() == before


def test_a_lock_that_was_told_as_drift_before_its_record_was_lost_is_not_fought_over(placed: FakeHost):
    placed.sim("load", "on")
    placed.sim("set", LOCK, "none")  # `nvidia-smi -rgc` of somebody
    placed.wait(60)
    assert placed.run("watch").verdict(LOCK)[0] == "ignored"
    lose(placed)
    for _ in range(2):
        answer, asked = looked(placed)
        assert (answer.code, answer.verdict(LOCK)[0], asked) == (3, "overridden", [])
        assert answer.evidence(LOCK) == NOT_ON_RECORD
    assert "inferhost apply" in NOT_ON_RECORD
    assert placed.run("apply", "--section", "gpu").code == 0
    assert placed.card()[LOCK] == [2100, 2100]


def test_a_lock_that_was_never_applied_in_this_boot_waits_for_apply(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.run("install")
    host.place()
    for _ in range(2):
        answer, asked = looked(host)
        assert (answer.verdict(LOCK), answer.evidence(LOCK), asked) == (
            ("overridden", "driver_reload"),
            NOT_ON_RECORD,
            [],
        )


def test_a_card_that_the_guard_holds_gets_its_lock_when_it_lets_go(placed: FakeHost):
    placed.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100), guard=Guard(85, 75, "min", 30))
    placed.run("install")
    assert placed.run("apply", "--section", "gpu").code == 0
    assert placed.run("watch").code == 0
    machine = placed.machine(str(placed.root))
    write_latches(machine, {UUID: Hold(LATCHED, "91 C, over 85", None, (0.0,), None)})
    lose(placed)
    for _ in range(2):
        answer, asked = looked(placed)
        assert (answer.verdict(LOCK), asked) == (("overridden", "thermal"), [])
    write_latches(machine, {UUID: Hold(FREE, "91 C, over 85", None, (0.0,), None)})
    answer, asked = looked(placed)
    assert (answer.code, placed.card()[LOCK], len(asked)) == (0, [2100, 2100], 1)


def test_while_another_run_is_at_work_nothing_is_asked_for(placed: FakeHost):
    assert placed.run("watch").code == 0
    lose(placed)
    with lock.locked(placed.machine(str(placed.root)), wait_s=0):
        answer, asked = looked(placed)
        assert (answer.verdict(LOCK)[0], asked, answer.problems) == ("overridden", [], [])
    answer, asked = looked(placed)
    assert (answer.code, len(asked)) == (0, 1)


def test_a_lock_that_an_apply_took_back_is_not_lost(placed: FakeHost):
    assert placed.run("watch").code == 0
    assert json.loads(placed.read(WATCHED))["asked"] == [f"gpu.{UUID}.{LOCK}"]
    placed.plan = with_gpu()
    placed.run("install")
    assert placed.run("apply", "--section", "gpu").code == 0
    assert json.loads(placed.read(WATCHED))["asked"] == []
    placed.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    placed.run("install")
    answer, asked = looked(placed)
    assert (answer.evidence(LOCK), asked) == (NOT_ON_RECORD, [])


def test_a_repair_that_failed_is_tried_again(placed: FakeHost):
    assert placed.run("watch").code == 0
    lose(placed)
    placed.sim("fail", "nvmlDeviceSetGpuLockedClocks", 999, 1)
    assert looked(placed)[0].code == 3
    assert (looked(placed)[0].code, placed.card()[LOCK]) == (0, [2100, 2100])


def test_a_lock_that_a_revert_took_back_is_not_told_as_lost(placed: FakeHost):
    assert placed.run("watch").code == 0
    assert placed.run("revert", "--section", "gpu").code == 0
    answer = placed.run("verify", "--section", "gpu")
    assert (answer.verdict(LOCK)[0], answer.evidence(LOCK)) == ("overridden", NOT_ON_RECORD)
