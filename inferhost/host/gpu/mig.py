"""How one card is divided (MIG): whole, or instances at places, each with one compute instance over all of it.

The getters tell everything, so what was there before us is recorded and made again on revert, compute instances of
others included. Dividing needs a mode that some cards take up at once, some by a reset that drops limits and locks,
and some, behind passthrough, when their machine starts again: that is `pending`, `needs_reboot`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

from inferhost.host.gpu.clock_lock import ClockLock
from inferhost.host.gpu.idle_knob import IdleCardKnob
from inferhost.host.gpu.nvml import Card, Nvml
from inferhost.host.gpu.nvml_mig import CardMig, Part, Profile
from inferhost.host.knob import Unusable
from inferhost.host.machine import Machine
from inferhost.host.record.base_units import GUARD, state
from inferhost.schema.plan import Gpu, MigInstance
from inferhost.schema.result import Verdict

WHOLE = "whole"
ASKED_FOR = "the mode is asked for; the card takes it up when the machine was restarted"
INSTANCE = re.compile(r"([^@()]+)@(\d+):(\d+)(?:\((.*)\))?")
"""PROFILE@START:SIZE, and in brackets its compute instances where they are not one over all of it."""


def shown_instances(planned: tuple[MigInstance, ...]) -> Any:
    """The plan's instances in the form in which a card is observed and recorded."""
    by_place = sorted(planned, key=lambda one: one.start)
    return [f"{one.profile}@{one.start}:{one.size}" for one in by_place] or WHOLE


class Mig(IdleCardKnob):
    """`whole`, or the instances by place; what is asked for and not active yet counts as there."""

    name = key_name = "mig"

    def __init__(self, machine: Machine, nvml: Nvml, card: Card, wanted: Any, context: dict[str, str]) -> None:
        super().__init__(machine, nvml, card, wanted, context)
        self.calls = CardMig(nvml, card)
        self.told_of_a_reset: list[ClockLock] = []
        self.planned: Gpu | None = None
        self._active = self._asked_for = False

    def observe(self) -> Any:
        self._active = self._asked_for = False
        active, asked_for = self.calls.mode()
        found = [self._told(instance) for instance in self.calls.instances()] if active else []
        self._active, self._asked_for = active, asked_for
        return found if asked_for else WHOLE

    def write(self) -> None:
        if self.wanted == WHOLE:
            for instance in self.calls.instances() if self._active else ():
                self.calls.destroy(instance)
            self._set_mode(False)
            return
        if not (self._active and self._asked_for):
            self._set_mode(True)
        if not self.calls.mode()[0]:
            return
        standing = {self._told(instance): instance for instance in self.calls.instances()}
        for text, instance in standing.items():
            if text not in self.wanted:
                self.calls.destroy(instance)
        profiles = self.calls.profiles()
        for text in self.wanted:
            if text not in standing:
                self._make(text, profiles)

    def device_uuid(self, instance: MigInstance) -> str | None:
        """What CUDA programs call this instance; None where the card is not divided so (now). Raises `NvmlError`."""
        if not self.calls.mode()[0]:
            return None
        wanted = shown_instances((instance,))[0]
        there = {self._told(one): one.id for one in self.calls.instances()}
        return next((uuid for owner, uuid in self.calls.devices() if owner == there.get(wanted)), None)

    def shown(self, value: Any) -> Any:
        return ", ".join(value) or "divided, no instance" if isinstance(value, list) else value

    def boots_with(self) -> Any:
        """Instances never outlive a start, and on some cards the mode does not either."""
        return None if self.wanted == WHOLE else [] if self._asked_for else WHOLE

    def obstacle(self) -> Unusable | None:
        """What is asked for already needs nobody to leave the card: it waits for a restart."""
        found = super().obstacle()
        if found is not None and self.waits:
            return Unusable("pending", "needs_reboot", ASKED_FOR, False)
        return found

    def judge(self, before: Any, found: Any) -> Verdict:
        if self.waits:
            return self.verdict(found, "pending", "needs_reboot", ASKED_FOR)
        return super().judge(before, found)

    @property
    def waits(self) -> bool:
        """Whether the mode was seen to be asked for and not active yet."""
        return self._asked_for == (self.wanted != WHOLE) and self._active != self._asked_for

    def is_back(self, verdict: Verdict) -> bool:
        """A whole card that waits for its restart is back; one whose instances are to be made again is not yet."""
        waiting = verdict.verdict == "pending" and self.wanted == WHOLE and self._active and not self._asked_for
        return verdict.verdict == "held" or waiting

    def _set_mode(self, on: bool) -> None:
        with _guard_stopped(self.machine):
            self.calls.set_mode(on)
        for lock in self.told_of_a_reset:
            lock.lost()

    def _told(self, instance: Part) -> str:
        computes = self.calls.compute_instances(instance)
        if [one.profile.slices for one in computes] == [instance.profile.slices]:
            return instance.name
        return f"{instance.name}({','.join(one.name for one in computes)})"

    def _make(self, text: str, profiles: dict[str, Profile]) -> None:
        """An instance as it is written; raises `Unusable`."""
        found = INSTANCE.fullmatch(text)
        if found is None or found[1] not in profiles:
            raise Unusable("refused", "none", f"{text}: the card has {', '.join(profiles)}", True)
        instance = self.calls.create(profiles[found[1]], int(found[2]), int(found[3]))
        inside = self.calls.compute_profiles(instance)
        if found[4] is None:
            whole = next(one for one in inside.values() if one.slices == instance.profile.slices)
            self.calls.create_compute(instance, whole, 0)
        for part in filter(None, (found[4] or "").split(",")):
            name, _, place = part.partition("@")
            self.calls.create_compute(instance, inside[name], int(place.partition(":")[0]))


@contextlib.contextmanager
def _guard_stopped(machine: Machine) -> Iterator[None]:
    """A card is not reset under a client of its driver, and the guard is one; it goes on after the block.

    Source: NVIDIA/mig-parted, deployments/systemd/hooks.sh, which stops what watches the cards before a mode is set.
    """
    found = state(machine, GUARD)
    runs = found is not None and found[1] == "active"
    if not runs or _main_pid(machine) == str(os.getpid()):  # a guard that gives a card back is in this process
        yield
        return
    _systemctl(machine, "stop")
    try:
        yield
    finally:
        _systemctl(
            machine, "start", "--no-block"
        )  # its unit comes after the one that applies at boot, which waits here


def _main_pid(machine: Machine) -> str:
    return machine.command(["systemctl", "show", "--property=MainPID", "--value", "--", GUARD]).stdout.strip()


def _systemctl(machine: Machine, *words: str) -> None:
    """What comes of it is for `verify`, which looks at every unit of ours."""
    argv = ["systemctl", *words, "--", GUARD]
    machine.before_write(" ".join(argv))
    machine.command(argv)
