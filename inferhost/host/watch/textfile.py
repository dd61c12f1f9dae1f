"""Files for the textfile collector of a node exporter: whole or not at all, on record before they are written.

The folder is the exporter's, never made here: without one there are no metrics, unless a folder is asked for by name.
The files are on record like any other of ours, and go with the last of them. Each has one writer and metrics of its
own, because an exporter refuses what two files tell.
Source: prometheus.io/docs/practices/naming and /instrumenting/exposition_formats.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from inferhost.host.machine import Machine
from inferhost.host.record.baseline import read_baseline
from inferhost.host.record.lock import locked
from inferhost.host.record.placed import file_records
from inferhost.host.report import RecordUnusable
from inferhost.schema.plan import BASE, Plan

LOOKED, GUARDED = "inferhost.prom", "inferhost-guard.prom"
"""What the drift timer and the guard tell."""
FOLDERS = ("/var/lib/prometheus/node-exporter",)
"""Where node exporters look for files. Source: package prometheus-node-exporter of Debian 12."""

Sample = tuple[str, Mapping[str, str], float]
"""A metric, its labels and its value."""


def path_of(machine: Machine, plan: Plan, name: str, folder: str | None = None) -> str | None:
    """Where the file of this name belongs: in `folder`, else where the plan or a node exporter has it."""
    if folder is None and plan.metrics_folder == "none":
        return None
    planned = None if plan.metrics_folder == "auto" else plan.metrics_folder
    folder = folder or planned or next((known for known in FOLDERS if machine.exists(known)), None)
    return None if folder is None else os.path.join(folder, name)


def write(machine: Machine, path: str, content: str, lock_wait_s: float | None = None) -> None:
    """The file at `path`. Raises `HostError`.

    One that is there is written anew even where the record cannot be read: old numbers must not stand for new ones.
    """
    try:
        recorded = f"file:{path}" in read_baseline(machine)
    except RecordUnusable:
        if not machine.exists(path):
            raise
        recorded = True
    if not recorded:
        with locked(machine, lock_wait_s):
            read_baseline(machine).add(file_records(machine, [(path, BASE)]), check=False)
    machine.make_directories(os.path.dirname(path))
    machine.replace_file(path, content.encode(), 0o644)


def text(samples: Iterable[Sample], told: Mapping[str, str]) -> str:
    """Every metric with its help and type, samples of one metric together; of several in one place the worst."""
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in samples:
        values, place = found.setdefault(name, {}), _labels(labels)
        values[place] = max(value, values.get(place, value))
    lines: list[str] = []
    for name, values in found.items():
        said = told.get(name) or f"The setting {name.removeprefix('inferhost_gpu_')} of a card."
        lines += [f"# HELP {name} {said}", f"# TYPE {name} gauge"]
        lines += [f"{name}{place} {value:.17g}" for place, value in values.items()]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
