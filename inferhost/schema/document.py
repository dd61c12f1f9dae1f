"""Dataclasses as strict documents: read from JSON, written to JSON, described as a JSON Schema.

A document is a frozen dataclass whose hints are made of bool, int, float, str, Any, Optional, Union,
Tuple[T, ...], Dict[str, T] and other documents; those same hints are the reader, the writer and the schema, so
that the three cannot disagree. Hints are spelt for Python 3.9 (`Optional[int]`, not `int | None`), because
the host program resolves them there. `bool` is refused where a number is wanted: `true` is an `int` to Python
and never to a person. A field with a default may be missing, every other one may not.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from typing import Any, Dict, Optional, Tuple, TypeVar, Union

from inferhost.schema.problems import InputError, Problem, near

T = TypeVar("T")

SCALARS = {
    bool: ("boolean", "a boolean"),
    int: ("integer", "an integer"),
    float: ("number", "a number"),
    str: ("string", "text"),
}


def shown(value: object) -> str:
    """A found value as an error names it: short, and never a whole document."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def whole_number(text: str) -> Optional[int]:
    """The number that a person means by `8k` or `2 M`, in powers of 1024; None where it is none."""
    sized = re.fullmatch(r"(\d{1,9})\s*([kKmM]?)", text.strip())
    return int(sized[1]) * {"": 1, "k": 2**10, "m": 2**20}[sized[2].lower()] if sized else None


def counted(count: int, what: str) -> str:
    """A number of things: `1 request`, `2 requests`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def read(cls: type[T], value: object, name: str = "") -> T:
    """`value` as a `cls`, or `InputError` with every problem found; `name` prefixes the messages."""
    problems: list[Problem] = []
    result = _read(cls, value, "", problems)
    if problems:
        raise InputError(problems, name)
    return typing.cast(T, result)


def plain(document: object) -> Any:
    """A document as dicts, lists and scalars, ready for `json.dumps`."""
    if document is None or type(document) in SCALARS:
        return document
    if isinstance(document, dict):
        return {str(k): plain(v) for k, v in document.items()}
    if isinstance(document, (list, tuple)):
        return [plain(v) for v in document]
    if dataclasses.is_dataclass(document) and not isinstance(document, type):
        return {name: plain(getattr(document, name)) for name in _names(document.__class__)}
    return document


def text(document: object) -> str:
    """The canonical bytes of a document: sorted keys, two blanks, one final newline."""
    return json.dumps(plain(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def line(document: object) -> str:
    """The canonical bytes without line breaks and indentation."""
    separators = (",", ": ")
    return json.dumps(document, default=_members, separators=separators, sort_keys=True, ensure_ascii=False)


def _members(document: Any) -> Dict[str, Any]:
    """The members of a document, for an encoder that walks the rest by itself; no document keeps anything else."""
    found: Dict[str, Any] = vars(document)
    return found


def json_schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a document class or of one hint."""
    if hint in SCALARS:
        return {"type": SCALARS[hint][0]}
    if dataclasses.is_dataclass(hint):
        hints = _hints(typing.cast(type, hint))
        names = [f.name for f in dataclasses.fields(hint)]
        return {
            "type": "object",
            "description": (hint.__doc__ or "").split("\n")[0],
            "properties": {n: json_schema(hints[n]) for n in names},
            "required": [f.name for f in dataclasses.fields(hint) if f.default is dataclasses.MISSING],
            "additionalProperties": False,
        }
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return {"anyOf": [json_schema(a) for a in arguments]}
    if origin is tuple:
        return {"type": "array", "items": json_schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": json_schema(arguments[1])}
    return {"type": "null"} if hint is type(None) else {}


@functools.cache
def _names(cls: type) -> Tuple[str, ...]:
    """The field names of a document class."""
    return tuple(f.name for f in dataclasses.fields(cls))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The resolved hints of a document class: resolving is most of the cost of reading a catalogue."""
    return typing.get_type_hints(cls)


def _read(hint: Any, value: object, path: str, problems: list[Problem]) -> Any:
    if hint in SCALARS:
        return _scalar(hint, value, path, problems)
    if dataclasses.is_dataclass(hint):
        return _object(hint, value, path, problems)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return _one_of(arguments, value, path, problems)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _wrong(path, value, "a list", problems)
        return tuple(_read(arguments[0], item, f"{path}[{n}]", problems) for n, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            return _wrong(path, value, "a mapping", problems)
        return {str(k): _read(arguments[1], v, f"{path}.{k}", problems) for k, v in value.items()}
    if hint is Any:
        return value
    raise TypeError(f"{path}: a document cannot hold {hint}: see the first lines of this module")


def _scalar(kind: type, value: object, path: str, problems: list[Problem]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    return _wrong(path, value, SCALARS[kind][1], problems)


def _one_of(arguments: tuple[Any, ...], value: object, path: str, problems: list[Problem]) -> Any:
    """The first member of a union that reads cleanly; the last member's problems otherwise."""
    if value is None and type(None) in arguments:
        return None
    attempts: list[Problem] = []
    for argument in (a for a in arguments if a is not type(None)):
        attempts = []
        result = _read(argument, value, path, attempts)
        if not attempts:
            return result
    problems.extend(attempts)
    return None


def _object(cls: Any, value: object, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, dict):
        return _wrong(path, value, "a mapping", problems)
    hints = _hints(cls)
    names = _names(cls)
    before = len(problems)
    for key in value:
        if key not in names:
            problems.append(Problem(_join(path, key), "is not a known key", near(str(key), names)))
    for field in dataclasses.fields(cls):
        if field.name not in value and field.default is dataclasses.MISSING:
            problems.append(Problem(_join(path, field.name), "is missing"))
    members = {n: _read(hints[n], value[n], _join(path, n), problems) for n in names if n in value}
    return cls(**members) if len(problems) == before else None


def _wrong(path: str, value: object, wanted: str, problems: list[Problem]) -> None:
    problems.append(Problem(path or "document", f"found {shown(value)}, wanted {wanted}"))


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
