"""The command line of an engine: what the plan decides, then the wish's further arguments, each checked.

Further arguments may not repeat what has an option of its own, may not carry secrets or bring arguments that nobody
checked, and have to be read by the engine at its pinned version. The memory fraction, the batch sizes and
a limit of the cache may be given there; the budget then honours them or refuses them together. What else would change
memory or speed is refused (`planner.launch.uncounted`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow
from inferhost.planner.launch.flag_values import value_problem
from inferhost.planner.launch.flags import OPTION_OF, Given, beginnings, concept_of, given_flags, near_flag
from inferhost.planner.launch.secret_names import names_a_secret
from inferhost.planner.launch.uncounted import uncounted_flag
from inferhost.planner.launch.unknown_settings import unknown_setting
from inferhost.planner.reasons import instead, is_flag
from inferhost.planner.request import Instance
from inferhost.schema.document import whole_number
from inferhost.schema.problems import InputError, Problem

OVERRIDES: dict[str, type] = {
    "memory_fraction": float,
    "batched_tokens": int,
    "micro_batch": int,
    "most_cache_tokens": int,
}
"""Concepts that a further argument may set; the budget is then computed with them."""
EXAMPLES = {float: 0.85, int: 8192}


@dataclasses.dataclass(frozen=True)
class ExtraArguments:
    """The wish's further arguments under their full names, and what of them the budget has to know."""

    words: tuple[str, ...]
    overrides: dict[str, Any]


def extra_arguments(instance: Instance, engine: EngineRow, catalogue: Catalogue) -> ExtraArguments:
    """The further arguments, or `InputError` with every refused one."""
    words = instance.wish.words("inferhost_service_extra_args")
    given = given_flags(words, engine, catalogue)
    problems = _word_problems(words, instance)
    overrides: dict[str, Any] = {}
    seen: dict[str, set[str]] = {}
    for one in given:
        path = instance.path(f"extra_args[{one.number}]")
        concept = concept_of(one.row, engine)
        problem = flag_problem(one, engine, instance, catalogue, path=path) or value_problem(one, engine, path)
        if _is_twice(one, seen) and problem is None:
            problem = Problem(path, f'"{one.name}" is there twice', "the engine would take one of them", "flag-twice")
        problem = problem or uncounted_flag(one, engine, catalogue, path)
        if problem:
            problems.append(problem)
        elif concept in OVERRIDES:
            found = one.values[0] if one.values else ""
            overrides[concept] = _positive(found, OVERRIDES[concept])
            if overrides[concept] is None:
                hint = f"for example {whole_number(found) or EXAMPLES[OVERRIDES[concept]]}, or leave it to the plan"
                problems.append(Problem(path, f'"{one.name}" found "{found}", wanted a number above 0', hint))
    if "memory_fraction" in overrides and not problems and not overrides["memory_fraction"] < 1:
        hint = "for example 0.85, or leave it to the plan"
        problems.append(Problem(instance.path("extra_args"), "the memory fraction has to be below 1", hint))
    if problems:
        raise InputError(problems)
    return ExtraArguments(tuple(word for one in given for word in one.words), overrides)


def _is_twice(one: Given, seen: dict[str, set[str]]) -> bool:
    """Whether a flag, or the key of a JSON flag, was there before; a key with `+` adds to a list."""
    keys = seen.setdefault(one.row.key if one.row else one.name, set())
    clash = bool(keys) and (not one.key or "" in keys or (one.key in keys and not one.key.endswith("+")))
    keys.add(one.key)
    return clash


def _word_problems(words: tuple[str, ...], instance: Instance) -> list[Problem]:
    """What is wrong with words that are no flags."""
    problems = []
    flag_seen = False
    for number, word in enumerate(words):
        path = instance.path(f"extra_args[{number}]")
        if is_flag(word):
            flag_seen = True
        elif not flag_seen:
            problems.append(Problem(path, f'found "{word}", wanted a flag first', "a value follows its flag"))
        elif not word.isprintable():
            problems.append(Problem(path, "holds a character that cannot be printed", "write it in plain text"))
    return problems


def flag_problem(
    one: Given, engine: EngineRow, instance: Instance, catalogue: Catalogue, *, path: str
) -> Problem | None:
    program, flag, row = f"{engine.engine} {engine.version}", one.name, one.row
    known = catalogue.flags_of(engine)
    first = flag.split()[0]
    if row.secret if row else _may_be_secret(first, engine, catalogue):
        file = known.get(f"{first}-file")
        hint = f"{first}-file, or " if file and file.status == "real" else ""
        hint += "LoadCredential= in 50-local.conf"
        return Problem(path, f'"{first}" carries a secret, and the plan is no place for one', hint, "secret")
    if first != flag:
        return Problem(path, f'found "{flag}" as one word', "a flag and its value are two items of the list")
    if row is None:
        meant = beginnings(flag, engine, catalogue)
        if len(meant) > 1:
            hint = f"write one of {', '.join(meant[:6])}"
            return Problem(
                path, f'"{flag}" is the beginning of {len(meant)} flags of {program}', hint, "placebo-flag"
            )
        if not engine.flags_complete:
            return unknown_setting(instance, path, f'"{flag}" is not known: {selection_of_flags(engine)}')
        options = {option: instance.path(option) for option in OPTION_OF.values()}
        hint = near_flag(flag, engine, catalogue, options) or f"remove it: {program} has no flag of a name like it"
        return Problem(path, f'"{flag}" is not read by {program}', hint, "placebo-flag")
    if row.status == "unchecked":
        found = f'"{flag}" brings arguments to {program} that nobody checked'
        return Problem(path, found, instead(row.replacement), "unchecked-flag")
    if row.status == "deprecated":
        return Problem(path, f'"{flag}" is deprecated in {program}', instead(row.replacement), "deprecated-flag")
    if row.status != "real":
        return Problem(path, f'"{flag}" is not read by {program}', instead(row.replacement), "placebo-flag")
    concept = concept_of(row, engine)
    if concept in OPTION_OF:
        option = instance.path(OPTION_OF[concept])
        return Problem(path, f'"{flag}" is set by the plan', f"use {option}", "planned-flag")
    return None


def selection_of_flags(engine: EngineRow) -> str:
    """Why a flag without a row may still be read."""
    return f"the catalogue has only a selection of the flags of {engine.engine} {engine.version}"


def _may_be_secret(flag: str, engine: EngineRow, catalogue: Catalogue) -> bool:
    """Whether a flag without a row, or with its value in the same word, carries a secret."""
    row = catalogue.flags_of(engine).get(flag)
    return row.secret if row else names_a_secret(flag)


def unchecked_flags(words: tuple[str, ...], engine: EngineRow, catalogue: Catalogue) -> list[str]:
    """Further flags that an incomplete flag table does not know."""
    known = catalogue.flags_of(engine)
    return sorted({flag for flag in (w.split("=", 1)[0] for w in words if is_flag(w)) if flag not in known})


def _positive(text: str, kind: type) -> Any:
    try:
        number = kind(text)
    except ValueError:
        return None
    return number if 0 < number < 10**9 else None
