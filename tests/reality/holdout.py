"""How far the estimates are off starts and speeds that were never fitted: the hold-out section of docs/accuracy.md.

`holdout.jsonl` was collected on 2026-11-21 and written down before anything was estimated. `first` is what the
estimator of that day said: the honest figure, because rules were mended since for what these cases showed. One case
was taken out again: its source is among the fitted ones.
"""

import dataclasses
import json
import pathlib
import statistics
from typing import Any

from inferhost import catalogue
from inferhost.planner.estimate.decode_case import estimate_decode
from inferhost.planner.estimate.kv_case import estimate_kv

CASES = pathlib.Path(__file__).parent / "holdout.jsonl"
CATALOGUE = catalogue.load()
PRINTED = ("kv_tokens", "kv_gib", "kv_total_mib", "tok_s")
"""What a case is judged by: the first of these that was printed."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What an estimate was worth: its error in per cent of the printed figure, or that the case was refused."""

    error_percent: float | None
    within: bool = False
    buffers_off_mib: float | None = None  # llama.cpp: compute buffers, where they were printed

    @property
    def too_high(self) -> bool:
        return self.error_percent is not None and self.error_percent > 10


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def judged(case: dict[str, Any]) -> Seen:
    """The estimate of today against what was printed."""
    decode = case["kind"] == "decode"
    found = (estimate_decode if decode else estimate_kv)(case["case"], CATALOGUE)
    if "refused" in found:
        return Seen(None)
    name = next(n for n in PRINTED if n in case["truth"])
    printed, estimate = case["truth"][name], found["expected_tok_s" if decode else name]
    # Bounds are of tokens; a cache printed in GiB is as many tokens as the estimate holds per GiB.
    bounded = printed * found["kv_tokens"] / found["kv_gib"] if name == "kv_gib" else printed
    buffers = case["truth"].get("gpu_compute_buffers_mib")
    return Seen(
        round(100 * (estimate / printed - 1), 2),
        name == "kv_total_mib" or found["low"] <= bounded <= found["high"],
        None if buffers is None else round(found["gpu_compute_buffers_mib"] - buffers, 2),
    )


def first_seen(case: dict[str, Any]) -> Seen:
    return Seen(**case["first"])


def line(name: str, when: str, seen: list[Seen]) -> str:
    """One row: errors over the cases that were answered."""
    errors = sorted(abs(s.error_percent) for s in seen if s.error_percent is not None)
    p90 = errors[-(-9 * len(errors) // 10) - 1]
    return (
        f"| {name} | {when} | {len(seen)} | {len(seen) - len(errors)} | {statistics.median(errors):.1f} % "
        f"| {p90:.1f} % | {errors[-1]:.1f} % | {sum(s.too_high for s in seen)} | {sum(s.within for s in seen)} |"
    )


def buffers_line(when: str, seen: list[Seen]) -> str:
    off = [s.buffers_off_mib for s in seen if s.buffers_off_mib is not None]
    exact = sum(abs(mib) <= 0.1 for mib in off)
    return (
        f"- Compute buffers of llama.cpp, {when}: {exact} of {len(off)} exact, {sum(m < -0.1 for m in off)} too low."
    )


def section() -> list[str]:
    """The lines of the page."""
    every = cases()
    now = {case["case"]["id"]: judged(case) for case in every}
    lines = [
        "## Cases never used for fitting",
        "",
        "Collected on 2026-11-21 from public logs and tables, written down before anything was estimated, and never",
        "fitted: no rate and no size comes from them. First: as estimated that day. Now: with the rules and models",
        "that were added for what they showed, and the wide band that speeds of mixtures of experts got after they",
        "were seen. Only the first figures are blind.",
        "",
        "| what | when | cases | refused | median error | 90th percentile | worst | > 10 % too high | within |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, engine in dict.fromkeys((case["kind"], case["case"]["engine"]) for case in every):
        chosen = [case for case in every if (case["kind"], case["case"]["engine"]) == (kind, engine)]
        name = f"{engine} {'cache' if kind == 'kv' else 'decode'}"
        lines.append(line(name, "first", [first_seen(case) for case in chosen]))
        lines.append(line(name, "now", [now[case["case"]["id"]] for case in chosen]))
    lines += [
        "",
        buffers_line("first", [first_seen(case) for case in every]),
        buffers_line("now", list(now.values())),
        "",
        "Off by more than a tenth, or refused:",
        "",
    ]
    for case in every:
        seen = now[case["case"]["id"]]
        if seen.error_percent is None or abs(seen.error_percent) > 10:
            error = "refused" if seen.error_percent is None else f"{seen.error_percent:+.0f} %"
            lines.append(f"- {case['case']['id']}: {error}: {case['why']}")
    return lines
