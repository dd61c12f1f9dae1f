"""Why a value is what it is: building reasons, naming what needs one, and checking that a source exists.

A source is `catalogue:TABLE/KEY#FIELD`, `formula:ID` or `wish:VARIABLE`, nothing else. Settings are named by
their path in the plan (`gpus[0].power_limit_w`, `sysctl.vm.swappiness`); what an engine is told is named by its
flag (`service.main.argv.--ctx-size`), because that is what a person looks for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow
from inferhost.schema.plan import Plan, Reason

NO_GAIN = "below what can be measured"
MIRRORED_KEYS = ("ExecStart", "Environment", "User", "LimitNOFILE", "LimitMEMLOCK")
"""Drop-in keys whose reason stands at the service's own value."""

CONTAINER_FIELDS = (
    "mode", "engine", "image", "user", "devices", "mounts", "shared_memory_mib", "host_ipc", "health", "stop_s",
    "cpus",
)  # fmt: skip
FIELD_CONCEPTS = ("model_path", "host", "port", "context_tokens", "max_sequences")


def reason(
    setting: str, value: Any, because: str, source: str, *, gain: str = NO_GAIN, disruption: str = "none"
) -> Reason:
    """A reason; `gain` is the most that the setting can give."""
    return Reason(setting, value, because, source, gain, disruption)


def instead(replacement: str | None) -> str:
    """The hint of a refused flag or variable: what to use, or that nothing takes its place."""
    what, _, why = (replacement or "nothing").partition(": ")
    if what != "nothing":
        return f"use {replacement}"
    return f"remove it: {why}" if why else "remove it"


def concept_path(instance: str, engine: EngineRow, concept: str) -> str:
    """The path of what an engine is told: its flag where it has one, else the service's own field."""
    flag = engine.flags.get(concept)
    return f"service.{instance}.argv.{flag}" if flag else f"service.{instance}.{concept}"


def argument_flags(argv: Collection[str]) -> list[str]:
    """The flags of a command line, values left out: `--port=1` is `--port`, and `-1` is a number."""
    return [word.split("=", 1)[0] for word in argv if is_flag(word)]


def is_flag(word: str) -> bool:
    """Whether a word of a command line is an option's name."""
    return len(word) > 1 and word[0] == "-" and not word[1].isdigit() and word[1] != "."


def setting_paths(plan: Plan, catalogue: Catalogue) -> set[str]:
    """Every setting of the plan that a reason has to explain."""
    paths: set[str] = set()
    if plan.driver.install is not None:
        paths |= {f"driver.install.{name}" for name in ("branch", "version", "packages")}
        paths |= {f"driver.option.{option[0]}" for option in plan.driver.install.module_options}
    if "gpu" in plan.manage:
        names = (
            "persistence_mode", "power_limit_w", "graphics_clock_lock_mhz", "memory_clock_lock_mhz",
            "application_clocks_mhz", "compute_mode", "ecc", "mig",
        )  # fmt: skip
        paths |= {f"gpus[{n}].{name}" for n in range(len(plan.gpus)) for name in names}
        for number, gpu in enumerate(plan.gpus):
            path = f"gpus[{number}].guard"
            paths |= {f"{path}.{field.name}" for field in dataclasses.fields(gpu.guard)} if gpu.guard else {path}
    if "cpu" in plan.manage:
        paths |= {f"cpu.{field.name}" for field in dataclasses.fields(plan.cpu)}
        paths |= {f"sysctl.{name}" for name in plan.sysctl}
    if plan.runtime is not None:
        paths |= {f"runtime.{name}" for name in ("engine", "packages", "toolkit", "cdi_spec")}
        paths |= {f"runtime.daemon.{key}" for key in plan.runtime.daemon}
    paths |= {f"env.{instance}.{name}" for instance, values in plan.env.items() for name in values}
    paths |= {f"files.{file.path}" for file in plan.files}
    for dropin in plan.dropins:
        paths |= {f"dropins.{dropin.unit}.{key}" for _, key, _ in dropin.entries if key not in MIRRORED_KEYS}
    paths |= {f"adopt.{unit}" for unit in plan.adopt}
    if plan.balancer is not None:
        paths |= {f"balancer.{name}" for name in ("program", "host", "port", "members", "timeout_s")}
        paths |= {"balancer.tls_certificate"} if plan.balancer.tls_certificate else set()
    paths |= {f"models.{model.name}.{name}" for model in plan.models for name in ("source", "path")}
    paths |= {f"models.{model.name}.quantise" for model in plan.models if model.quantise}
    for service in plan.service:
        engine = next(
            e for e in catalogue.engines.values() if (e.engine, e.version) == (service.engine, service.engine_version)
        )
        own = (
            "install",
            "engine",
            "engine_version",
            "model",
            "user",
            "limit_nofile",
            "limit_memlock",
            "executable",
            "upgrade_least_percent",
        )
        paths |= {f"service.{service.instance}.{name}" for name in own}
        paths |= {concept_path(service.instance, engine, concept) for concept in FIELD_CONCEPTS}
        paths |= {f"service.{service.instance}.argv.{flag}" for flag in argument_flags(service.argv)}
        paths |= {f"service.{service.instance}.container.{name}" for name in CONTAINER_FIELDS if service.container}
    return paths


def resolve(source: str, catalogue: Catalogue, options: Collection[str]) -> bool:
    """Whether a reason's source exists."""
    kind, _, rest = source.partition(":")
    if kind == "wish":
        return rest in options
    if kind == "formula":
        return rest in catalogue.formulas
    if kind != "catalogue":
        return False
    where, _, field = rest.rpartition("#")
    table, _, key = where.partition("/")
    row = getattr(catalogue, table, {}).get(key) if table in {f.name for f in dataclasses.fields(catalogue)} else None
    return row is not None and hasattr(row, field)
