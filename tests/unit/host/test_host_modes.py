"""Application clocks on a card without locked clocks, and compute mode: two requests with a getter each."""

from __future__ import annotations

from typing import Any

import pytest

from inferhost.host.gpu.sample import Sample
from inferhost.host.guard.latch import LATCHED, Hold, write_latches
from inferhost.schema.plan import Guard
from tests.unit.host.fake_host import FakeHost, p4_plan, with_gpu
from tests.unit.host.simulated import P4, P4_UUID, UUID

CLOCKS, MODE = "application_clocks_mhz", "compute_mode"
DEFAULT_MHZ = [3003, 885]  # of the simulated Tesla P4
GPU = ("--section", "gpu")


@pytest.fixture
def p4(host: FakeHost) -> FakeHost:
    """A Tesla P4 that somebody gave a pair of clocks before us."""
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    host.sim("set", CLOCKS, "3003,936")
    return host


def planned(host: FakeHost, **changes: Any) -> None:
    """The P4's plan with these settings, recorded."""
    host.plan = p4_plan(**changes)
    assert host.run("install").code == 0


def applied(host: FakeHost, **changes: Any) -> None:
    planned(host, **changes)
    assert host.run("apply", *GPU).code == 0


def under_load(host: FakeHost):
    host.sim("load", "on")
    return host.run("verify", *GPU, "--under-load")


def test_application_clocks_are_set_and_called_unverified_until_there_is_load(p4: FakeHost):
    planned(p4, application_clocks_mhz=(3003, 999))
    foretold = p4.run("apply", *GPU, "--check")
    answer = p4.run("apply", *GPU)
    assert (answer.code, answer.verdict(CLOCKS)) == (0, ("unverified", "needs_load"))
    assert answer.said == foretold.said
    assert {"setting": f"gpu.{P4_UUID}.{CLOCKS}", "before": "3003,936", "after": "3003,999"} in answer.document[
        "diff"
    ]
    assert p4.card()[CLOCKS] == [3003, 999]
    assert p4.run("apply", *GPU).said == (False, [])


def test_under_load_a_clock_that_the_card_would_not_have_by_itself_is_held(p4: FakeHost):
    applied(p4, application_clocks_mhz=(3003, 999))
    answer = under_load(p4)
    assert (answer.code, answer.verdict(CLOCKS)) == (0, ("held", "none"))
    assert "999 to 999 MHz" in answer.evidence(CLOCKS)


def test_the_pair_that_the_card_boots_with_proves_nothing(p4: FakeHost):
    applied(p4, application_clocks_mhz=DEFAULT_MHZ)
    assert under_load(p4).verdict(CLOCKS) == ("unverified", "indistinguishable")


def test_the_power_cap_overrules_them_and_is_named(p4: FakeHost):
    applied(p4, application_clocks_mhz=(3003, 1531))
    answer = under_load(p4)
    assert (answer.code, answer.verdict(CLOCKS)) == (3, ("clamped", "power_cap"))


def test_a_card_that_stays_below_them_without_a_reason_is_clamped(p4: FakeHost):
    applied(p4, application_clocks_mhz=(3003, 999))
    p4.sim("fault", "application_clocks", "clamped", 700)
    assert under_load(p4).verdict(CLOCKS) == ("clamped", "unexplained")


def test_a_memory_clock_that_is_another_one_under_load_is_clamped(p4: FakeHost, monkeypatch: pytest.MonkeyPatch):
    applied(p4, application_clocks_mhz=(3003, 999))
    monkeypatch.setattr(Sample, "__init__", with_memory_clock(Sample.__init__, 405))
    answer = under_load(p4)
    assert (answer.code, answer.verdict(CLOCKS)) == (3, ("clamped", "memory_pstate"))
    assert answer.evidence(CLOCKS).startswith("the memory clock is 405 MHz; ")


def with_memory_clock(init: Any, mhz: int) -> Any:
    """A card whose memory does not follow: the simulator has no such switch."""
    return lambda self, **readings: init(self, **{**readings, "memory_clock_mhz": mhz})


def test_a_pair_that_somebody_else_set_is_drift_whatever_the_load_shows(p4: FakeHost):
    applied(p4, application_clocks_mhz=(3003, 999))
    p4.sim("set", CLOCKS, "3003,936")
    assert under_load(p4).verdict(CLOCKS) == ("overridden", "other_writer")


def test_without_the_cards_own_default_pair_nothing_is_proven(p4: FakeHost):
    applied(p4, application_clocks_mhz=(3003, 999))
    p4.sim("fail", "nvmlDeviceGetDefaultApplicationsClock", 999)
    answer = under_load(p4)
    assert answer.verdict(CLOCKS) == ("unverified", "needs_load")
    assert "nvmlDeviceGetDefaultApplicationsClock" in answer.evidence(CLOCKS)


@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_clocks_that_stayed_are_neither_changed_nor_held(p4: FakeHost, verb: str):
    (planned if verb == "apply" else applied)(p4, application_clocks_mhz=(3003, 999))
    p4.sim("fault", "application_clocks", "accepted_ignored")
    answer = p4.run(verb, *GPU)
    assert (answer.code, answer.verdict(CLOCKS)) == (3 if verb == "apply" else 8, ("ignored", "unexplained"))
    assert not [c for c in answer.document["diff"] if c["setting"].endswith(CLOCKS)]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((3003, 1000), "found 1000 MHz for the graphics clock, Tesla P4"),
        ((3003, 9000), "found 9000 MHz for the graphics clock, Tesla P4"),
        ((3000, 999), "found 3000 MHz for the memory clock, Tesla P4"),
    ],
)
def test_a_pair_that_the_card_does_not_list_is_refused_before_anything_is_written(p4: FakeHost, pair, message: str):
    p4.plan = p4_plan(application_clocks_mhz=pair)
    before = p4.snapshot()
    answer = p4.run("apply", *GPU)
    assert (answer.code, answer.verdict(CLOCKS)) == (2, ("refused", "none"))
    assert answer.problems[0]["message"].startswith(message)
    assert p4.snapshot() == before


def test_a_card_without_application_clocks_is_unsupported_and_nothing_is_recorded(host: FakeHost):
    host.plan = with_gpu(application_clocks_mhz=(14001, 2400))
    host.run("install")
    answer = host.run("apply", *GPU)
    assert (answer.code, answer.verdict(CLOCKS)[0]) == (0, "unsupported")
    assert [key for key in host.baseline() if key.endswith(CLOCKS)] == []


def test_clocks_lost_with_the_driver_are_told_as_that_and_repaired(p4: FakeHost):
    applied(p4, application_clocks_mhz=(3003, 999))
    p4.sim("reload")
    answer = p4.run("verify", *GPU)
    assert (answer.code, answer.verdict(CLOCKS)) == (3, ("overridden", "driver_reload"))
    assert p4.run("apply", *GPU).code == 0
    assert p4.card()[CLOCKS] == [3003, 999]


def test_revert_brings_back_the_pair_and_the_mode_that_stood_there_before_us(p4: FakeHost):
    p4.sim("set", MODE, 2)
    before = p4.snapshot()
    applied(p4, application_clocks_mhz=(3003, 999), compute_mode="exclusive_process")
    assert p4.card()[MODE] == 3
    assert p4.run("revert").code == 0
    assert p4.snapshot() == before
    assert (p4.card()[CLOCKS], p4.card()[MODE]) == ([3003, 936], 2)


def test_without_a_driver_both_wait(p4: FakeHost):
    planned(p4, application_clocks_mhz=(3003, 999), compute_mode="exclusive_process")
    p4.sim("fail", "nvmlInitWithFlags", 9)
    answer = p4.run("apply", *GPU)
    assert answer.code == 7
    assert answer.verdict(CLOCKS) == answer.verdict(MODE) == ("pending", "needs_driver")


def test_a_compute_mode_is_read_back(host: FakeHost):
    host.plan = with_gpu(compute_mode="exclusive_process")
    host.run("install")
    answer = host.run("apply", *GPU)
    assert (answer.code, answer.verdict(MODE)) == (0, ("held", "none"))
    assert host.card()[MODE] == 3
    host.sim("set", MODE, 2)
    assert host.run("verify", *GPU).verdict(MODE) == ("overridden", "other_writer")
    host.sim("set", MODE, 0)
    assert host.run("verify", *GPU).verdict(MODE) == ("overridden", "driver_reload")


def test_a_compute_mode_that_stayed_is_not_held(host: FakeHost):
    host.plan = with_gpu(compute_mode="exclusive_process")
    host.run("install")
    host.sim("fault", MODE, "accepted_ignored")
    answer = host.run("apply", *GPU)
    assert (answer.code, answer.verdict(MODE)) == (3, ("ignored", "unexplained"))


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_a_compute_mode_is_not_changed_under_a_running_program_which_is_named(host: FakeHost, check):
    host.plan = with_gpu(compute_mode="exclusive_process")
    host.run("install")
    host.sim("load", "on", "--pid", 4711)
    host.write("/proc/4711/comm", "vllm\n")
    answer = host.run("apply", *GPU, *check)
    assert (answer.code, answer.verdict(MODE)) == (3, ("refused", "other_writer"))
    assert "process 4711 (vllm); stop them and run again" in answer.evidence(MODE)
    assert host.card()[MODE] == 0


def test_a_compute_mode_is_no_business_of_a_desktop(host: FakeHost):
    host.plan = with_gpu(compute_mode="exclusive_process")
    host.run("install")
    host.sim("set", "drawing_pid", 900)
    assert host.run("apply", *GPU).verdict(MODE) == ("held", "none")


def test_a_mode_that_is_as_wanted_is_no_business_of_running_programs(host: FakeHost):
    host.plan = with_gpu(compute_mode="default")
    host.run("install")
    host.sim("load", "on")
    assert host.run("apply", *GPU).verdict(MODE) == ("held", "none")


def test_revert_under_a_running_program_keeps_the_record_and_check_mode_takes_it_for_stopped(host: FakeHost):
    host.plan = with_gpu(compute_mode="exclusive_process")
    host.run("install")
    host.run("apply", *GPU)
    host.sim("load", "on")
    assert host.run("revert", *GPU, "--check").verdict(MODE) == ("unverified", "none")
    answer = host.run("revert", *GPU)
    assert (answer.code, answer.verdict(MODE)) == (8, ("refused", "other_writer"))
    assert [key for key in host.baseline() if key.endswith(MODE)] != []
    host.sim("load", "off")
    assert host.run("revert", *GPU).code == 0
    assert host.card()[MODE] == 0


def test_a_card_that_the_guard_holds_keeps_its_mode(host: FakeHost):
    rule = Guard(limit_c=85, resume_c=75, power_w="min", cool_down_s=30)
    host.plan = with_gpu(compute_mode="exclusive_process", guard=rule)
    assert host.run("install").code == 0
    write_latches(host.machine(str(host.root)), {UUID: Hold(LATCHED, "hot", None, (1.0,), None)})
    before = host.card()["compute_mode"]
    assert host.run("apply", *GPU).verdict("compute_mode") == ("overridden", "thermal")
    assert host.card()["compute_mode"] == before
