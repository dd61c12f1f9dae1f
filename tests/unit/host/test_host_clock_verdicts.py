"""What is kept of a verdict under load: evidence with an age, which a later look at a busy card can disprove."""

from __future__ import annotations

import json

import pytest

from inferhost.host.record import lock
from tests.unit.host.fake_host import FakeHost, with_gpu
from tests.unit.host.simulated import UUID
from tests.unit.host.test_host_clock_lock import CLOCKS, LOCK, SETTING, applied, under_load


def test_the_last_verdict_under_load_is_told_with_its_age_until_the_lock_is_asked_for_again(host: FakeHost):
    applied(host, 2100)
    host.sim("load", "on")
    under_load(host)
    host.wait(600)
    answer = host.run("verify", "--section", "gpu")
    assert (answer.code, answer.verdict(LOCK)) == (0, ("unverified", "needs_load"))
    seen = "55 of 60 samples under load, 5.0 per second: 2100 to 2100 MHz"
    told = f"asked for, and no call reads a lock back; then held: {seen}"
    assert answer.evidence(LOCK).startswith(told)
    assert answer.evidence(LOCK).endswith("; under load 10 min ago")
    host.sim("load", "off")
    assert under_load(host).verdict(LOCK) == ("unverified", "needs_load")
    assert "then held" in host.run("verify", "--section", "gpu").evidence(LOCK)
    applied(host, 2000)
    assert "then held" not in host.run("verify", "--section", "gpu").evidence(LOCK)


@pytest.fixture
def proven(host: FakeHost) -> FakeHost:
    """A lock that held under load, and was taken away by somebody (`nvidia-smi -rgc`)."""
    applied(host, 1500)
    host.sim("load", "on")
    host.wait(5)
    assert under_load(host).verdict(LOCK) == ("held", "none")
    host.sim("set", LOCK, "none")
    host.wait(2)
    return host


def test_a_lock_that_held_once_and_was_taken_away_is_not_called_held_at_idle(proven: FakeHost):
    proven.sim("load", "off")
    proven.wait(5 * 3600)
    for verb in ("verify", "apply"):
        answer = proven.run(verb, "--section", "gpu")
        assert (answer.code, answer.changed, answer.verdict(LOCK)) == (0, False, ("unverified", "needs_load"))
        assert answer.evidence(LOCK).endswith("; under load 5 h ago")
        found = next(v for v in answer.document["verdicts"] if v["setting"] == SETTING)
        assert found["found"] is None
    assert f"{LOCK} 1500 unverified (needs_load)" in proven.run("boot").prose


def test_one_look_at_a_busy_card_above_its_lock_disproves_it_and_apply_asks_again(proven: FakeHost):
    answer = proven.run("verify", "--section", "gpu")
    assert (answer.code, answer.verdict(LOCK)) == (3, ("ignored", "unexplained"))
    assert "2790 MHz seen while the card was busy" in answer.evidence(LOCK)
    foretold = proven.run("apply", "--section", "gpu", "--check")
    answer = proven.run("apply", "--section", "gpu")
    assert (
        answer.said == foretold.said == (True, [{"setting": SETTING, "before": "unknown", "after": "asked for 1500"}])
    )
    assert "again, because 2790 MHz seen" in answer.evidence(LOCK)
    assert proven.card()[LOCK] == [1500, 1500]
    assert under_load(proven).verdict(LOCK) == ("held", "none")
    assert proven.run("apply", "--section", "gpu").said == (False, [])


def test_the_drift_timer_tells_it_and_does_not_fight_over_it(proven: FakeHost):
    answer = proven.run("watch")
    assert answer.verdict(LOCK) == ("ignored", "unexplained")
    assert proven.card()[LOCK] is None


def test_a_look_right_after_the_request_proves_nothing(host: FakeHost):
    """The clock needs a moment to come down."""
    host.sim("load", "on")
    applied(host, 1500)
    host.sim("fault", "graphics_clock", "accepted_ignored")
    assert host.run("verify", "--section", "gpu").verdict(LOCK) == ("unverified", "needs_load")
    host.wait(2)
    assert host.run("verify", "--section", "gpu").verdict(LOCK) == ("ignored", "unexplained")


def test_an_ignored_lock_stays_drift_in_a_plain_verify_and_is_asked_for_again_by_apply(host: FakeHost):
    applied(host, 2100)
    host.sim("set", LOCK, "none")  # what `nvidia-smi -rgc` of somebody else does: nothing shows it without load
    assert host.run("verify", "--section", "gpu").verdict(LOCK) == ("unverified", "needs_load")
    host.sim("load", "on")
    assert under_load(host).code == 3
    host.sim("load", "off")
    assert host.run("verify", "--section", "gpu").code == 3
    foretold = host.run("apply", "--section", "gpu", "--check")
    answer = host.run("apply", "--section", "gpu")
    assert (
        answer.said == foretold.said == (True, [{"setting": SETTING, "before": "unknown", "after": "asked for 2100"}])
    )
    host.sim("load", "on")
    assert under_load(host).verdict(LOCK) == ("held", "none")


def test_a_lock_that_somebody_replaced_by_a_lower_one_is_asked_for_again_by_apply(host: FakeHost):
    applied(host, 2100)
    host.sim("set", LOCK, "1200,1200")
    host.sim("load", "on")
    host.wait(5)
    assert under_load(host).verdict(LOCK) == ("clamped", "unexplained")
    assert host.run("verify", "--section", "gpu").verdict(LOCK) == ("clamped", "unexplained")
    foretold = host.run("apply", "--section", "gpu", "--check")
    answer = host.run("apply", "--section", "gpu")
    assert (
        answer.said == foretold.said == (True, [{"setting": SETTING, "before": "unknown", "after": "asked for 2100"}])
    )
    assert "again, because it was clamped under load" in answer.evidence(LOCK)
    assert (host.card()[LOCK], answer.code) == ([2100, 2100], 0)


def test_what_a_power_cap_did_to_a_clock_is_no_verdict_on_its_lock_later(host: FakeHost):
    applied(host, 2100)
    host.sim("load", "on")
    host.sim("set", "power_limit_mw", 250000)
    host.wait(30)
    answer = under_load(host)
    assert (answer.code, answer.verdict(LOCK)) == (3, ("clamped", "power_cap"))
    host.sim("set", "power_limit_mw", 600000)
    host.wait(7200)
    for verb in ("verify", "apply"):
        answer = host.run(verb, "--section", "gpu")
        assert (answer.code, answer.changed, answer.verdict(LOCK)) == (0, False, ("unverified", "needs_load"))
        assert "then clamped: below the range, by sw_power_cap" in answer.evidence(LOCK)


def test_a_verdict_on_a_request_that_was_made_again_meanwhile_is_not_kept(host: FakeHost):
    applied(host, 2100)
    host.sim("load", "on")
    host.wait(20)
    pass_time = host.wait

    def another_apply(seconds: float) -> None:
        found = json.loads(host.read(CLOCKS))
        found["asked"][UUID]["time_s"] = 12.0
        host.write(CLOCKS, json.dumps(found))
        pass_time(seconds)

    host.wait = another_apply  # type: ignore[method-assign]
    assert under_load(host).verdict(LOCK) == ("held", "none")
    assert json.loads(host.read(CLOCKS))["asked"][UUID]["last"] is None


def test_check_mode_keeps_no_verdict(host: FakeHost):
    applied(host, 2100)
    host.sim("load", "on")
    assert under_load(host, "--check").verdict(LOCK) == ("held", "none")
    assert host.run("verify", "--section", "gpu").verdict(LOCK) == ("unverified", "needs_load")


def test_a_verdict_that_cannot_be_kept_while_another_is_at_work_takes_no_other_with_it(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100), power_limit_w=600)
    host.converge()
    host.sim("load", "on")
    host.wait(5)
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    with lock.locked(host.machine(str(host.root))):
        answer = host.run("verify", "--under-load")
    assert (answer.code, answer.verdict(LOCK), answer.verdict("vm.swappiness")) == (
        0,
        ("held", "none"),
        ("held", "none"),
    )
    note = "what the samples showed is not kept for later: /run/inferhost/lock held by process "
    assert [one for one in answer.document["notes"] if one.startswith(note)]
    assert json.loads(host.read(CLOCKS))["asked"][UUID]["last"] is None


def test_a_verdict_that_a_full_disk_does_not_take_takes_no_other_with_it_either(host: FakeHost):
    def full(step: str) -> None:
        if "clocks.json" in step:
            raise OSError(28, "No space left on device")

    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100), power_limit_w=600)
    host.converge()
    host.sim("load", "on")
    host.wait(5)
    answer = host.run("verify", "--under-load", before_write=full)
    assert (answer.code, answer.verdict(LOCK), answer.verdict("vm.swappiness")) == (
        0,
        ("held", "none"),
        ("held", "none"),
    )
    note = "what the samples showed is not kept for later: /run/inferhost/clocks.json could not be written"
    assert [one for one in answer.document["notes"] if one.startswith(note)]
