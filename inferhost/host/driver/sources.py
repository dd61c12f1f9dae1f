"""The package sources that a host has already, beside the one that a section brings.

Where two entries of one archive name two keys, apt reads no source at all, for anybody: found before ours is placed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from inferhost.host.driver.candidates import SOURCES
from inferhost.host.machine import Machine
from inferhost.schema.plan import Plan
from inferhost.schema.problems import Problem

ONE_LINE = re.compile(r"^\s*deb(?:-src)?\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)", re.M)
"""Source: sources.list(5), one-line style."""
FIELD = re.compile(r"^([^\s:#]+):[ \t]*(.*(?:\n[ \t].*)*)", re.M)
"""Source: sources.list(5), deb822 style: a field goes on in lines that begin with a space, a comment is none."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One archive as apt tells archives apart, and the key that an entry names; empty: any that the host trusts."""

    uri: str
    suite: str
    key: str


def source_problems(machine: Machine, plan: Plan, section: str, option: str, way_out: str) -> list[Problem]:
    """An entry of the host for the archive that `option` names, with another key; `way_out` names its `{path}`."""
    placed = [file for file in plan.files if file.path.startswith(f"{SOURCES[1]}/")]
    mine = [file for file in placed if file.section == section]
    ours = [(file.path, one) for file in mine for one in sources(file.path, file.content or "")]
    others = {SOURCES[0], *(f"{SOURCES[1]}/{name}" for name in machine.entries(SOURCES[1]))}
    for path in sorted(others - {file.path for file in placed}):
        for theirs in sources(path, machine.read_text(path) or ""):
            if any(_conflict(one, theirs, path > at) for at, one in ours):
                key = "of its own" if "\n" in theirs.key else theirs.key or "none"
                message = f'found "{theirs.uri}", and {path} has it with another key, {key}: apt reads no source then'
                return [Problem(option, message, way_out.format(path=path), "same-source")]
    return []


def sources(path: str, text: str) -> Iterator[Source]:
    """What a file of apt's sources names, in whichever of its two styles; what is switched off is not there."""
    if path.endswith(".list"):
        for options, uri, suite in ONE_LINE.findall(text):
            key = re.search(r"signed-by\s*=\s*(\S+)", options, re.I)
            yield Source(_plain(uri), suite, key[1] if key else "")
    elif path.endswith(".sources"):
        for paragraph in re.split(r"\n\s*\n", text):
            fields = {name.lower(): value.strip() for name, value in FIELD.findall(paragraph)}
            if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off", "without", "disable"):
                continue
            for uri in fields.get("uris", "").split():
                for suite in fields.get("suites", "").split():
                    yield Source(_plain(uri), suite, fields.get("signed-by", ""))


def _conflict(one: Source, other: Source, later: bool) -> bool:
    """An entry without a key stands in apt's way only where it is read after one that has a key."""
    same = (one.uri, one.suite) == (other.uri, other.suite)
    return same and one.key != other.key and bool(other.key or later)


def _plain(uri: str) -> str:
    return uri.replace("$(ARCH)", "amd64").rstrip("/")
