"""What the drift timer found, for Prometheus: one file in the textfile folder of the node exporter.

The folder is the exporter's, never made here: without one there are no metrics, unless a folder is asked for by name.
The file is on record like any other of ours, and goes with the last of them. Units are base units; words stand in
labels of `_info` metrics. What an engine is told stays out: only whether it is as planned.
Source: prometheus.io/docs/practices/naming and /instrumenting/exposition_formats.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from inferhost.host.guard.latch import LATCHED, NOTHING, read_latches
from inferhost.host.guard.rule import recent
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import read_baseline
from inferhost.host.record.lock import locked
from inferhost.host.record.placed import file_records
from inferhost.host.report import RecordUnusable
from inferhost.schema.plan import BASE, Plan
from inferhost.schema.result import DRIFT, Verdict

FOLDERS = ("/var/lib/prometheus/node-exporter",)
"""Where node exporters look for files. Source: package prometheus-node-exporter of Debian 12."""
FILE = "inferhost.prom"
OPEN_SECTIONS = ("gpu", "cpu", "sysctl")
HERTZ = 1_000_000


@dataclasses.dataclass(frozen=True)
class Numbers:
    """How one setting is told in numbers: the metric's name, its unit, and what a declared value is made of."""

    name: str
    unit: str
    declared: Callable[[Any], dict[str, float]]  # by the suffix of the name


def _plain(value: Any) -> dict[str, float]:
    return {"declared": float(value)}


def _span(value: Any) -> dict[str, float]:
    low, _, high = str(value).partition("-")
    return {"declared_min": float(low) * HERTZ, "declared_max": float(high or low) * HERTZ}


NUMBERS = {
    "power_limit_w": Numbers("inferhost_gpu_power_limit", "watts", _plain),
    "persistence_mode": Numbers("inferhost_gpu_persistence_mode", "", _plain),
    "graphics_clock_lock_mhz": Numbers("inferhost_gpu_graphics_clock_lock", "hertz", _span),
    "memory_clock_lock_mhz": Numbers("inferhost_gpu_memory_clock_lock", "hertz", _span),
}

HELP = {
    "inferhost_plan_info": "The plan that this host is compared with.",
    "inferhost_check_timestamp_seconds": "When the host was compared with its plan.",
    "inferhost_check_exit_code": "How that ended: 0 as planned, 3 drift, 7 pending; with any other it was cut short.",
    "inferhost_gpu_present": "Whether a card of the plan answers; told where the cards were looked at.",
    "inferhost_setting_drift": "Whether a setting is not as planned.",
    "inferhost_gpu_guard_latched": "Whether the guard holds a card at its safe state because it was too hot.",
    "inferhost_gpu_guard_trips_last_hour": "How often the guard brought a card down in the last hour.",
    "inferhost_setting_info": "Verdict on a setting, with what was declared and what was measured.",
}


def write_metrics(
    machine: Machine,
    plan: Plan,
    verdicts: Sequence[Verdict],
    folder: str | None,
    now_s: float,
    *,
    exit_code: int,
    cards: Mapping[str, bool],
) -> None:
    """The file in `folder`, else where the plan or a node exporter has it; none without. Raises `HostError`.

    One that is there is written anew even where the record cannot be read: old numbers must not stand for new ones.
    """
    if folder is None and plan.metrics_folder == "none":
        return
    planned = None if plan.metrics_folder == "auto" else plan.metrics_folder
    folder = folder or planned or next((known for known in FOLDERS if machine.exists(known)), None)
    if folder is None:
        return
    path = os.path.join(folder, FILE)
    if exit_code != RecordUnusable.exit_code or not machine.exists(path):
        if f"file:{path}" not in read_baseline(machine):
            with locked(machine):
                read_baseline(machine).add(file_records(machine, [(path, BASE)]), check=False)
        machine.make_directories(folder)
    guarded = guarded_now(machine, plan, verdicts)
    lines = text(plan, verdicts, now_s, guarded, exit_code=exit_code, cards=cards)
    machine.replace_file(path, lines.encode(), 0o644)


def guarded_now(machine: Machine, plan: Plan, verdicts: Iterable[Verdict]) -> dict[str, tuple[bool, int]]:
    """Each guarded card's latch, and its trips of the last hour, from what the guard wrote down; by UUID."""
    latches = read_latches(machine)
    now_s = machine.clock.now_s()
    whole = bool(plan.gpus) and all(entry.guard is not None for entry in plan.gpus)
    cards = [_place(verdict.setting).get("gpu") for verdict in verdicts] if whole else []
    uuids = [uuid for uuid in dict.fromkeys([*cards, *latches]) if uuid is not None]
    holds = {uuid: latches.get(uuid, NOTHING) for uuid in uuids}
    return {uuid: (hold.state == LATCHED, len(recent(hold, now_s))) for uuid, hold in holds.items()}


def text(
    plan: Plan,
    verdicts: Sequence[Verdict],
    now_s: float,
    guarded: Mapping[str, tuple[bool, int]] | None = None,
    *,
    exit_code: int = 0,
    cards: Mapping[str, bool] | None = None,
) -> str:
    """The file: every metric with its help and type, samples of one metric together; of one setting the worst."""
    samples: dict[str, dict[str, float]] = {}
    check = ("inferhost_check_exit_code", dict[str, str](), float(exit_code))
    present = [("inferhost_gpu_present", {"gpu": gpu}, float(here)) for gpu, here in (cards or {}).items()]
    for name, labels, value in [*_samples(plan, verdicts, now_s), check, *present, *_guard_samples(guarded or {})]:
        found, place = samples.setdefault(name, {}), _labels(labels)
        found[place] = max(value, found.get(place, value))
    lines: list[str] = []
    for name, found in samples.items():
        told = HELP.get(name) or f"The setting {name.removeprefix('inferhost_gpu_')} of a card."
        lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge"]
        lines += [f"{name}{place} {value:.17g}" for place, value in found.items()]
    return "\n".join(lines) + "\n"


def _samples(plan: Plan, verdicts: Iterable[Verdict], now_s: float) -> Iterator[tuple[str, dict[str, str], float]]:
    yield "inferhost_plan_info", {"plan_id": plan.plan_id}, 1
    yield "inferhost_check_timestamp_seconds", {}, now_s
    for verdict in verdicts:
        labels = _place(verdict.setting)
        yield "inferhost_setting_drift", labels, float(verdict.verdict in DRIFT)
        info = {**labels, "verdict": verdict.verdict, "cause": verdict.cause}
        if verdict.setting.partition(".")[0] in OPEN_SECTIONS:
            info |= {"declared": _word(verdict.wanted), "measured": _word(verdict.found)}
        yield "inferhost_setting_info", info, 1
        if "gpu" in labels and labels["setting"] in NUMBERS:
            yield from _numbers(NUMBERS[labels["setting"]], labels["gpu"], verdict)


def _guard_samples(guarded: Mapping[str, tuple[bool, int]]) -> Iterator[tuple[str, dict[str, str], float]]:
    for uuid, (latched, trips) in guarded.items():
        yield "inferhost_gpu_guard_latched", {"gpu": uuid}, float(latched)
        yield "inferhost_gpu_guard_trips_last_hour", {"gpu": uuid}, float(trips)


def _numbers(how: Numbers, gpu: str, verdict: Verdict) -> Iterator[tuple[str, dict[str, str], float]]:
    """Declared and measured as far as they are numbers: `default` and `unlocked` are words."""
    unit = f"_{how.unit}" if how.unit else ""
    try:
        declared = how.declared(verdict.wanted)
    except (TypeError, ValueError):
        declared = {}
    for suffix, value in declared.items():
        yield f"{how.name}_{suffix}{unit}", {"gpu": gpu}, value
    if isinstance(verdict.found, (int, float)):
        factor = HERTZ if how.unit == "hertz" else 1
        yield f"{how.name}_measured{unit}", {"gpu": gpu}, float(verdict.found) * factor


def _place(setting: str) -> dict[str, str]:
    """The labels of a setting: a card's own come with its UUID, as those of other exporters do."""
    if setting.startswith("gpu."):
        uuid, _, name = setting[len("gpu.") :].rpartition(".")
        return {"gpu": uuid, "setting": name}
    return {"setting": setting}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
