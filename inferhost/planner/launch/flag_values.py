"""Whether a flag of the wish has the value that its engine takes: how many words, which ones, which type.

The same tests that the engine's own parser makes, made before a host is touched. What the engine decides at run time
(a path, a plugin's name) passes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection

from inferhost.catalogue.rows import EngineRow
from inferhost.planner.launch.flags import Given
from inferhost.schema.document import shown
from inferhost.schema.problems import Problem, near

SIZE = re.compile(r"\d+([kmgt]|\.\d+[kmgt]|[KMGT])?")
SIZE_IN_JSON = re.compile(r"\b\d+(\.\d+)?[kKmMgGtT]\b")
BOOLEANS = ("0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes")  # as pydantic reads text
ON_OFF = {"on": ("enabled", "true", "1"), "off": ("disabled", "false", "0"), "auto": ("-1",)}
"""What llama.cpp takes beside the words of its help (common/arg.cpp, `is_truthy` and its neighbours)."""


def value_problem(one: Given, engine: EngineRow, path: str) -> Problem | None:
    """A value that is missing, too much, not among the choices, of the wrong type, or one card too many."""
    if one.joined and not engine.equals:
        hint = "a flag and its value are two items of the list"
        return Problem(path, f'found "{one.name}=", which {engine.engine} does not take apart', hint, "flag-value")
    if one.row is None:
        return None
    sized = bool(set(one.row.names) & set(engine.size_flags))
    takes = "one" if one.key else one.row.takes
    if (takes in ("one", "several") or sized) and not any(one.values):
        return Problem(path, f'"{one.name}" has no value', "a value follows its flag", "flag-value")
    if takes == "no" and one.values:
        found = f'"{one.name}" takes no value, found "{one.values[0]}"'
        return Problem(path, found, "remove the value", "flag-value")
    if takes in ("one", "optional") and len(one.values) > 1:
        found = f'"{one.name}" takes one value, found "{" ".join(one.values)}"'
        return Problem(path, found, f"quote it as one item, or remove {shown(one.values[1])}", "flag-value")
    if sized and one.values != ("1",):
        found = f'"{one.name}" found "{" ".join(one.values)}", and an engine is spread by tensor parallelism only'
        return Problem(path, found, "1, or inferhost_service_tensor_parallel_size", "one-card")
    return _key_problem(one, engine, path) if one.key else _word_problem(one, path)


def _word_problem(one: Given, path: str) -> Problem | None:
    """A word that the flag's choices or type rule out."""
    row = one.row
    if row is None:
        return None
    for word in one.values:
        if row.choices and word not in row.choices and not _means(word, row.choices):
            hint = near(word, row.choices) or f"one of {', '.join(row.choices)}"
            return Problem(path, f'"{one.name}" found "{word}", which is none of its choices', hint, "flag-value")
        wanted = type_problem(word, row.type)
        if wanted:
            return Problem(path, f'"{one.name}" found "{word}", wanted {wanted}', "", "flag-value")
        if row.type == "json" and row.keys and (unknown := _unknown_key(json.loads(_plain(word)), row.keys)):
            found = f'"{one.name}" has no key "{unknown}"'
            return Problem(path, found, near(unknown, _top(row.keys)) or f"one of {', '.join(_top(row.keys))}")
    return None


def _means(word: str, choices: Collection[str]) -> bool:
    """Whether a word is another way of writing one of `on`, `off` and `auto`."""
    return set(choices) <= set(ON_OFF) and any(word in ON_OFF[choice] for choice in choices)


def type_problem(word: str, kind: str | None) -> str | None:
    """What is wanted instead of a word, or nothing where its type takes it."""
    kinds = (kind or "").split("|")
    if not kind or ("none" in kinds and word in ("", "None")) or ("auto" in kinds and word.lower() in ("auto", "-1")):
        return None
    test, wanted = TYPES[kinds[0]]
    try:
        return None if test(word) else wanted
    except ValueError:
        return wanted


def _number(kind: type) -> Callable[[str], bool]:
    return lambda word: kind(word) is not None


TYPES: dict[str, tuple[Callable[[str], bool], str]] = {
    "int": (_number(int), "a whole number"),
    "float": (_number(float), "a number"),
    "size": (lambda word: SIZE.fullmatch(word) is not None or int(word) is not None, "a whole number, 4k or 4K"),
    "bool": (lambda word: word.lower() in BOOLEANS, "true or false"),
    "json": (lambda word: json.loads(_plain(word)) is not None, "JSON"),
}


def _plain(word: str) -> str:
    """JSON with the engine's 80g and the like written as a number, so that the standard library reads it."""
    return SIZE_IN_JSON.sub("0", word)


def _key_problem(one: Given, engine: EngineRow, path: str) -> Problem | None:
    """A `--config.key` whose flag takes no JSON or has no such key."""
    row = one.row
    if row is None or (row.type or "").split("|")[0] != "json":
        found = f'"{one.name}" sets a key, and the flag before the dot takes no JSON'
        return Problem(path, found, "write the flag without a dot", "flag-value")
    key = one.key.removesuffix("+")
    known = row.keys or ()
    parents = [key[:end] for end in (*(m.start() for m in re.finditer(r"\.", key)), len(key))]
    for parent in parents:
        below = [name for name in known if name.startswith(f"{parent}.")]
        if known and parent not in known:
            hint = near(parent, list(known)) or f"one of {', '.join(_top(known))}"
            return Problem(path, f'"{one.name}": {engine.engine} has no key "{parent}" there', hint, "flag-value")
        if not below:
            return None
    return None


def _unknown_key(value: object, keys: Collection[str]) -> str | None:
    if not isinstance(value, dict):
        return None
    return next((str(key) for key in value if key not in keys), None)


def _top(keys: Collection[str]) -> list[str]:
    return [key for key in keys if "." not in key]
