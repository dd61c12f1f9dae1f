"""Whether the driver of one card stays loaded while nothing uses it."""

from __future__ import annotations

from inferhost.host.gpu.card_knob import CardKnob


class Persistence(CardKnob):
    """Whether the driver stays loaded while no program uses the card."""

    name = "persistence_mode"
    key_name = "persistence_mode"

    def observe(self) -> bool:
        return self.nvml.persistence_mode(self.card)

    def write(self) -> None:
        self.nvml.set_persistence_mode(self.card, self.wanted)
