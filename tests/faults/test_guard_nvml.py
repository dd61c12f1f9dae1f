"""The guard while NVML fails: every function that it calls, with every error code that it can return.

It never ends, never turns faster, never fills the journal; what it could not do it does as soon as NVML answers. The
functions are those that an undisturbed guard is seen to call through a trip, a hold and a release.
"""

from __future__ import annotations

from typing import Any

import pytest

from inferhost.host.gpu.nvml import MEANINGS, Nvml
from inferhost.host.guard import daemon
from inferhost.host.guard.card import BLIND_S, RETRY_S
from tests.faults import cells
from tests.faults.codes import CODES, FEW
from tests.faults.test_every_code import MATRIX
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.simulated import UUID
from tests.unit.host.test_host_guard import BURNING, LOCK, PLANNED_MW, ROOM, RULE, SAFE_MW, Run, made_hot, with_gpu

NOT_THERE = {9, 12, 15, 18, 28}
"""No driver, a card that is lost or not found: written here too, because a code too many would leave a card hot."""
UNSUPPORTED = {code for code, (_, verdict, _) in MEANINGS.items() if verdict == "unsupported"}
READS_DRAW = "nvmlDeviceGetPowerUsage"
READS_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
SPAN_S = 3.0
JOURNAL_LINES_MOST = 8
EXPORTED = {
    "nvmlInit": "nvmlInitWithFlags",
    "nvmlDeviceGetCount": "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex": "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetPciInfo": "nvmlDeviceGetPciInfo_v3",
}
"""The binding's name, and the library's where that is another one. Source: nvidia-ml-py 13.615.71, pynvml.py."""


def called(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of an undisturbed trip, hold and release, by the library's names."""
    names: set[str] = set()
    real = Nvml.call

    def call(nvml: Nvml, function: str, *arguments: Any) -> Any:
        names.add(EXPORTED.get(function, function))
        return real(nvml, function, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Nvml, "call", call)
        run = Run(host, monkeypatch)
        run.until(lambda: run.state() == "latched")
        run.for_s(12)
        host.sim("set", "ambient_celsius", ROOM - 20)
        run.until(lambda: run.state() == "free")
    return sorted(names)


def again(host: FakeHost) -> None:
    """The host as it was before a trip: applied, loaded, and about to be too hot."""
    for record in ("guard.json", "clocks.json"):
        host.at(f"/run/inferhost/{record}").unlink(missing_ok=True)
    host.sim("init", host.folder / "personality.txt")
    host.sim("set", "persistence", 1)
    host.sim("load", "on")
    host.sim("set", "ambient_celsius", BURNING)
    assert host.run("apply", "--section", "gpu").code == 0
    host.sim("advance", 78)
    assert (host.card()["power_limit_mw"], host.card()[LOCK]) == (PLANNED_MW, [2100, 2400])


def test_every_call_with_every_code(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE))
    functions = called(host, monkeypatch)
    assert {"nvmlInitWithFlags", *READS_TEMPERATURE[:1], "nvmlDeviceSetPowerManagementLimit"} < set(functions)
    for function in functions:
        for code in CODES if cells.SLOW else (*FEW, 999):
            again(host)
            wrong = survived(Run(host, monkeypatch), function, code)
            assert not cells.judged(MATRIX.format("guard"), wrong), wrong


def survived(run: Run, function: str, code: int) -> list[str]:
    """What is wrong with a guard that meets the error for a while, then no more."""
    host, where = run.host, f"{function} with {code}"
    host.sim("fail", function, code)
    began_s, turns = host.passed_s, len(run.told)
    span_s = SPAN_S + BLIND_S

    def heals() -> bool:
        if host.passed_s - began_s >= span_s:
            host.sim("fail", function, "off")
        return run.state() == "latched" and host.passed_s - began_s >= span_s + 6

    run.until(heals, span_s + 30)
    kept = function == READS_DRAW and any("clock lock kept" in line for line in run.lines)
    lock = [2100, 2400] if kept else None
    found = {
        "it turns too fast": len(run.told) - turns <= (host.passed_s - began_s) / daemon.PERIOD_S + 3,
        "it fills the journal": len(run.lines) <= JOURNAL_LINES_MOST,
        "the card is not held": run.state() == "latched",
        "the card is not at its safe state": (host.card()["power_limit_mw"], host.card()[LOCK]) == (SAFE_MW, lock),
    }
    return [f"{where}: {what}: {run.lines}" for what, is_right in found.items() if not is_right]


@pytest.mark.parametrize("code", sorted(set(MEANINGS) - NOT_THERE - UNSUPPORTED))
def test_a_card_that_does_not_say_how_hot_it_is_counts_as_hot(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, code: int
):
    made_hot(host, with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE)).sim("set", "ambient_celsius", ROOM)
    for function in READS_TEMPERATURE:
        host.sim("fail", function, code)
    run = Run(host, monkeypatch)
    run.for_s(BLIND_S - 1)
    assert run.state() == "free"
    run.for_s(BLIND_S + 2)
    assert run.state() == "latched"
    assert any("no temperature for 5 s" in line for line in run.lines)
    assert host.card()["power_limit_mw"] == SAFE_MW


@pytest.mark.parametrize("code", sorted(NOT_THERE))
def test_a_card_that_is_gone_is_waited_for_and_not_written_to(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, code: int
):
    made_hot(host, with_gpu(guard=RULE)).sim("set", "ambient_celsius", ROOM)
    for function in READS_TEMPERATURE:
        host.sim("fail", function, code)
    opened: list[float] = []
    real = daemon.open_nvml
    monkeypatch.setattr(daemon, "open_nvml", lambda before_write: opened.append(host.passed_s) or real(before_write))
    run = Run(host, monkeypatch)
    run.for_s(30)
    assert 2 <= len(opened) <= 30 / RETRY_S + 2
    assert run.state() == "free"
    assert host.card()["power_limit_mw"] == PLANNED_MW
    assert len(run.lines) == 1


def test_a_driver_that_comes_back_without_our_limit_is_brought_down_again(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    made_hot(host, with_gpu(guard=RULE))
    run = Run(host, monkeypatch)
    run.until(lambda: run.state() == "latched")
    host.sim("fail", "nvmlInitWithFlags", 9)
    run.for_s(20)
    host.sim("set", "power_limit_mw", 600000)  # what a driver reload leaves
    host.sim("fail", "nvmlInitWithFlags", "off")
    run.for_s(10)
    assert host.card()["power_limit_mw"] == SAFE_MW
    assert [UUID in line for line in run.lines] == [True, False, True]
