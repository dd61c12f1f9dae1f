"""Whether a clock lock holds, from samples under load: pure functions over samples, a range and the card's steps.

A lock sets no event reason and has no getter, so only the clock itself speaks, and only where an unlocked card would
show another one. `held` therefore needs the clock at an end of the range, no limiter at work, and a range in which
the card would not be by itself. Everything weaker is said to be weaker. Nothing here knows whether a card is
simulated.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from typing import ClassVar

from inferhost.host.gpu.sample import EVENT_COUNTERS, Sample

HZ = 5.0
"""Source: facts-nvml.md A.3, evidence is samples at 5 Hz or more."""
SECONDS = 12.0
SECONDS_MIN = 4.0

BUSY_PERCENT = 50
SETTLE_S = 1.0
"""A clock needs about a second to rise from idle; what is seen before is not the lock's doing."""
SAMPLES_MIN = 10
SHARE = 0.95
"""Clocks flicker between neighbouring steps, and a single step of another kind is no verdict."""

UNLIMITED_RATIO = 0.7
"""An unlocked card that nothing limits runs at no less than this share of its highest clock.

The lowest boost clock that is promised for a known card is 0.73 of it (Tesla P4, 1114 of 1531 MHz), next 0.78 (RTX
5090, 2407 of 3090); seen under load 0.90 on an RTX PRO 6000 (guide 003). A higher share would call a lock held on a
card that runs there by itself.
Source: catalogue gpus, facts-nvml.md C and B.1.
"""

POWER_TOLERANCE = 1.05
"""Readings of the draw are accurate to 5 %. Source: nvml.h, nvmlDeviceGetPowerUsage."""

MEMORY_UNLIMITED_RATIO = 0.95
"""CUDA programs run GeForce and RTX PRO cards 1.4 to 4.6 % below the highest memory clock.
Source: facts-nvml.md B.1."""

MEMORY_TOLERANCE_MHZ = 15
"""The reading flickers by 7 to 15 MHz, far less than from one memory clock to the next. Source: facts-nvml.md A.3."""

UNEXPLAINED = "unexplained"
IDLE, APPLICATION = "gpu_idle", "applications_clocks"
LIMITERS = {
    "sw_power_cap": "power_cap",
    "sw_thermal_slowdown": "thermal",
    "hw_thermal_slowdown": "thermal",
    "hw_power_brake": "power_brake",
    "hw_slowdown": UNEXPLAINED,
    "sync_boost": UNEXPLAINED,
    "board_limit": UNEXPLAINED,
    "reliability": UNEXPLAINED,
    APPLICATION: UNEXPLAINED,
    "display_clock": UNEXPLAINED,
}
"""Event reasons that keep a clock down, and the cause they stand for; one without a cause of its own comes last.

`hw_slowdown` accompanies the two before it; alone it may be heat or power. A bit without a name may be anything, so
it counts as a limiter too. Source: facts-nvml.md A.2.
"""
PASSING = frozenset(LIMITERS.values()) - {UNEXPLAINED}
"""Causes that come and go with the load and the room: they say why a clock was low, and nothing of its lock later."""
UNSEEN = ("needs_load", "no_interface")
"""Causes of a verdict on samples that show no load: they say nothing, and take no earlier verdict away."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """A verdict in the making: `found` is the median clock in MHz; `limited` where the card says what limits it."""

    verdict: str
    cause: str
    found: int | None
    evidence: str
    limited: bool = False


@dataclasses.dataclass(frozen=True)
class Range:
    """What was asked for, and the card it was asked of."""

    low_mhz: int
    high_mhz: int
    steps_mhz: Sequence[int]  # of the card, ascending
    natural_mhz: tuple[int, int] | None  # seen under load without a lock of ours

    no_limiters: ClassVar[frozenset[str]] = frozenset({IDLE})
    """Event reasons that do not move this clock."""
    unexplained: ClassVar[str] = "unexplained"
    unlimited_ratio: ClassVar[float] = UNLIMITED_RATIO

    def of(self, sample: Sample) -> int | None:
        """The clock in question."""
        return sample.sm_clock_mhz

    @property
    def is_throttled(self) -> bool:
        """Whether power and heat move this clock, so that a card has to say that they do not."""
        return not self.no_limiters >= set(EVENT_COUNTERS)

    @property
    def step_mhz(self) -> int:
        """One step, the tolerance: clocks flicker between neighbours. Source: facts-nvml.md A.3."""
        return max((b - a for a, b in zip(self.steps_mhz, self.steps_mhz[1:])), default=0)

    def contains(self, low_mhz: float, high_mhz: float) -> bool:
        """Whether any of these clocks is in the range, within one step."""
        return high_mhz >= self.low_mhz - self.step_mhz and low_mhz <= self.high_mhz + self.step_mhz

    def may_be_natural(self) -> bool:
        """Whether the card could be in the range by itself."""
        return self.contains(*self.own_mhz())

    def own_mhz(self) -> tuple[float, float]:
        """Where the card may run by itself: from the least to the most that is known of any card, and as seen.

        What was seen rules nothing out: a lock of somebody else may have stood then, and no call tells.
        """
        known = (self.unlimited_ratio * self.steps_mhz[-1], float(self.steps_mhz[-1]))
        return known if self.natural_mhz is None else (min(known[0], self.natural_mhz[0]), known[1])


@dataclasses.dataclass(frozen=True)
class ApplicationRange(Range):
    """The same of an application clock: the card itself says which one it has without a request."""

    no_limiters: ClassVar[frozenset[str]] = frozenset({IDLE, APPLICATION})

    def own_mhz(self) -> tuple[float, float]:
        return self.natural_mhz or super().own_mhz()


@dataclasses.dataclass(frozen=True)
class MemoryRange(Range):
    """The same of the memory clock: neither power nor heat takes it down, but the P-state of CUDA programs does."""

    no_limiters: ClassVar[frozenset[str]] = frozenset({IDLE, *LIMITERS} - {APPLICATION})
    unexplained: ClassVar[str] = "memory_pstate"
    unlimited_ratio: ClassVar[float] = MEMORY_UNLIMITED_RATIO

    def of(self, sample: Sample) -> int | None:
        return sample.memory_clock_mhz

    @property
    def step_mhz(self) -> int:
        return MEMORY_TOLERANCE_MHZ


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """The samples taken while the card had been busy for `SETTLE_S` at least."""
    found = []
    busy_since_s: float | None = None
    for sample in samples:
        if not _is_busy(sample):
            busy_since_s = None
            continue
        busy_since_s = sample.time_s if busy_since_s is None else busy_since_s
        if sample.time_s - busy_since_s >= SETTLE_S:
            found.append(sample)
    return found


def judge_clock(samples: Sequence[Sample], asked: Range) -> Judged:
    """The verdict on a graphics clock lock."""
    busy = [s for s in settled(samples) if asked.of(s) is not None]
    if len(busy) < SAMPLES_MIN:
        silent = bool(samples) and all(s.utilization_percent is None for s in samples)
        return Judged("unverified", UNSEEN[silent], None, _too_little(samples, len(busy)))
    clocks = [asked.of(s) or 0 for s in busy]
    median = round(statistics.median(clocks))
    evidence = _evidence(samples, busy, asked)
    below = [s for s in busy if (asked.of(s) or 0) < asked.low_mhz - asked.step_mhz]
    above = [s for s in busy if (asked.of(s) or 0) > asked.high_mhz + asked.step_mhz]
    if len(busy) - len(below) - len(above) >= SHARE * len(busy):
        return _judge_inside(busy, median, asked, evidence)
    if len(above) >= len(below):
        return Judged("ignored", asked.unexplained, median, f"above the range; {evidence}")
    limiter = _limiter(below, asked)
    if limiter is not None:
        cause, reasons = limiter
        return Judged("clamped", cause, median, f"below the range, by {reasons}; {evidence}", limited=True)
    if asked.is_throttled and not _tells(below):
        text = f"below the range, and the card does not say what limits it; {evidence}"
        return Judged("clamped", asked.unexplained, median, text)
    natural = asked.own_mhz()
    as_unlocked = round(natural[0]) - asked.step_mhz <= median <= natural[1] + asked.step_mhz
    return Judged(
        "ignored" if as_unlocked else "clamped",
        asked.unexplained,
        median,
        f"below the range, and no event reason says why; {evidence}",
    )


def seen_above(sample: Sample, asked: Range) -> int | None:
    """The clock in MHz where this one look at a busy card disproves the lock; None where it says nothing.

    Nothing but a lock that does not stand brings a clock above its range. Below it are idling, heat and power too.
    """
    mhz = asked.of(sample)
    return mhz if _is_busy(sample) and mhz is not None and mhz > asked.high_mhz + asked.step_mhz else None


def telling_mhz(asked: Range) -> int | None:
    """A step of the card where no card runs by itself under load, so that only a lock explains it; None without one.

    The one nearest to half of the highest clock: far from the card's own, and out of reach of most power caps.
    """
    alone = [
        mhz for mhz in asked.steps_mhz if not dataclasses.replace(asked, low_mhz=mhz, high_mhz=mhz).may_be_natural()
    ]
    return min(alone, key=lambda mhz: abs(mhz - asked.steps_mhz[-1] / 2), default=None)


def memory_clock_mhz(samples: Sequence[Sample]) -> int | None:
    """The median memory clock under load; None without load, or on a card that does not say."""
    clocks = [s.memory_clock_mhz for s in settled(samples) if s.memory_clock_mhz is not None]
    return round(statistics.median(clocks)) if clocks else None


def natural_clock_mhz(samples: Sequence[Sample]) -> tuple[int, int] | None:
    """Lowest and highest clock of an unlocked card under load; None without enough load, or where it was limited.

    A limited clock says nothing about the same card when power or heat allow more, and one may be limited on a card
    that does not tell.
    """
    busy = settled(samples)
    clocks = [s.sm_clock_mhz for s in busy if s.sm_clock_mhz is not None]
    limited = any(_said(s) for s in busy) or any(_limited_s(busy).values())
    known = len(clocks) >= SAMPLES_MIN and _tells(busy)
    return (min(clocks), max(clocks)) if known and not limited else None


def judge_enforced(samples: Sequence[Sample], limit_w: float) -> tuple[bool, str]:
    """Whether another limiter enforced less than this limit in the samples, and the evidence; empty where none did.

    Board, chassis and baseboard controller come and go: what a getter says after the samples is not all of it.
    """
    known = [s.enforced_power_limit_w for s in samples if s.enforced_power_limit_w is not None]
    lower = [enforced_w for enforced_w in known if enforced_w < limit_w]
    evidence = f"enforced down to {min(lower):g} W in {len(lower)} of {len(known)} samples" if lower else ""
    return len(lower) > (1 - SHARE) * len(known), evidence


def judge_draw(samples: Sequence[Sample]) -> tuple[bool | None, str]:
    """Whether the draw under load stays below the enforced limit (None without enough load), and the evidence."""
    busy = [(s.power_w, s.enforced_power_limit_w) for s in settled(samples)]
    pairs = [(power_w, limit_w) for power_w, limit_w in busy if power_w is not None and limit_w is not None]
    if len(pairs) < SAMPLES_MIN:
        return None, f"the draw was not judged: {_too_little(samples, len(pairs))}"
    over = [power_w for power_w, limit_w in pairs if power_w > POWER_TOLERANCE * limit_w]
    draws = sorted(power_w for power_w, _ in pairs)
    evidence = (
        f"{len(pairs)} samples under load draw {draws[0]:.0f} to {draws[-1]:.0f} W, median "
        f"{statistics.median(draws):.0f} W"
    )
    return len(over) <= (1 - SHARE) * len(pairs), evidence


def _judge_inside(busy: Sequence[Sample], median: int, asked: Range, evidence: str) -> Judged:
    """The clock is where it should be; whether the lock brought it there is the question."""
    if _rate_hz(busy) < SHARE * HZ:
        text = f"in the range, and looked at too seldom to call it held, wanted {HZ:g} times per second; {evidence}"
        return Judged("unverified", "no_interface", median, text)
    limiter = _limiter(busy, asked)
    if limiter is not None:
        text = f"in the range, but {limiter[1]} may have brought it there; {evidence}"
        return Judged("unverified", "indistinguishable", median, text)
    if asked.is_throttled and not _tells(busy):
        text = f"in the range, and the card does not say whether something else brought it there; {evidence}"
        return Judged("unverified", "indistinguishable", median, text)
    if min(abs(median - asked.low_mhz), abs(median - asked.high_mhz)) > asked.step_mhz:
        text = f"inside the range, where the lock has nothing to do; {evidence}"
        return Judged("unverified", "indistinguishable", median, text)
    if asked.may_be_natural():
        text = f"the card may run there by itself; {evidence}; only a challenge (--challenge) tells"
        return Judged("unverified", "indistinguishable", median, text)
    return Judged("held", "none", median, evidence)


def _is_busy(sample: Sample) -> bool:
    return (sample.utilization_percent or 0) >= BUSY_PERCENT and IDLE not in _said(sample)


def _said(sample: Sample) -> tuple[str, ...]:
    return sample.event_reasons or ()


def _tells(samples: Sequence[Sample]) -> bool:
    """Whether the card says what limits it: in its samples, or by every counter."""
    saying = [s for s in samples if s.event_reasons is not None]
    return len(saying) >= SHARE * len(samples) or set(_limited_s(samples)) >= set(EVENT_COUNTERS)


def _limiter(samples: Sequence[Sample], asked: Range) -> tuple[str, str] | None:
    """What takes the clock down in most of these samples, or for most of their time where the card counts it.

    All limiters count together, as they may take turns; the largest that explain it are named. The cause is one of
    its own only where such causes explain it without the others.
    """
    counted = [name for name, seconds in _limited_s(samples).items() if seconds > 0]
    at_work = {*counted, *(name for s in samples for name in _said(s))} - asked.no_limiters
    causes: dict[str, list[str]] = {}
    for name in [*(name for name in LIMITERS if name in at_work), *sorted(at_work - set(LIMITERS))]:
        causes.setdefault(LIMITERS.get(name, UNEXPLAINED), []).append(name)
    own = {cause: names for cause, names in causes.items() if cause in PASSING}
    for explaining in (own, causes):
        named: list[str] = []
        ranked = sorted(explaining, key=lambda cause: -_share(samples, causes[cause]))
        for cause in ranked:
            named += causes[cause]
            if _share(samples, named) > 0.5:
                return ranked[0] if explaining is own else UNEXPLAINED, " and ".join(named)
    return None


def _share(samples: Sequence[Sample], names: Collection[str]) -> float:
    """In what part of these samples, or of their time, one of these limiters was at work.

    Counters of one cause run together, those of two may take turns; what no counter covers is seen in samples only.
    """
    limited_s, span_s = _limited_s(samples), _span_s(samples)
    by_cause: dict[str, float] = {}
    for name in names:
        cause = LIMITERS.get(name, UNEXPLAINED)
        by_cause[cause] = max(by_cause.get(cause, 0.0), limited_s.get(name, 0.0))
    counted_s = sum(by_cause.values())
    seen = [found for s in samples if (found := set(_said(s)) & set(names))]
    uncounted = [found for found in seen if not found & set(limited_s)]
    counted = counted_s / max(span_s, counted_s, 1e-9)
    return max(len(seen), len(uncounted) + counted * len(samples)) / len(samples)


def _span_s(samples: Sequence[Sample]) -> float:
    return samples[-1].time_s - samples[0].time_s if samples else 0.0


def _rate_hz(samples: Sequence[Sample]) -> float:
    """How often a card was looked at, by the usual gap: a machine that stopped for a moment is none that is slow."""
    gaps_s = [b.time_s - a.time_s for a, b in zip(samples, samples[1:])]
    return 1 / max(statistics.median(gaps_s), 1e-9)


def _limited_s(samples: Sequence[Sample]) -> dict[str, float]:
    """For how long each limiter was at work between the first and the last sample, as far as the card counts it."""
    if not samples:
        return {}
    first, last = samples[0].limited_s, samples[-1].limited_s
    return {name: max(0.0, last[name] - first[name]) for name in LIMITERS if name in first and name in last}


def _too_little(samples: Sequence[Sample], count: int) -> str:
    known = [s.utilization_percent for s in samples if s.utilization_percent is not None]
    if samples and not known:
        return "the card does not say its utilisation, as with MIG on: nobody can tell whether it was under load"
    busiest = max(known, default=0)
    return f"{count} of {len(samples)} samples under load, wanted {SAMPLES_MIN}; utilisation at most {busiest} %"


def _evidence(samples: Sequence[Sample], busy: Sequence[Sample], asked: Range) -> str:
    clocks = sorted(asked.of(s) or 0 for s in busy)
    counts = Counter(reason for s in busy for reason in _said(s))
    nothing = "none" if any(s.event_reasons is not None for s in busy) else "not told by this card"
    named = ", ".join(f"{name} in {count}" for name, count in sorted(counts.items())) or nothing
    limited_s = _limited_s(busy)
    risen = ", ".join(f"{name} for {seconds:.1f} s" for name, seconds in limited_s.items() if seconds > 0)
    counted = f"event counters: {risen or 'none rose'}" if limited_s else "this card counts no events"
    natural = ""
    if asked.natural_mhz:
        natural = f"; {asked.natural_mhz[0]} to {asked.natural_mhz[1]} MHz without a lock of ours"
    return (
        f"{len(busy)} of {len(samples)} samples under load, {_rate_hz(busy):.1f} per second: {clocks[0]} to "
        f"{clocks[-1]} MHz, median {statistics.median(clocks):g}; one step is {asked.step_mhz} MHz; "
        f"event reasons: {named}; {counted}{natural}"
    )
