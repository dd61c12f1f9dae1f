"""Samples say what the cards do, in time that the simulator passes; and what the judges of samples may conclude."""

from __future__ import annotations

import dataclasses

import pynvml
import pytest

from inferhost.host.gpu import load
from inferhost.host.gpu.load import Range, judge_clock, judge_draw, judge_enforced, natural_clock_mhz, settled
from inferhost.host.gpu.sample import Sample, reasons
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


@pytest.mark.parametrize(
    ("named", "cause"),
    [
        (("sw_power_cap",), "power_cap"),
        (("sw_thermal_slowdown",), "thermal"),
        (("hw_slowdown", "hw_thermal_slowdown"), "thermal"),
        (("hw_slowdown", "hw_power_brake"), "power_brake"),
        (("reliability",), "unexplained"),
        (("board_limit",), "unexplained"),
        (("sync_boost",), "unexplained"),
        (("hw_slowdown",), "unexplained"),
    ],
)
def test_a_clock_below_its_range_has_the_cause_that_the_card_names(named: tuple[str, ...], cause: str):
    judged = judge_clock(busy(40, sm_clock_mhz=1500, event_reasons=named), asked(2100, 2100))
    assert (judged.verdict, judged.cause, judged.found) == ("clamped", cause, 1500)
    assert judged.evidence.startswith(f"below the range, by {named[-1]}; ")
    assert "no event reason says why" not in judged.evidence


def test_a_clock_below_its_range_on_a_card_that_names_no_limiter_is_not_called_ignored():
    """Power may hold it there as well, where an unlocked card would be."""
    for reasons_told, verdict in (((), "ignored"), (None, "clamped")):
        below = busy(40, sm_clock_mhz=2300, event_reasons=reasons_told)
        judged = judge_clock(below, asked(2700, 2700))
        assert (judged.verdict, judged.cause) == (verdict, "unexplained")


def test_a_memory_clock_needs_no_word_on_limiters():
    """Neither power nor heat takes it down."""
    silent = busy(40, memory_clock_mhz=7001, event_reasons=None)
    assert judge_clock(silent, load.MemoryRange(7001, 7001, (405, 7001, 14001), None)).verdict == "held"


def test_a_clock_without_a_word_on_limiters_is_not_the_cards_own():
    assert natural_clock_mhz(busy(40, event_reasons=None)) is None


def test_two_reasons_of_one_cause_count_together():
    heat = ("sw_thermal_slowdown", "hw_thermal_slowdown")
    half = [dataclasses.replace(s, event_reasons=(heat[n % 2],)) for n, s in enumerate(busy(40, sm_clock_mhz=1500))]
    judged = judge_clock(half, asked(2100, 2100))
    assert (judged.cause, judged.limited) == ("thermal", True)
    assert judged.evidence.startswith("below the range, by sw_thermal_slowdown and hw_thermal_slowdown; ")


def test_a_cause_of_its_own_is_named_before_none_that_was_seen_more_often():
    named = [("hw_slowdown",), ("hw_slowdown", "hw_thermal_slowdown"), ("hw_slowdown", "hw_thermal_slowdown")]
    below = busy(40, sm_clock_mhz=1500)
    often = [dataclasses.replace(s, event_reasons=named[n % 3]) for n, s in enumerate(below)]
    assert judge_clock(often, asked(2100, 2100)).cause == "thermal"


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


@pytest.mark.parametrize("named", ["sw_power_cap", "hw_slowdown", "sync_boost", "board_limit", "reliability"])
def test_a_clock_that_a_limiter_may_have_brought_into_the_range_proves_nothing(named: str):
    judged = judge_clock(busy(40, event_reasons=(named,)), asked(2100, 2100))
    assert (judged.verdict, judged.cause) == ("unverified", "indistinguishable")


def in_turn(*named: tuple[str, ...], **changes: object) -> list[Sample]:
    """Sixty busy samples whose event reasons go round."""
    return [dataclasses.replace(s, event_reasons=named[n % len(named)]) for n, s in enumerate(busy(60, **changes))]


TURNS = [("sw_power_cap",), ("sw_thermal_slowdown",), ("hw_slowdown", "hw_power_brake")]


@pytest.mark.parametrize(
    "samples",
    [
        in_turn(*TURNS[:2]),
        in_turn(*TURNS),
        in_turn(("0x800",)),
        in_turn(("applications_clocks",)),
        in_turn(("display_clock",)),
        in_turn(("0x800",), ("sw_power_cap",), ()),
    ],
)
def test_limiters_that_take_turns_and_reasons_without_a_name_prove_no_lock(samples: list[Sample]):
    judged = judge_clock(samples, asked(2100, 2100))
    assert (judged.verdict, judged.cause) == ("unverified", "indistinguishable")
    assert natural_clock_mhz(samples) is None


def test_limiters_in_half_of_the_samples_leave_the_other_half_as_proof():
    assert judge_clock(in_turn(("sw_power_cap",), (), ("0x800",), ()), asked(2100, 2100)).verdict == "held"


@pytest.mark.parametrize(
    ("named", "cause", "reasons_told"),
    [
        (TURNS, "power_cap", "sw_power_cap and sw_thermal_slowdown"),
        ([("hw_slowdown", "hw_power_brake"), ("sw_power_cap",), ()], "power_cap", "sw_power_cap and hw_power_brake"),
        ([("0x800",), ("sw_power_cap",), ()], "unexplained", "sw_power_cap and 0x800"),
        ([("0x800",)], "unexplained", "0x800"),
        ([("applications_clocks",)], "unexplained", "applications_clocks"),
    ],
)
def test_below_its_range_the_largest_limiters_that_explain_it_are_named(
    named: list[tuple[str, ...]], cause: str, reasons_told: str
):
    judged = judge_clock(in_turn(*named, sm_clock_mhz=1500), asked(2100, 2100))
    assert (judged.verdict, judged.cause, judged.limited) == ("clamped", cause, True)
    assert judged.evidence.startswith(f"below the range, by {reasons_told}; ")


def test_an_application_clock_is_not_limited_by_being_one_and_may_move_a_memory_clock():
    steps = tuple(range(180, 3091, 10))
    samples = in_turn(("applications_clocks",), memory_clock_mhz=7001)
    assert judge_clock(samples, load.ApplicationRange(2100, 2100, steps, (2700, 2700))).verdict == "held"
    memory = load.MemoryRange(7001, 7001, (405, 7001, 14001), None)
    assert judge_clock(samples, memory).cause == "indistinguishable"
    assert judge_clock(in_turn(("sw_power_cap",), memory_clock_mhz=7001), memory).verdict == "held"


def counted(name: str, share: float, **changes: object) -> list[Sample]:
    """Forty busy samples between which one counter rises by this share of the time."""
    return [dataclasses.replace(s, limited_s={name: 7 + share * s.time_s}) for s in busy(40, **changes)]


@pytest.mark.parametrize(
    ("counters", "told", "limited"),
    [
        (("sw_power_cap", "sw_thermal_slowdown"), (), True),
        (("sw_thermal_slowdown", "hw_thermal_slowdown"), (), False),  # one heat
        (("sw_power_cap",), ("0x800",), True),
        (("sw_power_cap",), ("sw_power_cap",), False),  # seen and counted is one
    ],
)
def test_counters_of_two_causes_and_what_is_not_counted_add_up(
    counters: tuple[str, ...], told: tuple[str, ...], limited: bool
):
    samples = [
        dataclasses.replace(
            s, limited_s=dict.fromkeys(counters, 0.3 * s.time_s), event_reasons=told if n % 3 == 0 else ()
        )
        for n, s in enumerate(busy(60))
    ]
    verdict = "unverified" if limited else "held"
    assert judge_clock(samples, asked(2100, 2100)).verdict == verdict


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("sw_power_cap", "power_cap"),
        ("sw_thermal_slowdown", "thermal"),
        ("hw_thermal_slowdown", "thermal"),
        ("hw_power_brake", "power_brake"),
    ],
)
def test_a_counter_names_the_cause_that_no_sample_caught(name: str, cause: str):
    judged = judge_clock(counted(name, 0.6, sm_clock_mhz=1500), asked(2100, 2100))
    assert (judged.verdict, judged.cause) == ("clamped", cause)
    assert f"event counters: {name} for 4.7 s" in judged.evidence
    judged = judge_clock(counted(name, 0.4, sm_clock_mhz=1500), asked(2100, 2100))
    assert (judged.verdict, judged.cause) == ("clamped", "unexplained")


def test_a_clock_that_a_counted_limiter_may_have_brought_into_the_range_proves_nothing():
    assert judge_clock(counted("sw_power_cap", 0.6), asked(2100, 2100)).cause == "indistinguishable"
    held = judge_clock(counted("sw_power_cap", 0.0), asked(2100, 2100))
    assert (held.verdict, "event counters: none rose" in held.evidence) == ("held", True)


def test_a_counter_that_rose_at_all_keeps_a_clock_from_being_the_cards_own():
    assert natural_clock_mhz(counted("sw_power_cap", 0.01)) is None
    assert natural_clock_mhz(counted("sw_power_cap", 0.0)) == (2100, 2100)


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
