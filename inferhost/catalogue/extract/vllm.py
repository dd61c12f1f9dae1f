"""vLLM: config dataclasses whose fields become flags, registered one by one in `add_cli_args`.

The rules from a field's hint to argparse's keywords are those of `vllm/engine/arg_utils.py`, `_compute_kwargs`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from inferhost.catalogue.extract.entries import (
    TYPES,
    Flag,
    Interface,
    both_ways,
    choice_words,
    flag_of_call,
    replacement_in,
)
from inferhost.catalogue.extract.environment import declared, merged, read_in_native, read_in_python
from inferhost.catalogue.extract.python_source import (
    UNKNOWN,
    Found,
    Hint,
    Module,
    Package,
    called_name,
    calls,
    function,
)

ARGUMENTS, FRONTEND, PARSER = "vllm.engine.arg_utils", "vllm.entrypoints.common.cli_args", "vllm.utils.argparse_utils"
PREFIX = "VLLM_"
Tables = dict[str, dict[str, dict[str, Any]]]
"""Keywords by field by the name of the variable that holds them."""


def interface(sources: list[pathlib.Path]) -> Interface:
    """What `vllm serve` reads; the source is the unpacked sdist."""
    root = sources[0]
    package = Package(root)
    engine, frontend = package.module(ARGUMENTS), package.module(FRONTEND)
    if engine is None or frontend is None:
        raise FileNotFoundError(f"{root} has no {ARGUMENTS}: give the folder that holds vllm/")
    flags = [
        *_calls_in(package, frontend, "make_arg_parser"),
        *_frontend(package, frontend),
        *_calls_in(package, engine, "add_cli_args"),
        *_optimization_levels(package),
    ]
    envs = package.module("vllm.envs")
    variables = merged(
        declared(envs, "environment_variables", PREFIX) if envs else [],
        read_in_python(package, "vllm", PREFIX),
        read_in_native(root, ("rust", "csrc"), PREFIX),
    )
    return Interface(tuple(flags), tuple(variables))


def _calls_in(package: Package, module: Module, name: str) -> Iterator[Flag]:
    """The `add_argument` calls of the functions of one name, `**kwargs["field"]` looked up in its config class."""
    for node in function(module.tree, name):
        tables = _tables(package, module, node)
        for call in calls(node, "add_argument"):
            if (
                not call.args
                or not isinstance(call.args[0], ast.Constant)
                or not str(call.args[0].value).startswith("-")
            ):
                continue
            known: dict[str, Any] = {}
            for keyword in call.keywords:
                if keyword.arg is None:
                    known |= _looked_up(keyword.value, tables) | _deprecation(package, module, keyword.value)
            negative = known.pop("both_ways", False)
            flag = flag_of_call(package, module, call, **known)
            yield _paired(dataclasses.replace(flag, names=both_ways(flag.names)) if negative else flag)


def _paired(flag: Flag) -> Flag:
    """`EnableDisableAction` pairs each `--enable-x` switch with `--disable-x`."""
    if not any(name.startswith("--no-") for name in flag.names):
        return flag
    pairs = {"--enable-": "--disable-", "--disable-": "--enable-"}
    more = tuple(new + n.removeprefix(old) for n in flag.names for old, new in pairs.items() if n.startswith(old))
    return dataclasses.replace(flag, names=flag.names + more)


def _tables(package: Package, module: Module, node: ast.FunctionDef) -> Tables:
    """The keyword tables of a function: `name = get_kwargs(Class)`, with what is changed in them afterwards."""
    tables: Tables = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Assign) and len(part.targets) == 1:
            target, value = part.targets[0], part.value
            if isinstance(target, ast.Name) and called_name(value) == "get_kwargs" and isinstance(value, ast.Call):
                found = package.find(module, called_name(value.args[0]))
                if found is not None:
                    tables[target.id] = _fields(package, found)
    for part in ast.walk(node):
        _change(package, module, part, tables)
    return tables


def _change(package: Package, module: Module, part: ast.AST, tables: Tables) -> None:
    """One statement like `kwargs["field"]["type"] = json.loads`, `del kwargs["field"]["nargs"]` or `.remove(x)`."""
    if isinstance(part, ast.Assign) and (place := _place(part.targets[0])) and place[0] in tables:
        table, field, key = place
        if key == "type":
            names = {called_name(inner) for inner in ast.walk(part.value)}
            tables[table][field]["type"] = "json" if "loads" in names else None
        if key == "action":
            tables[table][field]["takes"] = (
                "one" if isinstance(part.value, ast.Constant) else tables[table][field]["takes"]
            )
    if isinstance(part, ast.Delete) and (place := _place(part.targets[0])) and place[0] in tables:
        tables[place[0]][place[1]]["takes"] = "one"
    if isinstance(part, ast.Call) and called_name(part) == "remove" and isinstance(part.func, ast.Attribute):
        place = _place(part.func.value)
        if place and place[0] in tables and place[2] == "choices":
            gone, field_ = package.value(module, part.args[0]), tables[place[0]][place[1]]
            field_["choices"] = tuple(c for c in field_["choices"] or () if c != gone) or None


def _place(node: ast.AST) -> tuple[str, str, str] | None:
    """Table, field and key of `table["field"]["key"]`."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Subscript):
        return None
    outer, inner, table = node.slice, node.value.slice, node.value.value
    if isinstance(outer, ast.Constant) and isinstance(inner, ast.Constant) and isinstance(table, ast.Name):
        return table.id, str(inner.value), str(outer.value)
    return None


def _looked_up(node: ast.expr, tables: Tables) -> dict[str, Any]:
    """The keywords behind `**table["field"]` or `**{**table["field"], "default": None}`."""
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant):
            table = tables.get(part.value.id, {}) if isinstance(part.value, ast.Name) else {}
            if str(part.slice.value) in table:
                return dict(table[str(part.slice.value)])
        if isinstance(part, ast.Name) and part.id == "logging_config_kwargs":
            return {"type": "json"}
    return {}


def _deprecation(package: Package, module: Module, node: ast.expr) -> dict[str, Any]:
    """The status that a help text among the keywords gives a flag."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id.endswith("DEPRECATION_MESSAGE"):
            return {"status": "deprecated", "replacement": replacement_in(str(package.value(module, part)))}
    return {}


def _frontend(package: Package, module: Module) -> Iterator[Flag]:
    """The fields of `FrontendArgs`: each becomes `--field-name`."""
    found = package.find(module, "FrontendArgs")
    if found is None:
        return
    tables = {"frontend_kwargs": _fields(package, found)}
    for node in function(module.tree, "_customize_cli_kwargs"):
        for part in ast.walk(node):
            _change(package, module, part, tables)
    places = package.fields(found)
    for name, known in tables["frontend_kwargs"].items():
        own = dict(known)
        negative = own.pop("both_ways", False)
        names = (f"--{name.replace('_', '-')}",)
        where, node_ = places[name]
        yield _paired(Flag(both_ways(names) if negative else names, where.at(node_), **own))


def _optimization_levels(package: Package) -> Iterator[Flag]:
    """`-O3` is `--optimization-level 3`, which the parser rewrites before argparse sees it."""
    module = package.module(PARSER)
    if module is None:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and node.value == "--optimization-level":
            yield Flag(tuple(f"-O{level}" for level in range(4)), module.at(node), takes="no")
            return


def _fields(package: Package, found: Found) -> dict[str, dict[str, Any]]:
    return {
        name: keywords(package, module, name, node.annotation)
        for name, (module, node) in package.fields(found).items()
    }


def keywords(package: Package, module: Module, name: str, annotation: ast.expr) -> dict[str, Any]:
    """What a field's hint makes of its flag: `takes`, `type`, `choices`, `keys`, and whether it goes both ways."""
    hints = package.hints(module, annotation)
    kinds = {hint.kind for hint in hints}
    optional = "|none" if "None" in kinds else ""
    config = next((hint for hint in hints if hint.kind == "dataclass"), None)
    if config is not None and config.cls is not None:
        return {"type": "json", "keys": tuple(json_keys(package, config.cls)) or None}
    if kinds == {"bool", "str", "None"}:
        return {"takes": "optional"}
    if "bool" in kinds:
        return {"takes": "no", "both_ways": True}
    literal = next((hint for hint in hints if hint.kind == "Literal"), None)
    if literal is not None:
        return _literal(literal, "str" in kinds, optional)
    items = next((hint for hint in hints if hint.kind in ("tuple", "list", "set")), None)
    if items is not None:
        member = next((hint for hint in items.items if hint.kind == "Literal"), None)
        if member is not None:
            return {"takes": "several"} | _literal(member, False, "")
        kind = items.items[0].kind if len({hint.kind for hint in items.items}) == 1 else "str"
        return {"takes": "several", "type": TYPES.get(kind)}
    if "int" in kinds:
        return {"type": _size(package, name) + optional}
    if "float" in kinds:
        return {"type": "float" + optional}
    if "dict" in kinds:
        return {"type": None if "str" in kinds or "other" in kinds else "json" + optional}
    return {}


def _literal(literal: Hint, free: bool, optional: str) -> dict[str, Any]:
    """A `Literal`: its values are the choices, unless any text is allowed beside them."""
    numbers = all(isinstance(value, int) for value in literal.values)
    words = choice_words(sorted(literal.values)) if literal.values and not free else None
    if words is not None and optional:
        words = (*words, "None")
    return {"type": "int" + optional if numbers and literal.values else None, "choices": words}


def _size(package: Package, name: str) -> str:
    """`size` where vLLM takes 1k, 2M and the like for this field, else `int`."""
    if name == "max_model_len":
        return "size|auto"
    return "size" if name in _size_fields(package) else "int"


@functools.cache
def _size_fields(package: Package) -> frozenset[str]:
    module = package.module(ARGUMENTS)
    for node in ast.walk(module.tree) if module is not None else ():
        if module and isinstance(node, ast.Assign) and called_name(node.targets[0]) == "human_readable_int_args":
            names = package.value(module, node.value)
            return frozenset(() if names is UNKNOWN else names)
    return frozenset()


def json_keys(package: Package, found: Found, depth: int = 2) -> Iterator[str]:
    """The keys of a config class, dotted where a key is a config class itself."""
    for name, (module, node) in package.fields(found).items():
        if name.startswith("_"):
            continue
        yield name
        inner = next((h for h in package.hints(module, node.annotation) if h.kind == "dataclass"), None)
        if inner is not None and inner.cls is not None and depth > 1:
            yield from (f"{name}.{key}" for key in json_keys(package, inner.cls, depth - 1))
