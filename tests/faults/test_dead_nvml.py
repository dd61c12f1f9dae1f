"""NVML that dies at its n-th call, n = 1, 2, ... as often as a run makes calls: told, never a traceback, and healed.

The simulator counts the calls; none of them is listed here. Of a run that samples, both ends are tried whole and the
middle, which repeats itself, in steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from inferhost.host.gpu.nvml import Nvml, NvmlError
from tests.faults.test_every_write import comparable
from tests.unit.host.fake_host import FakeHost, with_gpu
from tests.unit.host.simulated import UUID

LOCK = "graphics_clock_lock_mhz"
RUNS = {
    "install": ["install"],
    "apply": ["apply", "--section", "gpu"],
    "verify": ["verify", "--section", "gpu"],
    "under load": ["verify", "--section", "gpu", "--under-load", "--seconds", "4"],
    "sample": ["sample", "--seconds", "0.4"],
    "revert": ["revert"],
}
WHOLE = 60
STRIDE = 23  # between its ends a long run repeats the same few calls: a step without common factor meets all of them
UNSUPPORTED = 3
SAYS_SO = {2, 3, 4, 7, 8}
FAILURES = [(999, "once"), (15, "forever"), (9, "forever"), (3, "once")]

SLOT = (
    "nvmlDeviceGetBAR1MemoryInfo",
    "nvmlDeviceGetCurrPcieLinkGeneration",
    "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetGpuMaxPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkWidth",
)


def prepared(host: FakeHost, run: str) -> None:
    """The same host before every attempt: reverted, and then brought to where the run starts."""
    host.sim("fail-nth", "off")
    assert host.run("revert").code == 0
    host.sim("init", host.folder / "personality.txt")
    host.sim("set", "power_limit_mw", 480000)
    host.sim("set", "persistence", 1)
    host.sim("load", "on")
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    if run != "install":
        assert host.run("install").code == 0
        host.place()
    if run not in ("install", "apply"):
        assert host.run("apply").code == 0


def calls(host: FakeHost, run: str) -> int:
    """How many NVML calls an undisturbed run makes."""
    prepared(host, run)
    host.sim("fail-nth", 1000000, 999)
    assert host.run(*RUNS[run]).code == 0
    count = int(json.loads(host.sim("dump", "--all"))["fail_nth"]["calls"])
    assert count > 10
    return count


def numbers(count: int) -> list[int]:
    """The calls to fail at."""
    if count <= WHOLE:
        return list(range(1, count + 1))
    return sorted({*range(1, WHOLE // 2), *range(1, count, STRIDE), *range(count - WHOLE // 4, count + 1)})


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The NVML functions that fail while a test runs, in order."""
    names: list[str] = []
    real: Callable[..., Any] = Nvml.call

    def call(nvml: Nvml, function: str, *arguments: Any) -> Any:
        try:
            return real(nvml, function, *arguments)
        except NvmlError:
            names.append(function)
            raise

    monkeypatch.setattr(Nvml, "call", call)
    return names


@pytest.mark.parametrize(("code", "how"), FAILURES, ids=[f"{c} {h}" for c, h in FAILURES])
@pytest.mark.parametrize("run", RUNS)
def test_nvml_that_dies_at_any_call_is_told_and_nothing_stays_half_done(
    host: FakeHost, failed: list[str], run: str, code: int, how: str
):
    count = calls(host, run)
    for number in numbers(count):
        prepared(host, run)
        bare = comparable(host.snapshot())
        host.sim("fail-nth", number, code, how)
        failed.clear()
        answer = host.run(*RUNS[run])
        where = f"{run}: call {number} of {count}, {failed}: {answer.prose}"
        assert failed, where
        assert answer.code in {0, *SAYS_SO}, where
        # Nobody misses the answer to a farewell, nor what the slot gives: remarks, which are made without it.
        if code != UNSUPPORTED and not {*failed} <= {"nvmlShutdown", *SLOT}:
            assert f"NVML error {code}" in answer.prose, where
        assert_nothing_held_that_is_not(host, answer, where)
        host.sim("fail-nth", "off")
        if run in ("verify", "sample"):
            assert comparable(host.snapshot()) == bare, where
        if run in ("install", "apply"):
            assert host.run("install").code == 0, where
            host.place()
            assert host.run("apply").code == 0, where
            assert host.card()["graphics_clock_lock_mhz"] == [2100, 2100], where
            assert host.baseline()[f"gpu:{UUID}:power_limit_mw"]["found"] == 480000, where
        assert host.run("revert").code == 0, where
        assert (host.card()["graphics_clock_lock_mhz"], host.card()["power_limit_mw"]) == (None, 480000), where
        assert not host.at("/run/inferhost").exists(), where


def assert_nothing_held_that_is_not(host: FakeHost, answer, where: str) -> None:
    for verdict in answer.document["verdicts"]:
        if verdict["verdict"] == "held" and verdict["setting"].endswith("power_limit_w"):
            assert host.card()["power_limit_mw"] == verdict["wanted"] * 1000, where
        if verdict["verdict"] == "held" and verdict["setting"].endswith(LOCK):
            assert "under load" in verdict["evidence"], where
            assert host.card()[LOCK] == [2100, 2100], where
