"""What the guard did to each card in this boot: `/run/inferhost/guard.json`, written before a card is touched.

A latched card is left alone by `apply`, which looks here before each write; the guard itself never waits for the
lock. What the guard took away stays written down after the latch is gone, because no call tells that a clock is no
longer locked. The guard is the only writer, but for cards that the plan no longer guards. A file that cannot be
read, cut short or of a newer version, may hold any card: each counts as held until the guard found it cool.
"""
# ruff: noqa: UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Optional

from inferhost.host.knob import Unusable
from inferhost.host.machine import RUN_DIRECTORY, Machine
from inferhost.host.record import base_units
from inferhost.host.record.baseline import boot_id
from inferhost.host.report import Report, WriteFailed
from inferhost.schema import document
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError, Problem

SCHEMA = 1
LATCH = f"{RUN_DIRECTORY}/guard.json"
UNIT = base_units.GUARD

ENDED = ("inactive", "failed")
"""What systemd says of a unit that does not run and is not about to. Source: systemctl(1), is-active."""

LATCHED, RESTORING, FREE = "latched", "restoring", "free"
"""Held at the safe state; cool again and to be applied anew; left to the plan."""


@dataclasses.dataclass(frozen=True)
class Hold:
    """One card. Times are `Clock.now_s`; `cool_since_s` is None while it is hot, `trips_s` has the latest last.

    `unlocked_s` is when its clocks were last unlocked, all of ours: what was asked of them before does not stand
    any more. `unlock_began_s` is when that was last tried: of what was asked before then nobody knows. `drew_mw` is
    what the card drew before its power was lowered; `left` is empty where the limit that stands is below that,
    or the card was cool, and says otherwise what was done, for a card that may draw what it drew.
    """

    state: str
    why: str
    cool_since_s: Optional[float]
    trips_s: tuple[float, ...]
    unlocked_s: Optional[float]
    unlock_began_s: Optional[float] = None
    drew_mw: Optional[int] = None
    left: str = ""


@dataclasses.dataclass(frozen=True)
class Latches:
    """The file: by UUID."""

    schema: int
    boot_id: str
    cards: dict[str, Hold]


NOTHING = Hold(FREE, "", None, (), None)


def read_latches(machine: Machine) -> dict[str, Hold]:
    """Every card that the guard took hold of in this boot, as far as that can be read."""
    return _read(machine) or {}


def hold_of(machine: Machine, uuid: str) -> Hold:
    """What the guard did to this card, or what has to be thought of it."""
    found = _read(machine)
    if found is not None:
        return found.get(uuid, NOTHING)
    now_s = machine.clock.now_s()
    return Hold(LATCHED, f"as far as anybody knows: {LATCH} cannot be read", None, (now_s,), None, now_s)


def _read(machine: Machine) -> dict[str, Hold] | None:
    """The cards of the file; none of another boot's, and None where nobody can read it."""
    text = machine.read_text(LATCH)
    if text is None:
        return {}
    try:
        found = document.read(Latches, json.loads(text))
    except (json.JSONDecodeError, InputError):
        return None
    if found.schema != SCHEMA:
        return None
    return found.cards if found.boot_id == boot_id(machine) else {}


def write_latches(machine: Machine, cards: dict[str, Hold]) -> None:
    """The file on disk. Raises `WriteFailed`."""
    machine.make_directories(RUN_DIRECTORY)
    machine.replace_file(LATCH, document.text(Latches(SCHEMA, boot_id(machine), cards)).encode(), 0o644)


def held_back(machine: Machine, uuid: str) -> Unusable | None:
    """Why nothing may be written to this card now."""
    hold = hold_of(machine, uuid)
    if hold.state != LATCHED:
        return None
    unit = base_units.state(machine, UNIT)
    ends = f"it lets go by itself, see: journalctl -u {UNIT}"
    if unit is not None and unit[1] in ENDED:
        ends = f"no guard runs that could let it go, so: systemctl start {UNIT}"
    left = f"; NOT brought down ({hold.left})" if hold.left else ""
    return Unusable("overridden", "thermal", f"left alone: the guard holds the card, {hold.why}{left}; {ends}", False)


def given_back_next(machine: Machine, uuid: str) -> bool:
    """Whether this card is cool again and still as the guard left it."""
    return hold_of(machine, uuid).state == RESTORING


def say_unguarded(machine: Machine, uuids: Iterable[str], report: Report) -> None:
    """Names those that the guard holds and that no guard will watch from now on: what was lowered goes up again."""
    for uuid, hold in read_latches(machine).items():
        if uuid in uuids and hold.state == LATCHED:
            after = "the plan guards it no more: it is written all the same, and nothing watches its heat then"
            report.note(f"{uuid}: the guard held this card, {hold.why}; {after}")


def forget_latches(machine: Machine, uuids: Iterable[str], report: Report) -> None:
    """Lets go of cards that the plan guards no more, or that were put back. A failure is a remark."""
    latches = read_latches(machine)
    freed = {u: dataclasses.replace(latches[u], state=FREE, cool_since_s=None) for u in uuids if u in latches}
    if all(latches[uuid].state == FREE for uuid in freed):
        return
    try:
        write_latches(machine, {**latches, **freed})
    except WriteFailed as error:
        report.note(f"{error.problem.path}: {error.problem.message}")


def held_problems(machine: Machine, plan: Plan) -> list[Problem]:
    """Cards that the guard holds, where the plan would end it: nobody would give them back."""
    held = {uuid: hold for uuid, hold in read_latches(machine).items() if hold.state in (LATCHED, RESTORING)}
    hint = "wait until it lets go, or give the cards back first with: inferhost revert --section gpu"
    return [
        Problem("inferhost_manage", f"found no gpu, and the guard holds {uuid}: {hold.why}", hint, "guard-holds")
        for uuid, hold in held.items()
        if "gpu" not in plan.manage
    ]


def taken_back_s(machine: Machine, uuid: str) -> float | None:
    """When the guard last took back whatever was asked of this card's clocks."""
    return hold_of(machine, uuid).unlocked_s


def maybe_taken_back_s(machine: Machine, uuid: str) -> float | None:
    """When the guard last began to take back what was asked of this card's clocks, whether or not it could."""
    return hold_of(machine, uuid).unlock_began_s
