"""Reads the catalogue's JSON files into typed rows, strictly: the only I/O of planner and catalogue.

An unknown or missing field, a wrong type, a key used twice, an empty source and a word outside its list are
errors, all of a file at once. What the rows say of each other (a flag that an engine names, a source that a reason
cites) is checked by the tests, because it cannot change at run time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

from inferhost.catalogue.attention import AttentionRow
from inferhost.catalogue.capability_row import CapabilityRow
from inferhost.catalogue.driver_row import DriverRow
from inferhost.catalogue.engine_tables import EngineTable, FlagRows
from inferhost.catalogue.install_row import InstallRow
from inferhost.catalogue.mig_row import MigRow
from inferhost.catalogue.module_option_row import ModuleOptionRow
from inferhost.catalogue.rows import (
    ChipRow,
    DecodeRow,
    EngineRow,
    EnvironmentRow,
    FlagRow,
    FormatRow,
    FormulaRow,
    GpuRow,
    ModelRow,
    SpeedRow,
    UncountedRow,
    ValueRow,
)
from inferhost.catalogue.runtime_row import RuntimeRow
from inferhost.schema import document
from inferhost.schema.problems import InputError, Problem

FOLDER = pathlib.Path(__file__).parent

TABLES: dict[str, type] = {
    "gpus": GpuRow,
    "chips": ChipRow,
    "capabilities": CapabilityRow,
    "models": ModelRow,
    "engines": EngineRow,
    "attention": AttentionRow,
    "env": EnvironmentRow,
    "values": ValueRow,
    "uncounted": UncountedRow,
    "formats": FormatRow,
    "speeds": SpeedRow,
    "decode": DecodeRow,
    "formulas": FormulaRow,
    "drivers": DriverRow,
    "mig": MigRow,
    "module_options": ModuleOptionRow,
    "installs": InstallRow,
    "runtimes": RuntimeRow,
}

FLAG_STATUS = ("real", "renamed", "removed", "placebo")
FAMILIES = ("16bit", "8bit", "4bit", "3bit", "ternary")
"""Families of number formats: each is read by kernels of its own."""

WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("gpus", "kernel_module"): ("open", "proprietary", "either"),
    ("gpus", "graphics_clock_lock"): ("yes", "no"),
    ("gpus", "memory_clock_lock"): ("yes", "no", "risky", "deferred", "probe"),
    ("gpus", "application_clocks"): ("yes", "no", "deprecated"),
    ("module_options", "kind"): ("number", "text"),
    ("module_options", "status"): ("real", "renamed", "placebo"),
    ("gpus", "ecc"): ("yes", "no", "inline"),
    ("drivers", "repository"): ("distribution", "nvidia"),
    ("drivers", "family"): ("apt", "dnf"),
    ("runtimes", "engine"): ("docker", "podman"),
    ("runtimes", "family"): ("apt", "dnf"),
    ("chips", "memory"): ("gddr", "hbm", "lpddr"),
    ("formats", "family"): FAMILIES,
    ("models", "attention"): ("full", "mla", "sliding", "hybrid", "mixed"),
    ("models", "format"): ("safetensors", "gguf", "exl3"),
    ("engines", "memory_rule"): ("sglang", "vllm", "llama.cpp", "exllamav3", "sfllm"),
    ("env", "status"): (*FLAG_STATUS, "harmful"),
    ("values", "status"): ("renamed", "placebo", "harmful", "fatal"),
}

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What is known, table by table, each row under its key."""

    gpus: Mapping[str, GpuRow]
    chips: Mapping[str, ChipRow]
    capabilities: Mapping[str, CapabilityRow]
    models: Mapping[str, ModelRow]
    engines: Mapping[str, EngineRow]
    attention: Mapping[str, AttentionRow]
    flags: FlagRows
    env: Mapping[str, EnvironmentRow]
    values: Mapping[str, ValueRow]
    uncounted: Mapping[str, UncountedRow]
    formats: Mapping[str, FormatRow]
    speeds: Mapping[str, SpeedRow]
    decode: Mapping[str, DecodeRow]
    formulas: Mapping[str, FormulaRow]
    drivers: Mapping[str, DriverRow]
    mig: Mapping[str, MigRow]
    module_options: Mapping[str, ModuleOptionRow]
    installs: Mapping[str, InstallRow]
    runtimes: Mapping[str, RuntimeRow]

    def engine_table(self, engine: EngineRow) -> EngineTable:
        """Flags and variables of one engine version."""
        return self.flags.table(f"{engine.engine}-{engine.version}")

    @functools.cached_property
    def formats_by_name(self) -> Mapping[str, FormatRow]:
        """Every number format under every name that people give it."""
        return {name: row for row in self.formats.values() for name in row.names}

    def flags_of(self, engine: EngineRow) -> Mapping[str, FlagRow]:
        """Every spelling of every flag of one engine version."""
        return self.engine_table(engine).flags

    def flags_by_variable(self, engine: EngineRow) -> Mapping[str, FlagRow]:
        """The flags of one engine version that have an environment variable, under its name."""
        return self.engine_table(engine).flags_by_variable


@functools.cache
def load(folder: pathlib.Path = FOLDER) -> Catalogue:
    """The catalogue of `folder`, read once per process."""
    problems: list[Problem] = []
    tables: dict[str, Any] = {}
    for name, cls in TABLES.items():
        value = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        try:
            tables[name] = table(cls, name, value)
        except InputError as error:
            problems += [dataclasses.replace(p, path=f"{name}.json: {p.path}") for p in error.problems]
    if problems:
        raise InputError(problems, "catalogue")
    return Catalogue(**tables, flags=FlagRows(folder / "engine_tables"))


def table(cls: type[Row], name: str, value: Any) -> dict[str, Row]:
    """The rows of one table by key, or `InputError` with every problem of the file."""
    if not isinstance(value, dict) or set(value) != {"rows"} or not isinstance(value["rows"], list):
        raise InputError([Problem("document", "wanted a mapping with the one key rows, a list")])
    problems: list[Problem] = []
    found: dict[str, Row] = {}
    for number, raw in enumerate(value["rows"]):
        path = f"rows[{number}]"
        try:
            row: Any = document.read(cls, raw)
        except InputError as error:
            problems += [dataclasses.replace(p, path=f"{path}.{p.path}") for p in error.problems]
            continue
        problems += _contradictions(name, row, path)
        if row.key in found:
            problems.append(Problem(f"{path}.key", f"{document.shown(row.key)} is there twice"))
        found[row.key] = row
    if problems:
        raise InputError(problems)
    return found


def _contradictions(name: str, row: Any, path: str) -> list[Problem]:
    problems = [Problem(f"{path}.{field}", "is empty") for field in ("key", "source") if not getattr(row, field)]
    for (table_name, field), words in WORDS.items():
        found = getattr(row, field) if table_name == name else words[0]
        if found not in words:
            problems.append(
                Problem(f"{path}.{field}", f"found {document.shown(found)}, wanted one of {', '.join(words)}")
            )
    if isinstance(row, DecodeRow) and row.key.startswith("efficiency.") and not 0 < row.value <= 1:
        problems.append(Problem(f"{path}.value", f"found {row.value}, wanted more than 0 and at most 1"))
    if isinstance(row, SpeedRow) and set(row.weights_per_clock) != set(FAMILIES):
        wanted = ", ".join(FAMILIES)
        problems.append(Problem(f"{path}.weights_per_clock", f"wanted a rate for each of {wanted}, and no other"))
    if isinstance(row, EnvironmentRow | ValueRow | ModuleOptionRow) and row.status != "real" and not row.replacement:
        problems.append(Problem(f"{path}.replacement", "is empty, and a refusal has to name what would work"))
    return problems
