"""The application clocks of one card: what its programs get, on cards before Volta, which cannot lock clocks.

A getter tells the request, and what was there before us comes back by it. Whether the card runs at that clock shows
under load only: power and heat overrule it, so an agreeing getter alone is `unverified`, `needs_load`. Without a
request of ours the card would run at its own default pair, and that is what a clock has to differ from to be proof.
The last verdict under load is kept as that of a clock lock is, beside the pair that it was on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from inferhost.host.gpu import load
from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.clock_record import (
    UNDER_WAY,
    Asked,
    LoadVerdict,
    later,
    loaded_now,
    read_clocks,
    remember_asked,
    remember_or_refuse,
    under_way,
)
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError
from inferhost.host.gpu.sample import Sample
from inferhost.host.machine import Machine
from inferhost.schema.result import Verdict

GETTER_AGREES = "the getter agrees; it tells the request only"


class ApplicationClocks(CardKnob):
    """Memory and graphics clock in MHz, as a list of two: the form in which the record keeps them."""

    name = key_name = "application_clocks_mhz"

    def __init__(self, machine: Machine, nvml: Nvml, card: Card, wanted: list[int], context: dict[str, str]) -> None:
        super().__init__(nvml, card, wanted, context)
        self.machine = machine
        self.record_key = f"{card.uuid}:application"
        self.record = read_clocks(machine).asked.get(self.record_key)

    def observe(self) -> list[int]:
        return self.nvml.application_clocks_mhz(self.card)

    def write(self) -> None:
        if self.record is not None:
            self._remember(None, "not asked for: ")  # what was seen under load was seen of another request
        self.nvml.set_application_clocks(self.card, *self.wanted)

    def boots_with(self) -> list[int]:
        return self.nvml.default_application_clocks_mhz(self.card)

    def shown(self, value: Any) -> Any:
        return None if value is None else ",".join(str(mhz) for mhz in value)

    def judge(self, before: Any, found: Any) -> Verdict:
        record = self.record
        if found != self.wanted:
            verdict = super().judge(before, found)
            if before is None and record is not None and under_way(self.machine, record):
                return self.verdict(found, "unverified", "needs_load", UNDER_WAY)
            moved = record is not None and record.challenged and found == [record.low_mhz, record.high_mhz]
            said = "a challenge moved it there and did not come to its end"
            return self.verdict(found, "overridden", "unexplained", said) if moved else verdict
        if before is None and record is not None and record.last is not None and self._is_of_now(record):
            return self.verdict(found, *later(record.last, GETTER_AGREES, self.machine.clock.now_s()))
        return self.verdict(found, "unverified", "needs_load", GETTER_AGREES)

    def under_load(self, verdict: Verdict, samples: Sequence[Sample]) -> Verdict:
        """The verdict of the samples, where the getter agrees."""
        if verdict.found != self.shown(self.wanted):
            return verdict
        memory_mhz = self.wanted[0]
        try:
            judged = load.judge_clock(samples, self._range())
        except NvmlError as error:
            return dataclasses.replace(verdict, evidence=f"{verdict.evidence}; {error.evidence}")
        if judged.found is None:
            return self.verdict(self.wanted, judged.verdict, judged.cause, judged.evidence)
        seen_mhz = load.memory_clock_mhz(samples)
        found = [memory_mhz if seen_mhz is None else seen_mhz, judged.found]
        if abs(found[0] - memory_mhz) > load.MEMORY_TOLERANCE_MHZ:
            evidence = f"the memory clock is {found[0]} MHz; {judged.evidence}"
            return self.verdict(found, "clamped", "memory_pstate", evidence)
        return self.verdict(found, judged.verdict, judged.cause, judged.evidence)

    def challenge(self) -> load.Range | None:
        asked = self._range()
        mhz = load.telling_mhz(asked)
        return None if mhz is None else dataclasses.replace(asked, low_mhz=mhz, high_mhz=mhz)

    def move(self, to: load.Range) -> None:
        self._remember(self._asked(to.low_mhz, challenged=True), "not moved: ")
        self.nvml.set_application_clocks(self.card, self.wanted[0], to.low_mhz)

    def put_back(self) -> None:
        self.nvml.set_application_clocks(self.card, *self.wanted)
        self._remember(None, "put back, but ")

    def keep(self, verdict: Verdict) -> None:
        stands = verdict.verdict not in ("overridden", "refused", "unsupported", "pending")
        if not stands or verdict.cause in load.UNSEEN:
            return
        now_s = self.machine.clock.now_s()
        last = LoadVerdict(verdict.verdict, verdict.cause, verdict.found, verdict.evidence, now_s)
        asked = dataclasses.replace(self._asked(self.wanted[1]), last=last)
        remember_asked(self.machine, self.record_key, asked)

    def _range(self) -> load.Range:
        """The wanted graphics clock, and the one that the card has by itself; raises `NvmlError`."""
        memory_mhz, graphics_mhz = self.wanted
        own_mhz = self.boots_with()[1]
        steps = self.nvml.graphics_clock_steps_mhz(self.card, memory_mhz)
        return load.ApplicationRange(graphics_mhz, graphics_mhz, steps, (own_mhz, own_mhz))

    def _asked(self, graphics_mhz: int, challenged: bool = False) -> Asked:
        now = loaded_now(self.machine, self.nvml.driver_version(), self.nvml.energy_mj(self.card))
        now_s = self.machine.clock.now_s()
        return Asked(self.wanted[0], graphics_mhz, not challenged, now, now_s, None, challenged)

    def _is_of_now(self, record: Asked) -> bool:
        try:
            now = loaded_now(self.machine, self.nvml.driver_version(), self.nvml.energy_mj(self.card))
        except NvmlError:
            return False
        return [record.low_mhz, record.high_mhz] == self.wanted and not record.loaded.reload_signs(now)

    def _remember(self, asked: Asked | None, what: str) -> None:
        remember_or_refuse(self.machine, self.record_key, asked, what)
        self.record = asked

    def is_back(self, verdict: Verdict) -> bool:
        """The getter is enough: what is put back is the request that stood here."""
        return bool(verdict.found == verdict.wanted)
