"""Samples say what the cards do, in time that the simulator passes; and what the judges of samples may conclude."""

from __future__ import annotations

import dataclasses
from typing import Any

import pynvml
import pytest

from inferhost.host.gpu import load, sample
from inferhost.host.gpu.load import Range, judge_clock, judge_draw, judge_enforced, natural_clock_mhz, settled
from inferhost.host.gpu.sample import Sample, reasons
from inferhost.host.machine import Clock
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.simulated import SECOND_UUID, UUID

STEPS = tuple(range(180, 3091, 10))
BUSY = Sample(0.0, 2100, 13365, 1, 440.0, 450.0, 60, 100, (), {})


def busy(count: int, **changes: object) -> list[Sample]:
    """`count` settled samples at the judges' rate, after the second in which nothing counts."""
    settling = round(load.SETTLE_S * load.HZ)
    return [dataclasses.replace(BUSY, time_s=n / load.HZ, **changes) for n in range(count + settling)]  # type: ignore[arg-type]


def asked(low_mhz: int, high_mhz: int, natural_mhz: tuple[int, int] | None = None) -> Range:
    return Range(low_mhz, high_mhz, STEPS, natural_mhz)


def test_a_loaded_card_is_sampled_in_units_that_people_use(host: FakeHost):
    host.sim("load", "on")
    host.sim("advance", 30)
    answer = host.run("sample", "--seconds", "2", "--hz", "5")
    card = answer.document["facts"]["gpus"][0]
    assert (answer.code, answer.changed, card["uuid"], len(card["samples"])) == (0, False, UUID, 10)
    first = card["samples"][0]
    assert {key: first[key] for key in ("time_s", "sm_clock_mhz", "memory_clock_mhz", "pstate")} == {
        "time_s": 0.0,
        "sm_clock_mhz": 2722,
        "memory_clock_mhz": 13365,
        "pstate": 1,
    }
    assert (first["enforced_power_limit_w"], first["utilization_percent"]) == (480.0, 100)
    assert 450 < first["power_w"] <= 480
    assert first["event_reasons"] == ["sw_power_cap"]
    assert first["limited_s"] == {
        "sw_power_cap": 30.0,
        "sw_thermal_slowdown": 0.0,
        "hw_thermal_slowdown": 0.0,
        "hw_power_brake": 0.0,
    }
    assert [sample["time_s"] for sample in card["samples"]] == [n / 5 for n in range(10)]


def test_an_idle_card_is_sampled_as_idle_and_no_load_is_made(host: FakeHost):
    before = host.snapshot()
    answer = host.run("sample", "--seconds", "1")
    assert {s["utilization_percent"] for s in answer.document["facts"]["gpus"][0]["samples"]} == {0}
    assert host.snapshot() == before


def test_every_card_is_sampled_at_the_same_moments(pair: FakeHost):
    gpus = pair.run("sample", "--seconds", "1").document["facts"]["gpus"]
    assert {gpu["uuid"] for gpu in gpus} == {UUID, SECOND_UUID}
    assert [s["time_s"] for s in gpus[0]["samples"]] == [s["time_s"] for s in gpus[1]["samples"]]


@pytest.mark.parametrize("code", [9, 12, 18])
def test_sampling_without_a_driver_has_an_exit_code_of_its_own(host: FakeHost, code: int):
    host.sim("fail", "nvmlInitWithFlags", code)
    answer = host.run("sample")
    assert answer.code == 4
    assert answer.problems[0]["path"] == "nvml"


def test_a_card_that_is_lost_meanwhile_is_told_and_its_neighbour_goes_on(pair: FakeHost):
    wait = pair.wait

    def losing(seconds: float) -> None:
        wait(seconds)
        if pair.passed_s == 0.6:
            pair.sim("lost", 0)

    pair.wait = losing  # type: ignore[method-assign]
    answer = pair.run("sample", "--seconds", "2")
    assert answer.code == 8
    assert answer.problems[0]["message"] == "nvmlDeviceGetPowerUsage: GpuIsLost (NVML error 15), after 3 samples"
    assert [len(gpu["samples"]) for gpu in answer.document["facts"]["gpus"]] == [3, 10]


def test_a_reading_that_the_card_lacks_is_nothing_and_no_failure(host: FakeHost):
    host.sim("fail", "nvmlDeviceGetPowerUsage", 3)
    host.sim("fail", "nvmlDeviceGetTemperatureV", 13)
    host.sim("fail", "nvmlDeviceGetCurrentClocksEventReasons", 13)
    host.sim("fail", "nvmlDeviceGetCurrentClocksThrottleReasons", 13)
    answer = host.run("sample", "--seconds", "1")
    first = answer.document["facts"]["gpus"][0]["samples"][0]
    assert (answer.code, first["power_w"], first["event_reasons"]) == (0, None, None)
    assert first["temperature_c"] > 0


@pytest.mark.parametrize("period", [["--seconds", "0"], ["--seconds", "-1"], ["--seconds", "nan"], ["--hz", "1000"]])
def test_a_period_that_nobody_can_mean_is_refused(host: FakeHost, period: list[str]):
    assert host.run("sample", *period).code == 2


def test_a_machine_that_is_too_slow_gives_fewer_samples(host: FakeHost):
    wait = host.wait
    host.wait = lambda seconds: wait(1.0 if seconds else 0.0)  # type: ignore[method-assign]
    samples = host.run("sample", "--seconds", "3").document["facts"]["gpus"][0]["samples"]
    assert [sample["time_s"] for sample in samples] == sorted({sample["time_s"] for sample in samples})
    assert len(samples) < 15


def test_event_reasons_have_names_and_a_new_bit_is_shown_as_a_number():
    assert reasons(0x4 | 0x48 | 0x1000) == ("sw_power_cap", "hw_slowdown", "hw_thermal_slowdown", "0x1000")
    assert reasons(0) == ()


def test_only_what_was_seen_after_a_second_of_load_counts():
    idle = dataclasses.replace(BUSY, utilization_percent=0)
    pattern = [idle] * 3 + [BUSY] * 8 + [idle] + [BUSY] * 8
    samples = [dataclasses.replace(s, time_s=n / 5) for n, s in enumerate(pattern)]
    assert [s.time_s for s in settled(samples)] == [1.6, 1.8, 2.0, 3.4, 3.6, 3.8]
    assert settled([dataclasses.replace(s, event_reasons=("gpu_idle",)) for s in samples]) == []


@pytest.mark.parametrize(
    ("clock_mhz", "low_mhz", "high_mhz", "natural_mhz", "verdict"),
    [
        (2100, 2100, 2100, None, ("held", "none")),
        (2110, 2100, 2100, None, ("held", "none")),  # one step
        (2090, 2100, 2100, None, ("held", "none")),
        (2111, 2100, 2100, None, ("ignored", "unexplained")),
        (2089, 2100, 2100, None, ("clamped", "unexplained")),
        (2100, 1500, 2100, None, ("held", "none")),
        (1500, 1500, 2100, None, ("held", "none")),
        (1800, 1500, 2100, None, ("unverified", "indistinguishable")),
        (2700, 2700, 2700, None, ("unverified", "indistinguishable")),
        (2700, 2700, 2700, (2790, 2790), ("unverified", "indistinguishable")),  # a lock may have lifted it
        (2700, 2700, 2700, (1200, 1200), ("unverified", "indistinguishable")),  # or kept it down
        (2100, 2100, 2100, (2790, 2790), ("held", "none")),
        (2100, 2100, 2100, (2100, 2100), ("unverified", "indistinguishable")),
        (2790, 3000, 3090, (2790, 2790), ("ignored", "unexplained")),
    ],
)
def test_the_verdict_follows_from_clock_range_and_what_the_card_does_by_itself(
    clock_mhz: int, low_mhz: int, high_mhz: int, natural_mhz: tuple[int, int] | None, verdict: tuple[str, str]
):
    judged = judge_clock(busy(40, sm_clock_mhz=clock_mhz), asked(low_mhz, high_mhz, natural_mhz))
    assert (judged.verdict, judged.cause) == verdict


def test_a_card_that_does_not_say_its_utilisation_is_not_called_idle():
    """As with MIG on. Source: nvml.h, nvmlDeviceGetUtilizationRates."""
    judged = judge_clock(busy(40, utilization_percent=None), asked(2100, 2100))
    assert (judged.verdict, judged.cause) == ("unverified", "no_interface")
    assert judged.evidence.startswith("the card does not say its utilisation")
    assert "0 %" not in judged.evidence


def test_a_clock_mostly_below_its_range_is_not_called_ignored_for_some_samples_above():
    below = busy(40, sm_clock_mhz=1800, event_reasons=("sw_power_cap",))
    above = [dataclasses.replace(s, sm_clock_mhz=2500) if n % 10 == 9 else s for n, s in enumerate(below)]
    found = judge_clock(above, asked(2100, 2100))
    assert (found.verdict, found.cause, found.found) == ("clamped", "power_cap", 1800)
    as_often = [dataclasses.replace(s, sm_clock_mhz=2500) if n % 2 else s for n, s in enumerate(below)]
    assert judge_clock(as_often, asked(2100, 2100)).verdict == "ignored"


def test_a_card_that_counts_no_events_is_judged_by_its_samples_and_that_is_said(host: FakeHost):
    assert "this card counts no events" in judge_clock(busy(40), asked(2100, 2100)).evidence
    host.sim("fail", "nvmlDeviceGetFieldValues", 3)
    answer = host.run("sample", "--seconds", "1")
    assert (answer.code, answer.document["facts"]["gpus"][0]["samples"][0]["limited_s"]) == (0, {})


def test_a_counter_that_failed_or_counts_in_another_way_is_left_out(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    """Each field has a code of its own in an array of which the call as a whole succeeds."""
    real = pynvml.nvmlDeviceGetFieldValues

    def partly(handle: object, wanted: list[int]) -> object:
        fields = real(handle, wanted)
        fields[0].nvmlReturn, fields[1].valueType = 999, pynvml.NVML_VALUE_TYPE_DOUBLE
        return fields

    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", partly)
    first = host.run("sample", "--seconds", "0.4").document["facts"]["gpus"][0]["samples"][0]
    assert sorted(first["limited_s"]) == ["hw_power_brake", "hw_thermal_slowdown"]


def test_the_event_reasons_of_a_driver_that_knows_only_their_old_name(host: FakeHost):
    host.sim("load", "on")
    host.sim("advance", 30)
    host.sim("fail", "nvmlDeviceGetCurrentClocksEventReasons", 13)
    first = host.run("sample", "--seconds", "0.4").document["facts"]["gpus"][0]["samples"][0]
    assert first["event_reasons"] == ["sw_power_cap"]


def test_a_single_stray_sample_is_forgiven_and_a_tenth_of_them_is_not():
    stray = [dataclasses.replace(BUSY, time_s=20 + n / 5, sm_clock_mhz=2790) for n in range(4)]
    assert judge_clock(busy(40) + stray[:1], asked(2100, 2100)).verdict == "held"
    assert judge_clock(busy(36) + stray, asked(2100, 2100)).verdict == "ignored"


@pytest.mark.parametrize(
    ("gap_s", "verdict"), [(0.2, "held"), (0.205, "held"), (0.25, "unverified"), (0.5, "unverified")]
)
def test_a_card_that_is_looked_at_too_seldom_is_not_called_held(gap_s: float, verdict: str):
    samples = [dataclasses.replace(s, time_s=n * gap_s) for n, s in enumerate(busy(15))]
    judged = judge_clock(samples, asked(2100, 2100))
    assert judged.verdict == verdict
    assert f"{1 / gap_s:.1f} per second" in judged.evidence
    above = [dataclasses.replace(s, sm_clock_mhz=2700) for s in samples]
    assert judge_clock(above, asked(2100, 2100)).verdict == "ignored"


def test_a_machine_that_stopped_for_a_moment_looked_often_enough():
    samples = [dataclasses.replace(s, time_s=s.time_s + (3 if n > 20 else 0)) for n, s in enumerate(busy(40))]
    assert judge_clock(samples, asked(2100, 2100)).verdict == "held"


def test_each_card_has_the_time_of_its_own_look(monkeypatch: pytest.MonkeyPatch):
    """A row of looks takes its time, and is none at the first card's moment."""
    passed_s = [0.0]

    def wait(seconds: float) -> None:
        passed_s[0] += seconds

    def slow(_nvml: Any, _card: Any, time_s: float) -> Sample:
        wait(0.08)
        return dataclasses.replace(BUSY, time_s=round(time_s, 2))

    monkeypatch.setattr(sample, "look", slow)
    cards: Any = ["first", "second"]
    series = sample.take_samples(Any, cards, 1.0, load.HZ, Clock(lambda: passed_s[0], wait))
    times = [[one.time_s for one in of_card.samples] for of_card in series]
    assert times == [[0.0, 0.2, 0.4, 0.6, 0.8], [0.08, 0.28, 0.48, 0.68, 0.88]]


def test_fewer_samples_under_load_than_wanted_prove_nothing():
    assert judge_clock(busy(9), asked(2100, 2100)).cause == "needs_load"
    assert judge_clock(busy(10), asked(2100, 2100)).verdict == "held"
    assert natural_clock_mhz(busy(9)) is None


@pytest.mark.parametrize(
    ("clock_mhz", "utilization_percent", "seen_mhz"),
    [(2110, 100, None), (2111, 100, 2111), (2111, 49, None), (None, 100, None), (1500, 100, None)],
)
def test_one_look_disproves_a_lock_by_a_clock_above_it_on_a_busy_card(
    clock_mhz: int | None, utilization_percent: int, seen_mhz: int | None
):
    found = dataclasses.replace(BUSY, sm_clock_mhz=clock_mhz, utilization_percent=utilization_percent)
    assert load.seen_above(found, asked(2100, 2100)) == seen_mhz


@pytest.mark.parametrize(("natural_mhz", "moved_mhz"), [(None, 1540), ((1500, 1600), 1480), ((0, 9999), None)])
def test_a_challenge_moves_to_a_clock_where_the_card_is_never_by_itself(
    natural_mhz: tuple[int, int] | None, moved_mhz: int | None
):
    assert load.telling_mhz(asked(2790, 2790, natural_mhz)) == moved_mhz


@pytest.mark.parametrize(("lower", "capped"), [(0, False), (1, False), (30, True), (45, True)])
def test_a_limit_that_another_limiter_kept_down_in_the_samples_is_clamped(lower: int, capped: bool):
    kept = busy(40)
    samples = [dataclasses.replace(s, enforced_power_limit_w=300.0) for s in kept[:lower]] + kept[lower:]
    found = judge_enforced(samples, 450.0)
    assert found == (capped, f"enforced down to 300 W in {lower} of 45 samples" if lower else "")


def test_a_limit_that_stands_again_when_the_samples_end_was_clamped_all_the_same(host: FakeHost):
    """As by a baseboard controller: its cap comes and goes."""
    host.run("install")
    host.run("apply", "--section", "gpu")
    host.sim("load", "on")
    host.sim("fault", "power_limit", "clamped", 300000)
    wait = host.wait

    def letting_go(seconds: float) -> None:
        wait(seconds)
        if host.passed_s >= 11.75:
            host.sim("fault", "power_limit", "off")

    host.wait = letting_go  # type: ignore[method-assign]
    answer = host.run("verify", "--section", "gpu", "--under-load")
    assert (answer.code, answer.verdict("power_limit_w")) == (3, ("clamped", "power_cap"))
    assert "limit 450 W, enforced 450 W; enforced down to 300 W in 59 of 60" in answer.evidence("power_limit_w")


@pytest.mark.parametrize(("power_w", "below"), [(449.0, True), (472.0, True), (473.0, False), (None, None)])
def test_a_draw_above_the_enforced_limit_by_more_than_the_reading_errs_is_seen(power_w, below):
    assert judge_draw(busy(40, power_w=power_w))[0] is below


def test_a_card_that_draws_more_than_its_limit_is_not_held(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.run("install")
    host.run("apply", "--section", "gpu")
    host.sim("load", "on")
    host.sim("advance", 30)
    answer = host.run("verify", "--section", "gpu", "--under-load")
    assert answer.verdict("power_limit_w") == ("held", "none")
    assert answer.evidence("power_limit_w") == (
        "limit 450 W, enforced 450 W; 55 samples under load draw 448 to 448 W, median 448 W"
    )
    monkeypatch.setattr(load, "POWER_TOLERANCE", 0.5)
    answer = host.run("verify", "--section", "gpu", "--under-load")
    assert (answer.code, answer.verdict("power_limit_w")) == (3, ("ignored", "unexplained"))
