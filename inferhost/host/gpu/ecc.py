"""Error correction of one card's memory. A write asks for a mode, which the card takes up when it starts next.

The getter tells both modes. Ours is the one asked for: it is what a write changes, what was there before us, and what
a revert puts back. While the card still runs in the other one the verdict is `pending`, `needs_reboot`.
"""

from __future__ import annotations

from typing import Any

from inferhost.host.gpu.idle_knob import IdleCardKnob
from inferhost.schema.result import Verdict


class Ecc(IdleCardKnob):
    """On or off, as it will be after the next start of the card."""

    name = key_name = "ecc"

    _current: bool | None = None
    _asked_for: bool | None = None

    def observe(self) -> bool:
        self._current, self._asked_for = self.nvml.ecc_mode(self.card)
        return self._asked_for

    def write(self) -> None:
        self.nvml.set_ecc_mode(self.card, self.wanted)

    def shown(self, value: Any) -> Any:
        return None if value is None else "on" if value else "off"

    def judge(self, before: Any, found: Any) -> Verdict:
        if found != self.wanted or self._current == self.wanted:
            return super().judge(before, found)
        evidence = "asked for; the card takes it up when the host was restarted"
        return self.verdict(self._current, "pending", "needs_reboot", evidence)

    def is_back(self, verdict: Verdict) -> bool:
        """What is put back is what the card was asked for; a driver that does not answer is `pending` as well."""
        return verdict.verdict in ("held", "pending") and self._asked_for == self.wanted
