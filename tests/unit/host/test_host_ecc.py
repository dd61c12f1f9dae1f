"""Error correction: asked for now, taken up when the card starts next, and put back the same way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.host.fake_host import FakeHost, p4_plan, with_gpu
from tests.unit.host.simulated import P4

ECC = "ecc"
GPU = ("--section", "gpu")


@pytest.fixture
def p4(host: FakeHost) -> FakeHost:
    """A Tesla P4 with its error correction on, as delivered; it is to go off."""
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    host.plan = p4_plan(ecc=False)
    assert host.run("install").code == 0
    return host


def modes(host: FakeHost) -> Any:
    """Current and pending mode."""
    return host.card()["ecc_mode"]


def restart(host: FakeHost) -> None:
    host.sim("reload")
    host.write("/proc/sys/kernel/random/boot_id", "boot-2\n")


def test_a_change_is_asked_for_once_waits_for_the_restart_and_is_held_after_it(p4: FakeHost):
    foretold = p4.run("apply", *GPU, "--check")
    assert modes(p4) == [1, 1]
    answer = p4.run("apply", *GPU)
    assert (answer.code, answer.verdict(ECC)) == (7, ("pending", "needs_reboot"))
    assert answer.said == foretold.said
    assert [(d["before"], d["after"]) for d in answer.document["diff"]] == [("on", "off")]
    assert modes(p4) == [1, 0]
    again = p4.run("apply", *GPU)
    assert (again.code, again.said) == (7, (False, []))
    assert p4.run("verify", *GPU).verdict(ECC) == ("pending", "needs_reboot")
    restart(p4)
    answer = p4.run("verify", *GPU)
    assert answer.verdict(ECC) == ("held", "none")
    assert p4.run("boot").verdict(ECC) == ("held", "none")


def test_a_request_that_somebody_took_back_before_the_restart_is_drift_and_is_made_again(p4: FakeHost):
    p4.run("apply", *GPU)
    p4.sim("set", "ecc_pending", 1)
    answer = p4.run("verify", *GPU)
    assert (answer.code, answer.verdict(ECC)) == (3, ("overridden", "other_writer"))
    p4.run("apply", *GPU)
    assert modes(p4) == [1, 0]


def test_a_request_that_was_accepted_and_is_not_there_is_not_pending(p4: FakeHost):
    p4.sim("fault", "ecc", "accepted_ignored")
    answer = p4.run("apply", *GPU)
    assert (answer.code, answer.verdict(ECC)) == (3, ("ignored", "unexplained"))


@pytest.mark.parametrize("restarted", [False, True], ids=["same boot", "after a restart"])
@pytest.mark.parametrize("asked_before", [1, 0], ids=["nobody asked", "somebody had asked"])
def test_revert_asks_for_what_the_card_was_asked_for_before_us(host: FakeHost, restarted: bool, asked_before: int):
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    host.sim("set", "ecc_pending", asked_before)
    host.plan = p4_plan(ecc=not asked_before)
    assert host.run("install").code == 0
    host.run("apply", *GPU)
    assert modes(host) == [1, 1 - asked_before]
    if restarted:
        restart(host)
    answer = host.run("revert")
    back = not restarted and asked_before == 1  # else the card runs in the other mode until it starts again
    current = 1 - asked_before if restarted else 1
    assert (answer.code, modes(host)) == (0 if back else 7, [current, asked_before])
    assert not host.at("/var/lib/inferhost/baseline.json").exists()


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_it_is_not_changed_under_a_running_program_which_is_named(p4: FakeHost, check):
    p4.sim("load", "on", "--pid", 4711)
    p4.write("/proc/4711/comm", "vllm\n")
    answer = p4.run("apply", *GPU, *check)
    assert (answer.code, answer.verdict(ECC)) == (3, ("refused", "other_writer"))
    assert "process 4711 (vllm); stop them and run again" in answer.evidence(ECC)
    assert modes(p4) == [1, 1]


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_it_is_not_changed_under_a_desktop_which_is_named(p4: FakeHost, check):
    p4.sim("set", "drawing_pid", 900)
    p4.write("/proc/900/comm", "Xorg\n")
    answer = p4.run("apply", *GPU, *check)
    assert (answer.code, answer.verdict(ECC)) == (3, ("refused", "other_writer"))
    assert "process 900 (Xorg) that draws; stop them (a desktop: systemctl isolate" in answer.evidence(ECC)
    assert modes(p4) == [1, 1]


def test_while_it_waits_for_the_restart_nobody_on_the_card_is_blamed(p4: FakeHost):
    p4.run("apply", *GPU)
    p4.sim("load", "on")
    p4.sim("set", "drawing_pid", 900)
    for verb in ("verify", "apply"):
        answer = p4.run(verb, *GPU)
        assert (answer.code, answer.changed, answer.verdict(ECC)) == (7, False, ("pending", "needs_reboot"))


def test_a_card_that_keeps_its_drawing_programs_to_itself_is_changed_all_the_same(p4: FakeHost):
    p4.sim("fail", "nvmlDeviceGetGraphicsRunningProcesses_v3", 3)
    p4.run("apply", *GPU)
    assert modes(p4) == [1, 0]


FUNCTIONS = (
    "nvmlDeviceGetEccMode",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_revert_that_cannot_ask_keeps_the_record(p4: FakeHost, function: str):
    p4.run("apply", *GPU)
    p4.sim("fail", function, 18)  # is told as pending, needs_reboot, as a mode that was put back is
    answer = p4.run("revert")
    assert [key for key in p4.baseline() if key.endswith(":ecc")] != []
    assert answer.verdict(ECC) == ("pending", "needs_reboot")
    p4.sim("fail", function, "off")
    assert p4.run("revert").code == 0
    assert modes(p4) == [1, 1]


def test_a_card_that_has_none_is_unsupported_and_nothing_is_recorded(host: FakeHost):
    host.plan = with_gpu(ecc=True)
    host.sim("fail", "nvmlDeviceGetEccMode", 3)
    host.run("install")
    assert host.run("apply", *GPU).verdict(ECC) == ("unsupported", "no_interface")
    assert [key for key in host.baseline() if key.endswith(":ecc")] == []


def test_without_a_driver_it_waits(p4: FakeHost):
    p4.sim("fail", "nvmlInitWithFlags", 9)
    answer = p4.run("apply", *GPU)
    assert (answer.code, answer.verdict(ECC)) == (7, ("pending", "needs_driver"))
