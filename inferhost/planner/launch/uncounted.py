"""Whether a flag or variable of the wish changes memory or speed in a way that the plan does not compute.

The command line of a plan never disagrees with its budget: what has an option of ours is refused elsewhere, what the
budget can be computed with passes, and what is left is a row in the catalogue and refused here.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, UncountedRow
from inferhost.planner.launch.flags import Given
from inferhost.planner.reasons import instead
from inferhost.schema.problems import Problem


def uncounted_flag(one: Given, engine: EngineRow, catalogue: Catalogue, path: str) -> Problem | None:
    """Why a flag is refused; one with a value stands in a row by any of its names, a switch as it is written."""
    name = one.name.removesuffix(f".{one.key}")
    names = one.row.names if one.row is not None and one.row.takes != "no" else (name,)
    return uncounted_problem(names, " ".join(one.values), engine, catalogue, path=path, shown=f'"{one.name}" ')


def uncounted_problem(
    names: Iterable[str], value: str, engine: EngineRow, catalogue: Catalogue, *, path: str, shown: str = ""
) -> Problem | None:
    """Why a setting under any of its names is refused, or nothing where the plan computes with it or need not."""
    for row in catalogue.uncounted.values():
        known = row.engine == engine.engine and any(fnmatch.fnmatchcase(n, p) for n in names for p in row.names)
        if known and not all(_is_harmless(part, row) for part in value.split(",")):
            return Problem(path, f"{shown}{row.because}", instead(row.replacement), "uncounted")
    return None


def _is_harmless(value: str, row: UncountedRow) -> bool:
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in row.harmless)
