"""The units of Inferhost itself: what brings settings back that have no file, and what looks for drift.

They belong to no section: they stay until the last one is taken back.
"""

from __future__ import annotations

from inferhost.planner.machine.mps import MPS_WISH
from inferhost.planner.reasons import reason
from inferhost.planner.request import Request
from inferhost.schema.plan import BASE, UNIT_DIRECTORY, File, Reason
from inferhost.schema.problems import InputError, Problem

KEPT = "none: what was set stays set"

UNITS = (
    (
        "inferhost-apply.service",
        ("gpu", "cpu"),
        "brings back at boot, and after a suspend, what the card and the processor forget",
        "formula:gpu.forgotten",
        KEPT,
    ),
    (
        "inferhost-verify.service",
        ("gpu", "cpu", "service", "balancer"),
        "compares the host with its plan; drift makes it a failed unit",
        "formula:gpu.other_writers",
        KEPT,
    ),
    (
        "inferhost-verify.timer",
        ("gpu", "cpu", "service", "balancer"),
        "looks every few minutes, because other programs write the same settings",
        "formula:gpu.other_writers",
        KEPT,
    ),
    (
        "inferhost-uvm.service",
        ("service", "runtime"),
        "before each start of an engine, and of what describes the card to containers: the module of unified memory "
        "and its device, which the engine may not make",
        "formula:unit.devices",
        "none: CUDA starts at all",
    ),
)
"""Unit, the sections of which one has to be managed, why it is there, the source and the gain."""

METRICS = "inferhost_plan_metrics_folder"
"""Where the drift timer's metrics go: a word, or an absolute path."""

GUARD = (
    "inferhost-guard.service",
    ("gpu",),
    "brings a card that gets too hot down",
    "wish:inferhost_gpu_guard",
    KEPT,
)
MPS = (
    "inferhost-mps.service",
    ("gpu",),
    "the engines of a card share one context",
    f"wish:{MPS_WISH}",
    KEPT,
)


def base_units(request: Request) -> tuple[tuple[File, ...], list[Reason]]:
    """The unit files for what this host manages, with their reasons; none where it only observes."""
    asked = [row for row, option in ((GUARD, "inferhost_gpu_guard"), (MPS, MPS_WISH)) if request.wish.flag(option)]
    wanted = (*UNITS, *asked)
    rows = [row for row in wanted if any(request.manages(section) for section in row[1])]
    files = tuple(File(f"{UNIT_DIRECTORY}/{unit}", BASE, "0644", None, unit, "none") for unit, *_ in rows)
    reasons = [
        reason(f"files.{file.path}", unit, because, source, gain=gain)
        for file, (unit, _, because, source, gain) in zip(files, rows, strict=True)
    ]
    return files, reasons


def metrics_folder(request: Request) -> tuple[str, list[Reason]]:
    """Where the drift timer's metrics go, with the reason; `InputError` for what is no place."""
    wanted = request.wish.text(METRICS)
    if wanted not in ("auto", "none") and (not wanted.startswith("/") or ".." in wanted.split("/")):
        message = f'found "{wanted}", wanted auto, none or an absolute path'
        hint = "the folder that node_exporter was given as --collector.textfile.directory"
        raise InputError([Problem(METRICS, message, hint, "metrics-folder")])
    if wanted == "auto":
        return wanted, []
    because = "no metrics" if wanted == "none" else "what the drift timer finds is read there by a node exporter"
    return wanted, [reason("metrics_folder", wanted, because, f"wish:{METRICS}", gain="none: it only tells")]
