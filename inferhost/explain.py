"""Why a setting of a plan is what it is, what else was possible and at what price, and what would change it.

Everything said here is read from the plan, the option list and the catalogue: nothing is decided or computed anew.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from inferhost import catalogue, explain_figures, table
from inferhost.catalogue.rows import EngineRow
from inferhost.planner.launch.flags import OPTION_OF, concept_of, full_name
from inferhost.planner.service.engine import on_card
from inferhost.schema.problems import InputError, Problem, near
from inferhost.schema.wish import INSTANCE_PREFIX, options

MIB = 2**20
HARDWARE = "inferhost_hardware"
FACTS = {
    "power_limit_w": "gpus: power_min_w, power_default_w and power_max_w of the board",
    "kernel_module": "gpus: the model of each card",
    "memory_clock_lock_mhz": "gpus: the model of the card",
    "graphics_clock_lock_mhz": "gpus: the model of the card",
    "governor": "cpu: cpufreq",
    "kernel.numa_balancing": "cpu: numa_nodes, and numa_node of each card",
    "CUDA_VISIBLE_DEVICES": "gpus: the UUIDs",
    "engine": "gpus: compute capability and memory of the card; driver_version",
    "memory_fraction": "gpus: memory_mib",
    "max_sequences": "gpus: memory_mib",
    "pool_tokens": "gpus: memory_mib",
    "batched_tokens": "gpus: memory_mib",
    "gpu_layers": "gpus: memory_mib",
    "cpu_expert_layers": "gpus: memory_mib",
    "prompt_cache": "memory_mib: what the host has",
}
"""What of the hardware a setting follows, by its own name or by the concept of its flag."""

CONCEPT_OPTIONS = {**OPTION_OF, "memory_fraction": "memory_share", "batched_tokens": "context_tokens"}


def explained(plan: Mapping[str, Any], setting: str) -> str:
    """The reasons of a setting or of all settings below it; `InputError` where there is none."""
    asked = spelt(plan, setting)
    reasons = [r for r in plan["reasons"] if any(names(name, r["setting"]) for name in asked)]
    pending = [p for p in plan["pending"] if any(names(name, p["setting"]) for name in asked)]
    shown = [figure for figure in explain_figures.figures(plan) if setting and figure.is_called(setting)]
    if not (reasons or pending or shown):
        raise InputError([_unknown(plan, setting)])
    lines = [line for figure in shown for line in explain_figures.explained(figure)]
    for reason in reasons:
        lines += [
            f"{reason['setting']} = {table.shown(reason['value'])}",
            f"  because: {reason['because']}",
            f"  gain: {reason['gain']}",
            f"  takes: {reason['disruption']}",
            f"  source: {reason['source']}",
            *(f"  possible: {text}" for text in possible(plan, reason)),
            *(f"  changes with: {text}" for text in changers(plan, reason)),
        ]
    lines += [f"{p['setting']} is pending: needs {p['needs']} ({p['because']})" for p in pending]
    return "\n".join(lines) + "\n"


def spelt(plan: Mapping[str, Any], setting: str) -> list[str]:
    """The setting as the plan may spell it: of a flag all names that an engine of the plan gives it."""
    found = {setting: None}
    for engine in _engines(plan) if setting.startswith("-") else ():
        row = catalogue.load().flags_of(engine).get(full_name(setting, engine, catalogue.load()))
        found |= dict.fromkeys(row.names if row else ())
    return list(found)


def _unknown(plan: Mapping[str, Any], setting: str) -> Problem:
    """Why there is nothing to explain: not set by this plan though the engine reads it, or not known at all."""
    known = catalogue.load()
    for engine in _engines(plan):
        row = known.flags_of(engine).get(full_name(setting, engine, known))
        option = INSTANCE_PREFIX + (OPTION_OF.get(concept_of(row, engine) or "") or "extra_args")
        if row is not None and row.status == "real":
            found = f"is not set by this plan: {engine.engine} {engine.version} uses its own default"
            return Problem(setting, found, f"{option} sets it", "unknown-setting")
        rows = (known.engine_table(engine).variables.get(setting), known.env.get(setting))
        if any(row is not None and row.status == "real" for row in rows):
            return Problem(setting, "is not set by this plan", f"{INSTANCE_PREFIX}env sets it", "unknown-setting")
    names_of = [r["setting"] for r in plan["reasons"]]
    names_of += [name for f in explain_figures.figures(plan) for name in (f.label, f.setting)]
    hint = near(setting, names_of) or "inferhost plan lists the settings"
    return Problem(setting, "is no setting of this plan", hint, "unknown-setting")


def _engines(plan: Mapping[str, Any]) -> list[EngineRow]:
    """The catalogue rows of the engines that the plan serves with, each once."""
    versions = {_version(service) for service in plan["service"]}
    return [row for row in catalogue.load().engines.values() if (row.engine, row.version) in versions]


def names(asked: str, setting: str) -> bool:
    """Whether `asked` is a setting, one of its parents, or its last part."""
    return (
        not asked
        or setting == asked
        or setting.startswith((f"{asked}.", f"{asked}["))
        or setting.endswith(f".{asked}")
    )


def possible(plan: Mapping[str, Any], reason: Mapping[str, Any]) -> Iterator[str]:
    """What else the setting could be, with what that would cost or gain where the plan or the catalogue says it."""
    concept = _concept(plan, reason["setting"])
    for name in _options(plan, reason):
        option = options()[name]
        if option.get("choices"):
            yield f"{name}: {', '.join(option['choices'])}"
        else:
            yield f"{name}: {option['description']}"
    instance, engine = _instance(plan, reason["setting"]), _engine(plan, reason["setting"])
    if instance is None or engine is None:
        if reason["setting"].startswith("gpus["):
            for speed in plan["roofline"].values():
                yield from _levers(speed, "clocks and power limit")
        return
    budget, speed = plan["budget"][instance], plan["roofline"][instance]
    if concept in ("max_sequences", "pool_tokens"):
        yield from _levers(speed, "batching")
    if concept in ("kv_cache_dtype", "kv_cache_dtype_v", "context_tokens", "pool_tokens", "memory_fraction"):
        now = engine.kv_cache["auto"].bytes_per_element
        cards = [catalogue.load().gpus[gpu["model"]] for gpu in plan["gpus"]]
        for name, kind in functools.reduce(on_card, cards, engine).kv_cache.items():
            if kind.bytes_per_element < now:
                factor = now / kind.bytes_per_element
                yield f"a {name} KV cache: {factor:.2f} times the tokens in the same memory, at less quality"
    if concept == "context_tokens":
        each = 1024 * budget["kv_bytes_per_token"] / MIB
        yield f"each 1024 tokens more take {each:.1f} MiB per request; {budget['concurrent_requests']} fit now"
    if concept is None and reason["setting"].endswith(f"{instance}.model"):
        yield from _levers(speed, "bits per weight")


def changers(plan: Mapping[str, Any], reason: Mapping[str, Any]) -> Iterator[str]:
    """The options of the wish and the facts of the hardware that the setting follows."""
    for name in _options(plan, reason):
        default = options()[name].get("default")
        yield f"{name} (default {table.shown(default)})" if default not in ("", None) else name
    leaf = table.split_setting(reason["setting"])[1]
    fact = FACTS.get(leaf) or FACTS.get(_concept(plan, reason["setting"]) or "")
    if fact:
        yield f"{HARDWARE}.{fact}"


def _options(plan: Mapping[str, Any], reason: Mapping[str, Any]) -> list[str]:
    """The options behind a setting: the one that it cites, the one of its name, and the one of its flag."""
    setting, known = reason["setting"], options()
    kind, _, cited = reason["source"].partition(":")
    found = [cited] if kind == "wish" and cited != HARDWARE else []
    leaf = re.sub(r"_(w|mhz)$", "", table.split_setting(setting)[1].rpartition(".")[2])
    for prefix in ("inferhost_gpu_", "inferhost_cpu_", INSTANCE_PREFIX):
        found.append(prefix + leaf)
    concept = _concept(plan, setting)
    found.append(INSTANCE_PREFIX + CONCEPT_OPTIONS.get(concept or "", ""))
    found += [f"{INSTANCE_PREFIX}env"] if setting.startswith("env.") else []
    return list(dict.fromkeys(name for name in found if name in known))


def _instance(plan: Mapping[str, Any], setting: str) -> str | None:
    part = setting.split(".")
    return part[1] if len(part) > 2 and part[0] == "service" and part[1] in plan["budget"] else None


def _engine(plan: Mapping[str, Any], setting: str) -> EngineRow | None:
    """The catalogue row of the engine that a setting belongs to."""
    instance = _instance(plan, setting)
    service = next((s for s in plan["service"] if s["instance"] == instance), None)
    rows = catalogue.load().engines.values()
    return next((e for e in rows if service and (e.engine, e.version) == _version(service)), None)


def _version(service: Mapping[str, Any]) -> tuple[str, str]:
    return service["engine"], service["engine_version"]


def _concept(plan: Mapping[str, Any], setting: str) -> str | None:
    """What the planner calls a flag of an engine's command line; a field without a flag is its own concept."""
    engine, leaf = _engine(plan, setting), table.split_setting(setting)[1]
    if engine is None:
        return None
    if leaf in CONCEPT_OPTIONS:
        return leaf
    return next((concept for concept, flag in engine.flags.items() if flag == leaf), None)


def _levers(speed: Mapping[str, Any], kind: str) -> Iterator[str]:
    for lever in speed.get("levers", ()):
        if kind in lever["lever"]:
            ceiling = "" if lever["ceiling_tok_s"] is None else f" (ceiling {lever['ceiling_tok_s']} tok/s)"
            yield f"{lever['lever']}: {lever['effect']}{ceiling}"
