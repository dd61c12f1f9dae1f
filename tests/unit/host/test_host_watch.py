"""The drift timer's look: what drifted fails, a driver reload is repaired, no card is woken, nobody fought."""

from __future__ import annotations

import dataclasses
import json

import pytest

from inferhost.host import verbs
from inferhost.host.report import HostError
from inferhost.schema.plan import GpuSelector
from inferhost.schema.problems import Problem
from tests.unit.host.fake_host import FakeHost, p4_plan, plan, with_gpu
from tests.unit.host.simulated import P4, P4_UUID, UUID

WATCHED = "/run/inferhost/watched.json"


def test_a_host_as_planned_is_quiet_and_a_look_changes_nothing(placed: FakeHost):
    assert placed.run("watch").code == 0
    before = placed.snapshot()
    answer = placed.run("watch")
    assert (answer.code, answer.changed) == (0, False)
    assert {p: v for p, v in placed.snapshot().items() if p != "/run/inferhost/watched.json"} == {
        p: v for p, v in before.items() if p != "/run/inferhost/watched.json"
    }


def test_what_somebody_else_wrote_fails_the_unit_and_is_not_fought_over(placed: FakeHost):
    placed.sim("set", "power_limit_mw", 300000)
    for _ in range(2):
        answer = placed.run("watch")
        assert (answer.code, answer.verdict("power_limit_w")) == (3, ("overridden", "other_writer"))
    assert placed.card()["power_limit_mw"] == 300000
    assert placed.run("status").document["facts"]["not_held"] == [
        f"gpu.{UUID}.power_limit_w: overridden (other_writer)"
    ]


def test_a_driver_reload_is_noticed_and_repaired_once(placed: FakeHost):
    assert placed.run("watch").code == 0
    placed.sim("reload")
    assert placed.card()["power_limit_mw"] == 600000
    answer = placed.run("watch")
    assert (answer.code, answer.changed) == (0, True)
    assert "the energy counter fell" in answer.prose
    card = placed.card()
    assert (card["power_limit_mw"], card["persistence"], card["graphics_clock_lock_mhz"]) == (450000, 1, [2100, 2100])
    assert not placed.run("watch").changed


def test_a_reload_shows_even_where_the_counter_passed_what_it_was_when_the_lock_was_asked_for(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.converge()  # right after the driver was loaded: the counter stands near zero
    host.wait(3600)
    assert host.run("watch").code == 0
    host.sim("reload")
    host.sim("set", "persistence", 1)
    host.wait(60)
    answer = host.run("watch")
    assert (answer.code, host.card()["graphics_clock_lock_mhz"]) == (0, [2100, 2100])
    assert not host.run("watch").changed


def test_a_repair_that_failed_is_tried_again_at_the_next_look(placed: FakeHost):
    assert placed.run("watch").code == 0
    placed.sim("reload")
    placed.sim("fail", "nvmlDeviceSetPowerManagementLimit", 999, 1)
    assert placed.run("watch").code == 3
    answer = placed.run("watch")
    assert (answer.code, placed.card()["power_limit_mw"]) == (0, 450000)


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "one reading"])
def test_a_card_that_fails_does_not_keep_its_neighbour_from_being_repaired(pair: FakeHost, lost: bool):
    second = dataclasses.replace(plan().gpus[0], select=GpuSelector(None, "2BB1", 1))
    pair.plan = plan(gpus=(plan().gpus[0], second))
    pair.converge()
    pair.wait(60)
    assert pair.run("watch").code == 0
    pair.sim("reload")
    if lost:
        pair.sim("lost", 0)
    else:  # its first call of a look is for the first card
        pair.sim("fail", "nvmlDeviceGetTotalEnergyConsumption", 999, 1)
    pair.run("watch")
    assert pair.card(1)["power_limit_mw"] == 450000


def test_a_card_that_fell_off_the_bus_is_told_and_gets_its_settings_when_it_was_reset(placed: FakeHost):
    """As after an Xid: the card is lost, somebody resets it or loads the driver again, and the host was never off."""
    assert placed.run("watch").code == 0
    placed.sim("lost", 0)
    answer = placed.run("watch")
    assert answer.code != 0
    assert "GpuIsLost (NVML error 15)" in answer.prose
    placed.sim("init", placed.folder / "personality.txt")  # the simulator has no reset of its own
    assert placed.card()["power_limit_mw"] == 600000
    answer = placed.run("watch")
    assert (answer.code, answer.changed) == (0, True)
    card = placed.card()
    assert (card["power_limit_mw"], card["persistence"], card["graphics_clock_lock_mhz"]) == (450000, 1, [2100, 2100])


def test_after_a_suspend_what_no_call_reads_back_is_asked_for_again(placed: FakeHost):
    assert placed.run("watch").code == 0
    placed.sim("set", "graphics_clock_lock_mhz", "none")  # nothing was loaded again, and no counter fell
    placed.slept_s = 600
    answer = placed.run("watch")
    assert (answer.code, placed.card()["graphics_clock_lock_mhz"]) == (0, [2100, 2100])
    assert "the host was suspended for 600 s" in answer.prose
    assert not placed.run("watch").changed


def test_the_unit_that_runs_after_a_suspend_asks_for_it_again_too(placed: FakeHost):
    placed.sim("set", "graphics_clock_lock_mhz", "none")
    placed.slept_s = 600
    assert placed.run("boot").code == 0
    assert placed.card()["graphics_clock_lock_mhz"] == [2100, 2100]
    assert not placed.run("boot").changed


def test_a_reload_before_the_first_look_is_noticed_too(placed: FakeHost):
    placed.sim("reload")
    assert placed.run("watch").changed
    assert placed.card()["power_limit_mw"] == 450000


def test_a_reload_is_not_repaired_in_a_section_that_was_taken_back(placed: FakeHost):
    assert placed.run("revert", "--section", "gpu").code == 0
    placed.sim("reload")
    assert placed.run("watch").code == 0
    assert placed.card()["power_limit_mw"] == 600000


def test_check_mode_says_so_and_writes_nothing(placed: FakeHost):
    placed.sim("reload")
    before = placed.snapshot()
    assert placed.run("watch", "--check").changed
    assert placed.snapshot() == before


@pytest.mark.parametrize("persistence", [False, True], ids=["by plan", "by somebody else"])
def test_nvml_stays_closed_where_persistence_is_off(placed: FakeHost, persistence: bool):
    if not persistence:
        placed.plan = with_gpu(persistence_mode=False)
        placed.run("install")
        placed.run("apply")
        wanted = (0, ("unverified", "none"))
    else:
        placed.sim("load", "on")  # an engine keeps the driver loaded
        placed.sim("set", "persistence", 0)
        assert placed.run("watch").verdict("persistence_mode") == ("overridden", "other_writer")
        wanted = (3, ("overridden", "other_writer"))
    placed.sim("fail", "nvmlInitWithFlags", 999)  # whoever opens it now is caught
    answer = placed.run("watch")
    assert (answer.code, answer.verdict("persistence_mode")) == wanted
    assert "nvmlInit" not in answer.prose


def test_a_card_that_was_asleep_is_looked_at_again_after_an_apply(placed: FakeHost):
    placed.sim("load", "on")
    placed.sim("set", "persistence", 0)
    assert placed.run("watch").code == 3
    assert placed.run("apply", "--section", "gpu").code == 0
    assert placed.run("watch").code == 0


def test_a_missing_card_does_not_hide_what_its_neighbour_holds(pair: FakeHost):
    pair.converge()
    pair.sim("lost", 1)
    pair.sim("set", "power_limit_mw", 300000, "--gpu", 0)
    answer = pair.run("watch")
    assert answer.verdict(f"{UUID}.power_limit_w") == ("overridden", "other_writer")


@pytest.fixture
def p4(host: FakeHost) -> FakeHost:
    """A card that counts no energy, with two settings that a driver forgets."""
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    host.plan = p4_plan(compute_mode="exclusive_process", application_clocks_mhz=(3003, 999))
    host.converge()
    assert host.run("watch").code == 0
    return host


def reloaded(host: FakeHost) -> None:
    """As where the persistence daemon is: it is on again."""
    host.sim("reload")
    host.sim("set", "persistence", 1)


def test_a_reload_that_nothing_counts_shows_in_settings_that_are_all_gone_and_is_repaired(p4: FakeHost):
    reloaded(p4)
    answer = p4.run("watch")
    assert (answer.code, answer.changed) == (0, True)
    assert f"{P4_UUID}: all at what the card boots with: settings are applied" in answer.prose
    assert (p4.card()["compute_mode"], p4.card()["application_clocks_mhz"]) == (3, [3003, 999])
    assert not p4.run("watch").changed


def test_a_setting_that_does_not_answer_may_stand_and_the_rest_is_somebodys(p4: FakeHost):
    p4.sim("set", "compute_mode", 0)
    p4.sim("fail", "nvmlDeviceGetApplicationsClock", 999)
    answer = p4.run("watch")
    assert (answer.code, p4.card()["compute_mode"]) == (3, 0)
    assert f"{P4_UUID}: all at what the card boots with" not in answer.prose


def test_what_is_gone_again_at_the_next_look_is_not_fought_over(p4: FakeHost):
    reloaded(p4)
    assert p4.run("watch").changed
    for _ in range(2):
        reloaded(p4)
        answer = p4.run("watch")
        assert (answer.code, answer.changed) == (3, False)
        assert answer.verdict(f"{P4_UUID}.compute_mode") == ("overridden", "driver_reload")
    assert p4.run("apply").code == 0
    assert p4.run("watch").code == 0
    reloaded(p4)
    assert p4.run("watch").changed


def test_a_card_that_counts_energy_is_not_taken_for_reloaded_because_its_settings_are_gone(host: FakeHost):
    """There the counter tells; whoever wrote what the card boots with is not fought over."""
    host.plan = with_gpu()
    host.wait(60)
    host.converge()
    assert host.run("watch").code == 0
    host.sim("set", "power_limit_mw", 600000)
    answer = host.run("watch")
    assert (answer.code, answer.changed) == (3, False)


def test_one_setting_of_two_that_is_gone_was_taken_by_somebody_and_is_left(p4: FakeHost):
    p4.sim("set", "compute_mode", 0)
    for _ in range(2):
        answer = p4.run("watch")
        assert (answer.code, answer.changed) == (3, False)
    assert p4.card()["compute_mode"] == 0


def test_a_known_writer_of_what_is_gone_is_not_fought_over(p4: FakeHost):
    p4.write("/etc/systemd/system/clocks.service", "[Service]\nExecStart=/usr/bin/nvidia-smi -ac 3003,885\n")
    reloaded(p4)
    answer = p4.run("watch")
    assert (answer.code, answer.changed) == (3, False)


def test_a_setting_of_which_nobody_knows_what_the_card_boots_with_may_stand(p4: FakeHost):
    p4.sim("set", "compute_mode", 0)
    p4.sim("fail", "nvmlDeviceGetDefaultApplicationsClock", 999)
    answer = p4.run("watch")
    assert (answer.code, answer.changed) == (3, False)
    assert "nobody can tell whether it was lost with the driver" in answer.prose


def test_a_setting_at_what_the_card_boots_with_by_plan_is_no_sign(p4: FakeHost):
    p4.plan = p4_plan(compute_mode="default")
    assert p4.run("install").code == p4.run("apply").code == 0
    assert p4.run("watch").document["notes"] == []


def test_check_mode_says_what_of_them_would_be_applied(p4: FakeHost):
    reloaded(p4)
    before = p4.snapshot()
    assert p4.run("watch", "--check").changed
    assert p4.snapshot() == before


def test_a_drifted_file_and_an_edited_sysctl_are_drift_as_well(placed: FakeHost):
    placed.write("/proc/sys/vm/swappiness", "60\n")
    answer = placed.run("watch")
    assert (answer.code, answer.verdict("vm.swappiness")) == (3, ("overridden", "other_writer"))
    assert "sysctl.vm.swappiness 10 overridden (other_writer), found 60" in answer.prose


def test_what_was_seen_before_a_look_was_cut_short_is_told(placed: FakeHost, monkeypatch: pytest.MonkeyPatch):
    def stopped(*_: object) -> None:
        raise HostError(Problem("x", "cannot go on", "", "x"))

    monkeypatch.setattr(verbs, "name_writers", stopped)
    answer = placed.run("watch")
    assert (answer.code, answer.verdict("power_limit_w")) == (8, ("held", "none"))
    assert placed.run("status").document["facts"]["not_held"] == ["x: cannot go on"]


def test_without_a_plan_for_a_card_nothing_is_opened(host: FakeHost):
    host.plan = plan(manage=("cpu",), gpus=(), files=(), dropins=(), service=(), env={})
    assert host.run("install").code == 0
    assert host.run("apply").code == 0
    host.sim("fail", "nvmlInitWithFlags", 999)
    assert host.run("watch").code == 0


def test_a_look_that_another_version_wrote_down_is_none(placed: FakeHost):
    placed.run("watch")
    found = json.loads(placed.read(WATCHED))
    placed.write(WATCHED, json.dumps({**found, "schema": 2, "asleep": [UUID]}))
    assert placed.run("watch").code == 0


@pytest.mark.parametrize("verb", ["apply", "verify"])
def test_a_run_that_changes_nothing_writes_down_nothing(placed: FakeHost, verb: str):
    placed.run("watch")
    order: list[str] = []
    placed.run(verb, "--section", "gpu", before_write=order.append)
    assert not [step for step in order if "watched.json" in step]


def test_what_cannot_be_written_down_for_the_next_look_is_a_remark(placed: FakeHost):
    def full(step: str) -> None:
        if "watched.json" in step:
            raise OSError(28, "No space left on device")

    placed.at(WATCHED).unlink(missing_ok=True)
    answer = placed.run("apply", "--section", "gpu", before_write=full)
    assert answer.code == 0
    assert any(note.startswith(WATCHED) for note in answer.document["notes"])
