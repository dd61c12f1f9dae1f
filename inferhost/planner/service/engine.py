"""Which engine serves: by compute capability, model format, driver and what it can be told.

`auto` takes the first engine, in the catalogue's order of preference, that nothing speaks against; an engine that
was asked for and cannot work is refused with every obstacle and with what would work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.machine.driver import driver_version
from inferhost.planner.nearby import listed
from inferhost.planner.reasons import reason
from inferhost.planner.request import Instance, Request
from inferhost.planner.service.key import key_obstacles
from inferhost.planner.speed.decode import capability
from inferhost.schema.plan import Reason
from inferhost.schema.problems import InputError, Problem

UNQUANTISED = "16 bit"


def obstacles(
    engine: EngineRow, model: ModelRow, card: GpuRow, found_driver: str | None, instance: Instance
) -> list[tuple[str, str]]:
    """What keeps an engine from serving this model on this card: the option at fault and the obstacle.

    Source: formula `engine.capability`.
    """
    found: list[tuple[str, str]] = []
    have, name = card.compute_capability, f"{engine.engine} {engine.version}"
    least = engine.min_compute_capability
    if capability(have) < capability(least):
        found.append(("engine", f"{name} needs compute capability {least}, a {card.key} has {have}"))
    last = engine.last_compute_capability
    if last is not None and capability(have) > capability(last):
        found.append(("engine", f"{name} has no code above compute capability {last}, a {card.key} has {have}"))
    formats = engine.quantisations.get(model.format)
    if formats is None:
        known = " and ".join(sorted(engine.quantisations))
        found.append(("engine", f"{name} reads {known}, and {model.key} is {model.format}"))
    elif model.quantisation not in formats:
        known = ", ".join(UNQUANTISED if q == "none" else q for q in sorted(formats))
        found.append(("engine", f"{name} has no {model.quantisation} weights in {model.format} (it has: {known})"))
    elif capability(least) <= capability(have) < capability(formats[model.quantisation]):
        needs = formats[model.quantisation]
        found.append(("engine", f"{name} needs compute capability {needs} for {model.quantisation} weights"))
    if engine.families is not None and model.family not in engine.families:
        found.append(("engine", f"{name} knows only {', '.join(engine.families)} models"))
    found += _driver_obstacles(engine, card, found_driver, name)
    listen = instance.text("host")
    if engine.fixed_host is not None and listen != engine.fixed_host:
        found.append(("host", f"{name} always listens on {engine.fixed_host}, and {listen} is asked for"))
    found += key_obstacles(engine, instance)
    if "served_model_name" not in engine.flags and instance.text("served_model_name"):
        found.append(("served_model_name", f"{name} cannot be told a name for the model"))
    if "gpu_layers" not in engine.flags and instance.text("gpu_layers") not in ("all", "auto"):
        found.append(("gpu_layers", f"{name} keeps every layer on its cards"))
    dtype, here = instance.text("kv_cache_dtype"), on_card(engine, card).kv_cache
    if dtype not in here:
        since = engine.kv_cache[dtype].min_compute_capability if dtype in engine.kv_cache else None
        where = f" below compute capability {since}, a {card.key} has {have}" if since else ""
        found.append(("kv_cache_dtype", f"{name} has no {dtype} KV cache{where} (it has: {', '.join(sorted(here))})"))
    elif model.mla is None and (model.head_dim or 0) % engine.kv_cache[dtype].block_elements:
        block, whole = engine.kv_cache[dtype].block_elements, f"heads of {model.head_dim} in {model.key}"
        fitting = " or ".join(
            key for key, f in engine.kv_cache.items() if not (model.head_dim or 0) % f.block_elements
        )
        found.append(
            (
                "kv_cache_dtype",
                f"{name} keeps {dtype} in blocks of {block}, which do not divide {whole}; use {fitting}",
            )
        )
    return found


def on_card(engine: EngineRow, card: GpuRow) -> EngineRow:
    """The engine's row with no cache format but those that run on the card, so that no hint names another."""
    have = capability(card.compute_capability)
    formats = {
        key: one for key, one in engine.kv_cache.items() if capability(one.min_compute_capability or "0.0") <= have
    }
    return dataclasses.replace(engine, kv_cache=formats)


def chosen_engine(
    request: Request,
    instance: Instance,
    model: ModelRow,
    card: GpuRow,
    catalogue: Catalogue,
    *,
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> tuple[EngineRow, list[Reason]]:
    """The engine and why, or `InputError` naming the option at fault and what would work.

    `unfit` names engines that were tried and do not hold the model, each with why.
    """
    rows = _versions(instance, catalogue)
    found_driver = request.hardware.driver_version
    against = {row.key: obstacles(row, model, card, found_driver, instance) for row in catalogue.engines.values()}
    for key, why in unfit.items():
        against[key].append(("engine", why))
    wanted = instance.text("engine")
    usable = next((row for row in rows if not against[row.key]), None)
    if usable is None:
        raise InputError(_refusals(rows, against, model=model, card=card, instance=instance, catalogue=catalogue))
    path, key = f"service.{instance.name}", f"catalogue:engines/{usable.key}"
    source = f"{key}#min_compute_capability"
    if wanted == "auto":
        passed = rows[: rows.index(usable)]
        skipped = "; ".join(against[row.key][0][1] for row in passed)
        because = "the first engine that runs on the card, reads the model and holds it" + (
            f" ({skipped})" if skipped else ""
        )
    else:
        because, source = instance.origin("engine"), instance.source("engine")
    version = "the version that the catalogue was read for" if usable.pinned else "the version that the wish names"
    return on_card(usable, card), [
        reason(
            f"{path}.engine",
            usable.engine,
            because,
            source,
            gain="it serves at all",
            disruption="engine restart",
        ),
        reason(
            f"{path}.engine_version",
            usable.version,
            version,
            f"{key}#version",
            gain="unknown",
            disruption="engine restart",
        ),
    ]


def _driver_obstacles(engine: EngineRow, card: GpuRow, found: str | None, name: str) -> list[tuple[str, str]]:
    branch = engine.min_driver_branch
    if branch is None:
        return []
    if card.last_driver_branch is not None and card.last_driver_branch < branch:
        return [
            ("engine", f"{name} needs driver branch {branch}, {card.last_driver_branch} is the last for {card.key}")
        ]
    if found is not None and driver_version(found)[0] < branch:
        return [("engine", f"{name} needs driver branch {branch} or later, {found} is installed")]
    return []


def _versions(instance: Instance, catalogue: Catalogue) -> list[EngineRow]:
    """The rows of the engine and version asked for, in order of preference."""
    engine, version = instance.text("engine"), instance.text("engine_version")
    of_engine = [e for e in catalogue.engines.values() if engine in ("auto", e.engine)]
    rows = [e for e in of_engine if (e.pinned if version == "pinned" else e.version == version)]
    if not rows:
        known = ", ".join(f"{e.engine} {e.version}" for e in of_engine)
        raise InputError(
            [
                Problem(
                    instance.path("engine_version"),
                    f'found "{version}", whose flags and memory rules the catalogue does not know',
                    f"pinned, or one of: {known}; {listed('engines')}",
                    "unknown-engine-version",
                )
            ]
        )
    return sorted(rows, key=lambda e: e.preference)


def _refusals(
    rows: Iterable[EngineRow],
    against: dict[str, list[tuple[str, str]]],
    *,
    model: ModelRow,
    card: GpuRow,
    instance: Instance,
    catalogue: Catalogue,
) -> list[Problem]:
    works = [e for e in catalogue.engines.values() if not against[e.key]]
    newer = [e for e in rows if against[e.key] and not obstacles(e, model, card, None, instance)]
    if newer:
        hint = f"driver branch {newer[0].min_driver_branch} or later"
    elif works:
        names = " or ".join(f"{e.engine} {e.version}" for e in sorted(works, key=lambda e: e.preference))
        hint = f"{names} serves {model.key} on a {card.key}; auto picks it"
    else:
        hint = f"{_served_formats(card, catalogue)} is what runs on a {card.key}"
    if instance.text("engine") == "auto":
        why = "; ".join(text for row in rows for _, text in against[row.key][:1])
        return [Problem(instance.path("model"), f'no engine serves "{model.key}" here: {why}', hint, "engine")]
    problems: dict[str, list[str]] = {}
    for row in rows:
        for option, text in against[row.key]:
            problems.setdefault(option, []).append(text)
    return [
        Problem(instance.path(option), f'found "{instance.text(option)}": {"; ".join(texts)}', hint, "engine")
        for option, texts in problems.items()
    ]


def _served_formats(card: GpuRow, catalogue: Catalogue) -> str:
    """What can run on a card at all: formats with the engine that reads them."""
    have = capability(card.compute_capability)
    pinned = [engine for engine in catalogue.engines.values() if engine.pinned]
    runs = [
        one
        for one in pinned
        if capability(one.min_compute_capability) <= have <= capability(one.last_compute_capability or "99.9")
    ]
    served = [
        f"{' or '.join(sorted(e.quantisations))} with {e.engine}" for e in sorted(runs, key=lambda e: e.preference)
    ]
    return ", ".join(served) or "nothing in the catalogue"
