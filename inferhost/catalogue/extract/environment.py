"""Environment variables by prefix: declared in a table, read by Python, read by C, C++ or Rust.

A name counts as read where it is an argument of a call, an index or a member test: a name in a message does not.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterable, Iterator

from inferhost.catalogue.extract.entries import Variable
from inferhost.catalogue.extract.python_source import Module, Package, called_name

NATIVE = (".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".rs")
NATIVE_READ = re.compile(r"(?:env\w*(?:::\w+)*|_str|_int|lookup|ENV: &str)\s*[!(=]\s*\(?\s*\"([A-Z][A-Z0-9_]+)\"")
ASIDE = {"tests", "test", "benchmarks", "examples"}


def declared(module: Module, table: str, prefix: str) -> list[Variable]:
    """The keys of a module's mapping of variables."""
    node = module.names.get(table)
    value = getattr(node, "value", None)
    keys = value.keys if isinstance(value, ast.Dict) else []
    return [
        Variable(key.value, module.at(key))
        for key in keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.startswith(prefix)
    ]


def read_in_python(package: Package, below: str, *prefixes: str) -> list[Variable]:
    """Names with one of the prefixes that Python code below a folder hands to a call, an index or a test."""
    name = re.compile(f"(?:{'|'.join(prefixes)})[A-Z0-9_]*[A-Z0-9]")
    found = []
    for module in package.modules(below, containing=prefixes):
        for node in ast.walk(module.tree):
            for part in _read_parts(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and name.fullmatch(part.value):
                    found.append(Variable(part.value, module.at(part)))
    return found


def _read_parts(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call) and "warn" not in called_name(node):
        yield from node.args
        yield from (keyword.value for keyword in node.keywords if keyword.arg in ("deprecated_name", "name", "key"))
    elif isinstance(node, ast.Subscript):
        yield node.slice
    elif isinstance(node, ast.Compare):
        yield node.left


def read_in_native(root: pathlib.Path, folders: Iterable[str], *prefixes: str) -> list[Variable]:
    """Names that C, C++, CUDA or Rust files of some folders read from the environment."""
    found = []
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in NATIVE or ASIDE & set(path.relative_to(root).parts):
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            for match in NATIVE_READ.finditer(text):
                if match.group(1).startswith(prefixes):
                    line = text.count("\n", 0, match.start()) + 1
                    found.append(Variable(match.group(1), f"{path.relative_to(root).as_posix()}:{line}"))
    return found


def merged(*lists: Iterable[Variable]) -> list[Variable]:
    """The variables of several readers by name; the first reader that has one says where it is."""
    found: dict[str, Variable] = {}
    for variables in lists:
        for variable in variables:
            found.setdefault(variable.name, variable)
    return [found[name] for name in sorted(found)]
