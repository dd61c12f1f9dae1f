"""A setting of one card that is not changed under a running program.

NVML allows some of these changes all the same: the program that comes next would then fail, or find another card than
it was planned for, in a way that nobody connects with us.
"""

from __future__ import annotations

from typing import Any

from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError
from inferhost.host.knob import Unusable
from inferhost.host.machine import Machine


class IdleCardKnob(CardKnob):
    """A knob written only while nothing computes on the card; `machine` gives the running programs their names."""

    def __init__(self, machine: Machine, nvml: Nvml, card: Card, wanted: Any, context: dict[str, str]) -> None:
        super().__init__(nvml, card, wanted, context)
        self.machine = machine
        self.programs_end_first = False

    def obstacle(self) -> Unusable | None:
        held_back = super().obstacle()
        if held_back is not None or self.programs_end_first:
            return held_back
        try:
            running = self.nvml.compute_process_ids(self.card)
        except NvmlError as error:
            return error
        if not running:
            return None
        named = ", ".join(f"{pid} ({self.machine.read_text(f'/proc/{pid}/comm') or 'unknown'})" for pid in running)
        evidence = f"not written while programs compute on the card: process {named}; stop them and run again"
        return Unusable("refused", "other_writer", evidence, True)
