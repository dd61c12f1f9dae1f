"""Dividing a card that a guard watches: no client of its driver is left while its mode is set, not even ours."""

from __future__ import annotations

import dataclasses
import os

import pytest

from inferhost.host.record.base_units import GUARD
from inferhost.schema.plan import BASE, File
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.test_host_mig import A100, A100_UUID, GPU, HALVES, MIG, card_plan


@pytest.fixture
def a100(host: FakeHost) -> FakeHost:
    """A card that is to be divided, on a host that systemd runs, under a guard."""
    host.sim("init", A100)
    host.sim("set", "persistence", 1)
    host.at("/run/systemd/system").mkdir(parents=True)
    unit = File(f"/etc/systemd/system/{GUARD}", BASE, "0644", None, GUARD, "none")
    host.plan = dataclasses.replace(card_plan("20B5", mig=HALVES), files=(unit,))
    assert host.run("install").code == 0
    assert host.own_units[GUARD]["active"]
    return host


@pytest.mark.parametrize("fails", [False, True], ids=["taken", "in use"])
def test_the_guard_is_no_client_of_a_card_that_is_reset_and_goes_on_after_it(a100: FakeHost, fails: bool):
    order: list[str] = []
    if fails:
        a100.sim("fail", "nvmlDeviceSetMigMode", 19)
    answer = a100.run("apply", *GPU, before_write=order.append)
    stop, mode, start = (
        f"systemctl stop -- {GUARD}",
        f"nvml {A100_UUID} mig_mode on",
        f"systemctl start --no-block -- {GUARD}",
    )
    assert [step for step in order if step in (stop, mode, start)] == [stop, mode, start]
    assert a100.own_units[GUARD]["active"]
    assert answer.verdict(MIG)[0] == ("refused" if fails else "held")
    assert fails == any("nvidia-dcgm" in problem["hint"] for problem in answer.problems)
    if not fails:
        assert not any("systemctl" in step for step in steps(a100))


def steps(host: FakeHost) -> list[str]:
    """What a further apply does."""
    order: list[str] = []
    assert host.run("apply", *GPU, before_write=order.append).code == 0
    return order


def test_a_guard_that_gives_a_card_back_does_not_stop_itself(a100: FakeHost, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    monkeypatch.setattr("inferhost.host.gpu.mig._main_pid", lambda _: str(os.getpid()))
    assert a100.run("apply", *GPU, before_write=order.append).code == 0
    assert f"systemctl stop -- {GUARD}" not in order
