"""Which flag of an engine a word of the wish means, as the engine itself would read it.

Engines built on argparse take a beginning that only one flag has, some take underscores for dashes. The plan writes
the full name, so that every later check and every reason speaks of one spelling.
"""

from __future__ import annotations

import dataclasses

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, FlagRow
from inferhost.planner.reasons import is_flag
from inferhost.schema.problems import near

OPTION_OF = {
    "model_path": "model_path",
    "model_directory": "model_path",
    "served_model_name": "served_model_name",
    "host": "host",
    "port": "port",
    "context_tokens": "context_tokens",
    "pool_tokens": "context_tokens",
    "max_sequences": "max_sequences",
    "tensor_parallel_size": "tensor_parallel_size",
    "kv_cache_dtype": "kv_cache_dtype",
    "kv_cache_dtype_v": "kv_cache_dtype",
    "gpu_layers": "gpu_layers",
    "cpu_expert_layers": "gpu_layers",
    "cpu_experts": "gpu_layers",
}
"""Concepts that have an option of their own, so that a further argument may not set them."""


READ = ("real", "deprecated", "unchecked")
"""What a flag is that the engine's parser knows."""


@dataclasses.dataclass(frozen=True)
class Given:
    """One flag of the wish: its full name, its values, where it stands, and what the catalogue knows of it."""

    number: int
    name: str
    values: tuple[str, ...]
    joined: bool  # the value stood in the same word, after `=`
    row: FlagRow | None
    key: str = ""  # of a JSON flag, in `--config.key value`

    @property
    def words(self) -> tuple[str, ...]:
        return (f"{self.name}={self.values[0]}",) if self.joined else (self.name, *self.values)


def given_flags(words: tuple[str, ...], engine: EngineRow, catalogue: Catalogue) -> list[Given]:
    """The flags among `words` in their order; words before the first flag belong to none."""
    starts = [number for number, word in enumerate(words) if is_flag(word)]
    found = []
    for start, end in zip(starts, [*starts, len(words)][1:], strict=True):
        flag, joined, value = words[start].partition("=")
        values = ((value,) if joined else ()) + words[start + 1 : end]
        flag, key = _parted(flag, engine, catalogue)
        name = full_name(flag, engine, catalogue)
        whole = f"{name}.{key}" if key else name
        found.append(Given(start, whole, values, bool(joined), catalogue.flags_of(engine).get(name), key))
    return found


def _parted(flag: str, engine: EngineRow, catalogue: Catalogue) -> tuple[str, str]:
    """Flag and key of `--config.key`, where the engine knows that; a name that has a dot itself stays whole."""
    if not engine.json_keys or flag in catalogue.flags_of(engine):
        return flag, ""
    name, _, key = flag.partition(".")
    return name, key


def full_name(flag: str, engine: EngineRow, catalogue: Catalogue) -> str:
    """The flag as the engine's catalogue rows spell it; unchanged where they do not know it."""
    known = catalogue.flags_of(engine)
    if engine.underscores and flag.startswith("--"):
        flag = flag.replace("_", "-")
    if flag in known:
        return flag
    meant = beginnings(flag, engine, catalogue)
    return meant[0] if len(meant) == 1 else flag


def beginnings(flag: str, engine: EngineRow, catalogue: Catalogue) -> list[str]:
    """The flags that begin so, where the engine takes abbreviations and no flag has just this name."""
    known = catalogue.flags_of(engine)
    if not engine.abbreviations or flag in known or not flag.startswith("--") or len(flag) < 3:
        return []
    read = (name for name, row in known.items() if row.status in READ)
    return sorted(name for name in read if name.startswith(flag))


def concept_of(row: FlagRow | None, engine: EngineRow) -> str | None:
    """What the planner calls the flag, where the engine's catalogue row has a word for it."""
    if row is None:
        return None
    return next((concept for concept, flag in engine.flags.items() if flag in row.names), None)


def near_flag(flag: str, engine: EngineRow, catalogue: Catalogue, option_path: dict[str, str]) -> str:
    """A hint for a misspelt flag; it names no flag that would itself be refused.

    `option_path` gives the variable of each option, for flags that the plan sets itself.
    """
    known = catalogue.flags_of(engine)
    for other in catalogue.engines.values():
        concept = concept_of(catalogue.flags_of(other).get(flag), other)
        if concept in OPTION_OF:
            return f"{other.engine} has it: use {option_path[OPTION_OF[concept]]}"
    hint = near(flag, [name for name, row in known.items() if row.status == "real" and not row.secret])
    meant = known.get(hint.partition('"')[2].partition('"')[0])
    concept = concept_of(meant, engine)
    return f"use {option_path[OPTION_OF[concept]]}" if concept in OPTION_OF else hint
