"""Promise 3 on the one setting without a getter: a clock lock is proven by samples under load, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inferhost.host.gpu.clock_record import Asked, Loaded, read_clocks, remember_asked
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID

LOCK = "graphics_clock_lock_mhz"
SETTING = f"gpu.{UUID}.{LOCK}"
CLOCKS = "/run/inferhost/clocks.json"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
NATURAL_MHZ = 2790  # of the simulated card: guide 003


def applied(host: FakeHost, *lock_mhz: int, power_limit_w: int = 600, **changes: Any) -> None:
    """The host with this lock asked for and no power cap in its way, and nothing yet known of it."""
    host.plan = with_gpu(graphics_clock_lock_mhz=lock_mhz, power_limit_w=power_limit_w, **changes)
    host.run("install")
    assert host.run("apply", "--section", "gpu").code == 0


def under_load(host: FakeHost, *arguments: str):
    return host.run("verify", "--section", "gpu", "--under-load", *arguments)


def test_a_lock_is_asked_for_and_called_unverified_until_there_is_load(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400))
    host.run("install")
    answer = host.run("apply", "--section", "gpu")
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unverified", "needs_load"))
    assert host.card()[LOCK] == [2100, 2400]
    assert {"setting": SETTING, "before": "unknown", "after": "asked for 2100-2400"} in answer.document["diff"]


def test_check_mode_foretells_the_first_run_and_writes_nothing(host: FakeHost):
    host.sim("set", "persistence", 0)
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400))
    host.run("install")
    before = host.snapshot()
    foretold = host.run("apply", "--section", "gpu", "--check")
    assert host.snapshot() == before
    assert host.run("apply", "--section", "gpu").said == foretold.said


def test_a_second_run_asks_for_nothing(host: FakeHost):
    applied(host, 2100, 2400)
    order: list[str] = []
    assert host.run("apply", "--section", "gpu", before_write=order.append).said == (False, [])
    assert not [step for step in order if step.startswith("nvml")]


def test_an_honest_lock_under_load_is_held_with_its_samples(host: FakeHost):
    applied(host, 2100)
    host.sim("load", "on")
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (0, ("held", "none"))
    assert answer.evidence(LOCK) == (
        "55 of 60 samples under load, 5.0 per second: 2100 to 2100 MHz, median 2100; one step is 8 MHz; "
        "event reasons: none; event counters: none rose"
    )
    assert len(answer.document["facts"]["samples"][UUID]) == 60


def test_a_lock_that_the_card_ignores_is_drift_with_its_samples(host: FakeHost):
    applied(host, 2100)
    host.sim("fault", "graphics_clock", "accepted_ignored")
    host.sim("load", "on")
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("ignored", "unexplained"))
    assert f"{NATURAL_MHZ} MHz" in answer.evidence(LOCK)
    assert answer.document["facts"]["samples"][UUID][-1]["sm_clock_mhz"] == NATURAL_MHZ


def test_a_lock_above_what_the_card_reaches_lifts_nothing_and_is_not_held(host: FakeHost):
    """Captured: 3000-3090 accepted, 2790 seen (guide 003)."""
    applied(host, 3000, 3090)
    host.sim("load", "on")
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("ignored", "unexplained"))


def test_a_lock_below_which_the_card_stays_without_a_reason_is_clamped(host: FakeHost):
    applied(host, 2100)
    host.sim("fault", "graphics_clock", "clamped", 1500)
    host.sim("load", "on")
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("clamped", "unexplained"))


def test_a_lock_that_the_power_cap_overrules_is_clamped_by_it(host: FakeHost):
    applied(host, 2400, power_limit_w=250)
    host.sim("load", "on")
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("clamped", "power_cap"))
    assert "event reasons: sw_power_cap in 55; event counters: sw_power_cap for 10.8 s" in answer.evidence(LOCK)
    assert answer.verdict("power_limit_w") == ("held", "none")


def test_a_lock_that_heat_overrules_is_clamped_by_it(host: FakeHost):
    applied(host, 2400, power_limit_w=600)
    host.sim("set", "ambient_celsius", 75)
    host.sim("load", "on")
    host.sim("advance", 1800)
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("clamped", "thermal"))


@pytest.mark.parametrize("lock", [(2700, 2850), (2790,), (2790, 2850), (2640, 2790), (1500, 3090), (2500,)])
@pytest.mark.parametrize("fault", ["off", "accepted_ignored"])
def test_a_range_in_which_the_card_may_be_by_itself_is_never_called_held(host: FakeHost, lock, fault: str):
    applied(host, *lock)
    host.sim("fault", "graphics_clock", fault)
    host.sim("load", "on")
    answer = under_load(host)
    if lock == (2500,) and fault != "off":
        assert answer.verdict(LOCK) == ("ignored", "unexplained")
    else:
        assert (answer.code, answer.verdict(LOCK)) == (0, ("unverified", "indistinguishable"))


def test_a_clock_that_was_sampled_under_a_power_cap_is_not_the_cards_own(host: FakeHost):
    host.run("install")
    host.sim("load", "on")
    assert under_load(host).document["notes"] == []
    assert not host.at(CLOCKS).exists()


def test_a_lock_where_the_card_was_seen_without_one_is_not_called_held(host: FakeHost):
    """Below what is known of any card; it is called so where nothing was seen."""
    applied(host, 2500)
    host.plan = with_gpu(power_limit_w=600)
    host.run("apply", "--section", "gpu")
    host.sim("set", LOCK, "1800,1800")  # stands for a card that is slower than any that is known
    host.sim("load", "on")
    learnt = under_load(host)
    assert f"gpu.{UUID}: 1800 to 1800 MHz under load without a lock of ours; kept" in learnt.document["notes"]
    applied(host, 1800)
    answer = under_load(host)
    assert answer.verdict(LOCK) == ("unverified", "indistinguishable")
    assert "1800 to 1800 MHz without a lock of ours" in answer.evidence(LOCK)
    host.at(CLOCKS).unlink()
    applied(host, 1800)
    assert under_load(host).verdict(LOCK) == ("held", "none")


@pytest.mark.parametrize("resets", [True, False], ids=["we unlocked before", "it stood before us"])
def test_a_clock_that_was_seen_under_a_lock_of_somebody_else_makes_no_other_lock_held(host: FakeHost, resets: bool):
    """Of a script that is gone since: nobody can tell that it stood. Then the lock of ours is lost unseen."""
    if resets:
        applied(host, 2100)
    host.plan = with_gpu(power_limit_w=600)
    host.run("install")
    host.run("apply", "--section", "gpu")
    host.sim("set", LOCK, "1200,1200")
    host.sim("load", "on")
    host.wait(30)
    assert any("1200 MHz under load" in note for note in under_load(host).document["notes"]) is resets
    applied(host, NATURAL_MHZ)
    host.sim("set", LOCK, "none")
    host.wait(30)
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unverified", "indistinguishable"))
    assert "only a challenge (--challenge) tells" in answer.evidence(LOCK)


def test_a_clock_that_was_sampled_on_another_driver_than_the_reset_is_not_the_cards_own(host: FakeHost):
    applied(host, 2500)
    host.plan = with_gpu(power_limit_w=600)
    host.run("apply", "--section", "gpu")
    host.write(BOOT_ID, "boot-2\n")
    host.sim("load", "on")
    host.wait(30)
    assert under_load(host).verdict("power_limit_w") == ("held", "none")
    assert not json.loads(host.read(CLOCKS))["natural"]


def test_a_clock_of_which_the_driver_is_not_known_is_not_kept(host: FakeHost):
    applied(host, 2500)
    host.plan = with_gpu(power_limit_w=600)
    host.run("apply", "--section", "gpu")
    host.sim("load", "on")
    host.wait(30)
    host.sim("fail", "nvmlDeviceGetTotalEnergyConsumption", 999)
    answer = under_load(host)
    assert (answer.code, "its clock without a lock is not kept" in answer.prose) == (0, True)
    assert not json.loads(host.read(CLOCKS))["natural"]


def test_which_locks_were_reset_stays_known_whatever_is_asked_for_next(host: FakeHost):
    machine, loaded = host.machine(str(host.root)), Loaded("boot-1", "580.95.05", None)
    for uuid in (UUID, SECOND_UUID):
        remember_asked(machine, uuid, None, loaded)
    remember_asked(machine, UUID, Asked(2100, 2100, True, loaded, 0.0, None))
    assert set(read_clocks(machine).unlocked or ()) == {UUID, SECOND_UUID}


def test_a_clock_while_another_run_asked_for_a_lock_is_not_the_cards_own(host: FakeHost):
    applied(host, 2500)
    host.plan = with_gpu(power_limit_w=600)
    host.run("apply", "--section", "gpu")
    host.sim("load", "on")
    host.wait(30)
    pass_time = host.wait

    def another_apply(seconds: float) -> None:
        host.wait = pass_time  # type: ignore[method-assign]
        applied(host, 1200)
        host.wait(seconds)

    host.wait = another_apply  # type: ignore[method-assign]
    under_load(host)
    assert host.card()[LOCK] == [1200, 1200]
    assert not json.loads(host.read(CLOCKS))["natural"]


@pytest.mark.parametrize("counted", [False, True], ids=["nothing", "the counters only"])
def test_a_lock_on_a_card_that_does_not_say_what_limits_it_is_not_called_held(host: FakeHost, counted: bool):
    applied(host, 2100)
    host.sim("load", "on")
    host.wait(5)
    host.sim("fail", "nvmlDeviceGetCurrentClocksEventReasons", 3)
    host.sim("fail", "nvmlDeviceGetCurrentClocksThrottleReasons", 3)
    if not counted:
        host.sim("fail", "nvmlDeviceGetFieldValues", 3)
    found = ("held", "none") if counted else ("unverified", "indistinguishable")
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (0, found)
    assert "event reasons: not told by this card" in answer.evidence(LOCK)
    assert answer.document["facts"]["boards"][UUID]["event_reasons"] is None


def test_an_idle_card_says_nothing_about_its_lock(host: FakeHost):
    applied(host, 2100)
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unverified", "needs_load"))
    assert answer.evidence(LOCK) == "0 of 60 samples under load, wanted 10; utilisation at most 0 %"


def test_a_load_that_ends_too_soon_is_no_proof(host: FakeHost):
    applied(host, 2100)
    host.sim("load", "on")
    wait = host.wait

    def stopping(seconds: float) -> None:
        wait(seconds)
        if host.passed_s >= 2:
            host.sim("load", "off")

    host.wait = stopping  # type: ignore[method-assign]
    assert under_load(host).verdict(LOCK) == ("unverified", "needs_load")


@pytest.mark.parametrize("sign", ["boot", "driver", "energy"])
def test_a_driver_that_was_loaded_again_is_noticed_by_any_sign_and_apply_repairs(host: FakeHost, sign: str):
    applied(host, 2100)
    record = json.loads(host.read(CLOCKS))
    if sign == "boot":
        host.write(BOOT_ID, "boot-2\n")
    else:
        key, value = {"driver": ("driver_version", "570.1"), "energy": ("energy_mj", 10**12)}[sign]
        record["asked"][UUID]["loaded"][key] = value
        host.write(CLOCKS, json.dumps(record))
    host.sim("set", LOCK, "none")
    answer = host.run("verify", "--section", "gpu")
    assert (answer.code, answer.verdict(LOCK)) == (3, ("overridden", "driver_reload"))
    foretold = host.run("apply", "--section", "gpu", "--check")
    answer = host.run("apply", "--section", "gpu")
    assert (
        answer.said == foretold.said == (True, [{"setting": SETTING, "before": "unknown", "after": "asked for 2100"}])
    )
    assert host.card()[LOCK] == [2100, 2100]
    assert host.run("apply", "--section", "gpu").said == (False, [])


def test_a_reload_of_the_simulated_driver_is_noticed_and_repaired(host: FakeHost):
    host.sim("load", "on")
    host.sim("advance", 60)
    applied(host, 2100)
    host.sim("reload")
    host.sim("set", "persistence", 1)
    answer = host.run("verify", "--section", "gpu", "--under-load")
    assert (answer.code, answer.verdict(LOCK)) == (3, ("overridden", "driver_reload"))
    assert "the energy counter fell from 28565 to 0 J" in answer.evidence(LOCK)
    assert host.run("apply", "--section", "gpu").changed
    assert host.card()[LOCK] == [2100, 2100]


def test_without_persistence_the_lock_is_asked_for_at_every_run_and_said_to_be_in_doubt(host: FakeHost):
    host.sim("load", "on")
    applied(host, 2100, persistence_mode=False)
    answer = host.run("verify", "--section", "gpu")
    assert answer.verdict(LOCK) == ("unverified", "needs_load")
    assert "persistence is off" in answer.evidence(LOCK)
    foretold = host.run("apply", "--section", "gpu", "--check")
    assert host.run("apply", "--section", "gpu").said == foretold.said
    assert foretold.said == (True, [{"setting": SETTING, "before": "unknown", "after": "asked for 2100"}])


def test_persistence_found_off_puts_the_lock_in_doubt_even_when_this_run_turns_it_on(host: FakeHost):
    host.sim("load", "on")
    applied(host, 2100)
    host.sim("set", "persistence", 0)
    foretold = host.run("apply", "--section", "gpu", "--check")
    answer = host.run("apply", "--section", "gpu")
    assert answer.said == foretold.said
    assert SETTING in [change["setting"] for change in answer.document["diff"]]


@pytest.mark.parametrize("damage", [("{", ""), ('"schema": 1', '"schema": 2')], ids=["cut", "of another version"])
def test_a_record_that_cannot_be_read_is_none(host: FakeHost, damage: tuple[str, str]):
    applied(host, 2100)
    host.write(CLOCKS, host.read(CLOCKS).replace(*damage))
    assert host.run("verify", "--section", "gpu").verdict(LOCK) == ("overridden", "unexplained")
    assert host.run("apply", "--section", "gpu").changed


def test_a_request_not_applied_yet_is_not_called_asked_for(host: FakeHost):
    applied(host, 2100)
    host.plan = with_gpu(graphics_clock_lock_mhz=(2000, 2000))
    answer = host.run("verify", "--section", "gpu")
    assert (answer.code, answer.verdict(LOCK)) == (3, ("overridden", "unexplained"))
    assert answer.evidence(LOCK) == "the request on record is for 2100"


def test_a_wish_to_be_unlocked_takes_our_own_lock_back_and_touches_no_other(host: FakeHost):
    host.sim("set", LOCK, "1500,1500")
    host.run("install")
    host.run("apply", "--section", "gpu")
    assert host.card()[LOCK] == [1500, 1500]
    applied(host, 2100, power_limit_w=450)
    host.plan = plan()
    assert host.run("verify", "--section", "gpu").verdict(LOCK) == ("overridden", "other_writer")
    foretold = host.run("apply", "--section", "gpu", "--check")
    answer = host.run("apply", "--section", "gpu")
    assert (
        answer.said
        == foretold.said
        == (True, [{"setting": SETTING, "before": "asked for 2100", "after": "asked for unlocked"}])
    )
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unverified", "no_interface"))
    assert host.card()[LOCK] is None
    assert host.run("apply", "--section", "gpu").said == (False, [])


def test_revert_resets_the_lock_says_that_the_original_is_unknown_and_leaves_the_host_as_it_was(host: FakeHost):
    before = host.snapshot()
    applied(host, 2100)
    assert host.baseline()[f"gpu:{UUID}:{LOCK}"]["found"] == "unknown"
    host.sim("load", "on")
    under_load(host)
    host.sim("load", "off")
    answer = host.run("revert")
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unverified", "no_interface"))
    assert (
        f"{SETTING}: what was set before inferhost has no getter; it is reset to unlocked"
        in (answer.document["notes"])
    )
    assert host.snapshot() == before


def test_our_own_lock_is_never_recorded_as_an_original(host: FakeHost):
    applied(host, 2100)
    records = json.loads(host.read("/var/lib/inferhost/baseline.json"))
    del records["records"][f"gpu:{UUID}:{LOCK}"]
    host.write("/var/lib/inferhost/baseline.json", json.dumps(records))
    host.run("install")
    assert host.baseline()[f"gpu:{UUID}:{LOCK}"]["found"] == "unknown"


def test_one_card_ignoring_its_lock_leaves_the_other_one_held(pair: FakeHost):
    first = with_gpu(graphics_clock_lock_mhz=(2100, 2100)).gpus[0]
    select = first.select.__class__(SECOND_UUID, "2BB1", 0)
    pair.plan = plan(gpus=(first, type(first)(**{**vars(first), "select": select})))
    pair.run("install")
    pair.run("apply", "--section", "gpu")
    pair.sim("fault", "graphics_clock", "accepted_ignored", "--gpu", 1)
    pair.sim("load", "on")
    answer = under_load(pair)
    assert answer.verdict(f"{UUID}.{LOCK}") == ("held", "none")
    assert answer.verdict(f"{SECOND_UUID}.{LOCK}") == ("ignored", "unexplained")
