"""Idle states: those that take too long to wake up are off, switch by switch, and every switch goes back."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from inferhost.schema.plan import Cpu
from tests.unit.host.fake_host import FakeHost, own_units, plan

ROOT = "/sys/devices/system/cpu"
STATES = {"POLL": 0, "C1": 2, "C1E": 10, "C6": 133}
CPU = ("--section", "cpu")


@pytest.fixture
def idle(host: FakeHost) -> FakeHost:
    """Two CPUs with the idle states of a Skylake server; somebody switched C1E of one off."""
    for cpu in range(2):
        for number, (name, latency) in enumerate(STATES.items()):
            folder = f"{ROOT}/cpu{cpu}/cpuidle/state{number}"
            host.write(f"{folder}/name", f"{name}\n")
            host.write(f"{folder}/latency", f"{latency}\n")
            host.write(f"{folder}/disable", "0\n")
    host.write(f"{ROOT}/cpu1/cpuidle/state2/disable", "1\n")
    host.plan = limited(10)
    return host


def limited(latency_us: int | None) -> Any:
    return plan(
        manage=("cpu",), cpu=Cpu(None, None, latency_us), sysctl={}, files=own_units(), dropins=(), service=()
    )


def switches(host: FakeHost) -> list[str]:
    """`disable` of every state, CPU by CPU."""
    return [
        "".join(host.read(f"{ROOT}/cpu{cpu}/cpuidle/state{n}/disable").strip() for n in range(len(STATES)))
        for cpu in range(2)
    ]


def test_states_within_the_limit_are_on_and_deeper_ones_off(idle: FakeHost):
    assert idle.run("install").code == 0
    foretold = idle.run("apply", *CPU, "--check")
    assert switches(idle) == ["0000", "0010"]
    answer = idle.run("apply", *CPU)
    assert (answer.code, answer.said) == (0, foretold.said)
    assert switches(idle) == ["0001", "0001"]
    assert answer.verdict("idle_state.C6") == ("held", "none")
    assert "on 2 CPUs" in answer.evidence("idle_state.C6")
    assert idle.run("apply", *CPU).said == (False, [])


def test_a_switch_that_somebody_moved_names_who_moves_such_switches(idle: FakeHost):
    assert idle.run("install").code == idle.run("apply", *CPU).code == 0
    idle.write("/etc/rc.local", "cpupower idle-set -E\n")
    for cpu in range(2):
        idle.write(f"{ROOT}/cpu{cpu}/cpuidle/state3/disable", "0\n")
    answer = idle.run("verify", *CPU)
    assert (answer.code, answer.verdict("idle_state.C6")) == (3, ("overridden", "other_writer"))
    assert answer.evidence("idle_state.C6").endswith("it is written by /etc/rc.local")
    assert "rc.local" not in answer.evidence("idle_state.C1")


def test_a_state_that_tells_no_latency_or_has_no_switch_is_left_alone(idle: FakeHost):
    idle.at(f"{ROOT}/cpu0/cpuidle/state3/latency").unlink()
    idle.at(f"{ROOT}/cpu1/cpuidle/state3/disable").unlink()
    assert idle.run("install").code == 0
    answer = idle.run("apply", *CPU)
    assert (answer.code, answer.verdict("idle_state.C6")) == (0, ("unsupported", "no_interface"))
    assert idle.read(f"{ROOT}/cpu0/cpuidle/state3/disable").strip() == "0"


def test_a_wider_limit_switches_states_on_again(idle: FakeHost):
    assert idle.run("install").code == idle.run("apply", *CPU).code == 0
    idle.plan = limited(200)
    assert idle.run("apply", *CPU).code == 0
    assert switches(idle) == ["0000", "0000"]


def test_every_switch_goes_back_to_where_it_was(idle: FakeHost):
    assert idle.run("install").code == idle.run("apply", *CPU).code == 0
    assert idle.run("revert", "--check").code == 0
    assert switches(idle) == ["0001", "0001"]
    assert idle.run("revert").code == 0
    assert switches(idle) == ["0000", "0010"]
    assert not idle.at("/var/lib/inferhost/baseline.json").exists()


def test_a_boot_switches_them_off_again(idle: FakeHost):
    assert idle.run("install").code == idle.run("apply", *CPU).code == 0
    for cpu in range(2):
        idle.write(f"{ROOT}/cpu{cpu}/cpuidle/state3/disable", "0\n")
    answer = idle.run("verify", *CPU)
    assert (answer.code, answer.verdict("idle_state.C6")) == (3, ("overridden", "other_writer"))
    assert idle.run("boot").code == 0
    assert switches(idle) == ["0001", "0001"]


def test_beside_tuned_nothing_is_written(idle: FakeHost):
    idle.write("/usr/lib/systemd/system/tuned.service", "")
    idle.others["tuned.service"] = {"active": True, "enabled": True}
    assert idle.run("install").code == 0
    answer = idle.run("apply", *CPU)
    assert (answer.code, switches(idle)) == (3, ["0000", "0010"])
    assert answer.verdict("idle_state.C6") == ("refused", "other_writer")
    assert "TuneD (tuned.service) writes it: stop and disable it" in answer.evidence("idle_state.C6")
    assert any("TuneD" in note and "idle_latency_us" in note for note in idle.run("install").document["notes"])


@pytest.mark.parametrize(("flags", "cause"), [("fpu hypervisor", "hypervisor"), ("fpu", "no_interface")])
def test_a_kernel_without_idle_states_is_told_with_its_cause(host: FakeHost, flags: str, cause: str):
    host.write("/proc/cpuinfo", f"flags\t\t: {flags}\n")
    host.plan = limited(10)
    assert host.run("install").code == 0
    answer = host.run("apply", *CPU)
    assert (answer.code, answer.verdict("cpu.idle_latency_us")) == (0, ("unsupported", cause))
    assert not [key for key in host.baseline() if key.startswith("cpuidle:")]


def test_an_offline_cpu_keeps_its_switches_on_record(idle: FakeHost):
    before = switches(idle)
    assert idle.run("install").code == idle.run("apply", *CPU).code == 0
    folder = idle.at(f"{ROOT}/cpu1/cpuidle")
    away = folder.rename(folder.parent / "away")
    answer = idle.run("revert", *CPU)
    assert (answer.code, {p["id"] for p in answer.problems}) == (8, {"cpu-offline"})
    away.rename(folder)
    assert idle.run("revert", *CPU).code == 0
    assert switches(idle) == before


def test_a_kernel_without_idle_states_has_no_switch_to_put_back(idle: FakeHost):
    assert idle.run("install").code == idle.run("apply", *CPU).code == 0
    for cpu in range(2):  # the same disk, now in a guest
        shutil.rmtree(idle.at(f"{ROOT}/cpu{cpu}/cpuidle"))
    answer = idle.run("revert", *CPU)
    assert (answer.code, [key for key in idle.baseline() if key.startswith("cpuidle:")]) == (0, [])


def test_an_idle_state_that_is_gone_is_told_and_forgotten(idle: FakeHost):
    assert idle.run("install").code == idle.run("apply", *CPU).code == 0
    for name in ("disable", "name", "latency"):
        idle.at(f"{ROOT}/cpu1/cpuidle/state3/{name}").unlink()
    answer = idle.run("revert")
    assert answer.code == 0
    assert "cpu 1: has no idle state 3 now; its switch was 0" in answer.prose
    assert switches_of_first(idle) == "0000"
    assert not idle.at("/var/lib/inferhost/baseline.json").exists()


@pytest.mark.parametrize("applied", [True, False], ids=["applied at boot", "not applied"])
def test_a_switch_of_another_state_with_the_same_number_is_not_put_back(idle: FakeHost, applied: bool):
    assert idle.run("install").code == idle.run("apply", *CPU).code == 0
    for cpu in range(2):  # the next boot has another driver, with a quick third state and all of them on
        for number, latency in enumerate((0, 2, 5, 200)):
            idle.write(f"{ROOT}/cpu{cpu}/cpuidle/state{number}/latency", f"{latency}\n")
            idle.write(f"{ROOT}/cpu{cpu}/cpuidle/state{number}/disable", "0\n")
        idle.write(f"{ROOT}/cpu{cpu}/cpuidle/state2/name", "C2_ACPI\n")
    if applied:
        assert idle.run("boot").code == 0
        assert switches(idle) == ["0001", "0001"]
    answer = idle.run("revert", *CPU)
    assert answer.code == 0
    assert ("the switch on record was of C1E, which had this number then" in answer.prose) is not applied
    assert switches(idle) == ["0000", "0000"]
    assert [key for key in idle.baseline() if key.startswith("cpuidle:")] == []


def test_a_plan_that_came_since_is_recorded_before_it_is_written(idle: FakeHost):
    idle.plan = limited(None)
    assert idle.run("install").code == 0
    idle.plan = limited(10)
    assert idle.run("apply", *CPU).code == 0
    assert switches(idle) == ["0001", "0001"]
    assert idle.run("revert").code == 0
    assert switches(idle) == ["0000", "0010"]


def switches_of_first(host: FakeHost) -> str:
    return "".join(host.read(f"{ROOT}/cpu0/cpuidle/state{n}/disable").strip() for n in range(len(STATES)))


def test_switches_that_cannot_be_written_are_unsupported_and_only_forgotten(
    idle: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    from inferhost.host.machine import Machine

    monkeypatch.setattr(Machine, "writable", lambda *_: False)
    assert idle.run("install").code == 0
    answer = idle.run("apply", *CPU)
    assert (answer.code, switches(idle)) == (0, ["0000", "0010"])
    assert answer.verdict("idle_state.C6") == ("unsupported", "read_only")
    assert idle.run("revert").code == 0


def test_what_the_plan_leaves_alone_is_not_recorded(idle: FakeHost):
    idle.plan = limited(None)
    assert idle.run("install").code == 0
    answer = idle.run("apply", *CPU)
    assert (answer.code, switches(idle)) == (0, ["0000", "0010"])
    assert not [v for v in answer.document["verdicts"] if "idle" in v["setting"]]
