"""One setting of one card, read and written through NVML; what samples under load add to its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inferhost.host.knob import Knob
from inferhost.host.nvml import Card, Nvml
from inferhost.host.sample import Sample
from inferhost.schema.result import Verdict


class CardKnob(Knob):
    """A knob that belongs to a card; its kinds name themselves in verdicts (`name`) and records (`key_name`)."""

    section = "gpu"

    name = ""
    key_name = ""

    def __init__(self, nvml: Nvml, card: Card, wanted: Any, context: dict[str, str]) -> None:
        super().__init__(f"gpu.{card.uuid}.{self.name}", f"gpu:{card.uuid}:{self.key_name}", wanted)
        self.nvml = nvml
        self.card = card
        self._context = {"uuid": card.uuid, "name": card.name, **context}

    def context(self) -> dict[str, str]:
        return self._context

    def under_load(self, verdict: Verdict, _samples: Sequence[Sample]) -> Verdict:
        """The verdict after samples were taken; most settings are proven by their getter alone."""
        return verdict
