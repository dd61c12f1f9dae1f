"""A Python package read as syntax: names followed across modules, constants evaluated, hints taken apart.

Only what argument definitions are made of is understood; everything else is `UNKNOWN`, never a guess.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Any = _Unknown()


@dataclasses.dataclass(frozen=True)
class Module:
    """One file: its dotted name, its path below the root, its syntax tree and its names."""

    name: str
    path: str
    tree: ast.Module
    names: dict[str, ast.AST]

    def at(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


@dataclasses.dataclass(frozen=True)
class Found:
    """A definition and the module that holds it."""

    module: Module
    node: ast.AST


class Package:
    """The Python files below one root folder."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root

    @functools.cache  # noqa: B019 (one package per run of the command)
    def module(self, name: str) -> Module | None:
        """The module of a dotted name, or nothing where the root has no such file."""
        below = name.replace(".", "/")
        for path in (f"{below}.py", f"{below}/__init__.py"):
            if (self.root / path).is_file():
                tree = ast.parse((self.root / path).read_text(encoding="utf-8"))
                return Module(name, path, tree, dict(_names(tree.body)))
        return None

    def modules(self, below: str, containing: tuple[str, ...]) -> Iterator[Module]:
        """The modules in one folder whose text has one of some words, tests left out."""
        for path in sorted((self.root / below).rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            if "tests" in parts or "test" in parts:
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            if not any(word in text for word in containing):
                continue
            module = self.module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
            if module is not None:
                yield module

    def find(self, module: Module, name: str) -> Found | None:
        """What a name of a module means, followed through imports."""
        for _ in range(10):
            node = module.names.get(name)
            if not isinstance(node, ast.ImportFrom):
                return Found(module, node) if node is not None else None
            source = self.module(_imported_from(module, node))
            if source is None:
                return None
            name = next(a.name for a in node.names if (a.asname or a.name) == name)
            submodule = self.module(f"{source.name}.{name}") if name not in source.names else None
            if submodule is not None:
                return Found(submodule, submodule.tree)
            module = source
        return None

    def value(self, module: Module, node: ast.AST) -> Any:
        """The constant that an expression stands for: scalars, lists, sets and mappings; else `UNKNOWN`."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return self._items(module, node.elts)
        if isinstance(node, ast.Dict):
            keys = self._items(module, [key for key in node.keys if key is not None])
            return keys if keys is UNKNOWN else dict.fromkeys(keys)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self.value(module, node.left), self.value(module, node.right)
            both = (left, right)
            if all(isinstance(side, list) for side in both) or all(isinstance(side, str) for side in both):
                return left + right
            return UNKNOWN
        if isinstance(node, ast.Name):
            found = self.find(module, node.id)
            if found is None or not isinstance(found.node, ast.Assign | ast.AnnAssign) or found.node.value is None:
                return UNKNOWN
            return self.value(found.module, found.node.value)
        if isinstance(node, ast.Call):
            return self._called(module, node)
        return UNKNOWN

    def _items(self, module: Module, elements: list[ast.expr]) -> Any:
        items: list[Any] = []
        for element in elements:
            value = self.value(module, element.value if isinstance(element, ast.Starred) else element)
            if value is UNKNOWN:
                return UNKNOWN
            items += list(value) if isinstance(element, ast.Starred) else [value]
        return items

    def _called(self, module: Module, node: ast.Call) -> Any:
        name = called_name(node)
        if name in ("list", "tuple", "set", "frozenset", "sorted", "keys"):
            inner = node.args[0] if node.args else node.func.value if isinstance(node.func, ast.Attribute) else None
            value = self.value(module, inner) if inner is not None else []
            if not isinstance(value, list | dict):
                return UNKNOWN
            return sorted(value, key=str) if name in ("set", "frozenset", "sorted") else list(value)
        if name == "get_args" and node.args:
            return next(
                (list(hint.values) for hint in self.hints(module, node.args[0]) if hint.kind == "Literal"), UNKNOWN
            )
        return UNKNOWN

    def hints(self, module: Module, node: ast.AST) -> list[Hint]:
        """The members of a type hint, unions, aliases and `Annotated` taken apart."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return self.hints(module, ast.parse(node.value, mode="eval").body)
            return [Hint("None" if node.value is None else "other")]
        if isinstance(node, ast.BinOp):
            return [*self.hints(module, node.left), *self.hints(module, node.right)]
        if isinstance(node, ast.Subscript):
            return self._subscript(module, node)
        if isinstance(node, ast.Name):
            return self._named_hint(module, node.id)
        return [Hint("other")]

    def _subscript(self, module: Module, node: ast.Subscript) -> list[Hint]:
        name = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
        arguments = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name in ("Annotated", "A", "SkipValidation"):
            return self.hints(module, arguments[0])
        if name == "Optional":
            return [*self.hints(module, arguments[0]), Hint("None")]
        if name == "Union":
            return [hint for argument in arguments for hint in self.hints(module, argument)]
        if name == "Literal":
            return [Hint("Literal", tuple(self._literal_values(module, arguments)))]
        kinds = {
            "List": "list",
            "Sequence": "list",
            "Tuple": "tuple",
            "Set": "set",
            "Dict": "dict",
            "Mapping": "dict",
        }
        return [Hint(kinds.get(name, name), items=tuple(self.hints(module, arguments[0])))]

    def _literal_values(self, module: Module, arguments: list[ast.expr]) -> Iterator[Any]:
        """The values of a `Literal`, those of another `Literal` named inside it included."""
        for argument in arguments:
            value = self.value(module, argument)
            if value is not UNKNOWN:
                yield value
            else:
                yield from (v for hint in self.hints(module, argument) for v in hint.values)

    def _named_hint(self, module: Module, name: str) -> list[Hint]:
        if name in ("bool", "int", "float", "str", "list", "tuple", "set", "dict"):
            return [Hint(name)]
        found = self.find(module, name)
        if found is None:
            return [Hint("other")]
        if isinstance(found.node, ast.ClassDef):
            if any(called_name(d).endswith(("dataclass", "config")) for d in found.node.decorator_list):
                return [Hint("dataclass", cls=found)]
            return [Hint("other", cls=found)]
        if isinstance(found.node, ast.Assign | ast.AnnAssign) and found.node.value is not None:
            return self.hints(found.module, found.node.value)
        if type(found.node).__name__ == "TypeAlias":
            return self.hints(found.module, found.node.value)  # type: ignore[attr-defined]  # of 3.12
        return [Hint("other")]

    def fields(self, found: Found) -> dict[str, tuple[Module, ast.AnnAssign]]:
        """The annotated fields of a class with those of its bases, in the order of definition."""
        assert isinstance(found.node, ast.ClassDef)
        fields: dict[str, tuple[Module, ast.AnnAssign]] = {}
        for base in found.node.bases:
            inherited = self.find(found.module, base.id) if isinstance(base, ast.Name) else None
            if inherited is not None and isinstance(inherited.node, ast.ClassDef):
                fields |= self.fields(inherited)
        for node in found.node.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            if "ClassVar" not in ast.dump(node.annotation):
                fields[node.target.id] = (found.module, node)
        return fields


@dataclasses.dataclass(frozen=True)
class Hint:
    """One member of a type hint: `bool`, `Literal` with its values, `list` with its items' hints, a class."""

    kind: str
    values: tuple[Any, ...] = ()
    items: tuple[Hint, ...] = ()
    cls: Found | None = None


def called_name(node: ast.AST) -> str:
    """The last part of the name that is called, or that stands there uncalled."""
    target = node.func if isinstance(node, ast.Call) else node
    if isinstance(target, ast.Attribute):
        return target.attr
    return target.id if isinstance(target, ast.Name) else ""


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Every call of a function or method of that name, in the order of the text."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and called_name(n) == name]
    yield from sorted(found, key=lambda n: (n.lineno, n.col_offset))


def function(tree: ast.AST, name: str) -> Iterator[ast.FunctionDef]:
    """Every function or method of that name."""
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)


def _names(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """What a module defines at its top level; of an `if`, what runs wins over what a type checker sees."""
    for node in body:
        if isinstance(node, ast.Assign):
            yield from ((t.id, node) for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.If | ast.Try):
            yield from _names(node.body)
            yield from _names(node.orelse)
        elif type(node).__name__ == "TypeAlias":
            yield node.name.id, node  # type: ignore[attr-defined]  # of 3.12


def _imported_from(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    up = node.level if not module.path.endswith("__init__.py") else node.level - 1
    return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])
