"""What a reader finds: flags and variables of one engine version, and where each stands."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable
from typing import Any

from inferhost.catalogue.extract.python_source import UNKNOWN, Found, Module, Package, called_name


@dataclasses.dataclass(frozen=True)
class Flag:
    """One command line option. `takes` is no, one, optional, several (one or more) or any (none or more)."""

    names: tuple[str, ...]
    at: str
    takes: str = "one"
    type: str | None = None
    choices: tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None  # of a JSON value
    variables: tuple[str, ...] = ()  # that say the same
    status: str = "real"
    replacement: str | None = None
    secret: bool = False


@dataclasses.dataclass(frozen=True)
class Variable:
    """One environment variable."""

    name: str
    at: str
    status: str = "real"
    replacement: str | None = None
    secret: bool = False


@dataclasses.dataclass(frozen=True)
class Interface:
    """Everything that one engine version reads."""

    flags: tuple[Flag, ...]
    variables: tuple[Variable, ...]


NARGS = {"?": "optional", "+": "several", "*": "any", "0": "no", None: "one", "None": "one"}
TYPES = {"int": "int", "float": "float", "loads": "json"}


def flag_of_call(package: Package, module: Module, call: ast.Call, **known: Any) -> Flag:
    """An `add_argument` call as a flag; `known` are keywords that the caller worked out itself."""
    names = tuple(str(argument.value) for argument in call.args if isinstance(argument, ast.Constant))
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    flag = dataclasses.replace(Flag(names, module.at(call)), **known)
    if "nargs" in given:
        flag = dataclasses.replace(flag, takes=nargs_word(package.value(module, given["nargs"])))
    if "type" in given:
        flag = dataclasses.replace(flag, type=TYPES.get(called_name(given["type"])))
    if "choices" in given:
        flag = dataclasses.replace(flag, choices=choice_words(package.value(module, given["choices"])))
    if "action" in given:
        flag = _with_action(package, module, flag, given["action"], given)
    text = package.value(module, given["help"]) if "help" in given else ""
    if isinstance(text, str) and "deprecated" in text.lower()[:40]:
        flag = dataclasses.replace(flag, status="deprecated", replacement=replacement_in(text, names))
    return flag


def _with_action(package: Package, module: Module, flag: Flag, action: ast.expr, given: dict[str, ast.expr]) -> Flag:
    if isinstance(action, ast.Constant):
        takes = flag.takes if action.value in ("store", "append", "extend") else "no"
        return dataclasses.replace(flag, takes=takes)
    if called_name(action) == "BooleanOptionalAction":
        return dataclasses.replace(flag, takes="no", names=both_ways(flag.names))
    found = package.find(module, called_name(action))
    if "nargs" not in given and found is not None:
        flag = dataclasses.replace(flag, takes=nargs_word(_own_nargs(found)))
    if called_name(action).startswith("Deprecated"):
        flag = dataclasses.replace(flag, status="deprecated")
    return flag


def _own_nargs(action: Found) -> Any:
    """The `nargs` that an action class sets when the call gives none."""
    for node in ast.walk(action.node):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names = [argument.arg for argument in node.args.args]
            defaults = dict(zip(reversed(names), reversed(node.args.defaults), strict=False))
            default = defaults.get("nargs")
            return default.value if isinstance(default, ast.Constant) else None
    return None


def both_ways(names: Iterable[str]) -> tuple[str, ...]:
    """The spellings of a switch that argparse's `BooleanOptionalAction` adds `--no-` to."""
    names = tuple(names)
    return (*names, *(f"--no-{name[2:]}" for name in names if name.startswith("--")))


def nargs_word(nargs: Any) -> str:
    """argparse's `nargs` as a word; a fixed number above one is `several`."""
    if isinstance(nargs, int):
        return "no" if nargs == 0 else "several"
    return NARGS.get(nargs, "one")


def choice_words(values: Any) -> tuple[str, ...] | None:
    """The choices as a person writes them, or nothing where the source computes them."""
    if values is UNKNOWN or not isinstance(values, list | dict):
        return None
    return tuple(str(value) for value in values if value is not None)


def replacement_in(text: str, names: Iterable[str] = ()) -> str | None:
    """The first flag in a deprecation text that is none of `names`."""
    words = (word.strip("`'\".,;:()[]{}").partition("=")[0] for word in text.split())
    return next((word for word in words if word.startswith("--") and len(word) > 3 and word not in names), None)
