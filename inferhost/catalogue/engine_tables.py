"""What each engine version reads: flags and variables, one file per version, read when first asked for.

A host runs one or two engines, so a plan never pays for the tables of the others. Rows in the files leave out what is
as in `FLAG_DEFAULTS` and `VARIABLE_DEFAULTS`; `python -m inferhost.catalogue.extract` writes them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from inferhost.catalogue.rows import FlagRow, VariableRow
from inferhost.schema import document
from inferhost.schema.problems import InputError, Problem

FLAG_DEFAULTS: dict[str, Any] = {
    "status": "real", "replacement": None, "takes": "one", "type": None, "choices": None, "keys": None,
    "variables": [], "secret": False,
}  # fmt: skip
VARIABLE_DEFAULTS: dict[str, Any] = {"status": "real", "replacement": None, "secret": False}
WORDS = {
    "status": ("real", "renamed", "removed", "placebo", "deprecated", "unchecked"),
    "takes": ("no", "one", "optional", "several", "any"),
}


@dataclasses.dataclass(frozen=True)
class EngineTable:
    """One engine version: its flags under every spelling, its variables under their names."""

    flags: Mapping[str, FlagRow]
    variables: Mapping[str, VariableRow]
    flags_by_variable: Mapping[str, FlagRow]

    @functools.cached_property
    def flag_rows(self) -> Mapping[str, FlagRow]:
        """Each flag once, under its key."""
        return {row.key: row for row in self.flags.values()}


EMPTY = EngineTable({}, {}, {})


class FlagRows(Mapping[str, FlagRow]):
    """Every flag of every engine version under `engine-version/--flag`, each file read when it is asked for."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.versions = sorted(path.stem for path in folder.glob("*.json"))
        self._read: dict[str, EngineTable] = {}

    def table(self, version: str) -> EngineTable:
        """The table of one `engine-version`, empty where there is none."""
        if version not in self._read:
            path = self.folder / f"{version}.json"
            known = version in self.versions
            self._read[version] = read(path.read_text(encoding="utf-8"), path.name) if known else EMPTY
        return self._read[version]

    def __getitem__(self, key: str) -> FlagRow:
        return self.table(key.partition("/")[0]).flag_rows[key]

    def __iter__(self) -> Iterator[str]:
        for version in self.versions:
            yield from self.table(version).flag_rows

    def __len__(self) -> int:
        return sum(len(self.table(version).flag_rows) for version in self.versions)


def read(text: str, name: str) -> EngineTable:
    """One file as typed rows, or `InputError` with every problem of the file."""
    whole = json.loads(text)
    engine, version = str(whole["engine"]), str(whole["version"])
    head = {name: whole[name] for name in ("engine", "version", "origin", "variables_origin")}
    problems: list[Problem] = []
    flags: dict[str, FlagRow] = {}
    by_variable: dict[str, FlagRow] = {}
    variables: dict[str, VariableRow] = {}
    for number, raw in enumerate(whole["flags"]):
        key = f"{engine}-{version}/{(raw.get('names') or [''])[0]}"
        row = _row(FlagRow, {**head, **FLAG_DEFAULTS, **raw, "key": key}, f"{name}: flags[{number}]", problems)
        for spelling in row.names if row else ():
            if spelling in flags:
                problems.append(Problem(f"{name}: flags[{number}]", f"{spelling} is there twice"))
            flags[spelling] = row
        for variable in row.variables if row else ():
            by_variable.setdefault(variable, row)
    for number, raw in enumerate(whole["variables"]):
        own = {field: value for field, value in raw.items() if field != "name"} | {"key": raw.get("name", "")}
        found = _row(VariableRow, {**head, **VARIABLE_DEFAULTS, **own}, f"{name}: variables[{number}]", problems)
        if found:
            variables[found.key] = found
    if problems:
        raise InputError(problems, "catalogue")
    return EngineTable(flags, variables, by_variable)


def _row(cls: Any, members: dict[str, Any], path: str, problems: list[Problem]) -> Any:
    """One row with its source, or nothing after adding to `problems`."""
    origin, variables_origin, at = members.pop("origin"), members.pop("variables_origin"), members.pop("at", None)
    members.setdefault("source", f"{origin if cls is FlagRow else variables_origin}: {at}" if at else "")
    try:
        row = document.read(cls, members)
    except InputError as error:
        problems += [dataclasses.replace(p, path=f"{path}.{p.path}") for p in error.problems]
        return None
    problems += [
        Problem(f"{path}.{field}", f"found {document.shown(value)}, wanted one of {', '.join(words)}")
        for field, words in WORDS.items()
        if (value := getattr(row, field, words[0])) not in words
    ]
    problems += [Problem(f"{path}.{field}", "is empty") for field in ("key", "source") if not getattr(row, field)]
    if row.status != "real" and not row.replacement:
        problems.append(Problem(f"{path}.replacement", "is empty, and a refusal has to name what would work"))
    return row
