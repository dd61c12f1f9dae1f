"""One setting of one card, read and written through NVML; what samples under load add to its verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from inferhost.host.gpu import load
from inferhost.host.gpu.nvml import Card, Nvml, NvmlError
from inferhost.host.gpu.sample import Sample
from inferhost.host.knob import Knob, Unusable
from inferhost.host.record.baseline import SELECTED_AS
from inferhost.schema.result import Verdict


class CardKnob(Knob):
    """A knob that belongs to a card; its kinds name themselves in verdicts (`name`) and records (`key_name`)."""

    section = "gpu"

    name = ""
    key_name = ""
    boot_evidence = "what the card boots with"

    def __init__(self, nvml: Nvml, card: Card, wanted: Any, context: dict[str, str]) -> None:
        super().__init__(f"gpu.{card.uuid}.{self.name}", self.key_of(card), wanted)
        self.nvml = nvml
        self.card = card
        self._context = {"uuid": card.uuid, "name": card.name, **context}
        self.guarded = False
        self.held_back: Callable[[], Unusable | None] = lambda: None
        self.given_back_next: Callable[[], bool] = lambda: False
        self.stayed_loaded: Callable[[], bool] = lambda: False

    @classmethod
    def key_of(cls, card: Card) -> str:
        """Where the card's original stands in the record."""
        return f"gpu:{card.uuid}:{cls.key_name}"

    def context(self) -> dict[str, str]:
        return self._context

    def obstacle(self) -> Unusable | None:
        """A card that the guard holds is left alone; a revert does not ask."""
        return self.held_back()

    def boots_with(self) -> Any:
        """What the card has after a boot, where there is such a value; raises `NvmlError`."""
        return None

    def judge(self, before: Any, found: Any) -> Verdict:
        if before is None and found != self.wanted and self.given_back_next():
            evidence = "lowered by the guard, which found the card too hot, and not given back yet"
            return self.verdict(found, "overridden", "thermal", evidence)
        if before is None and found != self.wanted and found == self._boots_with():
            if self.stayed_loaded():
                evidence = (
                    f"{self.boot_evidence}, and the driver has not gone: written by somebody, or not applied yet"
                )
                return self.verdict(found, "overridden", "other_writer", evidence)
            evidence = f"{self.boot_evidence}: not applied yet, or lost with the driver"
            return self.verdict(found, "overridden", "driver_reload", evidence)
        return super().judge(before, found)

    def _boots_with(self) -> Any:
        try:
            return self.boots_with()
        except NvmlError:
            return None

    def lost(self, why: str = "") -> None:
        """The card may have forgotten what was asked of it: a request that no call reads back is not believed."""

    def challenge(self) -> load.Range | None:
        """What a challenge asks for instead, so that samples tell; None where nothing would, or nothing is moved."""
        return None

    def move(self, to: load.Range) -> None:
        """Asks for it, written down first as what it is. Raises `Unusable`."""
        raise NotImplementedError

    def put_back(self) -> None:
        """Asks for the wanted value again, the card before the record: that it was moved is on record already."""
        raise NotImplementedError

    def keep(self, verdict: Verdict) -> None:
        """Writes a verdict under load down for those who look without load. Raises `WriteFailed`.

        `NvmlError`, and nothing is kept, where nobody could say later whether it is still of this driver.
        """

    def under_load(self, verdict: Verdict, _samples: Sequence[Sample]) -> Verdict:
        """The verdict after samples were taken; most settings are proven by their getter alone."""
        return verdict


def is_among(setting: str, again: Container[str]) -> bool:
    """Whether a setting, or its whole card (`gpu.UUID`), is one of these."""
    return setting in again or ".".join(setting.split(".")[:2]) in again


@dataclasses.dataclass(frozen=True)
class Again:
    """What is applied again: cards (`gpu.UUID`) and settings. `told` is what was found of each that had drifted."""

    what: Container[str]
    told: Mapping[str, Any]

    def takes(self, knob: CardKnob) -> bool:
        """Not what somebody else wrote and the look before told: it still stands, so no reload took it."""
        number = knob.context().get(SELECTED_AS)  # its name while nobody is recorded for it
        if not is_among(knob.setting, self.what) and not is_among(f"gpu.{number}.{knob.name}", self.what):
            return False
        if knob.setting not in self.told:
            return True
        try:
            boots_with, found = knob.boots_with(), knob.observe()
        except Unusable:
            return False  # the look that follows tells of it again
        return boots_with in (None, found) or knob.shown(found) != self.told[knob.setting]


def only_again(knobs: Iterable[Knob], again: Again) -> list[Knob]:
    """The knobs among these cards and settings, which believe no request of theirs any more."""
    found: list[Knob] = []
    for knob in knobs:
        if isinstance(knob, CardKnob) and again.takes(knob):
            knob.lost()
            found.append(knob)
    return found
