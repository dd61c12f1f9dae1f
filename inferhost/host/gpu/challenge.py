"""The proof of clocks that samples alone cannot give: move the request, sample, put it back, sample again.

Asked for by a person, never by a timer: it slows the cards for seconds. Nothing that serves may be on them, and no
process but the one that makes the load. A card that follows to a clock where it never runs by itself obeys its lock;
what stands afterwards is our request, asked for anew. Each move is on record before the card is asked, so that after
a kill everybody is told and the next `apply`, or the drift timer, puts it back; a signal is waited for.
"""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Callable, Iterator, Sequence

from inferhost.host.gpu import load
from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.nvml import NvmlError
from inferhost.host.gpu.occupants import occupant
from inferhost.host.gpu.sample import Series, take_samples
from inferhost.host.knob import Knob, Unusable, tell, verify_knobs
from inferhost.host.machine import Clock, Machine
from inferhost.host.record.baseline import read_baseline
from inferhost.host.record.lock import locked
from inferhost.host.report import HostError, Report, WriteFailed
from inferhost.host.service.engine import recorded_units
from inferhost.host.service.processes import unit_state
from inferhost.host.signals import stopping
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.result import Verdict

SERVING = ("active", "activating", "reloading", "deactivating")
"""States in which an engine has the cards. Source: systemctl(1) of systemd 252."""
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PARENT = re.compile(r"^PPid:\s*(\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a person allows: the process that makes the load, with its children, may be on the cards."""

    load_pid: int | None


def refuse_where_in_use(machine: Machine, plan: Plan, knobs: Sequence[Knob], asked: Asked) -> None:
    """`InputError`, before a card is touched, where an engine serves or somebody else is on a card."""
    units = {service.unit for service in plan.service} | set(recorded_units(read_baseline(machine)))
    problems = [
        Problem("--challenge", f"{unit} is {state}", f"stop it first: systemctl stop {unit}", "serving")
        for unit in sorted(units)
        if (state := unit_state(machine, unit).get("ActiveState", "")) in SERVING
    ]
    cards = {knob.card.uuid: knob for knob in knobs if isinstance(knob, CardKnob)}
    for uuid, knob in cards.items():
        try:
            pids = sorted({*knob.nvml.compute_process_ids(knob.card), *knob.nvml.drawing_process_ids(knob.card)})
        except NvmlError as error:
            hint = "without an answer nobody can tell who is on the card"
            problems.append(Problem("--challenge", f"gpu.{uuid}: {error.evidence}", hint, "nvml"))
            continue
        for pid in pids:
            if asked.load_pid is None or asked.load_pid not in _ancestry(machine, pid):
                found = occupant(machine, pid)
                who = found.shown() if found else f"process {pid}"
                hint = "stop it, or name it with --load-pid where it is the load to sample under"
                problems.append(Problem("--challenge", f"gpu.{uuid} is in use by {who}", hint, "in-use"))
    if problems:
        raise InputError(problems)


def prove(
    machine: Machine, plan: Plan, knobs: Sequence[Knob], asked: Asked, report: Report, *, seconds: float
) -> None:
    """Challenges every clock whose verdict is `indistinguishable`, one kind at a time and all cards of it at once."""
    undecided = {v.setting for v in report.verdicts if v.cause == "indistinguishable"}
    found = [knob for knob in knobs if isinstance(knob, CardKnob) and knob.setting in undecided]
    if not found:
        report.note("nothing to challenge: no clock was sampled under load and left undecided")
    elif report.check:
        for knob, probe in _probes(found, report):
            report.note(f"{knob.setting}: check mode: it would be moved to {probe.low_mhz} MHz and back")
    else:
        with locked(machine), stopping(STOPS) as stopped:
            refuse_where_in_use(machine, plan, knobs, asked)  # somebody may have come while samples were taken
            baseline = read_baseline(machine)
            for name in dict.fromkeys(knob.name for knob in found):
                alike = [knob for knob in found if knob.name == name and knob.key in baseline]
                pairs = list(_probes(alike, report))
                if pairs:
                    _challenge(machine, pairs, report, seconds=seconds, stopped=stopped)


def _probes(knobs: Sequence[CardKnob], report: Report) -> Iterator[tuple[CardKnob, load.Range]]:
    for knob in knobs:
        obstacle, probe = knob.obstacle(), knob.challenge()
        if obstacle is not None:
            report.note(f"{knob.setting}: not challenged: {obstacle.evidence}")
        elif probe is None:
            report.note(f"{knob.setting}: not challenged: this card has no clock that would tell")
        else:
            yield knob, probe


def _challenge(
    machine: Machine,
    pairs: Sequence[tuple[CardKnob, load.Range]],
    report: Report,
    *,
    seconds: float,
    stopped: Callable[[], bool],
) -> None:
    failed: dict[str, Unusable] = {}
    cards = [knob.card for knob, _ in pairs]
    clock = _stoppable(machine.clock, stopped)
    try:
        for knob, probe in pairs:
            try:
                knob.move(probe)
            except Unusable as error:  # keeps no other card from its turn
                failed[knob.setting] = error
        seen = take_samples(pairs[0][0].nvml, cards, seconds, load.HZ, clock)
    finally:
        for knob, _ in pairs:
            _put_back(knob, failed, report)
    again = take_samples(pairs[0][0].nvml, cards, seconds, load.HZ, clock)
    for (knob, probe), moved, back in zip(pairs, seen, again):
        place = next(n for n, v in enumerate(report.verdicts) if v.setting == knob.setting)
        refusal = failed.get(knob.setting) or moved.error or back.error
        if refusal is not None:
            tell(knob, refusal, report)
            report.verdicts[place] = report.verdicts.pop()
            continue
        report.verdicts[place] = _judged(knob, report.verdicts[place], probe, moved, back)
        try:
            knob.keep(report.verdicts[place])
        except NvmlError as error:
            report.note(f"{knob.setting}: its verdict is not kept; {error.evidence}")
        except WriteFailed as failure:
            report.note(f"{knob.setting}: its verdict is not kept: {failure.problem.path} {failure.problem.message}")


def _put_back(knob: CardKnob, failed: dict[str, Unusable], report: Report) -> None:
    """The wanted request again; told at once where it is not, whatever comes after."""
    held_back = knob.held_back()
    if held_back is not None:  # the guard took the card meanwhile, and gives it back to the plan itself
        failed[knob.setting] = held_back
        return
    try:
        knob.put_back()
    except Unusable as error:
        failed[knob.setting] = error
        hint = "it is on record as moved; run: inferhost apply"
        report.problems.append(Problem(knob.setting, f"not put back: {error.evidence}", hint, "not-put-back"))


def _judged(knob: CardKnob, undecided: Verdict, probe: load.Range, moved: Series, back: Series) -> Verdict:
    """What both looks say of the request that stands now."""
    there = load.judge_clock(moved.samples, probe)
    said = f"challenged: asked for {probe.low_mhz} MHz, {there.evidence}"
    if there.verdict == "unverified" or there.limited:
        return dataclasses.replace(undecided, evidence=f"{said}; {undecided.evidence}")
    if there.verdict != "held":
        found, verdict, cause = there.found, there.verdict, there.cause  # the clock in MHz, as the wish has it
        return dataclasses.replace(undecided, found=found, verdict=verdict, cause=cause, evidence=said)
    again = Report(check=True)
    verify_knobs([knob], again)
    here = knob.under_load(again.verdicts[0], back.samples)
    said = f"{said}; asked for {knob.shown(knob.wanted)} again: {here.evidence}"
    if here.cause == "indistinguishable":
        here = dataclasses.replace(here, verdict="held", cause="none")
    return dataclasses.replace(here, evidence=said)


def _stoppable(clock: Clock, stopped: Callable[[], bool]) -> Clock:
    """The clock, on which a wait ends the challenge where somebody asked us to stop."""

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if stopped():
            hint = "what was moved was put back; run it again"
            raise HostError(Problem("--challenge", "stopped by a signal before its end", hint, "stopped"))

    return Clock(clock.now_s, sleep)


def _ancestry(machine: Machine, pid: int) -> list[int]:
    """The process and those that it descends from, as far as they can be seen from here."""
    found = []
    while pid > 0 and pid not in found:
        found.append(pid)
        parent = PARENT.search(machine.read_text(f"/proc/{pid}/status") or "")
        pid = int(parent.group(1)) if parent else 0
    return found
