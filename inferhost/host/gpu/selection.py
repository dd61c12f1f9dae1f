"""The GPU section of a plan: find each card, refuse what cannot be, then persistence, power limit and clock lock.

All refusals come before the first write: a sandbox plan on a real card or the reverse, a card that is not there, a
limit outside the card's own range. A new plan is refused as a whole; in one that was accepted, what does not fit any
more costs only itself. A word (`default`, `max`) is resolved by the card; no other value is computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Container, Sequence
from typing import Any

from inferhost.host.gpu import which
from inferhost.host.gpu.application_clocks import ApplicationClocks
from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.clock_lock import UNLOCKED, ClockLock, GraphicsClockLock, MemoryClockLock, shown, snapped_mhz
from inferhost.host.gpu.clock_record import read_clocks
from inferhost.host.gpu.compute_mode import ComputeMode
from inferhost.host.gpu.ecc import Ecc
from inferhost.host.gpu.mig import Mig, shown_instances
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError
from inferhost.host.gpu.persistence import Persistence
from inferhost.host.gpu.power_limit import PowerLimit, limit_mw, watts
from inferhost.host.guard.latch import given_back_next, held_back
from inferhost.host.knob import Knob, Unusable
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import boot_id
from inferhost.host.report import Report
from inferhost.host.watch.watched import stayed_loaded
from inferhost.schema.plan import Gpu, Plan
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.result import Verdict

POWER_WISH = "inferhost_gpu_power_limit"
LOCK_WISHES = {
    GraphicsClockLock: "inferhost_gpu_graphics_clock_lock",
    MemoryClockLock: "inferhost_gpu_memory_clock_lock",
}
CLOCKS_WISH = "inferhost_gpu_application_clocks"
MIG_WISH = "inferhost_gpu_mig"


def knobs(plan: Plan, nvml: Nvml, machine: Machine, report: Report, *, whole: bool = False) -> list[Knob]:
    """The plan's GPU settings as knobs in the order of writing.

    A card that is not there, or a value that it does not take, is a problem of the report and costs only itself; with
    `whole`, all of them together are one `InputError`. A plan for another kind of library always is.
    """
    problems = simulation_problems(plan, nvml)
    if problems:
        raise InputError(problems)
    context = {"boot_id": boot_id(machine), "driver_version": nvml.driver_version()}
    search = _Search(machine, nvml, context, report, problems, which.recorded_keys(machine))
    cards = nvml.cards()
    found: list[Knob] = []
    taken: dict[str, int] = {}
    for number, (gpu, card) in enumerate(zip(plan.gpus, which.chosen_cards(plan, nvml, machine, cards))):
        if card is None:
            problems.append(which.missing(plan, number, cards, nvml, machine))
        elif taken.setdefault(card.uuid, number) != number:
            problems.append(which.twice(card, number, taken[card.uuid]))
        else:
            search.context = {**context, **which.numbered(gpu)}
            known = len(problems)
            mine = search.knobs_of(gpu, card)
            for knob in mine:
                knob.stayed_loaded = functools.partial(stayed_loaded, machine, nvml, card)
            for knob in mine if gpu.guard is not None else ():
                knob.guarded, knob.held_back = True, functools.partial(held_back, machine, card.uuid)
                knob.given_back_next = functools.partial(given_back_next, machine, card.uuid)
            fits = len(problems) == known
            if gpu.guard is not None and fits and not any(isinstance(knob, PowerLimit) for knob in mine):
                report.note(f"{card.uuid}: the guard cannot lower its power, it can only say how hot it is")
            found += mine
    if problems and whole:
        raise InputError(problems)
    report.problems += problems
    return found


def card_knob(key_name: str, machine: Machine, nvml: Nvml, card: Card, wanted: Any) -> Knob | None:
    """The knob of one baseline key, to put `wanted` back; None for a key that this version does not know."""
    for lock in LOCK_WISHES:
        if key_name == lock.key_name:  # what was there before us has no getter: it is reset
            return lock(machine, nvml, card, None, {})
    with_machine: dict[str, Callable[..., CardKnob]] = {
        k.key_name: k for k in (ComputeMode, Ecc, Mig, ApplicationClocks)
    }
    if key_name in with_machine:
        return with_machine[key_name](machine, nvml, card, wanted, {})
    kinds: dict[str, type[CardKnob]] = {k.key_name: k for k in (PowerLimit, Persistence)}
    return kinds[key_name](nvml, card, wanted, {}) if key_name in kinds else None


def waiting(machine: Machine, plan: Plan, error: NvmlError, report: Report) -> None:
    """The verdicts while no driver answers: every setting waits, and nothing else fails."""
    for gpu, name in zip(plan.gpus, which.known_names(plan, machine)):
        wanted = {
            "persistence_mode": gpu.persistence_mode,
            "power_limit_w": gpu.power_limit_w,
            "graphics_clock_lock_mhz": span(gpu.graphics_clock_lock_mhz),
            "memory_clock_lock_mhz": span(gpu.memory_clock_lock_mhz),
            "application_clocks_mhz": pair(gpu.application_clocks_mhz),
            "compute_mode": gpu.compute_mode,
            "ecc": None if gpu.ecc is None else "on" if gpu.ecc else "off",
            "mig": None if gpu.mig is None else shown_instances(gpu.mig),
        }
        for setting, value in wanted.items():
            if value is not None:
                report.verdicts.append(
                    Verdict(f"gpu.{name}.{setting}", value, None, "pending", error.cause, error.evidence)
                )


def span(clocks_mhz: tuple[int, ...] | None) -> str | None:
    """A range of clocks as people write it."""
    return None if clocks_mhz is None else shown(clocks_mhz[0], clocks_mhz[-1])


def pair(clocks_mhz: tuple[int, ...] | None) -> str | None:
    """Memory and graphics clock as people write them."""
    return None if clocks_mhz is None else ",".join(str(mhz) for mhz in clocks_mhz)


def simulation_problems(plan: Plan, nvml: Nvml) -> list[Problem]:
    """A sandbox plan must never reach a real card, and a real one never a simulated card."""
    simulated = nvml.simulated()
    if plan.host.simulated == simulated:
        return []
    kinds = {True: "simulated", False: "real"}
    return [
        Problem(
            "inferhost_simulated",
            f"the plan is for {kinds[plan.host.simulated]} GPUs, this host's NVML library is {kinds[simulated]}",
            "is this the host that you meant? The library decides, not the inventory",
            "simulated-mismatch",
        )
    ]


@dataclasses.dataclass
class _Search:
    """What every step of the search needs, and the refusals that it collects."""

    machine: Machine
    nvml: Nvml
    context: dict[str, str]
    report: Report
    problems: list[Problem]
    recorded: Container[str]

    def knobs_of(self, gpu: Gpu, card: Card) -> list[CardKnob]:
        """One card's knobs: persistence on comes first, so that the driver keeps the limit; off comes last."""
        found: list[CardKnob] = []
        if gpu.power_limit_w is not None:
            limit = self.power_limit(gpu.power_limit_w, card)
            found += [limit] if limit else []
        wishes = (gpu.graphics_clock_lock_mhz, gpu.memory_clock_lock_mhz)
        for kind, wish in zip(LOCK_WISHES, wishes):
            asked = self.clock_lock(kind, wish, card)
            found += [asked] if asked else []
        clocks = self.application_clocks(gpu.application_clocks_mhz, card)
        found += [clocks] if clocks else []
        if gpu.compute_mode is not None:
            found.append(ComputeMode(self.machine, self.nvml, card, gpu.compute_mode, self.context))
        if gpu.ecc is not None:
            found.append(Ecc(self.machine, self.nvml, card, gpu.ecc, self.context))
        divided = self.mig(gpu, card)
        locks = [knob for knob in found if isinstance(knob, ClockLock)]
        limits = [knob for knob in found if isinstance(knob, PowerLimit) and locks]
        try:
            forgotten = any(limit.is_forgotten() for limit in limits)
        except NvmlError as error:
            forgotten = False
            if error.verdict != "unsupported":
                self.report.note(f"{card.uuid}: nobody can tell whether its limit was forgotten; {error.evidence}")
        for lock in locks if forgotten else ():
            lock.lost("its power limit is what the card boots with, so the driver may have been loaded again")
        if divided is not None:  # before all else: it may reset the card
            divided.told_of_a_reset = locks
            found.insert(0, divided)
        if gpu.persistence_mode is not None:
            persistence = Persistence(self.nvml, card, gpu.persistence_mode, self.context)
            found.insert(0 if gpu.persistence_mode else len(found), persistence)
            if not gpu.persistence_mode:
                self.report.note(f"{card.uuid}: with persistence off the power limit goes when the driver unloads")
        return found

    def mig(self, gpu: Gpu, card: Card) -> Mig | None:
        """The knob for a division of the card; None, with the reason told, for what it does not have."""
        if gpu.mig is None:
            return None
        knob = Mig(self.machine, self.nvml, card, shown_instances(gpu.mig), self.context)
        knob.planned = gpu
        try:
            knob.calls.mode()
            known = knob.calls.profiles() if gpu.mig else {}
        except NvmlError as error:
            self._verdict(card, Mig.name, knob.shown(knob.wanted), error)
            return None
        missing = next((one.profile for one in gpu.mig if one.profile not in known), None)
        if missing is None:
            return knob
        message = f'found "{missing}", {card.name} ({card.uuid}) has {", ".join(known)}'
        self.problems.append(Problem(MIG_WISH, message, "see: nvidia-smi mig -lgip", "out-of-range"))
        refusal = Unusable("refused", "none", f"the card has no {missing}; not divided", False)
        self._verdict(card, Mig.name, knob.shown(knob.wanted), refusal)
        return None

    def clock_lock(self, kind: type[ClockLock], wish: tuple[int, ...] | None, card: Card) -> ClockLock | None:
        """The knob for a wished range, or to take back ours; None, with the reason told, for what cannot be."""
        wanted = span(wish) or UNLOCKED
        try:
            if wish is None:
                asked = kind.record_key(card.uuid) in read_clocks(self.machine).asked
                if not asked and kind.key_of(card) not in self.recorded:
                    return None
                ours = kind(self.machine, self.nvml, card, None, self.context)
                return None if ours.gone and ours.key not in self.recorded else ours
            if self.nvml.architecture(card) < kind.first_architecture:
                evidence = f"NVML locks this clock from {kind.architecture_name} on"
                self._verdict(card, kind.name, wanted, Unusable("unsupported", "no_interface", evidence, False))
                return None
            knob = kind(self.machine, self.nvml, card, (wish[0], wish[-1]), self.context)
            knob.steps_mhz = knob.steps()
            most_mhz = knob.range_under_load(None).step_mhz
            low, high = (snapped_mhz(mhz, knob.steps_mhz, most_mhz) for mhz in (wish[0], wish[-1]))
        except NvmlError as error:
            self._verdict(card, kind.name, wanted, error)
            return None
        if low is None or high is None:
            self._lock_refused(kind, wanted, knob.steps_mhz, card)
            return None
        knob.ask_for(low, high)
        knob.look()
        if knob.wanted != wanted:
            self.report.note(f"{knob.setting}: {wanted} is no step of this card, {knob.wanted} is asked for")
        return knob

    def application_clocks(self, wish: tuple[int, ...] | None, card: Card) -> ApplicationClocks | None:
        """The knob for a wished pair; None, with the reason told, for what the card does not have or list."""
        if wish is None:
            return None
        wanted, memory_mhz, graphics_mhz = pair(wish), wish[0], wish[1]
        try:
            self.nvml.application_clocks_mhz(card)
            rungs = self.nvml.memory_clock_steps_mhz(card)
            steps = self.nvml.graphics_clock_steps_mhz(card, memory_mhz) if memory_mhz in rungs else []
        except NvmlError as error:
            self._verdict(card, ApplicationClocks.name, wanted, error)
            return None
        if graphics_mhz in steps:
            return ApplicationClocks(self.machine, self.nvml, card, list(wish), self.context)
        which, mhz, offered = ("graphics", graphics_mhz, steps) if steps else ("memory", memory_mhz, rungs)
        near = min(offered, key=lambda step: abs(step - mhz))
        message = (
            f"found {mhz} MHz for the {which} clock, {card.name} ({card.uuid}) has {offered[0]} to {offered[-1]}"
        )
        hint = f"pairs outside the card's own list are refused, never moved; the nearest is {near}"
        self.problems.append(Problem(CLOCKS_WISH, message, hint, "out-of-range"))
        refusal = Unusable("refused", "none", f"{mhz} MHz is not on the card's list; not asked for", False)
        self._verdict(card, ApplicationClocks.name, wanted, refusal)
        return None

    def _lock_refused(self, kind: type[ClockLock], wanted: str, steps: Sequence[int], card: Card) -> None:
        few = ", ".join(str(mhz) for mhz in steps)
        accepted = f"{steps[0]} to {steps[-1]} MHz" if len(steps) > 10 else f"{few} MHz"
        message = f"found {wanted} MHz, {card.name} ({card.uuid}) has {accepted}"
        hint = "clocks outside the card's own list are refused, never moved"
        self.problems.append(Problem(LOCK_WISHES[kind], message, hint, "out-of-range"))
        refusal = Unusable("refused", "none", f"the card has {accepted}; not asked for", False)
        self._verdict(card, kind.name, wanted, refusal)

    def power_limit(self, wish: object, card: Card) -> PowerLimit | None:
        """The knob for a wished limit; None, with the reason told, where the card has none or refuses this one."""
        try:
            low, high = self.nvml.power_limit_range_mw(card)
            number = limit_mw(self.nvml, card, wish)
        except NvmlError as error:
            self._verdict(card, PowerLimit.name, wish, error)
            return None
        accepted = f"{watts(low)} to {watts(high)} W"
        if number is not None and low <= number <= high:
            knob = PowerLimit(self.nvml, card, number, self.context)
            knob.accepted = accepted
            return knob
        found = f"{wish} W" if isinstance(wish, int) else f'"{wish}"'
        message = f"found {found}, {card.name} ({card.uuid}) accepts {accepted}"
        hint = "watts outside the card's range are refused, never clamped"
        self.problems.append(Problem(POWER_WISH, message, hint, "out-of-range"))
        refusal = Unusable("refused", "none", f"the card accepts {accepted}; not written", False)
        self._verdict(card, PowerLimit.name, wish, refusal)
        return None

    def _verdict(self, card: Card, name: str, wanted: Any, error: Unusable) -> None:
        setting = f"gpu.{card.uuid}.{name}"
        self.report.verdicts.append(Verdict(setting, wanted, None, error.verdict, error.cause, error.evidence))
        if error.failure:
            self.report.problems.append(Problem(setting, error.evidence, error.hint, "not-written"))
