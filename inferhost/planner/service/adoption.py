"""Which services of somebody else the plan takes over: unit names from the wish, checked for form."""

from __future__ import annotations

import re

from inferhost.planner.reasons import reason
from inferhost.planner.request import Request
from inferhost.schema.plan import Reason
from inferhost.schema.problems import InputError, Problem

OPTION = "inferhost_service_adopt"
UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.service")


def adopted_units(request: Request) -> tuple[tuple[str, ...], list[Reason]]:
    """The units in their order with their reasons; `InputError` for a name that no service can have."""
    units: list[str] = []
    problems = []
    for number, word in enumerate(request.wish.words(OPTION)):
        name = word if word.endswith(".service") else f"{word}.service"
        path = f"{OPTION}[{number}]"
        if not UNIT.fullmatch(name):
            problems.append(
                Problem(path, f'found "{word}", wanted the name of a service', "for example sglang.service")
            )
        elif name.startswith("inferhost-"):
            problems.append(Problem(path, f'found "{word}", which is ours already', "name a service of your own"))
        elif name in units:
            problems.append(Problem(path, f'"{word}" is there twice', "name it once"))
        units.append(name)
    if problems:
        raise InputError(problems)
    because = "the wish takes it over: it is stopped before our engine starts, and a revert gives it back"
    return tuple(units), [
        reason(f"adopt.{unit}", "stopped, disabled", because, f"wish:{OPTION}", gain="its port and its memory")
        for unit in units
    ]
