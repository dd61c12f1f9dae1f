"""What is on record and left alone by the plan now: it stays as it is, ours or not, until a revert, and is named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from inferhost.host.gpu import which
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import read_baseline
from inferhost.host.report import HostError, Report
from inferhost.host.watch.writers import IDLE
from inferhost.schema.plan import Cpu, Gpu, Plan

CARD: dict[str, Callable[[Gpu], object]] = {
    "mig": lambda gpu: gpu.mig,
    "application_clocks_mhz": lambda gpu: gpu.application_clocks_mhz,
    "compute_mode": lambda gpu: gpu.compute_mode,
    "ecc": lambda gpu: gpu.ecc,
    "power_limit_mw": lambda gpu: gpu.power_limit_w,
    "persistence_mode": lambda gpu: gpu.persistence_mode,
}
"""The wish for each setting of a card, by what the record calls it; but clock locks, which are given back."""
PROCESSOR: dict[str, Callable[[Cpu], object]] = {
    "governor": lambda cpu: cpu.governor,
    "energy_performance_preference": lambda cpu: cpu.energy_performance_preference or cpu.governor,  # which moves it
}


def tell(machine: Machine, plan: Plan, sections: Sequence[str], report: Report) -> None:
    """Names it, for the sections that the plan manages; nothing while the record cannot be read: others say so."""
    with contextlib.suppress(HostError):
        baseline = read_baseline(machine)
        names = which.known_names(plan, machine)
        managed = set(sections) & set(plan.manage)
        kept = [_setting(key) for key in baseline if baseline[key].section in managed and _is_left(key, plan, names)]
        if kept:
            what = ", ".join(dict.fromkeys(kept))
            report.note(f"on record, and left alone by this plan, so that it stays as it is until a revert: {what}")


def _is_left(key: str, plan: Plan, names: Sequence[str]) -> bool:
    kind, _, rest = key.partition(":")
    owner, _, name = rest.rpartition(":")
    if kind == "gpu" and name in CARD:
        return any(CARD[name](entry) is None for entry, uuid in zip(plan.gpus, names) if uuid == owner)
    if kind == "cpu" and name in PROCESSOR:
        return PROCESSOR[name](plan.cpu) is None
    return (kind == "cpuidle" and plan.cpu.idle_latency_us is None) or (kind == "sysctl" and rest not in plan.sysctl)


def _setting(key: str) -> str:
    """The key as it is named in verdicts: alike for all processors."""
    kind, _, rest = key.partition(":")
    names = {"gpu": f"gpu.{rest.replace(':', '.')}", "cpu": f"cpu.{rest.rpartition(':')[2]}", "cpuidle": IDLE}
    return names.get(kind, f"{kind}.{rest}")
