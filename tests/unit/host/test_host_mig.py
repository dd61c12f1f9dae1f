"""Dividing a card: made at the planned places, read back, lost with the driver, made again, and undone exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from inferhost.host.gpu.nvml import NvmlError, open_nvml
from inferhost.host.gpu.nvml_mig import CardMig
from inferhost.schema.plan import Gpu, GpuSelector, MigInstance, Plan
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.simulated import TESTS

PERSONALITIES = TESTS / "simulator" / "personalities"
A100, H100 = PERSONALITIES / "a100-80gb-pcie.txt", PERSONALITIES / "h100-80gb-hbm3.txt"
A100_UUID = "GPU-5a1b6000-20b5-4000-8000-000000000001"
MIG, LIMIT, LOCK = "mig", "power_limit_w", "graphics_clock_lock_mhz"
GPU = ("--section", "gpu")
HALVES = (MigInstance("3g.40gb", 0, 4), MigInstance("3g.40gb", 4, 4))
MADE = ["3g.40gb@0(0:3)", "3g.40gb@4(0:3)"]
MIG_CALLS = (
    "nvmlDeviceGetMigMode",
    "nvmlDeviceSetMigMode",
    "nvmlDeviceGetGpuInstanceProfileInfo",
    "nvmlDeviceGetGpuInstances",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceGetInfo",
    "nvmlGpuInstanceDestroy",
    "nvmlGpuInstanceGetComputeInstances",
    "nvmlGpuInstanceGetComputeInstanceProfileInfo",
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
    "nvmlComputeInstanceGetInfo",
    "nvmlComputeInstanceDestroy",
)
"""What a card that is to be divided is asked and told."""
SLICE_FILE = "/run/inferhost/slices/main.env"


def card_plan(device: str, **changes: Any) -> Plan:
    card = Gpu("x", "x", GpuSelector(None, device, 0), True, None, None, None)
    one = dataclasses.replace(card, **changes)
    return plan(gpus=(one,), manage=("gpu",), files=(), dropins=(), service=(), env={})


@pytest.fixture
def a100(host: FakeHost) -> FakeHost:
    """A card that keeps its mode and is reset when that changes."""
    host.sim("init", A100)
    host.sim("set", "persistence", 1)
    host.plan = card_plan("20B5", mig=HALVES)
    return host


@pytest.fixture
def h100(host: FakeHost) -> FakeHost:
    """A card that changes its mode without a reset and forgets it with the driver."""
    host.sim("init", H100)
    host.sim("set", "persistence", 1)
    host.plan = card_plan("2330", mig=HALVES)
    return host


def by_hand(work: Callable[[CardMig], None]) -> None:
    """What somebody else does to the first card with nvidia-smi."""
    with open_nvml(lambda _: None) as nvml:
        work(CardMig(nvml, nvml.cards()[0]))


def shared_in_three(mig: CardMig) -> None:
    """An instance with compute instances of one slice each, and one with none."""
    mig.set_mode(True)
    one, other = mig.create(mig.profiles()["3g.40gb"], 4, 4), mig.create(mig.profiles()["1g.10gb"], 0, 1)
    for slice_ in range(3):
        mig.create_compute(one, mig.compute_profiles(one)["1c.3g.40gb"], slice_)
    assert mig.compute_instances(other) == []


def instances(host: FakeHost) -> Any:
    return host.card()["mig_instances"]


def restart(host: FakeHost) -> None:
    host.sim("reload")
    host.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    host.at(SLICE_FILE).unlink(missing_ok=True)


@pytest.mark.parametrize("fixture", ["a100", "h100"])
def test_a_card_is_divided_once_and_read_back(fixture: str, request: pytest.FixtureRequest):
    host = request.getfixturevalue(fixture)
    assert host.run("install").code == 0
    foretold = host.run("apply", *GPU, "--check")
    assert instances(host) == []
    answer = host.run("apply", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (0, ("held", "none"))
    assert answer.said == foretold.said
    assert (instances(host), host.card()["mig_mode"]) == (MADE, [1, 1])
    again = host.run("apply", *GPU)
    assert (again.code, again.said) == (0, (False, []))
    assert host.run("verify", *GPU).verdict(MIG) == ("held", "none")


@pytest.mark.parametrize("fixture", ["a100", "h100"])
def test_instances_lost_with_a_restart_are_told_as_that_and_made_again_at_boot(
    fixture: str, request: pytest.FixtureRequest
):
    host = request.getfixturevalue(fixture)
    assert host.run("install").code == host.run("apply", *GPU).code == 0
    restart(host)
    answer = host.run("verify", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (3, ("overridden", "driver_reload"))
    assert host.run("boot").verdict(MIG) == ("held", "none")
    assert instances(host) == MADE


def test_limit_and_lock_that_a_reset_takes_are_given_to_the_card_in_the_same_run(a100: FakeHost):
    a100.plan = card_plan("20B5", mig=HALVES, power_limit_w=200, graphics_clock_lock_mhz=(1200, 1200))
    assert a100.run("install").code == 0
    undivided = dataclasses.replace(a100.plan.gpus[0], mig=None)
    divided, a100.plan = a100.plan, dataclasses.replace(a100.plan, gpus=(undivided,))
    assert a100.run("apply", *GPU).code == 0
    a100.plan = divided
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict(LIMIT)) == (0, ("held", "none"))
    assert "the card was reset meanwhile" in answer.evidence(LOCK)
    card = a100.card()
    assert (card["power_limit_mw"], card["graphics_clock_lock_mhz"]) == (200_000, [1200, 1200])


def test_a_lock_that_was_asked_for_after_the_reset_is_on_record_with_the_counter_of_after_it(a100: FakeHost):
    a100.wait(900)  # the energy counter counts, and starts again with the reset
    a100.plan = card_plan("20B5", mig=HALVES, graphics_clock_lock_mhz=(1200, 1200))
    assert a100.run("install").code == a100.run("apply", *GPU).code == 0
    assert a100.card()["graphics_clock_lock_mhz"] == [1200, 1200]
    assert a100.run("verify", *GPU).verdict(LOCK) == ("unverified", "needs_load")
    assert a100.run("watch").code == 0


def test_only_what_differs_is_destroyed(a100: FakeHost):
    by_hand(shared_in_three)
    assert a100.run("install").code == 0
    steps: list[str] = []
    assert a100.run("apply", *GPU, before_write=steps.append).code == 0
    touched = [step.partition(" mig_")[2] for step in steps if " mig_" in step]
    assert touched[0] == "destroy 1g.10gb@0:1"
    assert touched[-4:] == [
        "create 3g.40gb@0:4",
        "create 3g.40gb@0 in 3g.40gb@0:4",
        "create 3g.40gb@4:4",
        "create 3g.40gb@0 in 3g.40gb@4:4",
    ]
    a100.plan = card_plan("20B5", mig=(MigInstance("2g.20gb", 0, 2), HALVES[1]))
    steps.clear()
    assert a100.run("apply", *GPU, before_write=steps.append).code == 0
    assert not any("3g.40gb@4" in step for step in steps)
    assert instances(a100) == ["2g.20gb@0(0:2)", "3g.40gb@4(0:3)"]


@pytest.mark.parametrize("before", [None, shared_in_three], ids=["whole before us", "divided by somebody"])
def test_revert_makes_what_was_there_before_us_compute_instances_included(a100: FakeHost, before: Any):
    if before is not None:
        by_hand(before)
    bare = a100.snapshot()
    assert a100.run("install").code == a100.run("apply", *GPU).code == 0
    assert instances(a100) == MADE
    assert a100.run("revert", "--check").code == 0
    assert instances(a100) == MADE
    assert a100.run("revert").code == 0
    assert a100.snapshot() == bare


def test_revert_after_a_restart_makes_what_was_there_as_well(a100: FakeHost):
    by_hand(shared_in_three)
    before = instances(a100)
    assert a100.run("install").code == a100.run("apply", *GPU).code == 0
    restart(a100)
    assert a100.run("revert").code == 0
    assert instances(a100) == before


def test_a_revert_gives_the_limit_back_after_the_reset_that_makes_the_card_whole(a100: FakeHost):
    a100.sim("set", "power_limit_mw", 250_000)
    a100.plan = card_plan("20B5", mig=HALVES, power_limit_w=200)
    assert a100.run("install").code == a100.run("apply", *GPU).code == 0
    assert a100.card()["power_limit_mw"] == 200_000
    assert a100.run("revert").code == 0
    assert (a100.card()["power_limit_mw"], a100.card()["mig_mode"]) == (250_000, [0, 0])


def test_a_whole_card_is_asked_for_by_name(a100: FakeHost):
    by_hand(shared_in_three)
    a100.plan = card_plan("20B5", mig=())
    assert a100.run("install").code == 0
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (0, ("held", "none"))
    assert (a100.card()["mig_mode"], instances(a100)) == ([0, 0], [])
    by_hand(shared_in_three)
    assert a100.run("verify", *GPU).verdict(MIG) == ("overridden", "other_writer")


def test_an_instance_that_somebody_took_away_is_drift(a100: FakeHost):
    assert a100.run("install").code == a100.run("apply", *GPU).code == 0
    by_hand(lambda mig: mig.destroy(mig.instances()[0]))
    answer = a100.run("verify", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (3, ("overridden", "other_writer"))
    assert a100.run("apply", *GPU).code == 0
    assert instances(a100) == MADE


def passed_through(host: FakeHost) -> None:
    """The same card in a virtual machine: only a restart of the machine changes its mode."""
    families = host.folder / "families"
    if not families.exists():
        families.symlink_to(PERSONALITIES / "families")
    text = A100.read_text().replace("virtualization_mode = 0", "virtualization_mode = 1")
    (host.folder / "personality.txt").write_text(text)
    host.sim("init", host.folder / "personality.txt")
    host.sim("set", "persistence", 1)


def test_behind_passthrough_the_mode_waits_for_the_restart_and_the_instances_come_with_the_boot(a100: FakeHost):
    passed_through(a100)
    assert a100.run("install").code == 0
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (7, ("pending", "needs_reboot"))
    assert a100.run("verify", *GPU).verdict(MIG) == ("pending", "needs_reboot")
    assert (a100.card()["mig_mode"], instances(a100)) == ([0, 1], [])
    restart(a100)
    assert a100.run("boot").verdict(MIG) == ("held", "none")
    assert instances(a100) == MADE
    answer = a100.run("revert")
    assert (answer.code, answer.verdict(MIG)) == (7, ("pending", "needs_reboot"))
    assert (a100.card()["mig_mode"], instances(a100)) == ([1, 0], [])
    assert not a100.at("/var/lib/inferhost/baseline.json").exists()


@pytest.mark.parametrize("busy", [["load", "on"], ["set", "drawing_pid", 900]], ids=["computes", "draws"])
def test_while_it_waits_for_the_restart_nobody_on_the_card_is_blamed(a100: FakeHost, busy: list[object]):
    passed_through(a100)
    assert a100.run("install").code == 0
    a100.run("apply", *GPU)
    a100.sim(*busy)
    for words in (["verify"], ["watch"], ["apply", "--check"], ["apply"]):
        answer = a100.run(*words, *(GPU if words != ["watch"] else ()))
        assert (answer.code, answer.changed, answer.verdict(MIG)) == (7, False, ("pending", "needs_reboot")), words


def test_a_mode_that_somebody_ended_for_the_next_restart_is_asked_for_again(a100: FakeHost):
    passed_through(a100)
    assert a100.run("install").code == 0
    a100.run("apply", *GPU)
    restart(a100)
    assert a100.run("boot").verdict(MIG) == ("held", "none")
    by_hand(lambda mig: [mig.destroy(one) for one in mig.instances()])
    by_hand(lambda mig: mig.set_mode(False))
    assert a100.card()["mig_mode"] == [1, 0]
    assert a100.run("apply", *GPU).verdict(MIG) == ("held", "none")
    assert (a100.card()["mig_mode"], instances(a100)) == ([1, 1], MADE)


def test_a_mode_that_waited_only_for_a_program_to_end_is_asked_for_once_more(a100: FakeHost):
    """The card took the request down and not up; the next one resets it, and no restart is needed."""
    assert a100.run("install").code == 0
    a100.sim("load", "on")
    with pytest.raises(NvmlError):
        by_hand(lambda mig: mig.set_mode(True))
    a100.sim("load", "off")
    assert a100.card()["mig_mode"] == [0, 1]
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (0, ("held", "none"))
    assert (a100.card()["mig_mode"], instances(a100)) == ([1, 1], MADE)


def test_what_a_failed_dividing_left_on_the_card_is_told_as_a_change(a100: FakeHost):
    assert a100.run("install").code == 0
    a100.sim("fail", "nvmlGpuInstanceCreateComputeInstanceWithPlacement", 999)
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (3, ("refused", "unexplained"))
    assert instances(a100) == ["3g.40gb@0()"]
    left = {"setting": f"gpu.{A100_UUID}.mig", "before": "whole", "after": "3g.40gb@0:4()"}
    assert answer.said == (True, [left])


def test_a_revert_that_has_to_divide_and_cannot_yet_keeps_its_record(a100: FakeHost):
    passed_through(a100)
    by_hand(lambda mig: mig.set_mode(True))
    restart(a100)
    by_hand(shared_in_three)
    before = instances(a100)
    a100.plan = card_plan("20B5", mig=())
    assert a100.run("install").code == 0
    a100.run("apply", *GPU)
    restart(a100)
    answer = a100.run("revert")
    assert (answer.code, answer.verdict(MIG)) == (7, ("pending", "needs_reboot"))
    assert f"gpu:{A100_UUID}:mig" in a100.baseline()
    restart(a100)
    assert a100.run("revert").code == 0
    assert instances(a100) == before


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_a_card_is_not_divided_under_a_running_program_which_is_named(a100: FakeHost, check: tuple[str, ...]):
    assert a100.run("install").code == 0
    a100.sim("load", "on", "--pid", 4711)
    a100.write("/proc/4711/comm", "vllm\n")
    answer = a100.run("apply", *GPU, *check)
    assert (answer.code, answer.verdict(MIG)) == (3, ("refused", "other_writer"))
    assert "process 4711 (vllm); stop them and run again" in answer.evidence(MIG)
    assert a100.card()["mig_mode"] == [0, 0]


def test_a_card_is_not_divided_under_a_desktop_which_a_revert_does_not_end_either(a100: FakeHost):
    assert a100.run("install").code == 0
    assert a100.run("apply", *GPU).code == 0
    a100.sim("set", "drawing_pid", 900)
    for words in (["revert", *GPU, "--check"], ["revert", *GPU]):
        answer = a100.run(*words)
        assert (answer.code, answer.verdict(MIG)) == (8, ("refused", "other_writer"))
        assert "process 900 (unknown) that draws" in answer.evidence(MIG)
    assert a100.card()["mig_mode"] == [1, 1]


def test_a_mode_that_the_card_does_not_take_is_no_success_although_the_call_returns_one(
    a100: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    """The trap of the binding: what kept the mode from being activated is a return value."""
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlDeviceSetMigMode", lambda *_: 19)
    assert a100.run("install").code == 0
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (3, ("refused", "other_writer"))
    assert "nvmlDeviceSetMigMode: InUse" in answer.evidence(MIG)


def test_a_profile_that_the_card_does_not_have_is_refused_before_anything_is_written(a100: FakeHost):
    a100.plan = card_plan("20B5", mig=(MigInstance("3g.71gb", 0, 4),))
    before = a100.snapshot()
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (2, ("refused", "none"))
    assert answer.problems[0]["message"].startswith('found "3g.71gb", NVIDIA A100 80GB PCIe')
    assert a100.snapshot() == before


@pytest.mark.parametrize(("code", "verdict"), [(3, ("unsupported", "no_interface")), (2, ("refused", "unexplained"))])
def test_profiles_that_cannot_be_listed_do_not_make_a_divided_card_look_empty(
    a100: FakeHost, code: int, verdict: tuple[str, str]
):
    """Both codes mean that a card lacks one profile; where it seems to lack all, what it said is told."""
    assert a100.run("install").code == a100.run("apply", *GPU).code == 0
    a100.sim("fail", "nvmlDeviceGetGpuInstanceProfileInfoV", code)
    answer = a100.run("verify", *GPU)
    assert answer.verdict(MIG) == verdict
    assert f"NVML error {code})" in answer.evidence(MIG)


def test_one_profile_that_cannot_be_listed_is_not_taken_for_one_that_the_card_lacks(a100: FakeHost):
    assert a100.run("install").code == a100.run("apply", *GPU).code == 0
    a100.sim("fail", "nvmlDeviceGetGpuInstanceProfileInfoV", 999, 1)
    assert a100.run("verify", *GPU).verdict(MIG) == ("refused", "unexplained")


def test_a_card_that_cannot_be_divided_is_unsupported(host: FakeHost):
    host.plan = card_plan("2BB1", mig=(MigInstance("1g.24gb", 0, 3),))
    host.run("install")
    assert host.run("apply", *GPU).verdict(MIG) == ("unsupported", "no_interface")
    assert [key for key in host.baseline() if key.endswith(":mig")] == []


def test_without_a_driver_it_waits(a100: FakeHost):
    assert a100.run("install").code == 0
    a100.sim("fail", "nvmlInitWithFlags", 9)
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict(MIG)) == (7, ("pending", "needs_driver"))
