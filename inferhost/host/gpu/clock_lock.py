"""The locks of one card's graphics and memory clock: asked for, written down, and never believed.

No NVML call reads a lock back. What stands is what our own record says while the same driver is loaded; without one
it is unknown, and a request that may be gone is made again. A verdict comes from samples under load (`load.py`) and
is kept beside the request, as evidence with an age; without load the verdict is `unverified`. What was set before us
is unknown too, so taking our request back resets the card, and that is said.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from inferhost.host.gpu import load
from inferhost.host.gpu.card_knob import CardKnob, is_among
from inferhost.host.gpu.clock_record import (
    UNDER_WAY,
    Asked,
    Loaded,
    LoadVerdict,
    later,
    loaded_now,
    read_clocks,
    remember_asked,
    remember_or_refuse,
    under_way,
)
from inferhost.host.gpu.nvml import AMPERE, VOLTA, Card, Nvml, NvmlError
from inferhost.host.gpu.sample import Sample, look
from inferhost.host.guard.latch import maybe_taken_back_s, taken_back_s
from inferhost.host.knob import Unusable
from inferhost.host.machine import Machine
from inferhost.host.watch.watched import Watched, read_watched
from inferhost.schema.result import Verdict

T = TypeVar("T")
UNKNOWN, UNLOCKED = "unknown", "unlocked"
NO_GETTER = "no call reads a lock back"
TAKEN_BACK = "taken back by the guard, which found the card too hot, and not asked for again yet"
MAYBE_TAKEN_BACK = "the guard began to take it back and did not come to its end"
NOT_REPAIRED = "lost with the driver, and the repair failed"
NOT_ON_RECORD = (
    "not on record in this boot: not applied yet, or lost when the machine or the driver started again, or its record"
    " was; inferhost apply asks for it"
)
LOST = (
    "its record of this boot is lost, so nobody knows whether it stands; the next look or inferhost apply asks again"
)
WHY_GONE = {TAKEN_BACK: "thermal", LOST: "unexplained"}


class ClockLock(CardKnob):
    """A range of one clock as text, `2400` or `1500-2400`; `unlocked` takes it back.

    Whether a request of ours stands is decided once, before anything is written: persistence that another knob turns
    on later does not bring back a lock that was lost without it.
    """

    first_architecture = 0
    architecture_name = ""

    def __init__(
        self, machine: Machine, nvml: Nvml, card: Card, asked_mhz: tuple[int, int] | None, context: dict[str, str]
    ) -> None:
        super().__init__(nvml, card, UNLOCKED if asked_mhz is None else shown(*asked_mhz), context)
        self.machine = machine
        self.asked_mhz = asked_mhz
        self.gives_back = asked_mhz is None
        self.steps_mhz: Sequence[int] = ()
        self.unread = ""
        self.loaded = self._loaded_now(nvml.driver_version())
        self.record = read_clocks(machine).asked.get(self.record_key(card.uuid))
        self.gone = _gone(self.record, self.loaded, read_watched(machine), self.setting) or _taken(
            self.record, taken_back_s(machine, card.uuid)
        )
        self.doubt = _doubt(self.record, self._known(nvml.known_persistence))
        if _taken(self.record, maybe_taken_back_s(machine, card.uuid)) and not self.gone:
            self.doubt = self.doubt or MAYBE_TAKEN_BACK
        self._believed = UNKNOWN
        self.seen_mhz: int | None = None
        if self.record is not None and not self.gone and not self.doubt:
            self._believed = shown(self.record.low_mhz, self.record.high_mhz)

    def _loaded_now(self, driver_version: str) -> Loaded:
        return loaded_now(self.machine, driver_version, self._known(self.nvml.energy_mj))

    def _known(self, reading: Callable[[Card], T | None]) -> T | None:
        """What a card says of its driver; a reset needs none of it, so there a failure is as good as no answer."""
        try:
            return reading(self.card)
        except NvmlError as error:
            if self.asked_mhz is not None:
                raise
            self.unread = f"; {error.evidence}"
            return None

    def look(self) -> None:
        """One look at the card: while it is busy, a clock above the range shows that the request does not stand.

        A card that fails here fails its other calls as well, and they say so.
        """
        asked_s = self.machine.clock.now_s() - (self.record.time_s if self.record is not None else 0.0)
        if self._believed != self.wanted or asked_s < load.SETTLE_S:
            return
        with contextlib.suppress(NvmlError):
            self.seen_mhz = load.seen_above(look(self.nvml, self.card, 0.0), self._judged_range())
        if self.seen_mhz is not None:
            self._believed = UNKNOWN
            self.doubt = f"{self.seen_mhz} MHz seen while the card was busy: somebody may have taken it away"

    def lost(self, why: str = "the card was reset meanwhile") -> None:
        self._believed = UNKNOWN
        self.doubt = self.doubt or self.gone or why

    def ask_for(self, low_mhz: int, high_mhz: int) -> None:
        """Moves the request to steps of the card."""
        self.asked_mhz, self.wanted = (low_mhz, high_mhz), shown(low_mhz, high_mhz)

    @classmethod
    def record_key(cls, uuid: str) -> str:
        """Where requests for this clock stand in the record of this boot."""
        raise NotImplementedError

    def steps(self) -> list[int]:
        """The card's values of this clock in MHz, ascending; raises `NvmlError`."""
        raise NotImplementedError

    def ask(self, low_mhz: int, high_mhz: int) -> None:
        """Asks NVML for the range; raises `NvmlError`."""
        raise NotImplementedError

    def reset(self) -> None:
        """Takes every request back; raises `NvmlError`."""
        raise NotImplementedError

    def range_under_load(self, natural_mhz: tuple[int, int] | None) -> load.Range:
        """What the samples are judged against."""
        raise NotImplementedError

    def original(self) -> str:
        return UNKNOWN

    def observe(self) -> str:
        return self._believed

    def told(self, value: Any) -> Any:
        return value if value == UNKNOWN else f"asked for {value}"

    def write(self) -> None:
        self._believed = UNKNOWN
        # A reset by a knob before this one starts the counter again; while NVML is open, the driver is the same.
        self.loaded = self._loaded_now(self.loaded.driver_version)
        if self.asked_mhz is not None:
            asked = Asked(*self.asked_mhz, False, self.loaded, self.machine.clock.now_s(), None)
            self._remember(asked, "not asked for: ")
            with self._refusal_remembered(asked):
                self.ask(*self.asked_mhz)
            self._remember(dataclasses.replace(asked, confirmed=True), "asked for, but ")
        else:
            stood = None if self.record is None else dataclasses.replace(self.record, confirmed=False)
            if stood is not None:
                self._remember(stood, "not reset: ")
            with self._refusal_remembered(stood):
                self._unlock()
            remember_or_refuse(self.machine, self.record_key(self.card.uuid), None, "reset, but ", self.loaded)
        self._believed = self.wanted

    def judge(self, before: Any, found: Any) -> Verdict:
        if self.asked_mhz is None:
            return self._judge_unlocked(before, found)
        if before is not None:
            again = f"; again, because {self.doubt or self.gone}" if self.record is not None else ""
            return self.verdict(None, "unverified", "needs_load", f"asked for, and {NO_GETTER}{again}")
        record = self.record
        if record is None or self.gone:
            return self.verdict(None, "overridden", WHY_GONE.get(self.gone, "driver_reload"), self.gone)
        if under_way(self.machine, record):
            return self.verdict(None, "unverified", "needs_load", UNDER_WAY)
        if not self._is_asked():
            on_record = shown(record.low_mhz, record.high_mhz)
            evidence = f"the request on record is for {on_record}" if record.confirmed else self.doubt
            return self.verdict(None, "refused" if record.refused else "overridden", "unexplained", evidence)
        if self.seen_mhz is not None:
            return self.verdict(self.seen_mhz, "ignored", self._judged_range().unexplained, self.doubt)
        known = f"asked for, and {NO_GETTER}"
        if record.last is not None:
            return self.verdict(None, *later(record.last, known, self.machine.clock.now_s()))
        doubt = f"; {self.doubt}" if self.doubt else ""
        return self.verdict(None, "unverified", "needs_load", f"{known}{doubt}")

    def under_load(self, verdict: Verdict, samples: Sequence[Sample]) -> Verdict:
        """The verdict of the samples, where a request of ours stands; kept for those who look without load."""
        if self.asked_mhz is None or self.gone or not self._is_asked():
            return verdict
        judged = load.judge_clock(samples, self._judged_range())
        return self.verdict(judged.found, judged.verdict, judged.cause, judged.evidence)

    def challenge(self) -> load.Range | None:
        if self.asked_mhz is None or self.gone or not self._is_asked():
            return None
        mhz = load.telling_mhz(self._judged_range())
        return None if mhz is None else dataclasses.replace(self._judged_range(), low_mhz=mhz, high_mhz=mhz)

    def move(self, to: load.Range) -> None:
        asked = Asked(to.low_mhz, to.high_mhz, False, self.loaded, self.machine.clock.now_s(), None, challenged=True)
        self._remember(asked, "not moved: ")
        self.ask(to.low_mhz, to.high_mhz)

    def put_back(self) -> None:
        assert self.asked_mhz is not None
        self.ask(*self.asked_mhz)
        self.record = Asked(*self.asked_mhz, True, self.loaded, self.machine.clock.now_s(), None)
        self._remember(self.record, "put back, but ")

    def keep(self, verdict: Verdict) -> None:
        """Writes a verdict under load beside its request, unless that was made again meanwhile. Raises `WriteFailed`.

        A look without enough load takes no earlier verdict away.
        """
        asked = read_clocks(self.machine).asked.get(self.record_key(self.card.uuid))
        if asked is None or asked != self.record or verdict.cause in load.UNSEEN or self.gone:
            return
        last = LoadVerdict(
            verdict.verdict, verdict.cause, verdict.found, verdict.evidence, self.machine.clock.now_s()
        )
        remember_asked(self.machine, self.record_key(self.card.uuid), dataclasses.replace(asked, last=last))

    def is_back(self, verdict: Verdict) -> bool:
        """A reset that was accepted is all that can be had; a card that never could lock has nothing to reset."""
        return verdict.verdict in ("unverified", "unsupported")

    def _judge_unlocked(self, before: Any, found: Any) -> Verdict:
        if before is not None and found == UNLOCKED:
            return self.verdict(None, "unverified", "no_interface", f"reset, and {NO_GETTER}{self.unread}")
        if self.record is not None and under_way(self.machine, self.record):
            return self.verdict(None, "unverified", "needs_load", UNDER_WAY)
        asked = "" if self.record is None else f" for {shown(self.record.low_mhz, self.record.high_mhz)}"
        return self.verdict(None, "overridden", "other_writer", f"a request of ours{asked} is still on record")

    def _judged_range(self) -> load.Range:
        """The wanted range, with the clock that this card has by itself where it was seen on this driver."""
        natural = read_clocks(self.machine).natural.get(self.record_key(self.card.uuid))
        known = natural is not None and not natural.loaded.reload_signs(self.loaded)
        return self.range_under_load((natural.low_mhz, natural.high_mhz) if natural and known else None)

    def _is_asked(self) -> bool:
        """Whether the wanted range is the one on record."""
        record = self.record
        return record is not None and record.confirmed and (record.low_mhz, record.high_mhz) == self.asked_mhz

    def _unlock(self) -> None:
        try:
            self.reset()
        except NvmlError as error:
            if error.verdict == "unsupported" and self.record is not None and self.record.confirmed:
                evidence = f"{error.evidence}, yet a lock of ours was accepted"
                raise Unusable("refused", error.cause, evidence, True) from error
            raise

    @contextlib.contextmanager
    def _refusal_remembered(self, asked: Asked | None) -> Iterator[None]:
        """A request that NVML answered has come to its end; one that it refused is on record as that."""
        try:
            yield
        except Unusable as error:
            if asked is not None:
                with contextlib.suppress(Unusable):  # then it counts as unfinished; the refusal is the one to tell
                    self._remember(dataclasses.replace(asked, refused=error.evidence), "refused, and ")
            raise

    def _remember(self, asked: Asked | None, what: str) -> None:
        remember_or_refuse(self.machine, self.record_key(self.card.uuid), asked, what)


class GraphicsClockLock(ClockLock):
    """The lock of the graphics clock, on cards since Volta."""

    name = key_name = "graphics_clock_lock_mhz"
    first_architecture, architecture_name = VOLTA, "Volta"

    @classmethod
    def record_key(cls, uuid: str) -> str:
        return uuid

    def steps(self) -> list[int]:
        return self.nvml.graphics_clock_steps_mhz(self.card)

    def ask(self, low_mhz: int, high_mhz: int) -> None:
        self.nvml.lock_graphics_clock(self.card, low_mhz, high_mhz)

    def reset(self) -> None:
        self.nvml.unlock_graphics_clock(self.card)

    def range_under_load(self, natural_mhz: tuple[int, int] | None) -> load.Range:
        low_mhz, high_mhz = self.asked_mhz or (0, 0)
        return load.Range(low_mhz, high_mhz, self.steps_mhz, natural_mhz)


class MemoryClockLock(ClockLock):
    """The lock of the memory clock, on cards since Ampere; what it may cost is said in the plan."""

    name = key_name = "memory_clock_lock_mhz"
    first_architecture, architecture_name = AMPERE, "Ampere"

    @classmethod
    def record_key(cls, uuid: str) -> str:
        return f"{uuid}:memory"

    def steps(self) -> list[int]:
        return self.nvml.memory_clock_steps_mhz(self.card)

    def ask(self, low_mhz: int, high_mhz: int) -> None:
        self.nvml.lock_memory_clock(self.card, low_mhz, high_mhz)

    def reset(self) -> None:
        self.nvml.unlock_memory_clock(self.card)

    def range_under_load(self, natural_mhz: tuple[int, int] | None) -> load.Range:
        low_mhz, high_mhz = self.asked_mhz or (0, 0)
        return load.MemoryRange(low_mhz, high_mhz, self.steps_mhz, natural_mhz)


def shown(low_mhz: int, high_mhz: int) -> str:
    """A range as people write it."""
    return str(low_mhz) if low_mhz == high_mhz else f"{low_mhz}-{high_mhz}"


def snapped_mhz(wanted_mhz: int, steps_mhz: Sequence[int], most_mhz: int) -> int | None:
    """The card's nearest step; None where that is further than `most_mhz` away."""
    nearest = min(steps_mhz, key=lambda mhz: abs(mhz - wanted_mhz))
    return nearest if abs(nearest - wanted_mhz) <= most_mhz else None


def _gone(record: Asked | None, now: Loaded, watched: Watched, setting: str) -> str:
    """How it shows that no request of ours stands; empty where one may.

    A counter that started again may have passed what it was when we asked, so the last look at it counts as well.
    """
    if record is None:
        return LOST if setting in watched.asked else NOT_ON_RECORD
    if is_among(setting, watched.again) and record.time_s <= watched.time_s:
        return NOT_REPAIRED
    uuid, signs = setting.split(".")[1], record.loaded.reload_signs(now)
    if not signs and uuid in watched.loaded and watched.time_s > record.time_s:
        signs = watched.loaded[uuid].reload_signs(now)
    return f"lost with the driver: {', '.join(signs)} since it was asked for" if signs else ""


def _taken(record: Asked | None, taken_s: float | None) -> str:
    return TAKEN_BACK if record is not None and taken_s is not None and record.time_s <= taken_s else ""


def _doubt(record: Asked | None, persistence: bool | None) -> str:
    """Why a request that may stand is made again all the same; empty where there is no reason."""
    if record is None:
        return ""
    if record.challenged:
        return f"a challenge moved it to {shown(record.low_mhz, record.high_mhz)} and did not come to its end"
    if record.refused:
        return f"the last attempt was refused: {record.refused}"
    if not record.confirmed:
        return "the last attempt did not come to its end"
    if persistence is False:
        return "persistence is off, so the driver may have been unloaded since"
    if persistence is None and record.loaded.energy_mj is None:
        return "the card tells neither persistence nor energy, so the driver may have been unloaded since"
    if record.last is not None and record.last.is_doubted():
        return f"it was {record.last.verdict} under load, and somebody may have taken it away or asked for another"
    return ""
