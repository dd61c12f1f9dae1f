"""A clock lock that cannot be: outside the card's list, refused by a call, without a driver, or with bad usage."""

from __future__ import annotations

import pytest

from tests.unit.host.fake_host import FakeHost, with_gpu
from tests.unit.host.simulated import UUID
from tests.unit.host.test_host_clock_lock import LOCK, SETTING, applied


def test_a_clock_between_two_steps_snaps_and_is_told(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2099, 2399))
    answer = host.run("apply", "--section", "gpu")
    assert host.card()[LOCK] == [2100, 2400]
    assert f"{SETTING}: 2099-2399 is no step of this card, 2100-2400 is asked for" in answer.document["notes"]
    assert host.run("apply", "--section", "gpu").said == (False, [])


@pytest.mark.parametrize("lock", [(3200, 3200), (100, 2100), (2100, 9000)])
def test_a_clock_outside_the_cards_list_is_refused_before_anything_is_written(host: FakeHost, lock):
    host.plan = with_gpu(graphics_clock_lock_mhz=lock)
    before = host.snapshot()
    answer = host.run("apply", "--section", "gpu")
    assert (answer.code, answer.verdict(LOCK)) == (2, ("refused", "none"))
    assert "has 180 to 3090 MHz" in answer.problems[0]["message"]
    assert host.snapshot() == before


def test_a_card_before_volta_has_no_lock_and_nothing_is_recorded_of_it(host: FakeHost):
    text = (host.folder / "personality.txt").read_text()
    pascal = text.replace("architecture = 10 ", "architecture = 4 ")
    assert pascal != text
    (host.folder / "personality.txt").write_text(pascal)
    host.sim("init", host.folder / "personality.txt")
    host.plan = with_gpu(graphics_clock_lock_mhz=(1000, 1000))
    host.run("install")
    answer = host.run("apply", "--section", "gpu")
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unsupported", "no_interface"))
    assert f"gpu:{UUID}:{LOCK}" not in host.baseline()


@pytest.mark.parametrize(
    ("function", "code", "verdict"),
    [
        ("nvmlDeviceSetGpuLockedClocks", 3, ("unsupported", "no_interface")),
        ("nvmlDeviceSetGpuLockedClocks", 4, ("refused", "read_only")),
        ("nvmlDeviceSetGpuLockedClocks", 999, ("refused", "unexplained")),
        ("nvmlDeviceGetSupportedGraphicsClocks", 3, ("unsupported", "no_interface")),
        ("nvmlDeviceGetTotalEnergyConsumption", 999, ("refused", "unexplained")),
    ],
)
def test_a_failing_call_leads_to_its_verdict_and_leaves_no_request_on_record(host: FakeHost, function, code, verdict):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.run("install")
    host.sim("fail", function, code)
    answer = host.run("apply", "--section", "gpu")
    assert answer.verdict(LOCK) == verdict
    assert function in answer.evidence(LOCK)
    host.sim("fail", function, "off")
    assert host.run("verify", "--section", "gpu").code == 3
    assert host.run("apply", "--section", "gpu").changed
    assert host.run("revert").code == 0


def test_a_card_without_an_energy_counter_can_be_locked_as_well(host: FakeHost):
    host.sim("fail", "nvmlDeviceGetTotalEnergyConsumption", 3)
    applied(host, 2100)
    assert host.run("apply", "--section", "gpu").said == (False, [])


def test_a_card_that_does_not_tell_its_persistence_can_be_locked_once_and_put_back(host: FakeHost):
    host.sim("fail", "nvmlDeviceGetPersistenceMode", 3)
    applied(host, 2100)
    assert host.run("apply", "--section", "gpu").said == (False, [])
    host.sim("fail", "nvmlDeviceGetTotalEnergyConsumption", 3)
    applied(host, 1500)
    answer = host.run("apply", "--section", "gpu")
    assert (answer.changed, "tells neither persistence nor energy" in answer.evidence(LOCK)) == (True, True)


@pytest.mark.parametrize("code", [3, 999])
@pytest.mark.parametrize("function", ["nvmlDeviceGetPersistenceMode", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_reset_needs_no_word_on_the_driver(host: FakeHost, function: str, code: int):
    applied(host, 2100)
    host.sim("fail", function, code)
    answer = host.run("revert", "--section", "gpu")
    assert (answer.verdict(LOCK)[0], host.card()[LOCK]) == ("unverified", None)
    assert (function in answer.evidence(LOCK)) is (code == 999)
    assert f"gpu:{UUID}:{LOCK}" not in host.baseline()


def test_a_card_that_refuses_the_reset_as_unsupported_has_nothing_to_reset(host: FakeHost):
    before = host.snapshot()
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.run("install")
    for function in ("nvmlDeviceSetGpuLockedClocks", "nvmlDeviceResetGpuLockedClocks"):
        host.sim("fail", function, 3)
    host.run("apply", "--section", "gpu")
    assert host.run("revert").code == 0
    assert host.snapshot() == before


def test_a_reset_that_is_unsupported_where_a_lock_was_accepted_is_not_called_done(host: FakeHost):
    applied(host, 2100)
    host.sim("fail", "nvmlDeviceResetGpuLockedClocks", 3, 1)
    answer = host.run("revert")
    assert (answer.code, answer.verdict(LOCK)) == (8, ("refused", "no_interface"))
    assert host.run("revert").code == 0
    assert host.card()[LOCK] is None


def test_a_reset_that_fails_keeps_the_record(host: FakeHost):
    applied(host, 2100)
    host.sim("fail", "nvmlDeviceResetGpuLockedClocks", 999, 1)
    answer = host.run("revert")
    assert (answer.code, answer.verdict(LOCK)) == (8, ("refused", "unexplained"))
    assert f"gpu:{UUID}:{LOCK}" in host.baseline()
    assert host.run("revert").code == 0
    assert host.card()[LOCK] is None


def test_without_a_driver_the_lock_waits(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400))
    host.sim("fail", "nvmlInitWithFlags", 9)
    for arguments in (["apply", "--section", "gpu"], ["verify", "--section", "gpu", "--under-load"]):
        answer = host.run(*arguments)
        assert (answer.code, answer.verdict(LOCK)) == (7, ("pending", "needs_driver"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--under-load", "--seconds", "1"], "found 1, wanted 4 to 3600"),
        (["--under-load", "--seconds", "1e9"], "found 1e+09, wanted 4 to 3600"),
        (["--under-load", "--seconds", "nan"], "found nan, wanted 4 to 3600"),
        (["--seconds", "10"], "is for --under-load only"),
    ],
)
def test_a_period_that_proves_nothing_is_bad_input(host: FakeHost, arguments: list[str], message: str):
    answer = host.run("verify", *arguments)
    assert (answer.code, answer.problems[0]["message"]) == (2, message)
