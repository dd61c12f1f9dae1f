"""Whatever limits a clock is named, alone or in turn with others, and no lock is thought to be proven beside it."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.gpu import load
from inferhost.host.gpu.load import judge_clock, natural_clock_mhz
from inferhost.host.gpu.sample import Sample
from tests.unit.host.test_host_sample import asked, busy


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
