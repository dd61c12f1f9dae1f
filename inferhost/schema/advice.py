"""`docs/tuning-advice.md`: what guides advise, what is true, what a wish says instead, from `catalogue/advice.json`.

Each row may carry checks: a setting that the planner must refuse, or pass on, for one engine. A test plans them, so
that the page and the planner cannot disagree.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Tuple

from inferhost.schema import document

FILE = pathlib.Path(__file__).parents[1] / "catalogue" / "advice.json"

HEAD = """\
# Tuning advice, checked

Generated from inferhost/catalogue/advice.json by `make generate`; do not edit.

What five guides for GPU inference hosts advise, with what is true and what to write instead. The guides are
000 (a plan for an RTX PRO 6000 called GB200), 001 (Tesla P4), 002 (RTX 5090 in containers), 003 (an analysis of the
same RTX PRO 6000 under ESXi) and 004 (SFLLM). Where an engine is named, its pinned version is meant. A source
`catalogue:TABLE/ROW#FIELD` or `formula:ID` is a row in `inferhost/catalogue`. What the planner refuses or passes on
according to this page is tested; `inferhost import` says the same of a launch of your own.
"""


@dataclasses.dataclass(frozen=True)
class Check:
    """One setting and what the planner says to it: `refused`, or `kept`."""

    engine: str
    setting: str
    value: str
    verdict: str


@dataclasses.dataclass(frozen=True)
class Advice:
    """One claim of one or more guides."""

    guide: str
    says: str
    truth: str
    instead: str
    source: str
    checks: Tuple[Check, ...]


def rows() -> tuple[Advice, ...]:
    """Every claim in the file's order."""
    return tuple(document.read(Advice, row) for row in json.loads(FILE.read_text(encoding="utf-8"))["rows"])


def page() -> str:
    """The whole page."""
    lines = ["| guide | says | true | instead | source |", "|---|---|---|---|---|"]
    lines += [f"| {r.guide} | {r.says} | {r.truth} | {r.instead} | {r.source} |" for r in rows()]
    return "\n".join([HEAD, *lines]) + "\n"
