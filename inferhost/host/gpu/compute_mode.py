"""The compute mode of one card: who may use it. Read back by its getter; gone at the next boot."""

from __future__ import annotations

from inferhost.host.gpu.idle_knob import IdleCardKnob
from inferhost.host.gpu.nvml import COMPUTE_MODES


class ComputeMode(IdleCardKnob):
    """The mode by name."""

    name = key_name = "compute_mode"
    minds_drawing = False  # the mode is about contexts of CUDA

    def observe(self) -> str:
        return self.nvml.compute_mode(self.card)

    def write(self) -> None:
        self.nvml.set_compute_mode(self.card, self.wanted)

    def boots_with(self) -> str:
        return COMPUTE_MODES[0]
