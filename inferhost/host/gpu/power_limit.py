"""The power limit of one card: asked for, read back, and held only where the card enforces it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from inferhost.host.gpu import load
from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.nvml import INVALID_ARGUMENT, Card, Nvml, NvmlError
from inferhost.host.gpu.sample import Sample
from inferhost.schema.result import Verdict


class PowerLimit(CardKnob):
    """The power limit in milliwatts; held only where the enforced limit says so as well."""

    name = "power_limit_w"
    key_name = "power_limit_mw"
    boot_evidence = "the limit that the card boots with"
    accepted = ""

    def observe(self) -> int:
        return self.nvml.power_limit_mw(self.card)

    def write(self) -> None:
        try:
            self.nvml.set_power_limit_mw(self.card, self.wanted)
        except NvmlError as error:
            if error.code == INVALID_ARGUMENT and self.accepted:
                error.hint = f"the card says that it accepts {self.accepted}"
            raise

    def boots_with(self) -> int:
        return self.nvml.default_power_limit_mw(self.card)

    def is_forgotten(self) -> bool:
        """Whether the limit stands at what the card boots with, and not at what is wanted. Raises `NvmlError`."""
        return bool(self.wanted != self.observe() == self.boots_with())

    def shown(self, value: Any) -> Any:
        return None if value is None else watts(value)

    def judge(self, before: Any, found: Any) -> Verdict:
        if found != self.wanted:
            return super().judge(before, found)
        try:
            enforced = self.nvml.enforced_power_limit_mw(self.card)
        except NvmlError as error:
            return self.verdict(found, "unverified", error.cause, f"the getter agrees; {error.evidence}")
        evidence = f"limit {watts(found)} W, enforced {watts(enforced)} W"
        if enforced == found:
            return self.verdict(found, "held", "none", evidence)
        if enforced < found:  # a limiter out of band: board, chassis, baseboard controller
            return self.verdict(found, "clamped", "power_cap", evidence)
        return self.verdict(found, "ignored", "unexplained", evidence)

    def is_back(self, verdict: Verdict) -> bool:
        """The getter is enough: whatever is stricter than the request was so before us, or is not ours."""
        return bool(verdict.found == verdict.wanted)

    def under_load(self, verdict: Verdict, samples: Sequence[Sample]) -> Verdict:
        """The getter's verdict, unless the card was allowed less meanwhile, or draws more than it is allowed."""
        if verdict.verdict != "held":
            return verdict
        capped, enforced = load.judge_enforced(samples, self.wanted / 1000)
        below, evidence = load.judge_draw(samples)
        evidence = "; ".join(said for said in (verdict.evidence, enforced, evidence) if said)
        if capped:
            return self.verdict(self.wanted, "clamped", "power_cap", evidence)
        if below is False:
            return self.verdict(self.wanted, "ignored", "unexplained", evidence)
        return dataclasses.replace(verdict, evidence=evidence)


def limit_mw(nvml: Nvml, card: Card, wish: object) -> int | None:
    """What a wished limit means on this card; None for a word that it does not know. Raises `NvmlError`."""
    if wish == "default":
        return nvml.default_power_limit_mw(card)
    if isinstance(wish, int):
        return wish * 1000
    return nvml.power_limit_range_mw(card)[1] if wish == "max" else None


def watts(limit_mw: int) -> Any:
    """Milliwatts in W: an integer where it is one."""
    return limit_mw // 1000 if limit_mw % 1000 == 0 else limit_mw / 1000
