"""A guard that cannot do everything: it does the rest, says what it could not, and nothing is lost by it."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.guard import daemon
from inferhost.host.guard.card import AGAIN_S, GuardedCard
from inferhost.host.guard.latch import LATCHED, UNIT, read_latches
from inferhost.schema.plan import BASE, File, GpuSelector, Host
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID
from tests.unit.host.test_host_guard import LOCK, PLANNED_MW, ROOM, RULE, SAFE_MW, Run, made_hot

LOCKED = with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)
UNLOCK, UNLOCK_MEMORY = "nvmlDeviceResetGpuLockedClocks", "nvmlDeviceResetMemoryLockedClocks"
POWER_CALLS = tuple(
    f"nvmlDevice{name}"
    for name in (
        "GetPowerManagementLimit",
        "GetPowerManagementLimitConstraints",
        "GetPowerManagementDefaultLimit",
        "SetPowerManagementLimit",
    )
)
"""What a laptop's card and a vGPU answer with NotSupported."""


@pytest.mark.parametrize("calls", [POWER_CALLS, POWER_CALLS[-1:]], ids=["no limit", "not to be set"])
def test_a_card_whose_power_nobody_can_lower_keeps_the_lock_that_may_keep_it_cool(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...]
):
    for function in calls:
        host.sim("fail", function, 3)
    low = with_gpu(power_limit_w=None if len(calls) == 1 else 450, graphics_clock_lock_mhz=(1200, 1200), guard=RULE)
    hot = made_hot(host, low)
    hot.sim("set", "ambient_celsius", 75)
    run = Run(hot, monkeypatch)
    run.for_s(150)
    assert hot.card()[LOCK] == [1200, 1200]
    assert run.state() == "latched"
    assert "power NOT lowered" in run.lines[0]
    assert "clock lock kept" in run.lines[0]
    assert ["NOT brought down" in line for line in run.lines] == [False, True]
    told = hot.run("status").document["facts"]["guard"][UUID]
    assert told["state"] == "latched"
    assert "clock lock kept" in told["not_brought_down"]
    hot.sim("set", "ambient_celsius", ROOM - 20)
    run.until(lambda: run.state() == "free", 200)
    assert hot.card()[LOCK] == [1200, 1200]


@pytest.mark.parametrize("verb", ["install", "apply"])
def test_a_guard_that_cannot_lower_the_power_is_told_before_it_is_needed(host: FakeHost, verb: str):
    host.plan = LOCKED
    said = f"{UUID}: the guard cannot lower its power, it can only say how hot it is"
    host.run("install")
    assert said not in host.run(verb).prose
    for function in POWER_CALLS:
        host.sim("fail", function, 3)
    assert said in host.run(verb).prose


def test_a_limit_whose_original_is_not_on_record_is_not_lowered(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    run = Run(
        made_hot(host, with_gpu(power_limit_w=None, graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch
    )
    tried: list[float] = []
    real = GuardedCard.make_safe
    monkeypatch.setattr(GuardedCard, "make_safe", lambda card: tried.append(host.passed_s) or real(card))
    run.until(lambda: bool(tried) and host.passed_s > tried[0] + 15, 150)
    assert len(tried) == 1  # no other try could end otherwise
    assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (480000, [2100, 2400])
    assert "power NOT lowered (its original is not on record)" in run.lines[0]
    assert not any("was raised" in line for line in run.lines)


@pytest.mark.parametrize("code", [999, 3])
def test_a_lock_that_could_not_be_taken_back_is_told_and_not_forgotten(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, code: int
):
    hot = made_hot(host, LOCKED)
    hot.sim("fail", UNLOCK, code)
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched", 150)
    assert f"power 450 -> 150 W, clocks NOT unlocked ({LOCK})" in run.lines[-1]
    assert "keeps trying" in run.lines[0]
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (SAFE_MW, [2100, 2400])
    assert read_latches(run.machine)[UUID].unlocked_s is None
    run.stop()
    hot.sim("fail", UNLOCK, "off")
    hot.plan = with_gpu()
    answer = hot.run("apply", "--section", "gpu")
    assert answer.verdict(LOCK) == ("unverified", "no_interface")
    assert (hot.card()["power_limit_mw"], hot.card()[LOCK]) == (PLANNED_MW, None)


def test_a_lock_that_could_not_be_taken_back_is_tried_again_soon(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    hot = made_hot(host, LOCKED)
    hot.sim("fail", UNLOCK, 999)
    run = Run(hot, monkeypatch)
    held_s: list[float] = []

    def heals() -> bool:
        held_s.extend([hot.passed_s] * (run.state() == LATCHED))
        if held_s and hot.passed_s - held_s[0] >= 2 * AGAIN_S:
            hot.sim("fail", UNLOCK, "off")
        return bool(held_s) and hot.passed_s - held_s[0] >= 4 * AGAIN_S

    run.until(heals, 150)
    assert hot.card()[LOCK] is None


def test_a_lock_that_went_while_another_did_not_is_asked_for_again(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    wanted = with_gpu(graphics_clock_lock_mhz=(2100, 2400), memory_clock_lock_mhz=(7001, 7001), guard=RULE)
    hot = made_hot(host, wanted)
    hot.sim("fail", UNLOCK_MEMORY, 999)
    run = Run(hot, monkeypatch)
    run.until(lambda: run.state() == "latched", 150)
    assert (hot.card()[LOCK], hot.card()["memory_clock_lock_mhz"]) == (None, [7001, 7001])
    run.stop()
    hot.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400), memory_clock_lock_mhz=(7001, 7001))
    answer = hot.run("apply", "--section", "gpu")
    assert hot.card()[LOCK] == [2100, 2400]
    assert "began to take it back" in answer.evidence(LOCK)


def test_what_others_locked_stays_because_nobody_could_lock_it_again(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.sim("set", "memory_clock_lock_mhz", "13365,13365")
    run = Run(made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)), monkeypatch)
    run.until(lambda: run.state() == "latched", 200)
    run.for_s(15)
    assert (host.card()[LOCK], host.card()["memory_clock_lock_mhz"]) == (None, [13365, 13365])


def left_behind(host: FakeHost, run: Run) -> None:
    """An applied card, a stop that took too long, and nobody after it."""
    assert host.run("apply", "--section", "gpu").code == 0
    daemon.after_the_end(run.machine, host.plan, "timeout", run.lines.append)


def test_a_latch_without_a_guard_names_the_way_out(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.at("/run/systemd/system").mkdir(parents=True)
    unit = File(f"/etc/systemd/system/{UNIT}", BASE, "0644", None, UNIT, "none")
    host.plan = plan(gpus=LOCKED.gpus, files=(*plan().files, unit))
    assert host.run("install").code == 0
    run = Run(host, monkeypatch)
    left_behind(host, run)
    assert "it lets go by itself" in host.run("apply", "--section", "gpu").evidence("power_limit_w")
    host.own_units[UNIT]["active"] = False
    answer = host.run("apply", "--section", "gpu")
    assert answer.verdict("power_limit_w") == ("overridden", "thermal")
    assert f"no guard runs that could let it go, so: systemctl start {UNIT}" in answer.evidence("power_limit_w")
    run.until(lambda: run.state() == "free", 60)
    assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (PLANNED_MW, [2100, 2400])


def test_a_guard_that_died_while_it_held_a_card_brings_it_down_once_more(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    host.plan = LOCKED
    host.run("install")
    run = Run(host, monkeypatch)
    left_behind(host, run)
    host.sim("set", "power_limit_mw", 600000)
    daemon.after_the_end(run.machine, host.plan, "signal", run.lines.append)
    assert host.card()["power_limit_mw"] == SAFE_MW


def test_a_card_that_leaves_the_bus_does_not_give_its_neighbour_its_rule(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    """The record has both by UUID, the plan of now by number: only what the guard saw first tells them apart."""
    select = pair.plan.gpus[0].select
    cards = [dataclasses.replace(LOCKED.gpus[0], select=GpuSelector(uuid, "2BB1", 0)) for uuid in (UUID, SECOND_UUID)]
    made_hot(pair, plan(gpus=tuple(cards))).sim("set", "ambient_celsius", ROOM, "--gpu", 1)
    numbers = [dataclasses.replace(select, ordinal=number) for number in range(2)]
    pair.plan = plan(
        gpus=tuple(dataclasses.replace(card, select=one) for card, one in zip(cards, numbers))  # noqa: B905 (Python 3.9)
    )
    shared, _, second = (pair.folder / "personality.txt").read_text().split("[gpu]")
    run = Run(pair, monkeypatch)
    seen: list[float] = []

    def leaves() -> bool:
        if len(run.told) == 10 and not seen:
            seen.append(pair.passed_s)
            (pair.folder / "personality.txt").write_text(f"{shared}[gpu]{second}")
            pair.sim("init", pair.folder / "personality.txt")
        return False

    run.until(leaves, 30)
    assert [line.partition(" ")[0] for line in run.lines if "is not there" in line] == ["gpus[0]"]


def test_a_plan_for_real_cards_guards_no_simulated_one(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    hot = made_hot(host, LOCKED)
    hot.sim("advance", 120)
    hot.plan = dataclasses.replace(hot.plan, host=Host("box", False))
    run = Run(hot, monkeypatch)
    run.for_s(3)
    assert (hot.card()["power_limit_mw"], run.state()) == (PLANNED_MW, "free")
    assert ["nothing is guarded" in line for line in run.lines] == [True]


def test_a_plan_without_a_guard_lets_go(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.plan = LOCKED
    host.run("install")
    run = Run(host, monkeypatch)
    left_behind(host, run)
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400))
    assert host.run("apply", "--section", "gpu", "--check").code == 0
    assert run.state() == LATCHED
    assert host.run("apply", "--section", "gpu").code == 0
    assert run.state() == "free"


def test_a_card_that_has_no_temperature_is_not_held_by_the_end_of_a_guard(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    host.plan = LOCKED
    host.run("install")
    for function in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):
        host.sim("fail", function, 3)
    run = Run(host, monkeypatch)
    left_behind(host, run)
    assert run.state() == "free"
    assert host.card()["power_limit_mw"] == PLANNED_MW


def test_a_card_whose_temperature_call_fails_is_held_by_the_end_of_a_guard(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    host.plan = LOCKED
    host.run("install")
    host.sim("fail", "nvmlDeviceGetTemperatureV", 999)
    run = Run(host, monkeypatch)
    left_behind(host, run)
    assert run.state() == LATCHED
    assert host.card()["power_limit_mw"] == SAFE_MW


def test_a_held_card_that_tells_no_temperature_any_more_stays_held_and_is_told(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    run = Run(made_hot(host, LOCKED), monkeypatch)
    run.until(lambda: run.state() == LATCHED, 150)
    for function in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):
        host.sim("fail", function, 3)
    host.sim("set", "power_limit_mw", 600000)
    run.for_s(5)
    assert host.card()["power_limit_mw"] == SAFE_MW
    assert any("it is held until it has one again, or a plan without a guard is applied" in x for x in run.lines)


def test_a_driver_that_knows_another_version_of_the_temperature_call_is_asked_by_the_old_name(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    host.plan = LOCKED
    host.run("install")
    host.run("apply", "--section", "gpu")
    host.sim("fail", "nvmlDeviceGetTemperatureV", 25)
    run = Run(host, monkeypatch)
    run.for_s(15)
    assert (run.lines, run.state(), host.card()["power_limit_mw"]) == ([], "free", PLANNED_MW)


@pytest.mark.parametrize(
    ("function", "code", "hint"),
    [
        ("nvmlDeviceSetPowerManagementLimit", 2, "it accepts 150 to 600 W"),
        ("nvmlDeviceSetPowerManagementLimit", 4, "as root"),
        ("nvmlDeviceGetPowerManagementLimitConstraints", 15, "or reboot"),
        ("nvmlDeviceSetGpuLockedClocks", 16, "or reboot"),
        ("nvmlInitWithFlags", 999, "NVRM"),
    ],
)
def test_a_failure_of_a_card_says_what_helps(host: FakeHost, function: str, code: int, hint: str):
    host.plan = LOCKED
    host.run("install")
    host.sim("fail", function, code)
    assert hint in host.run("apply", "--section", "gpu").problems[0]["hint"]
