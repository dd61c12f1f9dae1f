"""What a line says under one name: text, numbers, whole numbers and switches as people and logs write them.

Anything may be absent. What is there and cannot be meant is refused with the field, what was found and what works.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
UNIT = re.compile(r"\s*gi?b\s*$")
THOUSANDS = re.compile(r"\s*(\d{1,6})\s*[kK]\s*")
LARGEST_COUNT = 2**40


class Refused(ValueError):
    """The case cannot be estimated; the text names the field at fault."""


def text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if value is None else str(value).strip()


def number(fields: Mapping[str, Any], name: str) -> float | None:
    """A finite number, from a number or from text; nothing where it is absent.

    A size may say its unit again, `24 GiB`, and a share be one of a hundred, `90 %`.
    """
    value = fields.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return float(value)
    try:
        plain = UNIT.sub("", value.lower()) if isinstance(value, str) and name.endswith("_gib") else value
        percent = isinstance(value, str) and name == "mem_fraction" and value.strip().endswith("%")
        found = float(value.strip().rstrip("%")) / 100 if percent else float(plain)
    except (TypeError, ValueError, OverflowError):
        thousands = THOUSANDS.fullmatch(str(value))
        meant = f": {thousands[1]} x 1024 are {1024 * int(thousands[1])}" if thousands else ""
        raise Refused(f"{name}: found {str(value)[:40]!r}, wanted a number{meant}") from None
    if not math.isfinite(found) or found < 0:
        raise Refused(f"{name}: found {found}, wanted a number that is finite and not negative")
    return found


def whole(fields: Mapping[str, Any], name: str, least: int = 1) -> int | None:
    """A whole number of at least `least`; nothing where it is absent."""
    found = number(fields, name)
    if found is None:
        return None
    if found != int(found) or not least <= found <= LARGEST_COUNT:
        raise Refused(f"{name}: found {found:g}, wanted a whole number of at least {least}")
    return int(found)


def switch(fields: Mapping[str, Any], name: str) -> bool | None:
    """On or off; nothing where it is absent or left to the engine."""
    said = text(fields, name).lower()
    if said in ("", "auto"):
        return None
    numeric = said.removesuffix(".0")
    if numeric not in SWITCHES:
        raise Refused(f"{name}: found {said[:40]!r}, wanted 1 or 0, true or false")
    return SWITCHES[numeric]
