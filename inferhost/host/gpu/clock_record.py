"""What we asked of each card's clocks in this boot: `/run/inferhost/clocks.json`, because no call reads a lock back.

A request is written down as not yet confirmed before NVML is asked, and confirmed after, so that a kill in between
is seen as "unknown" and never as done. Boot, driver version, energy counter and kernel module tell whether the driver
was loaded again since; the counter restarts there, and may have passed by now what it was then. Whether a request
outlives a suspend nobody says, so after one it counts as gone as well. Beside the request stands the last verdict
under load, and per card the clock seen under load without a lock: after a reset of ours, because a lock from before
us cannot be seen. A record that cannot be read is none: everything is asked for again.
"""
# ruff: noqa: UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any, Optional

from inferhost.host.gpu.load import PASSING
from inferhost.host.knob import Unusable
from inferhost.host.machine import RUN_DIRECTORY, Machine
from inferhost.host.record.baseline import boot_id
from inferhost.host.record.lock import is_held
from inferhost.host.report import WriteFailed
from inferhost.schema import document
from inferhost.schema.problems import InputError
from inferhost.schema.result import DRIFT

SCHEMA = 1
CLOCKS = f"{RUN_DIRECTORY}/clocks.json"
SETTINGS = {"": "graphics_clock_lock_mhz", "memory": "memory_clock_lock_mhz", "application": "application_clocks_mhz"}
"""Whose request a key of the file means, by what follows the UUID."""
LOCKS = (SETTINGS[""], SETTINGS["memory"])
"""Those that no call reads back."""
MODULE = "/sys/module/nvidia"
UNDER_WAY = "another inferhost is at it at this moment: apply, or a challenge that moves it and puts it back"
MOST_MW = 2_000_000
"""More than any card draws: a GB200 takes 1,200 W. Source: facts-nvml.md C."""
SLEPT_S_LEAST = 0.5
"""The two clocks are not read at once; no suspend is as short as that."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Which driver is loaded: what differs after a reboot, an upgrade, a reload or a suspend."""

    boot_id: str
    driver_version: str
    energy_mj: Optional[int]
    slept_s: float = 0.0
    module: Optional[int] = None
    time_s: float = 0.0  # `Clock.now_s`

    def reload_signs(self, now: Loaded) -> list[str]:
        """How `now` shows that the driver was loaded again since; a card without the counter shows less."""
        signs = []
        if now.boot_id != self.boot_id:
            signs.append("another boot")
        if now.driver_version != self.driver_version:
            signs.append(f"driver {now.driver_version} instead of {self.driver_version}")
        if self.energy_mj is not None and now.energy_mj is not None and now.energy_mj < self.energy_mj:
            signs.append(f"the energy counter fell from {self.energy_mj // 1000} to {now.energy_mj // 1000} J")
        if self.module is not None and now.module is not None and now.module != self.module:
            signs.append("its kernel module was loaded again")
        if now.slept_s - self.slept_s >= SLEPT_S_LEAST:
            signs.append(f"the host was suspended for {now.slept_s - self.slept_s:.0f} s")
        return signs

    def stays(self, now: Loaded) -> bool:
        """Whether it is proven that the driver was not loaded again since.

        A risen counter alone proves nothing, as it may have started again; one that shows more than a card can have
        drawn meanwhile has not.
        """
        if self.reload_signs(now) or self.energy_mj is None or now.energy_mj is None:
            return False
        return now.energy_mj > MOST_MW * (now.time_s - self.time_s)


@dataclasses.dataclass(frozen=True)
class LoadVerdict:
    """A verdict under load; `time_s` is `Clock.now_s`, which starts anew with each boot as this file does."""

    verdict: str
    cause: str
    found: Any
    evidence: str
    time_s: float

    def is_doubted(self) -> bool:
        """Whether its request may not stand: it did not hold, and nothing that passes explains that."""
        return self.verdict in DRIFT and self.cause not in PASSING


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request for a range of a clock; of application clocks: memory and graphics clock.

    Not `confirmed` is what may not have come to its end, unless it was `refused`, in NVML's words; `challenged` says
    that it stands for a test only.
    """

    low_mhz: int
    high_mhz: int
    confirmed: bool
    loaded: Loaded
    time_s: float
    last: Optional[LoadVerdict]
    challenged: bool = False
    refused: str = ""


@dataclasses.dataclass(frozen=True)
class Natural:
    """The graphics clocks seen under load after we had unlocked them."""

    low_mhz: int
    high_mhz: int
    loaded: Loaded


@dataclasses.dataclass(frozen=True)
class Clocks:
    """The file: by UUID; `unlocked` is on which driver we took back whatever lock stood, ours or not."""

    schema: int
    asked: dict[str, Asked]
    natural: dict[str, Natural]
    unlocked: Optional[dict[str, Loaded]] = None


def read_clocks(machine: Machine) -> Clocks:
    """The record, or an empty one."""
    text = machine.read_text(CLOCKS)
    try:
        found = document.read(Clocks, json.loads(text or ""))
    except (json.JSONDecodeError, InputError):
        return Clocks(SCHEMA, {}, {})
    return found if found.schema == SCHEMA else Clocks(SCHEMA, {}, {})


def write_clocks(machine: Machine, clocks: Clocks) -> None:
    """The record on disk; no file where nothing is in it. Raises `WriteFailed`."""
    if clocks.asked or clocks.natural or clocks.unlocked:
        machine.make_directories(RUN_DIRECTORY)
        machine.replace_file(CLOCKS, document.text(clocks).encode(), 0o644)
    else:
        machine.remove_file(CLOCKS)


def remember_asked(machine: Machine, uuid: str, asked: Asked | None, unlocked: Loaded | None = None) -> None:
    """One card's request, or with None: no request any more, and where it was `unlocked`."""
    clocks = read_clocks(machine)
    others = {key: value for key, value in clocks.asked.items() if key != uuid}
    requests = others if asked is None else {**others, uuid: asked}
    resets = clocks.unlocked if unlocked is None else {**(clocks.unlocked or {}), uuid: unlocked}
    write_clocks(machine, dataclasses.replace(clocks, asked=requests, unlocked=resets))


def remember_or_refuse(
    machine: Machine, key: str, asked: Asked | None, what: str, unlocked: Loaded | None = None
) -> None:
    """The same for a knob that is being written: a failure is `Unusable`, told after `what` was done or not."""
    try:
        remember_asked(machine, key, asked, unlocked)
    except WriteFailed as error:
        evidence = f"{what}{error.problem.path} {error.problem.message}"
        refusal = Unusable("refused", "unexplained", evidence, True)
        refusal.hint = error.problem.hint
        raise refusal from error


def later(last: LoadVerdict, known: str, now_s: float) -> tuple[str, str, str]:
    """Verdict, cause and evidence for those who look later, without load; `known` is what they see themselves.

    A lock that did not hold is not thought to hold until it is asked for again. One that held then may be gone: no
    call tells, so its proof is evidence with an age, and no verdict. The same where a limiter hid it.
    """
    if last.is_doubted():
        return last.verdict, last.cause, _aged(last, now_s)
    return "unverified", "needs_load", f"{known}; then {last.verdict}: {_aged(last, now_s)}"


def _aged(last: LoadVerdict, now_s: float) -> str:
    seconds = now_s - last.time_s
    age = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"{last.evidence}; under load {age if seconds < 7200 else f'{seconds / 3600:.0f} h'} ago"


def under_way(machine: Machine, asked: Asked) -> bool:
    """Whether a request that did not come to its end yet may still: whoever holds the lock is at it."""
    return not asked.confirmed and not asked.refused and is_held(machine)


def unfinished(machine: Machine) -> list[str]:
    """The settings whose request may have stopped half way: a kill in apply or a challenge. A refusal is an end."""
    if is_held(machine):
        return []
    return _settings(k for k, a in read_clocks(machine).asked.items() if not a.confirmed and not a.refused)


def locks_on_record(machine: Machine) -> list[str]:
    """The settings of which a lock is on record."""
    return [setting for setting in _settings(read_clocks(machine).asked) if setting.rpartition(".")[2] in LOCKS]


def _settings(keys: Iterable[str]) -> list[str]:
    """Whose requests these keys of the file are."""
    found = [key.partition(":") for key in keys]
    return sorted(f"gpu.{uuid}.{SETTINGS[kind]}" for uuid, _, kind in found if kind in SETTINGS)


def remember_natural(machine: Machine, uuid: str, natural: Natural) -> None:
    """One card's own clock under load."""
    clocks = read_clocks(machine)
    write_clocks(machine, dataclasses.replace(clocks, natural={**clocks.natural, uuid: natural}))


def loaded_now(machine: Machine, driver_version: str, energy_mj: int | None) -> Loaded:
    """The driver that is loaded at this moment."""
    clock = machine.clock
    return Loaded(boot_id(machine), driver_version, energy_mj, clock.slept_s(), _module(machine), clock.now_s())


def _module(machine: Machine) -> int | None:
    """The number of the module's folder in sysfs, which is a new one for each load; None where there is none.

    Source: linux fs/kernfs/dir.c, __kernfs_new_node (idr_alloc_cyclic).
    """
    try:
        return os.stat(machine.at(MODULE)).st_ino
    except OSError:
        return None
