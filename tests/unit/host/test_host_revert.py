"""Promise 4: everything goes back, to what was found and not to a default, and nothing of ours is left."""

from __future__ import annotations

import dataclasses
import os

import pytest

from inferhost.host.guard.latch import LATCHED, Hold, write_latches
from inferhost.schema.plan import File
from tests.unit.host.fake_host import DROPIN, SYSCTL_FILE, FakeHost, plan, with_gpu
from tests.unit.host.simulated import UUID


def test_revert_restores_the_limit_found_before_us(host: FakeHost):
    host.converge()
    assert host.card()["power_limit_mw"] == 450000
    host.run("revert", "--section", "gpu")
    assert (host.card()["power_limit_mw"], host.card()["persistence"]) == (480000, 1)


def test_revert_leaves_the_host_as_it_was(host: FakeHost):
    host.write(SYSCTL_FILE, "vm.swappiness = 33\n", mode=0o600)
    os.symlink("/dev/null", host.at("/etc/systemd/system/inferhost-serve@.service"))
    before = host.snapshot()
    host.run("install")
    host.at("/etc/systemd/system/inferhost-serve@.service").unlink()
    host.converge()
    host.stop_engine()
    answer = host.run("revert")
    assert (answer.code, answer.changed) == (0, True)
    assert host.snapshot() == before


def test_a_second_revert_changes_nothing(host: FakeHost):
    host.converge()
    host.stop_engine()
    host.run("revert")
    before = host.snapshot()
    answer = host.run("revert")
    assert (answer.code, answer.said) == (0, (False, []))
    assert host.snapshot() == before


def test_revert_needs_no_plan(host: FakeHost):
    before = host.snapshot()
    host.converge()
    host.stop_engine()
    host.write("/etc/inferhost/plan.json", "{broken")
    assert host.run("revert").code == 0
    assert host.snapshot() == before


def test_the_folder_of_the_plan_goes_though_a_section_had_a_file_there_first(host: FakeHost):
    before = host.snapshot()
    own = File("/etc/inferhost/engine.cfg", "service", "0644", "x\n", None, "none")
    host.plan = plan(files=(*plan().files, own))
    host.converge()
    host.stop_engine()
    assert host.run("revert", "--section", "service").code == 0
    assert host.run("revert").code == 0
    assert host.snapshot() == before


def test_revert_by_sections_ends_like_revert_of_all(host: FakeHost):
    before = host.snapshot()
    host.converge()
    host.stop_engine()
    for section in ("service", "cpu", "gpu"):
        assert host.run("revert", "--section", section).code == 0
    assert host.at("/etc/inferhost/plan.json").exists()
    assert host.run("revert").code == 0
    assert host.snapshot() == before


def test_revert_puts_each_processor_back_on_its_own_governor(host: FakeHost):
    governors = [f"/sys/devices/system/cpu/cpu{n}/cpufreq/scaling_governor" for n in (0, 1)]
    host.write(governors[1], "schedutil\n")
    host.converge()
    assert [host.read(g) for g in governors] == ["performance\n"] * 2
    host.run("revert", "--section", "cpu")
    assert [host.read(g) for g in governors] == ["powersave\n", "schedutil\n"]


def test_persistence_off_is_restored_and_said_to_endanger_the_limit(host: FakeHost):
    host.sim("set", "persistence", 0)
    host.converge()
    answer = host.run("revert", "--section", "gpu")
    assert host.card()["persistence"] == 0
    assert answer.verdict("power_limit_w") == ("held", "none")
    assert (
        f"note: gpu.{UUID}.persistence_mode: off, as it was; a restored power limit goes when the driver unloads"
        in (answer.prose.splitlines())
    )


def test_an_original_of_an_earlier_boot_is_restored_and_said(host: FakeHost):
    host.converge()
    host.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    host.sim("reload")
    answer = host.run("revert", "--section", "gpu")
    assert host.card()["power_limit_mw"] == 480000
    assert f"gpu.{UUID}.power_limit_w: 480 was found in an earlier boot" in answer.document["notes"]


def test_a_card_that_is_gone_keeps_its_record_and_its_neighbours_go_back(pair: FakeHost):
    gpu = pair.plan.gpus[0]
    second = dataclasses.replace(gpu, select=dataclasses.replace(gpu.select, ordinal=1))
    pair.plan = plan(gpus=(gpu, second))
    pair.converge()
    pair.stop_engine()
    pair.sim("lost", 0)
    answer = pair.run("revert")
    assert answer.code == 8
    assert pair.card(1)["power_limit_mw"] == 480000
    kept = [key for key in pair.baseline() if key.startswith("gpu:")]
    assert kept == [f"gpu:{UUID}:persistence_mode", f"gpu:{UUID}:power_limit_mw"]
    assert answer.problems[0]["path"] == f"gpu:{UUID}:power_limit_mw"
    assert pair.at("/usr/local/bin/inferhost").exists()


def test_a_limit_that_the_card_refuses_keeps_its_record(host: FakeHost):
    host.converge()
    host.sim("fail", "nvmlDeviceSetPowerManagementLimit", 999)
    answer = host.run("revert", "--section", "gpu")
    assert answer.code == 8
    assert answer.verdict("power_limit_w") == ("refused", "unexplained")
    assert answer.problems[0]["message"] == "nvmlDeviceSetPowerManagementLimit: Unknown (NVML error 999)"
    assert f"gpu:{UUID}:power_limit_mw" in host.baseline()


@pytest.mark.parametrize(
    ("code", "ended", "verdict", "told"),
    [
        (9, 7, ("pending", "needs_driver"), []),
        (999, 8, ("refused", "unexplained"), ["nvml", f"gpu:{UUID}:persistence_mode", f"gpu:{UUID}:power_limit_mw"]),
    ],
)
def test_a_driver_that_does_not_answer_keeps_the_cards_on_record_and_nothing_else_back(
    host: FakeHost, code: int, ended: int, verdict: tuple[str, str], told: list[str]
):
    host.converge()
    on_record = {key for key in host.baseline() if key.startswith("gpu:")}
    host.sim("fail", "nvmlInitWithFlags", code)
    answer = host.run("revert", "--section", "gpu", "--section", "cpu")
    assert (answer.code, answer.verdict("power_limit_mw")) == (ended, verdict)
    assert [problem["path"] for problem in answer.problems] == told
    assert {key for key in host.baseline() if key.startswith("gpu:")} == on_record
    assert host.read("/proc/sys/vm/swappiness") == "60\n"


def test_a_lock_that_nobody_can_ask_about_keeps_its_record_and_the_limit_goes_back(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.converge()
    host.sim("fail", "nvmlSystemGetDriverVersion", 999)
    answer = host.run("revert", "--section", "gpu")
    assert (answer.code, answer.verdict("graphics_clock_lock_mhz")) == (8, ("refused", "unexplained"))
    assert [key for key in host.baseline() if key.startswith("gpu:")] == [f"gpu:{UUID}:graphics_clock_lock_mhz"]
    assert host.card()["power_limit_mw"] == 480000


def test_an_ignored_restore_is_not_taken_for_one(host: FakeHost):
    host.converge()
    host.sim("fault", "power_limit", "accepted_ignored")
    answer = host.run("revert", "--section", "gpu")
    assert (answer.code, answer.verdict("power_limit_w")) == (8, ("ignored", "unexplained"))
    assert f"gpu:{UUID}:power_limit_mw" in host.baseline()


def test_a_folder_that_others_use_stays_and_is_said(host: FakeHost):
    host.converge()
    host.stop_engine()
    local = DROPIN.replace("10-inferhost", "50-local")
    host.write(local, "[Service]\nNice=5\n")
    answer = host.run("revert")
    assert (answer.code, host.read(local)) == (0, "[Service]\nNice=5\n")
    folder = local.rpartition("/")[0]
    assert f"{folder}: was not there before us, but holds files that are not ours; left" in answer.document["notes"]


def test_a_user_that_was_here_before_us_stays(host: FakeHost):
    host.write("/etc/passwd", host.read("/etc/passwd") + "inferhost:x:500:500::/home/i:/bin/sh\n")
    host.converge()
    host.stop_engine()
    assert host.run("revert").code == 0
    assert "inferhost:x:500" in host.read("/etc/passwd")


def test_a_user_in_use_stays_on_record_and_is_said(host: FakeHost):
    host.converge()
    answer = host.run("revert", "--section", "service")
    assert answer.code == 8
    assert answer.problems[0]["message"] == "is in use by process 4242"
    assert "user:inferhost" in host.baseline()


def test_a_userdel_that_fails_is_not_taken_for_one(host: FakeHost):
    host.converge()
    host.stop_engine()
    host.userdel_code = 8
    answer = host.run("revert", "--section", "service")
    assert answer.code == 8
    assert answer.problems[0]["message"] == "userdel ended with 8: userdel: it is not wanted today"
    host.userdel_code = 0
    assert host.run("revert", "--section", "service").code == 0


def test_our_own_value_is_never_recorded_as_the_original(host: FakeHost):
    host.converge()
    for watts in (500, 520):
        host.plan = with_gpu(power_limit_w=watts)
        host.converge()
    assert host.baseline()[f"gpu:{UUID}:power_limit_mw"]["found"] == 480000
    assert host.baseline()["sysctl:vm.swappiness"]["found"] == "60"
    assert host.baseline()[f"file:{SYSCTL_FILE}"]["found"] is None


def test_revert_in_check_mode_foretells_the_real_one_and_writes_nothing(host: FakeHost):
    host.converge()
    host.stop_engine()
    before = host.snapshot()
    foretold = host.run("revert", "--check")
    assert host.snapshot() == before
    assert host.run("revert").said == foretold.said


@pytest.mark.parametrize("wish", [450, "max"])
def test_a_limit_that_somebody_changed_after_us_goes_back_with_a_word(host: FakeHost, wish: object):
    """It may be lower than the original."""
    host.plan = with_gpu(power_limit_w=wish)
    host.converge()
    host.stop_engine()
    said = f"gpu.{UUID}.power_limit_w: neither ours nor the original; found 300 W, it goes back to 480 W all the same"
    assert not [note for note in host.run("revert", "--check").document["notes"] if "neither ours" in note]
    host.sim("set", "power_limit_mw", 300000)
    for arguments in (["--check"], []):
        assert said in host.run("revert", *arguments).document["notes"]
    assert host.card()["power_limit_mw"] == 480000


@pytest.mark.parametrize("known", ["the original stands", "no plan"])
def test_a_limit_of_which_nobody_knows_that_somebody_changed_it_goes_back_without_a_word(host: FakeHost, known: str):
    host.converge()
    host.stop_engine()
    if known == "no plan":
        host.at("/etc/inferhost/plan.json").unlink()
    host.sim("set", "power_limit_mw", 300000 if known == "no plan" else 480000)
    answer = host.run("revert", "--section", "gpu")
    assert (answer.code, host.card()["power_limit_mw"]) == (0, 480000)
    assert not [note for note in answer.document["notes"] if "power_limit_w" in note]


def test_a_limit_that_cannot_be_read_keeps_its_record_and_no_other_setting_back(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.converge()
    host.sim("fail", "nvmlDeviceGetPowerManagementLimit", 999)
    answer = host.run("revert", "--section", "gpu")
    assert (answer.code, answer.verdict("power_limit_w")) == (8, ("refused", "unexplained"))
    assert any("power_limit_w: whose value it was is not known" in note for note in answer.document["notes"])
    assert (host.card()["graphics_clock_lock_mhz"], host.card()["power_limit_mw"]) == (None, 450000)
    assert [key for key in host.baseline() if key.startswith("gpu:")] == [f"gpu:{UUID}:power_limit_mw"]


def test_a_revert_says_that_the_guard_held_the_card(host: FakeHost):
    host.converge()
    host.stop_engine()
    host.sim("set", "power_limit_mw", 150000)
    write_latches(host.machine(str(host.root)), {UUID: Hold(LATCHED, "91 C, over 85", None, (0.0,), None)})
    said = (
        f"gpu.{UUID}.power_limit_w: the guard held this card, 91 C, over 85; found 150 W, it goes back to 480 W "
        "all the same"
    )
    assert said in host.run("revert", "--section", "gpu").document["notes"]
    assert host.card()["power_limit_mw"] == 480000
