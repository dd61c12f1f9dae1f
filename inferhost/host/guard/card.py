"""One card under guard: look, bring it down, keep it down, give it back to the plan.

The safe state is the plan's safe power, read back, and no clock lock of ours. A lock may be what keeps the card from
drawing more, so it is let go only where the limit that stands is below what the card drew, once per hold; otherwise
it stays. What others locked stays, because nobody could lock it again. The power is only ever lowered, and only while
the original limit is on record, so that a revert finds the original and not a value of ours. A step that fails keeps
none of the others from being tried, and all are tried again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from inferhost.host import verbs
from inferhost.host.gpu import which
from inferhost.host.gpu.application_clocks import ApplicationClocks
from inferhost.host.gpu.clock_lock import GraphicsClockLock, MemoryClockLock
from inferhost.host.gpu.clock_record import read_clocks
from inferhost.host.gpu.nvml import NO_DRIVER, Card, Nvml, NvmlError
from inferhost.host.gpu.power_limit import PowerLimit, watts
from inferhost.host.guard import rule
from inferhost.host.guard.latch import (
    FREE,
    LATCHED,
    NOTHING,
    RESTORING,
    UNIT,
    Hold,
    hold_of,
    read_latches,
    write_latches,
)
from inferhost.host.guard.originals import Originals
from inferhost.host.guard.rule import Reading
from inferhost.host.machine import Machine
from inferhost.host.report import HostError, Report, WriteFailed
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError
from inferhost.schema.result import Verdict

BLIND_S = 5.0
"""A card that answers and does not say how hot it is counts as too hot after this long."""
AGAIN_S = 1.0
"""How soon the safe state is written once more where another writer raised the limit, or a write failed."""
RETRY_S = 5.0
QUIET_S = 60.0
GONE = NO_DRIVER | {15, 28}
"""Codes of a card that is not there to be brought down."""

POWER = PowerLimit.key_name


@dataclasses.dataclass(frozen=True)
class Lock:
    """One clock of which something was asked, and the call that takes it back; `accepted` says that the card did."""

    name: str
    unlock: Callable[[Card], None]
    accepted: bool


@dataclasses.dataclass(frozen=True)
class Power:
    """What became of the power: the limit that stands where it was lowered, and whether there is more to try."""

    stands_mw: int | None
    again: bool
    said: str


@dataclasses.dataclass(frozen=True)
class Done:
    """How far the safe state was reached: `whole` is as far as this card can; `said` is what is there now."""

    whole: bool
    said: tuple[str, str]


class Say:
    """Lines for the journal: a transition each time, a state when it begins and ends, and none often."""

    def __init__(self, line: Callable[[str], None], now_s: Callable[[], float]) -> None:
        self._line, self._now_s = line, now_s
        self._begun: dict[str, bool] = {}
        self._told_s: dict[str, float] = {}

    def now(self, text: str) -> None:
        """A transition."""
        self._line(text)

    def once(self, subject: str, text: str) -> None:
        """The beginning of a state; one that comes and goes is told once in a while."""
        if subject in self._begun:
            return
        now_s = self._now_s()
        self._begun[subject] = now_s - self._told_s.get(subject, -QUIET_S) >= QUIET_S
        if self._begun[subject]:
            self._told_s[subject] = now_s
            self._line(text)

    def over(self, subject: str, text: str = "") -> None:
        """The end of a state, told where its beginning was."""
        if self._begun.pop(subject, False) and text:
            self._line(text)


class GuardedCard:
    """One card while NVML is open. Nothing here raises but `NvmlError` from `look`, which ends the session."""

    def __init__(
        self, machine: Machine, plan: Plan, nvml: Nvml, card: Card, *, hold: Hold, say: Say, originals: Originals
    ) -> None:
        """`plan` is the plan of this card alone."""
        rule = plan.gpus[0].guard
        assert rule is not None
        self.machine, self.plan, self.nvml, self.card, self.say = machine, plan, nvml, card, say
        self.rule = rule
        self.hold, self.originals = hold, originals
        self.reading: Reading | None = None
        self.whole, self.low = False, hold.state == LATCHED and not hold.left
        self.write_at_s = self.restore_at_s = 0.0

    def look(self, blind_since_s: float | None) -> None:
        """One turn; raises `NvmlError` where the card did not say how hot it is."""
        now_s = self.machine.clock.now_s()
        if self.hold.state != FREE and not self.originals.has(self.card.uuid, unread=True):
            self.hold = NOTHING  # a revert took everything back
        try:
            self.read()
        except NvmlError as error:
            blind = blind_since_s is not None and now_s - blind_since_s >= BLIND_S
            if blind and error.code not in GONE and self.hold.state == FREE:
                self.trip(f"no temperature for {BLIND_S:g} s: {error.evidence}", now_s)
            self._keep_down(now_s)
            raise
        if self.reading is not None:
            self._judge(self.reading, now_s)
        self._keep_down(now_s)
        if self.hold.state == RESTORING:
            self._restore(now_s)

    def can_be_guarded(self) -> bool:
        """Whether the card has a temperature: without one no guard would ever find it cool again."""
        try:
            return self.read() is not None
        except NvmlError:
            return True

    def _judge(self, reading: Reading, now_s: float) -> None:
        hot = rule.too_hot(reading, self.rule)
        if hot and self.hold.state != LATCHED:
            self.trip(hot, now_s)
        elif self.hold.state == LATCHED:
            cool = rule.is_cool(reading, self.rule)
            self._remember(rule.advanced(self.hold, cool, self.rule, now_s))

    def trip(self, why: str, now_s: float) -> None:
        """Latches the card and brings it down at once; not where the GPU section is no longer ours."""
        if not self.originals.has(self.card.uuid):
            text = f"{self.card.uuid}: {why}; NOT touched: {self.originals.why_not()}"
            self.say.once(f"{self.card.uuid} record", text)
            return
        self.say.over(f"{self.card.uuid} record")
        self._remember(rule.tripped(self.hold, why, now_s))
        done = ", ".join(self.make_safe().said)
        wait = rule.wait_s(self.hold, self.rule, now_s)
        back = f"back to the plan after {wait:g} s at or below {self.rule.resume_c} C"
        self.say.now(f"{self.card.uuid}: {why}: {done}; {back}")
        self._tell_what_is_left()
        self.write_at_s = now_s + AGAIN_S

    def make_safe(self) -> Done:
        """Power first: the limit that then stands says whether a lock may go."""
        power = self._lower_power()
        eased = rule.eases(power.stands_mw, self.hold.drew_mw)
        free, clocks = self._free_clocks(eased)
        is_cool = self.reading is not None and rule.is_cool(self.reading, self.rule)
        left = "" if eased or (is_cool and not self.hold.left) else f"{power.said}, {clocks}"
        self._remember(dataclasses.replace(self.hold, left=left))
        self.whole, self.low = free and not power.again, power.stands_mw is not None
        return Done(self.whole, (power.said, clocks))

    def say_what_stays(self) -> None:
        """Somebody stopped the guard, for a moment or for good."""
        if self.hold.state != FREE:
            try:
                limit = f"at {watts(self._limit_mw())} W"
            except NvmlError:
                limit = "at a limit that nobody can read now"
            until = f"until: systemctl start {UNIT}, or a plan without a guard is applied"
            self.say.now(f"{self.card.uuid}: stopped while it holds the card {limit}, {until}")

    def safe_power_mw(self) -> int:
        """The plan's safe power within the card's own range: an emergency is no time to refuse."""
        low, high = self.nvml.power_limit_range_mw(self.card)
        return low if not isinstance(self.rule.power_w, int) else min(max(self.rule.power_w * 1000, low), high)

    def read(self) -> Reading | None:
        """How hot the card is now; None where it never says. Raises `NvmlError`."""
        self.reading = None
        temperature_c = self.nvml.temperature_c(self.card)
        if temperature_c is None:
            text = f"{self.card.uuid}: has no temperature reading and cannot be guarded"
            if self.hold.state == LATCHED:
                text += "; it is held until it has one again, or a plan without a guard is applied"
            self.say.once(f"{self.card.uuid} reading", text)
            return None
        try:
            margin_c = self.nvml.thermal_margin_c(self.card)
        except NvmlError:  # the temperature alone is enough
            margin_c = None
        self.reading = Reading(temperature_c, margin_c)
        return self.reading

    def _keep_down(self, now_s: float) -> None:
        """A held card stays at the safe state, whoever else writes."""
        if self.hold.state != LATCHED or now_s < self.write_at_s:
            return
        try:
            above = self.originals.has(self.card.uuid, POWER) and self._limit_mw() > self.safe_power_mw()
        except NvmlError:
            above = False
        if self.whole and not above:
            return
        raised = above and self.low
        self.make_safe()
        if raised and self.low:
            text = f"{self.card.uuid}: its limit was raised while the guard holds it; lowered again"
            self.say.once(f"{self.card.uuid} raised {self.hold.trips_s[-1]}", text)
        self._tell_what_is_left()
        self.write_at_s = now_s + AGAIN_S

    def _tell_what_is_left(self) -> None:
        """Loud, because nobody else says that a card that is too hot draws what it drew."""
        subject, left = f"{self.card.uuid} left", self.hold.left
        if left:
            self.say.once(subject, f"{self.card.uuid}: NOT brought down ({left}): end its load or cool it")
        else:
            self.say.over(subject, f"{self.card.uuid}: brought down after all")

    def _lower_power(self) -> Power:
        """The write is believed only as far as the card says so."""
        if not self.originals.has(self.card.uuid, POWER):
            return Power(None, False, f"power NOT lowered ({self.originals.why_not()})")
        try:
            safe_mw, before_mw = self.safe_power_mw(), self._limit_mw()
            if self.hold.drew_mw is None:
                self._remember(dataclasses.replace(self.hold, drew_mw=self._draw_mw()))
            if before_mw > safe_mw:
                self.nvml.set_power_limit_mw(self.card, safe_mw)
            after_mw = self._limit_mw()
        except NvmlError as error:
            return Power(None, self._keeps_trying(error, False), f"power NOT lowered ({error.evidence})")
        stands_mw = max(after_mw, self._enforced_mw())
        if stands_mw > safe_mw:
            return Power(None, True, f"power NOT lowered (accepted, still {watts(stands_mw)} W)")
        return Power(stands_mw, False, f"power {watts(before_mw)} -> {watts(after_mw)} W")

    def _free_clocks(self, eased: bool) -> tuple[bool, str]:
        """Whether nothing is left to try, and what became of the clocks; what others lock later is left alone."""
        locks = list(self._locks_of_ours())
        if not locks:
            return True, "no clock lock of ours"
        if rule.unlocked_since_trip(self.hold):
            return True, "clocks unlocked"
        if not eased:
            return True, f"clock lock kept, as the card may draw more without it{self._drew()}"
        began_s = self.machine.clock.now_s()
        self._remember(dataclasses.replace(self.hold, unlock_began_s=began_s))
        still = [lock.name for lock in locks if not self._is_unlocked(lock)]
        if still:
            return False, f"clocks NOT unlocked ({', '.join(still)})"
        self._remember(dataclasses.replace(self.hold, unlocked_s=self.machine.clock.now_s()))
        return True, "clocks unlocked"

    def _locks_of_ours(self) -> Iterator[Lock]:
        """What the plan asks of the clocks, or still stands in the record of this boot."""
        entry, asked = self.plan.gpus[0], read_clocks(self.machine).asked
        kinds = (
            (GraphicsClockLock, entry.graphics_clock_lock_mhz, self.nvml.unlock_graphics_clock),
            (MemoryClockLock, entry.memory_clock_lock_mhz, self.nvml.unlock_memory_clock),
        )
        for kind, wish, unlock in kinds:
            record = asked.get(kind.record_key(self.card.uuid))
            if wish is not None or record is not None:
                yield Lock(kind.name, unlock, record is not None and record.confirmed)
        if entry.application_clocks_mhz is not None:
            yield Lock(ApplicationClocks.name, self.nvml.reset_application_clocks, False)

    def _is_unlocked(self, lock: Lock) -> bool:
        """Takes the lock back; a card that never could lock this clock has nothing to unlock."""
        try:
            lock.unlock(self.card)
        except NvmlError as error:
            return not self._keeps_trying(error, lock.accepted)
        return True

    def _keeps_trying(self, error: NvmlError, accepted: bool) -> bool:
        """Whether there is something to try again, which is then told."""
        if error.verdict == "unsupported" and not accepted:
            return False
        text = f"{self.card.uuid}: {error.evidence}; the guard keeps trying"
        self.say.once(f"{self.card.uuid} {error.function}", text)
        return True

    def _restore(self, now_s: float) -> None:
        """The plan's values again, for this card alone, without waiting for the lock."""
        if now_s < self.restore_at_s:
            return
        self.restore_at_s = now_s + RETRY_S
        report = Report(check=False)
        try:
            verbs.apply(self.machine, self.plan, ["gpu"], report, lock_wait_s=0.0)
        except (InputError, HostError) as error:
            problem = error.problems[0] if isinstance(error, InputError) else error.problem
            text = f"{self.card.uuid}: cool again, and not given back yet: {problem.path} {problem.message}"
            self.say.once(f"{self.card.uuid} restore", text)
            return
        waits = [f"{v.setting} {v.evidence}" for v in report.verdicts if v.verdict == "pending" or _stays_low(v)]
        waits += [f"{p.path} {p.message}" for p in report.problems if p.id == which.MISSING]
        if waits:
            text = f"{self.card.uuid}: cool again, and not given back yet: {waits[0]}"
            self.say.once(f"{self.card.uuid} restore", text)
            return
        self.say.over(f"{self.card.uuid} restore")
        self.say.over(f"{self.card.uuid} left")
        self._remember(rule.freed(self.hold))
        found = "; ".join(f"{v.setting.rpartition('.')[2]} {v.wanted} {v.verdict}" for v in report.verdicts)
        self.say.now(f"{self.card.uuid}: cool again: {found}")

    def remember(self) -> None:
        """The file as it should be, where it is lost or nobody can read it."""
        self._remember(self.hold)

    def _remember(self, hold: Hold) -> None:
        """The file before the card; a disk that is full must not keep the card hot."""
        changed, self.hold = hold != self.hold, hold
        if not changed and hold_of(self.machine, self.card.uuid) == hold:
            return
        try:
            write_latches(self.machine, {**read_latches(self.machine), self.card.uuid: hold})
        except WriteFailed as error:
            path, message = error.problem.path, error.problem.message
            self.say.once("latch", f"{path} {message}; apply does not see what the guard holds")

    def _limit_mw(self) -> int:
        return self.nvml.power_limit_mw(self.card)

    def _enforced_mw(self) -> int:
        """The limit in force; 0 where the card does not say, so that the requested one counts."""
        try:
            return self.nvml.enforced_power_limit_mw(self.card)
        except NvmlError:
            return 0

    def _draw_mw(self) -> int | None:
        """What the card draws; None where it does not say."""
        try:
            return self.nvml.power_mw(self.card)
        except NvmlError:
            return None

    def _drew(self) -> str:
        return "" if self.hold.drew_mw is None else f" than the {self.hold.drew_mw / 1000:.0f} W that it drew"


def _stays_low(verdict: Verdict) -> bool:
    """Whether the power was not given back, for a reason that may pass."""
    return verdict.verdict == "refused" and verdict.setting.endswith(f".{PowerLimit.name}")
