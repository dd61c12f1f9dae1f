"""What the drift timer found, for Prometheus.

Units are base units; words stand in labels of `_info` metrics. What an engine is told stays out: only whether it is
as planned. What the guard holds now is in a file of the guard's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from inferhost.host.guard.latch import NOTHING, read_latches
from inferhost.host.guard.rule import recent
from inferhost.host.machine import Machine
from inferhost.host.watch import textfile
from inferhost.schema.plan import Plan
from inferhost.schema.result import DRIFT, Verdict

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
    """The file in `folder`, else where the plan or a node exporter has it; none without. Raises `HostError`."""
    path = textfile.path_of(machine, plan, textfile.LOOKED, folder)
    if path is not None:
        trips = trips_now(machine, plan, verdicts)
        textfile.write(machine, path, text(plan, verdicts, now_s, trips, exit_code=exit_code, cards=cards))


def trips_now(machine: Machine, plan: Plan, verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Each guarded card's trips of the last hour, from what the guard wrote down; by UUID."""
    latches = read_latches(machine)
    now_s = machine.clock.now_s()
    whole = all(entry.guard is not None for entry in plan.gpus)
    cards = [_place(verdict.setting).get("gpu") for verdict in verdicts] if whole else []
    uuids = [uuid for uuid in dict.fromkeys([*cards, *latches]) if uuid is not None]
    return {uuid: len(recent(latches.get(uuid, NOTHING), now_s)) for uuid in uuids}


def text(
    plan: Plan,
    verdicts: Sequence[Verdict],
    now_s: float,
    trips: Mapping[str, int] | None = None,
    *,
    exit_code: int = 0,
    cards: Mapping[str, bool] | None = None,
) -> str:
    """The file."""
    check = ("inferhost_check_exit_code", dict[str, str](), float(exit_code))
    present = [("inferhost_gpu_present", {"gpu": gpu}, float(here)) for gpu, here in (cards or {}).items()]
    guard = [("inferhost_gpu_guard_trips_last_hour", {"gpu": gpu}, float(n)) for gpu, n in (trips or {}).items()]
    return textfile.text([*_samples(plan, verdicts, now_s), check, *present, *guard], HELP)


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
