"""When a card is too hot, when it is cool again, and how long it has to stay so: pure, from readings and the plan.

The plan's limit and the card's own, whichever is met first: where the card tells its margin, zero means that it is
about to slow itself. Each further trip within an hour doubles the wait, so that a card that cannot keep the plan's
values does not swing between them.
"""

from __future__ import annotations

import dataclasses

from inferhost.host.gpu.load import POWER_TOLERANCE
from inferhost.host.guard.latch import FREE, LATCHED, RESTORING, Hold
from inferhost.schema.plan import Guard

WINDOW_S = 3600.0
WAIT_S_MAX = 3600.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """One look; `margin_c` is what the card says is left until it slows itself, where it says so."""

    temperature_c: int
    margin_c: int | None

    def shown(self) -> str:
        margin = "" if self.margin_c is None else f", {self.margin_c} C from its own limit"
        return f"{self.temperature_c} C{margin}"


def too_hot(reading: Reading, rule: Guard) -> str:
    """Why the card has to be brought down; empty where it has not."""
    if reading.temperature_c >= rule.limit_c:
        return f"{reading.shown()}; the limit is {rule.limit_c} C"
    if reading.margin_c is not None and reading.margin_c <= 0:
        return f"{reading.shown()}; it slows itself below the limit of {rule.limit_c} C"
    return ""


def is_cool(reading: Reading, rule: Guard) -> bool:
    """Whether the card is well below both limits."""
    gap_c = rule.limit_c - rule.resume_c
    return reading.temperature_c <= rule.resume_c and (reading.margin_c is None or reading.margin_c >= gap_c)


def tripped(hold: Hold, why: str, now_s: float) -> Hold:
    """The card is latched now."""
    trips_s = (*recent(hold, now_s), now_s)
    return dataclasses.replace(
        hold, state=LATCHED, why=why, cool_since_s=None, trips_s=trips_s, drew_mw=None, left=""
    )


def eases(limit_mw: int | None, drew_mw: int | None) -> bool:
    """Whether a card that drew this much draws less under this limit, whatever else is let go."""
    return limit_mw is not None and drew_mw is not None and limit_mw * POWER_TOLERANCE < drew_mw


def unlocked_since_trip(hold: Hold) -> bool:
    """Whether the clocks were unlocked in this hold."""
    return hold.unlocked_s is not None and hold.unlocked_s >= max(hold.trips_s, default=0.0)


def advanced(hold: Hold, cool: bool, rule: Guard, now_s: float) -> Hold:
    """A latched card after one more look: the wait goes on, starts anew, or is over."""
    if not cool:
        return dataclasses.replace(hold, cool_since_s=None)
    since_s = now_s if hold.cool_since_s is None else hold.cool_since_s
    state = RESTORING if now_s - since_s >= wait_s(hold, rule, now_s) else LATCHED
    return dataclasses.replace(hold, state=state, cool_since_s=since_s)


def freed(hold: Hold) -> Hold:
    """The plan has the card again."""
    return dataclasses.replace(hold, state=FREE, cool_since_s=None)


def wait_s(hold: Hold, rule: Guard, now_s: float) -> float:
    """How long the card has to stay cool, in seconds: doubled by each further trip of the last hour."""
    again = max(0, len(recent(hold, now_s)) - 1)
    return min(rule.cool_down_s * 2.0**again, max(WAIT_S_MAX, rule.cool_down_s))


def recent(hold: Hold, now_s: float) -> tuple[float, ...]:
    """The trips of the last hour."""
    return tuple(s for s in hold.trips_s if now_s - s <= WINDOW_S)
