"""The command line of an engine: what the plan decides, then the wish's further arguments, each checked.

Further arguments may not repeat what has an option of its own, may not carry secrets, and have to be read by the
engine at its pinned version. The memory fraction and the batch sizes may be given there; the budget then honours
them or refuses them together.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, FlagRow
from inferhost.planner.reasons import instead, is_flag
from inferhost.planner.request import Instance
from inferhost.schema.problems import InputError, Problem, near

OPTION_OF = {
    "model_path": "model_path",
    "model_directory": "model_path",
    "served_model_name": "served_model_name",
    "host": "host",
    "port": "port",
    "context_tokens": "context_tokens",
    "pool_tokens": "context_tokens",
    "max_sequences": "max_sequences",
    "kv_cache_dtype": "kv_cache_dtype",
    "kv_cache_dtype_v": "kv_cache_dtype",
    "gpu_layers": "model",
}
"""Concepts that have an option of their own, so that a further argument may not set them."""

OVERRIDES: dict[str, type] = {"memory_fraction": float, "batched_tokens": int, "micro_batch": int}
"""Concepts that a further argument may set; the budget is then computed with them."""

SECRET_FLAG = re.compile(r"-.*(key|token|secret|password)", re.IGNORECASE)
"""Flags that the catalogue does not know, but whose name says what they carry."""


@dataclasses.dataclass(frozen=True)
class ExtraArguments:
    """The wish's further arguments: as given, and what of them the budget has to know."""

    words: tuple[str, ...]
    overrides: dict[str, Any]


def extra_arguments(instance: Instance, engine: EngineRow, catalogue: Catalogue) -> ExtraArguments:
    """The further arguments, or `InputError` with every refused one."""
    words = instance.wish.words("inferhost_service_extra_args")
    known = catalogue.flags_by_engine.get(f"{engine.engine}-{engine.version}", {})
    owner = {name: concept for concept, flag in engine.flags.items() if flag for name in _spellings(flag, known)}
    problems: list[Problem] = []
    overrides: dict[str, Any] = {}
    flag_seen = False
    for number, word in enumerate(words):
        path = instance.path(f"extra_args[{number}]")
        if not is_flag(word):
            if not flag_seen:
                problems.append(Problem(path, f'found "{word}", wanted a flag first', "a value follows its flag"))
            elif not word.isprintable():
                problems.append(Problem(path, "holds a character that cannot be printed"))
            continue
        flag_seen = True
        flag, _, value = word.partition("=")
        concept = owner.get(flag)
        problem = _flag_problem(flag, known, engine, instance, concept=concept, path=path)
        if problem:
            problems.append(problem)
        elif concept in OVERRIDES:
            found = value or (words[number + 1] if number + 1 < len(words) else "")
            number_found = _positive(found, OVERRIDES[concept])
            if number_found is None:
                problems.append(Problem(path, f'"{flag}" found "{found}", wanted a number above 0'))
            overrides[concept] = number_found
    if "memory_fraction" in overrides and not problems and not overrides["memory_fraction"] < 1:
        problems.append(Problem(instance.path("extra_args"), "the memory fraction has to be below 1"))
    if problems:
        raise InputError(problems)
    return ExtraArguments(words, overrides)


def _flag_problem(
    flag: str, known: Mapping[str, FlagRow], engine: EngineRow, instance: Instance, *, concept: str | None, path: str
) -> Problem | None:
    program = f"{engine.engine} {engine.version}"
    if any(character.isspace() for character in flag):
        return Problem(path, f'found "{flag}" as one word', "a flag and its value are two items of the list")
    row = known.get(flag)
    if row.secret if row else (not engine.flags_complete and SECRET_FLAG.fullmatch(flag)):
        hint = f"{flag}-file, where the engine has it, or LoadCredential= in 50-local.conf"
        return Problem(path, f'"{flag}" carries a secret, and the plan is no place for one', hint, "secret")
    if row is None:
        hint = near(flag, list(known))
        if engine.flags_complete:
            return Problem(path, f'"{flag}" is not read by {program}', hint, "placebo-flag")
        return None
    if row.status != "real":
        return Problem(path, f'"{flag}" is not read by {program}', instead(row.replacement), "placebo-flag")
    if concept in OPTION_OF:
        option = instance.path(OPTION_OF[concept])
        return Problem(path, f'"{flag}" is set by the plan', f"use {option}", "planned-flag")
    return None


def unchecked_flags(words: tuple[str, ...], engine: EngineRow, catalogue: Catalogue) -> list[str]:
    """Further flags that an incomplete flag table does not know."""
    known = catalogue.flags_by_engine.get(f"{engine.engine}-{engine.version}", {})
    return sorted({w.split("=", 1)[0] for w in words if is_flag(w)} - set(known))


def _spellings(flag: str, known: Mapping[str, FlagRow]) -> tuple[str, ...]:
    row = known.get(flag)
    return row.names if row else (flag,)


def _positive(text: str, kind: type) -> Any:
    try:
        number = kind(text)
    except ValueError:
        return None
    return number if 0 < number < 10**9 else None
