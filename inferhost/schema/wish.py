"""The wish: what a person asks for, as flat `inferhost_*` values read against the roles' option list.

`wish.json` beside this file is generated from the roles' `meta/argument_specs.yml`, the only hand-written option
list, so defaults, types and choices have one home. Values may arrive as text (`-e key=value`): they are
converted as Ansible would. An unknown name is an error, because Ansible itself would pass over it in silence.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import types
from collections.abc import Mapping
from typing import Any

from inferhost.schema.document import shown, whole_number
from inferhost.schema.problems import InputError, Problem, near

PREFIX = "inferhost_"
INSTANCE_PREFIX = "inferhost_service_"
HOST_WIDE = ("instances", "adopt")
"""Service options that an instance cannot have: they are about the host."""
GPU_PREFIX = "inferhost_gpu_"
GPU_HOST_WIDE = (
    "cards", "circuit", "circuit_budget_w", "guard", "mps", "persistence_mode", "power_budget_w",
)  # fmt: skip
"""Likewise of a card: one daemon, one guard, one circuit."""
MODEL_PREFIX = "inferhost_models_"
MODELS_HOST_WIDE = ("items", "purge")
"""Likewise of a model."""
# What int() takes is more than a person means: "²" and "--5" fail in it, thousands of digits too.
INTEGER = re.compile(r"-?[0-9]{1,18}")
TRUE, FALSE = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


@functools.cache
def options() -> Mapping[str, dict[str, Any]]:
    """Every option by name: `role`, `type`, `default`, `required`, `choices`, `elements`, `description`.

    Read once per process, and read only.
    """
    found = json.loads(pathlib.Path(__file__).with_name("wish.json").read_text(encoding="utf-8"))
    return types.MappingProxyType(found["options"])


@dataclasses.dataclass(frozen=True)
class Wish:
    """Typed access to a complete wish. Asking for a name that no role declares is a bug, hence KeyError."""

    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        return str(self.values[name])

    def integer(self, name: str) -> int:
        return int(self.values[name])

    def flag(self, name: str) -> bool:
        return bool(self.values[name])

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(self.values[name])

    def table(self, name: str) -> dict[str, Any]:
        return dict(self.values[name])

    def sha256(self) -> str:
        """Hash of the complete wish, defaults included, hardware included.

        Over compact JSON with sorted keys, which `builtins.toJSON` of Nix writes too.
        """
        compact = json.dumps(self.values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(compact.encode()).hexdigest()


def read_wish(given: Mapping[str, Any]) -> Wish:
    """The wish with every default filled in, or `InputError` with every problem."""
    known, problems = options(), []
    values: dict[str, Any] = {}
    for name in given:
        if name not in known:
            hint = near(name, list(known)) or "docs/options.md lists every option"
            problems.append(Problem(name, "is not an option of any inferhost role", hint, "unknown-name"))
    for name, option in known.items():
        if name in given and given[name] is not None:
            values[name] = _converted(given[name], option, name, problems)
        else:
            values[name] = option["default"]
    if problems:
        raise InputError(problems)
    return Wish(values)


def read_instances(wish: Wish) -> dict[str, Wish]:
    """Every engine instance by name: the flat service values with the instance's own ones on top."""
    return _several(wish, INSTANCE_PREFIX, "instances", HOST_WIDE, "an instance")


def read_cards(wish: Wish) -> dict[str, Wish]:
    """Every card with a mapping of its own, by the name that the wish has for it."""
    return _several(wish, GPU_PREFIX, "cards", GPU_HOST_WIDE, "a card")


def read_models(wish: Wish) -> dict[str, Wish]:
    """Every model by name: the flat values of the models section with the model's own ones on top."""
    return _several(wish, MODEL_PREFIX, "items", MODELS_HOST_WIDE, "a model")


def _several(wish: Wish, prefix: str, table: str, host_wide: tuple[str, ...], what: str) -> dict[str, Wish]:
    """The flat values of a prefix under each name of a table, with the name's own values on top."""
    known, problems = options(), []
    found: dict[str, Wish] = {}
    for name, own in sorted(wish.table(prefix + table).items()):
        path = f"{prefix}{table}.{name}"
        if not isinstance(own, dict):
            problems.append(Problem(path, f"found {shown(own)}, wanted a mapping", "{} inherits everything"))
            continue
        values = dict(wish.values)
        for key, value in own.items():
            full = prefix + str(key)
            if full not in known or key in host_wide:
                offered = [n.removeprefix(prefix) for n in known if n.startswith(prefix)]
                names = [n for n in offered if n not in host_wide]
                hint = near(str(key), names) or f"docs/options.md lists them, without {prefix} here"
                problems.append(Problem(f"{path}.{key}", f"is not an option of {what}", hint))
            else:
                values[full] = _converted(value, known[full], f"{path}.{key}", problems)
        found[str(name)] = Wish(values)
    if problems:
        raise InputError(problems)
    return found


def _converted(value: Any, option: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
    """`value` as the option's type; text is converted, because `-e key=value` knows nothing else."""
    kind = option["type"]
    if isinstance(value, bool) and kind == "str":
        # YAML reads an unquoted on/off as a truth value; Ansible gives it back its word where that is a choice.
        value = next((c for c in option.get("choices", ()) if c in (TRUE if value else FALSE)), value)
    result = _of_kind(value, kind)
    if result is None:
        problems.append(Problem(path, f"found {shown(value)}, wanted {kind}", _that_works(value, option), "type"))
        return option.get("default")
    if kind == "list" and option.get("elements") == "str":
        result = [str(item) for item in result]
    allowed = option.get("choices")
    for item in result if kind == "list" else [result]:
        if allowed and item not in allowed:
            hint = near(str(item), allowed) or f"{_default_shown(option)} is the default"
            problems.append(Problem(path, f"found {shown(item)}, wanted one of {', '.join(allowed)}", hint, "choice"))
    return result


def _that_works(value: Any, option: Mapping[str, Any]) -> str:
    """A value of the option's type, the one that was meant where that shows, and what the option says."""
    meant = whole_number(str(value)) if option["type"] == "int" else None
    example = option.get("default") if meant is None else meant
    if example is None:
        return str(option["description"])
    return f"for example {json.dumps(example)}; {option['description']}"


def _default_shown(option: Mapping[str, Any]) -> str:
    default = option.get("default")
    return f"[{', '.join(default)}]" if isinstance(default, list) else str(default)


def _of_kind(value: Any, kind: str) -> Any:
    if kind in ("str", "path"):
        return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
    if kind == "int":
        return _integer(value)
    if kind == "bool":
        return _boolean(value)
    if kind == "list":
        return (
            list(value) if isinstance(value, (list, tuple)) else value.split(",") if isinstance(value, str) else None
        )
    if isinstance(value, str):
        value = _json(value)
    return dict(value) if isinstance(value, Mapping) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _integer(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if INTEGER.fullmatch(text) else None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, (str, int)) else ""
    return True if word in TRUE else False if word in FALSE else None
