"""The application clocks of one card: what its programs get, on cards before Volta, which cannot lock clocks.

A getter tells the request, and what was there before us comes back by it. Whether the card runs at that clock shows
under load only: power and heat overrule it, so an agreeing getter alone is `unverified`, `needs_load`. Without a
request of ours the card would run at its own default pair, and that is what a clock has to differ from to be proof.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from inferhost.host.gpu import load
from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.nvml import NvmlError
from inferhost.host.gpu.sample import Sample
from inferhost.schema.result import Verdict


class ApplicationClocks(CardKnob):
    """Memory and graphics clock in MHz, as a list of two: the form in which the record keeps them."""

    name = key_name = "application_clocks_mhz"

    def observe(self) -> list[int]:
        return self.nvml.application_clocks_mhz(self.card)

    def write(self) -> None:
        self.nvml.set_application_clocks(self.card, *self.wanted)

    def boots_with(self) -> list[int]:
        return self.nvml.default_application_clocks_mhz(self.card)

    def shown(self, value: Any) -> Any:
        return None if value is None else ",".join(str(mhz) for mhz in value)

    def judge(self, before: Any, found: Any) -> Verdict:
        if found != self.wanted:
            return super().judge(before, found)
        return self.verdict(found, "unverified", "needs_load", "the getter agrees; it tells the request only")

    def under_load(self, verdict: Verdict, samples: Sequence[Sample]) -> Verdict:
        """The verdict of the samples, where the getter agrees."""
        if verdict.found != self.shown(self.wanted):
            return verdict
        memory_mhz, graphics_mhz = self.wanted
        try:
            own_mhz = self.boots_with()[1]
            steps = self.nvml.graphics_clock_steps_mhz(self.card, memory_mhz)
        except NvmlError as error:
            return dataclasses.replace(verdict, evidence=f"{verdict.evidence}; {error.evidence}")
        judged = load.judge_clock(samples, load.Range(graphics_mhz, graphics_mhz, steps, (own_mhz, own_mhz)))
        if judged.found is None:
            return self.verdict(self.wanted, judged.verdict, judged.cause, judged.evidence)
        seen_mhz = load.memory_clock_mhz(samples)
        found = [memory_mhz if seen_mhz is None else seen_mhz, judged.found]
        if abs(found[0] - memory_mhz) > load.MEMORY_TOLERANCE_MHZ:
            evidence = f"the memory clock is {found[0]} MHz; {judged.evidence}"
            return self.verdict(found, "clamped", "memory_pstate", evidence)
        return self.verdict(found, judged.verdict, judged.cause, judged.evidence)

    def is_back(self, verdict: Verdict) -> bool:
        """The getter is enough: what is put back is the request that stood here."""
        return bool(verdict.found == verdict.wanted)
