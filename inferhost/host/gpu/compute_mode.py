"""The compute mode of one card: who may use it. Read back by its getter; gone at the next boot.

A change under a running program is refused here, although NVML allows it: the program that comes next would fail in
a way that nobody connects with us.
"""

from __future__ import annotations

from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.nvml import COMPUTE_MODES, Card, Nvml, NvmlError
from inferhost.host.knob import Unusable
from inferhost.host.machine import Machine


class ComputeMode(CardKnob):
    """The mode by name; `machine` gives the running programs their names."""

    name = key_name = "compute_mode"

    def __init__(self, machine: Machine, nvml: Nvml, card: Card, wanted: str, context: dict[str, str]) -> None:
        super().__init__(nvml, card, wanted, context)
        self.machine = machine
        self.programs_end_first = False

    def observe(self) -> str:
        return self.nvml.compute_mode(self.card)

    def write(self) -> None:
        self.nvml.set_compute_mode(self.card, self.wanted)

    def boots_with(self) -> str:
        return COMPUTE_MODES[0]

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
