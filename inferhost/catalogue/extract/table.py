"""The table file of one engine version: what a reader found, with the hand-written notes merged in.

A note that calls a flag renamed, removed or a placebo contradicts a source that has it, and is refused: the new
version wants another note. A note on something that this version does not have is left out and reported.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from inferhost.catalogue.extract.entries import Flag, Interface, Variable
from inferhost.catalogue.reader import FLAG_STATUS
from inferhost.schema.problems import InputError, Problem

ABSENT = tuple(status for status in FLAG_STATUS if status != "real")
"""What a note says of a flag that the engine does not read."""

BARE_FLAG = dataclasses.asdict(Flag((), ""))
BARE_VARIABLE = dataclasses.asdict(Variable("", ""))


@dataclasses.dataclass(frozen=True)
class Merge:
    """Rows by name, and the notes that this version has no use for."""

    flags: list[dict[str, Any]]
    variables: list[dict[str, Any]]
    unused: list[str]


def merge(found: Interface, notes: list[dict[str, Any]], engine: str) -> Merge:
    """The compact rows of a table, or `InputError` with every note that the source contradicts."""
    flags = [_compact(dataclasses.replace(flag, names=_long_first(flag.names)), BARE_FLAG) for flag in found.flags]
    variables = [_compact(variable, BARE_VARIABLE) for variable in found.variables]
    problems: list[Problem] = []
    unused: list[str] = []
    for number, note in enumerate(notes):
        if note["engine"] != engine:
            continue
        rows, key = (variables, "name") if "name" in note else (flags, "names")
        wanted = {note["name"]} if key == "name" else set(note["names"])
        said = {name: value for name, value in note.items() if name not in ("engine", key)}
        hits = [row for row in rows if wanted & ({row[key]} if key == "name" else set(row[key]))]
        absent = note.get("status") in ABSENT
        read = [row for row in hits if row.get("status") not in ABSENT]
        if read and absent:
            where = ", ".join(row["at"] for row in read)
            message = f"{', '.join(sorted(wanted))} is {note['status']} by this note, and {where} has it"
            problems.append(Problem(f"engine_notes.json: rows[{number}]", message, "remove the note", "note"))
        elif hits:
            for row in hits:
                row.update({name: value for name, value in said.items() if name != "source"})
        elif absent or note.get("status") == "real":
            rows.append({key: note[key], **said})
        else:
            unused.append(", ".join(sorted(wanted)))
    if problems:
        raise InputError(problems)
    return Merge(
        sorted(flags, key=lambda row: str(row["names"][0])),
        sorted(variables, key=lambda row: str(row["name"])),
        unused,
    )


def _long_first(names: tuple[str, ...]) -> tuple[str, ...]:
    """The spellings with the one that names the row in front: the first long one."""
    return tuple(sorted(names, key=lambda name: not name.startswith("--")))


def _compact(entry: Flag | Variable, bare: dict[str, Any]) -> dict[str, Any]:
    """The fields of an entry that say more than their default."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(entry).items()
        if value != bare[name] or name in ("name", "names")
    }


def write(path: pathlib.Path, head: dict[str, str], merged: Merge) -> None:
    """The table file: one row per line, so that a new version is read as a diff."""
    parts = [*(f'"{name}": {json.dumps(text)}' for name, text in head.items())]
    for name, rows in (("flags", merged.flags), ("variables", merged.variables)):
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
