"""A hold outlives the guard that took it: the next one goes on with it, and a wish or a revert ends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inferhost.host.guard.latch import LATCH, UNIT, hold_of
from inferhost.host.record.lock import locked
from tests.unit.host.fake_host import FakeHost, with_gpu
from tests.unit.host.simulated import UUID
from tests.unit.host.test_host_guard import LOCK, PLANNED_MW, ROOM, RULE, SAFE_MW, Run, made_hot

AS_PLANNED, AT_SAFE_STATE = (PLANNED_MW, [2100, 2400]), (SAFE_MW, None)


@pytest.fixture
def held(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A guard that was stopped while it held a card; the room is cold again."""
    run = Run(made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch)
    run.until(lambda: run.state() == "latched")
    host.sim("set", "ambient_celsius", ROOM)
    run.stop()
    assert state(host) == AT_SAFE_STATE
    return run


def state(host: FakeHost) -> tuple[int, object]:
    card = host.card()
    return card["power_limit_mw"], card[LOCK]


def test_the_next_guard_waits_and_gives_the_card_back(held: Run):
    assert f"stopped while it holds the card at 150 W, until: systemctl start {UNIT}" in held.lines[-1]
    held.for_s(RULE.cool_down_s)
    assert state(held.host) == AT_SAFE_STATE
    held.until(lambda: held.state() == "free", 200)
    assert (held.state(), state(held.host)) == ("free", AS_PLANNED)
    assert held.host.run("apply", "--section", "gpu").code == 0


@pytest.mark.parametrize("verb", ["apply", "verify", "watch"])
def test_what_the_guard_lowered_is_nobody_else_s_while_it_is_stopped(held: Run, verb: str):
    answer = held.host.run(verb)
    assert answer.verdict("power_limit_w") == ("overridden", "thermal")
    assert answer.verdict(LOCK) == ("overridden", "thermal")
    assert "the guard holds the card" in answer.evidence("power_limit_w")
    assert state(held.host) == AT_SAFE_STATE


def cut_short(text: str) -> str:
    return text[: len(text) // 2]


def of_a_newer_version(text: str) -> str:
    return text.replace('"state":', '"someday": 1, "state":')


def of_a_newer_schema(text: str) -> str:
    return text.replace('"schema": 1', '"schema": 2')


@pytest.mark.parametrize("damaged", [cut_short, of_a_newer_version, of_a_newer_schema])
def test_a_hold_that_cannot_be_read_counts_until_the_card_was_cool(held: Run, damaged: Callable[[str], str]):
    host = held.host
    host.write(LATCH, damaged(host.read(LATCH)))
    for verb in ("apply", "verify", "watch"):
        answer = host.run(verb)
        assert answer.verdict("power_limit_w") == answer.verdict(LOCK) == ("overridden", "thermal")
        assert f"{LATCH} cannot be read" in answer.evidence("power_limit_w")
        assert state(host) == AT_SAFE_STATE
    held.for_s(RULE.cool_down_s)
    assert state(host) == AT_SAFE_STATE
    held.until(lambda: state(host) == AS_PLANNED, 200)
    held.for_s(5)
    assert (held.state(), state(host)) == ("free", AS_PLANNED)
    assert host.run("verify", "--section", "gpu").code == 0


def test_a_running_guard_writes_down_again_what_nobody_can_read_any_more(held: Run):
    held.until(lambda: held.state() == "free", 300)
    host = held.host
    seen: list[str] = []
    damaged_s = host.passed_s + 2

    def over() -> bool:
        if host.passed_s >= damaged_s:
            if not seen:
                host.write(LATCH, "{")
            seen.append(hold_of(held.machine, UUID).state)
        return seen[-1:] == ["free"]

    held.until(over, 20)
    assert (seen[0], seen[-1], state(host)) == ("latched", "free", AS_PLANNED)


def test_what_the_guard_lowered_is_nobody_else_s_until_it_is_given_back(held: Run):
    with locked(held.machine):
        held.until(lambda: held.state() == "restoring", 200)
        held.for_s(3)
    answer = held.host.run("verify", "--section", "gpu")
    assert answer.verdict("power_limit_w") == ("overridden", "thermal")
    assert "lowered by the guard" in answer.evidence("power_limit_w")
    held.until(lambda: held.state() == "free", 60)
    assert state(held.host) == AS_PLANNED


def test_a_card_that_did_not_take_its_power_back_is_given_it_again(held: Run):
    held.host.sim("fail", "nvmlDeviceSetPowerManagementLimit", 999)
    held.for_s(120)
    assert held.state() == "restoring"
    held.host.sim("fail", "nvmlDeviceSetPowerManagementLimit", "off")
    held.for_s(10)
    assert (held.state(), state(held.host)) == ("free", AS_PLANNED)


@pytest.mark.parametrize(
    ("call", "code"), [("nvmlInitWithFlags", 9), ("nvmlDeviceGetUUID", 999)], ids=["no driver", "no such card"]
)
def test_a_card_that_an_apply_cannot_find_is_not_given_back_yet(held: Run, call: str, code: int):
    """The guard has the card open already; what gives it back opens it anew."""
    seen: list[tuple[str, tuple[int, object]]] = []

    def over() -> bool:
        if held.told[-1] == "WATCHDOG=1" and not seen:
            held.host.sim("fail", call, code)
        if held.state() == "restoring" or seen:
            seen.append((held.state(), state(held.host)))
        if len(seen) == 10:
            held.host.sim("fail", call, "off")
        return held.state() == "free"

    held.until(over, 200)
    assert seen[:10] == [("restoring", AT_SAFE_STATE)] * 10
    assert seen[-1] == ("free", AS_PLANNED)


def test_a_lock_that_the_card_does_not_take_keeps_no_card_held(held: Run):
    held.host.sim("fail", "nvmlDeviceSetGpuLockedClocks", 999)
    held.until(lambda: held.state() == "free", 200)
    assert (held.state(), state(held.host)) == ("free", (PLANNED_MW, None))
    assert f"{LOCK} 2100-2400 refused" in held.lines[-1]


def test_a_wish_without_a_guard_ends_the_hold(held: Run):
    held.host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400))
    assert held.host.run("apply", "--section", "gpu").code == 0
    assert (held.state(), state(held.host)) == ("free", AS_PLANNED)


def test_a_revert_ends_the_hold(held: Run):
    assert held.host.run("revert", "--section", "gpu", "--check").code == 0
    assert held.state() == "latched"
    assert held.host.run("revert", "--section", "gpu").code == 0
    assert (held.state(), state(held.host)) == ("free", (480000, None))
    assert held.host.run("apply", "--section", "gpu").code == 0
    held.for_s(5)
    assert state(held.host) == AS_PLANNED
