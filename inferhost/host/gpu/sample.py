"""What the cards do over some seconds: clocks, P-state, power, heat, utilisation and why a clock is not higher.

Samples are read and never judged here, and no load is made. Time is the machine's clock, so that a test moves the
simulator's instead of waiting. A reading that a card does not have is None; a card that fails is told, and its
neighbours go on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from inferhost.host.gpu.nvml import NO_DRIVER, Card, Nvml, NvmlError, open_nvml
from inferhost.host.machine import Clock, Machine
from inferhost.host.report import HostError, NoDriver, Report
from inferhost.schema import document
from inferhost.schema.problems import InputError, Problem

SECONDS_MAX = 3600.0
HZ_MAX = 50.0

EVENT_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake",
    0x100: "display_clock",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of the clock event mask. Source: nvidia-ml-py 13.615.71 (nvmlClocksEventReason*, ...ThrottleReason*)."""

EVENT_COUNTERS = {
    "sw_power_cap": 74,
    "sw_thermal_slowdown": 269,
    "hw_thermal_slowdown": 270,
    "hw_power_brake": 271,
}
"""Fields that count the nanoseconds of an event reason; they see what falls between two looks.

Source: facts-nvml.md A.2; nvidia-ml-py 13.615.71 (NVML_FI_DEV_CLOCKS_EVENT_REASON_*).
"""

VALUE_MEMBERS = {1: "uiVal", 2: "ulVal", 3: "ullVal"}
"""Where a field's value stands, by its type. Source: nvidia-ml-py 13.615.71 (NVML_VALUE_TYPE_*)."""

CLOCK_SM, CLOCK_MEMORY = 1, 2
"""Source: nvml.h of NVML API 13 (nvmlClockType_t)."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One look at one card, `time_s` after the first; None is what the card cannot say.

    `limited_s` is for how long each event reason was at work since the driver was loaded; empty on a card that does
    not count.
    """

    time_s: float
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    pstate: int | None
    power_w: float | None
    enforced_power_limit_w: float | None
    temperature_c: int | None
    utilization_percent: int | None
    event_reasons: tuple[str, ...] | None
    limited_s: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Series:
    """One card's samples; with `error` they end where the card failed."""

    card: Card
    samples: list[Sample]
    error: NvmlError | None


def sample(machine: Machine, seconds: float, hz: float, report: Report) -> None:
    """Samples every card of the host into `facts.gpus`."""
    checked_period(seconds, hz)
    try:
        with open_nvml(machine.before_write) as nvml:
            series = take_samples(nvml, nvml.cards(), seconds, hz, machine.clock)
            lost = list(nvml.unreadable)
    except NvmlError as error:
        problem = Problem("nvml", error.evidence, error.hint, "nvml")
        raise (NoDriver if error.code in NO_DRIVER else HostError)(problem) from error
    report.facts.update({"seconds": seconds, "hz": hz, "gpus": [_shown(one) for one in series]})
    for problem in failures(series):
        report.problems.append(problem)
    report.problems += [Problem("nvml", error.evidence, "", "gpu-lost") for error in lost]


def checked_period(seconds: float, hz: float, least_s: float = 0.0) -> None:
    """Refuses a period that nobody can mean."""
    problems = []
    if not (least_s < seconds if least_s == 0.0 else least_s <= seconds) or seconds > SECONDS_MAX:
        wanted = f"more than 0 and at most {SECONDS_MAX:g}" if least_s == 0.0 else f"{least_s:g} to {SECONDS_MAX:g}"
        problems.append(Problem("--seconds", f"found {seconds:g}, wanted {wanted}", "", "period"))
    if not 0 < hz <= HZ_MAX:
        problems.append(Problem("--hz", f"found {hz:g}, wanted more than 0 and at most {HZ_MAX:g}", "", "period"))
    if problems:
        raise InputError(problems)


def take_samples(nvml: Nvml, cards: Iterable[Card], seconds: float, hz: float, clock: Clock) -> list[Series]:
    """Looks at each card `hz` times per second; a machine too slow for that gives fewer samples, never faked ones."""
    series = [Series(card, [], None) for card in cards]
    start_s = clock.now_s()
    number, count = 0, max(1, round(seconds * hz))
    while number < count:
        clock.sleep(max(0.0, start_s + number / hz - clock.now_s()))
        if clock.now_s() - start_s > seconds:
            break
        series = [_with_one_more(nvml, one, clock.now_s() - start_s) for one in series]
        number = max(number, int((clock.now_s() - start_s) * hz)) + 1
    return series


def failures(series: Sequence[Series]) -> list[Problem]:
    """The cards that failed while they were sampled."""
    return [
        Problem(
            f"gpu.{one.card.uuid}", f"{one.error.evidence}, after {len(one.samples)} samples", "", "sample-failed"
        )
        for one in series
        if one.error is not None
    ]


def reasons(mask: int) -> tuple[str, ...]:
    """The names of the set bits; one without a name is shown as a number."""
    bits = [1 << number for number in range(mask.bit_length()) if mask >> number & 1]
    return tuple(EVENT_REASONS.get(bit, f"0x{bit:x}") for bit in bits)


def _with_one_more(nvml: Nvml, series: Series, time_s: float) -> Series:
    if series.error is not None:
        return series
    try:
        series.samples.append(look(nvml, series.card, time_s))
    except NvmlError as error:
        return dataclasses.replace(series, error=error)
    return series


def look(nvml: Nvml, card: Card, time_s: float) -> Sample:
    """One sample of a card; raises `NvmlError`."""
    handle = card.handle
    power_mw = nvml.power_mw(card)
    enforced_mw = nvml.reading("nvmlDeviceGetEnforcedPowerLimit", handle)
    utilization = nvml.reading("nvmlDeviceGetUtilizationRates", handle)
    mask = nvml.reading("nvmlDeviceGetCurrentClocksEventReasons", handle)
    if mask is None:  # drivers before R535 know the old name only
        mask = nvml.reading("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return Sample(
        time_s=round(time_s, 3),
        sm_clock_mhz=nvml.reading("nvmlDeviceGetClockInfo", handle, CLOCK_SM),
        memory_clock_mhz=nvml.reading("nvmlDeviceGetClockInfo", handle, CLOCK_MEMORY),
        pstate=nvml.reading("nvmlDeviceGetPerformanceState", handle),
        power_w=None if power_mw is None else power_mw / 1000,
        enforced_power_limit_w=None if enforced_mw is None else enforced_mw / 1000,
        temperature_c=nvml.temperature_c(card),
        utilization_percent=None if utilization is None else int(utilization.gpu),
        event_reasons=None if mask is None else reasons(int(mask)),
        limited_s=_limited_s(nvml, card),
    )


def _limited_s(nvml: Nvml, card: Card) -> dict[str, float]:
    fields = nvml.reading("nvmlDeviceGetFieldValues", card.handle, list(EVENT_COUNTERS.values())) or ()
    return {
        name: getattr(field.value, VALUE_MEMBERS[field.valueType]) / 1e9
        for name, field in zip(EVENT_COUNTERS, fields)
        if field.nvmlReturn == 0 and field.valueType in VALUE_MEMBERS
    }


def _shown(series: Series) -> dict[str, Any]:
    card = series.card
    return {"uuid": card.uuid, "name": card.name, "samples": document.plain(series.samples)}
