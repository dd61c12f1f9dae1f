"""The guard: a daemon that looks at each guarded card a few times per second and brings a hot one down.

It waits for nothing that others hold: not for the lock, not for a driver. It ends when it is stopped, and when the
plan or the program changed, so that systemd starts the new one; what it holds stays written down. It tells systemd
that it lives after every turn. When it died instead, `after_the_end` leaves the safe state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
from collections.abc import Callable

from inferhost.host.gpu import selection, which
from inferhost.host.gpu.nvml import NO_DRIVER, Card, Nvml, NvmlError, open_nvml
from inferhost.host.gpu.power_limit import watts
from inferhost.host.guard.card import RETRY_S, GuardedCard, Say
from inferhost.host.guard.latch import FREE, NOTHING, hold_of, read_latches
from inferhost.host.guard.originals import Originals
from inferhost.host.guard.rule import too_hot
from inferhost.host.guard.told import Told, samples
from inferhost.host.machine import PLAN, PROGRAM, Machine
from inferhost.host.report import HostError, NoDriver, NothingTouched, Report
from inferhost.host.watch.textfile import Sample
from inferhost.schema.plan import Plan
from inferhost.schema.problems import Problem

PERIOD_S = 0.3
"""Between two looks: more than three per second, so that a card is down well within one second."""
RETRY_S_MAX = 60.0
"""Between two searches for a card that is missing beside one that answers: asking for a dead card takes time."""
NORMAL_END = "success"  # Source: systemd.exec(5), $SERVICE_RESULT


def watch(
    machine: Machine, plan: Plan, report: Report, stopped: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Guards until `stopped`, or until plan or program changed."""
    guarded(plan)
    if report.check:
        _look_once(machine, plan, report)
        return
    with contextlib.closing(_Watcher(machine, plan, Say(say, machine.clock.now_s))) as watcher:
        origin = _sources(machine)
        notify("READY=1")
        next_s = checked_s = machine.clock.now_s()
        while not stopped():
            watcher.turn()
            notify("WATCHDOG=1")
            now_s = machine.clock.now_s()
            if now_s - checked_s >= RETRY_S:
                checked_s = now_s
                if _sources(machine) != origin:
                    say("plan or program changed: starting again")
                    return
            next_s = max(next_s + PERIOD_S, now_s)
            machine.clock.sleep(next_s - now_s)
        watcher.end()


def after_the_end(machine: Machine, plan: Plan, result: str, say: Callable[[str], None]) -> None:
    """What is left of a guard that ended by itself: every card of it at the safe state, and latched."""
    guarded(plan)
    if result == NORMAL_END:
        return
    with contextlib.closing(_Watcher(machine, plan, Say(say, machine.clock.now_s))) as watcher:
        watcher.search()
        for card in watcher.cards.values():
            if card.hold.state != FREE:
                card.make_safe()
            elif card.can_be_guarded():
                card.trip(f"the guard ended ({result})", machine.clock.now_s())
    watcher.told.finish(watcher.now())


def guarded(plan: Plan) -> list[int]:
    """The numbers of the plan's guarded cards; refused where there is none."""
    found = [number for number, entry in enumerate(plan.gpus) if entry.guard is not None]
    if not found or "gpu" not in plan.manage:
        hint = "inferhost_gpu_guard: true, and inferhost_manage with gpu in it"
        raise NothingTouched(Problem(PLAN, "guards no card", hint, "no-guard"))
    return found


def journal(line: str) -> None:
    """One line for the journal, at once."""
    print(line, file=sys.stderr, flush=True)


def notify(state: str) -> None:
    """Tells systemd, where it asked to be told. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
        end.connect("\0" + address[1:] if address[0] == "@" else address)
        end.send(state.encode())


class _Watcher:
    """The guarded cards over any number of NVML sessions; one in which none answers is opened again, not too often.

    While one answers, its session stays: closing the last one unloads the driver where persistence is off, and that
    drops the settings of a healthy card. NVML finds cards when it is asked for them, so a missing one needs no other
    session. Source: nvml.h of NVML API 13, nvmlInit_v2.
    """

    def __init__(self, machine: Machine, plan: Plan, say: Say) -> None:
        self.machine, self.plan, self.say = machine, plan, say
        self.cards: dict[int, GuardedCard] = {}
        self.holds = read_latches(machine)
        self.uuids: dict[int, str] = {}
        self.session = contextlib.ExitStack()
        self.nvml: Nvml | None = None
        self.search_at_s, self.retry_s = machine.clock.now_s(), RETRY_S
        self.blind_since_s: dict[int, float] = {}
        self.originals = _originals(machine, say)
        self.read_at_s = machine.clock.now_s() + RETRY_S
        self.told = Told(machine, plan, lambda text: say.once("metrics", text))

    def turn(self) -> None:
        """One look at every card."""
        now_s = self.machine.clock.now_s()
        if now_s >= self.read_at_s:
            self.originals.look()
            for card in self.cards.values():
                card.remember()
            self.read_at_s = now_s + RETRY_S
        if len(self.cards) < len(guarded(self.plan)) and now_s >= self.search_at_s:
            self.search()
        for number, card in self.cards.items():
            try:
                card.look(self.blind_since_s.get(number))
            except NvmlError as error:
                self.blind_since_s.setdefault(number, now_s)
                self.say.once(card.card.uuid, f"{card.card.uuid}: does not say how hot it is: {error.evidence}")
            else:
                self.blind_since_s.pop(number, None)
                self.say.over(card.card.uuid, f"{card.card.uuid}: answers again")
        if len(self._answering()) == len(guarded(self.plan)):
            self.retry_s = RETRY_S
        elif now_s >= self.search_at_s:  # the handles of a driver that was loaded again are of no use
            self.search()
        self.told.tell(self.now())

    def _answering(self) -> set[int]:
        return self.cards.keys() - self.blind_since_s.keys()

    def now(self) -> list[Sample]:
        """What there is to tell; a card that is lost is what it was."""
        holds = {**self.holds, **{card.card.uuid: card.hold for card in self.cards.values()}}
        return samples(holds, not self.originals.problem)

    def search(self) -> None:
        """Every guarded card that does not answer, in this session where another card does, else in a new one."""
        answering = self._answering()
        self.search_at_s = self.machine.clock.now_s() + self.retry_s
        self.retry_s = min(2 * self.retry_s, RETRY_S_MAX) if answering else RETRY_S
        if not answering:
            self.close()
        try:
            nvml = self.nvml or self.session.enter_context(open_nvml(self.machine.before_write))
            other_kind = selection.simulation_problems(self.plan, nvml)
            nvml.unreadable.clear()  # what was silent at an earlier search may answer now
            here = nvml.cards()
        except NvmlError as error:
            if not answering:
                self.session.close()
                self.say.once("nvml", f"no card can be asked: {error.evidence}; trying again every {RETRY_S:g} s")
            return
        self.nvml = nvml
        self.say.over("nvml", "the driver answers again")
        if other_kind:
            self.say.once("kind", f"nothing is guarded: {other_kind[0].message}")
            return
        self._remember()
        for number in guarded(self.plan):
            self._find(number, nvml, here)

    def _find(self, number: int, nvml: Nvml, here: list[Card]) -> None:
        """One guarded card by its place in the plan, where it is there."""
        alone = self._alone(number)
        found = [card for card in which.chosen_cards(alone, nvml, self.machine, here) if card is not None]
        if found:
            self.uuids[number] = found[0].uuid
            hold = self.holds.get(found[0].uuid) or hold_of(self.machine, found[0].uuid)
            self.cards[number] = GuardedCard(
                self.machine, alone, nvml, found[0], hold=hold, say=self.say, originals=self.originals
            )
            self.say.over(f"gpus[{number}]", f"{found[0].uuid}: is there again")
        elif not (number in self._answering() and nvml.unreadable):  # it may be one that did not say its name now
            self.cards.pop(number, None)
            lost = "".join(f"; {error.evidence}" for error in nvml.unreadable)
            self.say.once(f"gpus[{number}]", f"gpus[{number}] ({alone.gpus[0].name}) is not there{lost}")

    def _alone(self, number: int) -> Plan:
        """The plan of one card, by its UUID once that is known: the n-th changes when another one is lost."""
        entry = self.plan.gpus[number]
        select = dataclasses.replace(entry.select, uuid=self.uuids.get(number, entry.select.uuid))
        return dataclasses.replace(self.plan, gpus=(dataclasses.replace(entry, select=select),))

    def close(self) -> None:
        """No session, no cards; what is held stays known, even where it could not be written down."""
        self._remember()
        self.cards.clear()
        self.nvml = None
        self.session.close()

    def _remember(self) -> None:
        self.holds.update({card.card.uuid: card.hold for card in self.cards.values()})

    def end(self) -> None:
        """The normal end: what is held stays so, and the next guard goes on with it."""
        for card in self.cards.values():
            card.say_what_stays()
        self.close()
        self.told.finish(self.now())


def _look_once(machine: Machine, plan: Plan, report: Report) -> None:
    """What the guard would do now."""
    cards: dict[str, dict[str, object]] = {}
    report.facts["guard"] = cards
    latches, say = read_latches(machine), Say(report.note, machine.clock.now_s)
    originals = _originals(machine, say)
    for number in guarded(plan):
        alone = dataclasses.replace(plan, gpus=(plan.gpus[number],))
        try:
            with open_nvml(machine.before_write) as nvml:
                for card in which.selected_cards(alone, nvml, machine):
                    one = GuardedCard(machine, alone, nvml, card, hold=NOTHING, say=say, originals=originals)
                    reading = one.read()
                    cards[card.uuid] = {
                        "limit_c": one.rule.limit_c,
                        "safe_power_w": watts(one.safe_power_mw()),
                        "state": latches.get(card.uuid, NOTHING).state,
                        "temperature_c": None if reading is None else reading.temperature_c,
                        "thermal_margin_c": None if reading is None else reading.margin_c,
                        "too_hot": "" if reading is None else too_hot(reading, one.rule),
                    }
        except NvmlError as error:
            problem = Problem("nvml", error.evidence, error.hint, "nvml")
            raise (NoDriver if error.code in NO_DRIVER else HostError)(problem) from error


def _originals(machine: Machine, say: Say) -> Originals:
    """The record, and what the journal says of it."""
    return Originals(machine, lambda text: say.once("record", text), lambda text: say.over("record", text))


def _sources(machine: Machine) -> list[tuple[int, int, int]]:
    """What the running guard was made from, by file: another file or another time is another plan or program."""
    found = []
    for path in (PLAN, PROGRAM):
        with contextlib.suppress(OSError):
            status = os.stat(machine.at(path))
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return found
