"""A setting of one card that is not changed under a running program.

NVML allows some of these changes all the same: the program that comes next would then fail, or find another card than
it was planned for, in a way that nobody connects with us.
"""

from __future__ import annotations

from typing import Any

from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError
from inferhost.host.gpu.occupants import occupant
from inferhost.host.knob import Unusable
from inferhost.host.machine import Machine


class IdleCardKnob(CardKnob):
    """A knob written only while no program uses the card; `machine` gives the running programs their names."""

    minds_drawing = True
    """Whether a change concerns programs that draw on the card as well: a desktop holds its memory too."""

    def __init__(self, machine: Machine, nvml: Nvml, card: Card, wanted: Any, context: dict[str, str]) -> None:
        super().__init__(nvml, card, wanted, context)
        self.machine = machine
        self.programs_end_first = False

    def obstacle(self) -> Unusable | None:
        held_back = super().obstacle()
        if held_back is not None:
            return held_back
        try:
            computing = [] if self.programs_end_first else self.nvml.compute_process_ids(self.card)
            drawing = self.nvml.drawing_process_ids(self.card) if self.minds_drawing else []
        except NvmlError as error:
            return error
        if not computing and not drawing:
            return None
        named = [self._named(pid) for pid in computing]
        named += [f"{self._named(pid)} that draws" for pid in drawing if pid not in computing]
        units = dict.fromkeys(o.unit for pid in computing if (o := occupant(self.machine, pid)) and o.adoptable)
        ways = [f"systemctl stop {' '.join(map(str, units))}"] if units else []
        ways += ["a desktop: systemctl isolate multi-user.target"] if drawing else []
        how = f" ({'; '.join(ways)})" if ways else ""
        evidence = f"not written while programs use the card: {', '.join(named)}; stop them{how} and run again"
        return Unusable("refused", "other_writer", evidence, True)

    def _named(self, pid: int) -> str:
        found = occupant(self.machine, pid)
        unit = f", {found.unit}" if found and found.unit else ""
        return f"process {pid} ({self.machine.read_text(f'/proc/{pid}/comm') or 'unknown'}{unit})"
