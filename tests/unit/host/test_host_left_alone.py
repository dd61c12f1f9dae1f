"""What the plan leaves alone after it was asked for: apply and verify name it, and a revert puts it back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inferhost.schema.plan import Cpu
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.simulated import SECOND_UUID, UUID

CPU = "/sys/devices/system/cpu/cpu{}"
KEPT = "on record, and left alone by this plan, so that it stays as it is until a revert: "
WHOLE: dict[str, Any] = {
    "gpu": {"compute_mode": "exclusive_process", "graphics_clock_lock_mhz": (2100, 2100)},
    "cpu": Cpu("performance", "performance", 10),
    "sysctl": {"vm.swappiness": "10", "kernel.numa_balancing": "0"},
}


def wished(host: FakeHost, gpu: dict[str, Any], cpu: Cpu, sysctl: dict[str, str]) -> None:
    card = dataclasses.replace(plan().gpus[0], **gpu)
    host.plan = plan(gpus=(card,), cpu=cpu, sysctl=sysctl, manage=("gpu", "cpu"), dropins=(), service=(), env={})
    assert host.run("install").code == 0
    host.place()


@pytest.fixture
def whole(host: FakeHost) -> FakeHost:
    """Everything is asked for."""
    host.write("/proc/sys/kernel/numa_balancing", "1\n")
    for cpu in range(2):
        for number, (name, latency) in enumerate((("POLL", 0), ("C1", 2), ("C6", 133))):
            for file, text in (("name", name), ("latency", latency), ("disable", 0)):
                host.write(f"{CPU.format(cpu)}/cpuidle/state{number}/{file}", f"{text}\n")
    wished(host, **WHOLE)
    assert host.run("apply").code == 0
    return host


def kept(host: FakeHost, verb: str, *arguments: str) -> list[str]:
    notes = [note for note in host.run(verb, *arguments).document["notes"] if note.startswith(KEPT)]
    return notes[0].removeprefix(KEPT).split(", ") if notes else []


def test_of_what_is_asked_for_nothing_is_said(whole: FakeHost):
    assert kept(whole, "apply") == kept(whole, "verify") == []


@pytest.mark.parametrize(
    ("left", "named"),
    [
        ({"gpu": {}}, [f"gpu.{UUID}.compute_mode"]),  # the lock is given back
        ({"gpu": {**WHOLE["gpu"], "power_limit_w": None}}, [f"gpu.{UUID}.power_limit_mw"]),
        ({"gpu": {**WHOLE["gpu"], "persistence_mode": None}}, [f"gpu.{UUID}.persistence_mode"]),
        ({"cpu": Cpu("performance", None, 10)}, []),  # the governor moves it
        ({"cpu": Cpu(None, "performance", 10)}, ["cpu.governor"]),
        ({"cpu": Cpu(None)}, ["cpu.energy_performance_preference", "cpu.governor", "cpu.idle_latency_us"]),
        ({"sysctl": {"vm.swappiness": "10"}}, ["sysctl.kernel.numa_balancing"]),
    ],
)
def test_what_is_left_alone_is_named(whole: FakeHost, left: dict[str, Any], named: list[str]):
    wished(whole, **{**WHOLE, **left})
    assert kept(whole, "apply") == kept(whole, "verify") == named
    assert kept(whole, "verify", "--section", "service") == []
    assert "on record, and left alone" not in whole.run("watch").prose
    assert whole.run("revert", "--section", "gpu", "--section", "cpu").code == 0
    assert kept(whole, "verify") == []


def test_a_record_that_cannot_be_read_is_told_by_others(whole: FakeHost):
    whole.write("/var/lib/inferhost/baseline.json", "{")
    assert whole.run("verify", "--section", "cpu").code == 0


def test_it_is_named_of_the_card_that_it_is_left_alone_on(pair: FakeHost):
    first = dataclasses.replace(plan().gpus[0], compute_mode="exclusive_process")
    second = dataclasses.replace(first, select=dataclasses.replace(first.select, ordinal=1))
    for gpus in ((first, second), (first, dataclasses.replace(second, compute_mode=None))):
        pair.plan = plan(gpus=gpus, manage=("gpu",), files=(), dropins=(), service=(), env={})
        assert [pair.run(verb).code for verb in ("install", "apply")] == [0, 0]
    assert kept(pair, "verify") == [f"gpu.{SECOND_UUID}.compute_mode"]
