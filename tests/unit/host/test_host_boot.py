"""The boot: what the card and the processor forgot is applied again, and nothing keeps the boot from going on."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.machine import Clock
from inferhost.host.report import Report
from inferhost.host.watch.boot import boot
from inferhost.schema.plan import GpuSelector, Host
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID

GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
GONE = dataclasses.replace(plan().gpus[0], select=GpuSelector("GPU-gone", "2BB1", 1))


def reboot(host: FakeHost) -> None:
    """The card, the kernel and /run start anew."""
    host.sim("reload")
    host.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    host.write(GOVERNOR, "powersave\n")
    for name in ("lock", "clocks.json", "watched.json"):
        host.at(f"/run/inferhost/{name}").unlink(missing_ok=True)


def test_after_a_reboot_everything_without_a_file_is_as_planned_again(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.converge()
    reboot(host)
    assert (host.card()["power_limit_mw"], host.card()["graphics_clock_lock_mhz"]) == (600000, None)
    before = host.baseline()
    answer = host.run("boot")
    assert answer.code == 0
    card = host.card()
    assert (card["power_limit_mw"], card["persistence"], card["graphics_clock_lock_mhz"]) == (450000, 1, [2100, 2100])
    assert host.read(GOVERNOR).strip() == "performance"
    assert host.baseline() == before


def test_each_card_is_one_line_and_what_holds_elsewhere_none(pair: FakeHost):
    second = dataclasses.replace(plan().gpus[0], select=GpuSelector(None, "2BB1", 1))
    pair.plan = plan(gpus=(*plan().gpus, second))
    pair.converge()
    reboot(pair)
    lines = pair.run("boot").prose.splitlines()
    assert lines == [f"{u}: persistence_mode True held; power_limit_w 450 held" for u in (UUID, SECOND_UUID)]


def test_what_is_not_held_is_said_and_makes_the_unit_fail(host: FakeHost):
    host.converge()
    reboot(host)
    host.sim("fault", "power_limit", "accepted_ignored")
    answer = host.run("boot")
    assert answer.code == 3
    assert f"{UUID}: persistence_mode True held; power_limit_w 450 ignored" in answer.prose


def test_a_card_that_is_missing_is_waited_for_no_longer_than_asked_and_keeps_nothing_else_back(host: FakeHost):
    host.converge()
    reboot(host)
    host.plan = plan(gpus=(*plan().gpus, GONE))
    answer = host.run("boot", "--wait", "3")
    assert answer.code == 3
    assert host.passed_s == 3.0
    assert [problem["id"] for problem in answer.problems] == ["gpu-missing"]
    assert "GPU-gone" in answer.prose
    assert host.card()["power_limit_mw"] == 450000
    assert host.read(GOVERNOR).strip() == "performance"


def test_cards_that_are_there_are_not_waited_for(host: FakeHost):
    host.converge()
    assert host.run("boot", "--wait", "60").code == 0
    assert host.passed_s == 0


def test_a_section_that_the_plan_does_not_manage_is_not_waited_for(host: FakeHost):
    host.plan = plan(manage=("cpu",))
    host.converge()
    host.sim("fail", "nvmlInitWithFlags", 9)
    assert host.run("boot", "--section", "gpu", "--wait", "60").code == 0
    assert host.passed_s == 0


def test_a_driver_that_comes_late_is_waited_for(host: FakeHost):
    host.converge()
    reboot(host)
    host.sim("fail", "nvmlInitWithFlags", 9)
    slept: list[float] = []
    wait = host.wait

    def comes_up(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            host.sim("fail", "nvmlInitWithFlags", "off")
        wait(seconds)

    host.wait = comes_up  # type: ignore[method-assign]
    answer = host.run("boot", "--wait", "60")
    assert (answer.code, len(slept)) == (0, 2)
    assert host.card()["power_limit_mw"] == 450000
    assert "waited 1.0 s for the cards" in answer.prose


def test_without_a_driver_the_processor_still_gets_its_settings(host: FakeHost):
    host.converge()
    reboot(host)
    host.sim("fail", "nvmlInitWithFlags", 9)
    answer = host.run("boot", "--wait", "2")
    assert (answer.code, host.passed_s) == (7, 2.0)
    assert answer.verdict("power_limit_w") == ("pending", "needs_driver")
    assert host.read(GOVERNOR).strip() == "performance"


@pytest.mark.parametrize("code", [12, 18], ids=["no library", "another version"])
def test_what_no_waiting_mends_is_not_waited_for(host: FakeHost, code: int):
    host.converge()
    reboot(host)
    host.sim("fail", "nvmlInitWithFlags", code)
    assert host.run("boot", "--wait", "60").code == 7
    assert host.passed_s == 0


def test_a_wait_shorter_than_the_pause_between_two_looks_is_kept(host: FakeHost):
    host.converge()
    host.sim("fail", "nvmlInitWithFlags", 9)
    host.run("boot", "--wait", "0.3")
    assert host.passed_s == 0.3


@pytest.mark.parametrize("stop", ["driver", "plan"])
def test_what_stops_the_cards_does_not_stop_the_processor(host: FakeHost, stop: str):
    host.converge()
    reboot(host)
    if stop == "driver":
        host.sim("fail", "nvmlInitWithFlags", 999)
    else:
        host.plan = dataclasses.replace(host.plan, host=Host("box", False))
    answer = host.run("boot")
    assert answer.code == 8
    assert answer.problems
    assert host.read(GOVERNOR).strip() == "performance"


def test_a_section_that_was_taken_back_stays_so_until_somebody_applies_it(host: FakeHost):
    host.converge()
    assert host.run("revert", "--section", "gpu").code == 0
    reboot(host)
    answer = host.run("boot")
    assert answer.code == 0
    assert "section gpu was taken back" in answer.prose
    assert host.card()["power_limit_mw"] == 600000
    assert host.run("boot", "--section", "gpu").code == 0
    assert host.card()["power_limit_mw"] == 450000
    reboot(host)
    assert host.run("boot").code == 0
    assert host.card()["power_limit_mw"] == 450000


def test_an_unusable_record_is_told_and_nothing_is_touched(host: FakeHost):
    host.converge()
    reboot(host)
    host.write("/var/lib/inferhost/baseline.json", "broken")
    before = host.snapshot()
    answer = host.run("boot")
    assert answer.code == 5
    assert host.snapshot() == before


def test_check_mode_writes_nothing(host: FakeHost):
    host.converge()
    reboot(host)
    before = host.snapshot()
    assert host.run("boot", "--check").changed
    assert host.snapshot() == before


def test_looking_takes_time_and_is_no_waiting(host: FakeHost):
    host.converge()
    moments = iter(range(1000))
    machine = dataclasses.replace(host.machine(str(host.root)), clock=Clock(lambda: next(moments), host.wait))
    report = Report(check=False)
    boot(machine, host.plan, None, 60, report)
    assert not [note for note in report.notes if note.startswith("waited")]
