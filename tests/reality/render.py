"""Writes `docs/accuracy.md` from the published cases: `make reality`.

Each section is a function in `SECTIONS` that gives the lines of one part of the page.
"""

import pathlib
import sys
from collections.abc import Callable

from tests.reality import decode, holdout, kv

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "accuracy.md"

HEAD = [
    "# How good the predictions are",
    "",
    "Generated from the published cases in `tests/reality` by `make reality`; do not edit.",
    "",
    "The planner is given what a person knows before a start, and is judged by what the engine then printed.",
    "In sample: with the constants of the source. Sources left out: every constant that was chosen on logs is set to",
    "the median of the logs of all other sources. A figure that contradicts itself is flagged, counted nowhere and",
    "fitted by nothing.",
]


def memory_section() -> list[str]:
    """Tokens of vLLM and SGLang, and the buffers of llama.cpp."""
    lines = [
        "## KV cache tokens",
        "",
        "| engine | figures | cases | median error | 90th percentile | worst | > 10 % too high | within the bounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    flagged = []
    for family in ("vllm", "sglang"):
        for leave_out, name in ((False, "in sample"), (True, "sources left out")):
            found = kv.verdicts(family, leave_out)
            total = kv.accuracy(found)
            worst = f"{total.worst.error_percent:+.1f} % ({total.worst.id})"
            lines.append(
                f"| {family} | {name} | {total.cases} | {total.median_percent:.1f} % | {total.p90_percent:.1f} % "
                f"| {worst} | {total.too_high} | {total.within} |"
            )
        flagged += [f"- {v.id}: {v.flag} (off by {v.error_percent:+.0f} %)" for v in found if v.flag]
    lines += [
        "",
        "Aim: median at most 2 %, 90th percentile at most 10 %, at most one case in twenty promised more than 10 %",
        "too high. The bounds `low` and `high` are meant to hold nine cases in ten. Where the cache is small, the",
        "figure is lowered until a promise a tenth too high is as rare: the worst cases lie below the printed ones.",
        "",
        "Flagged:",
        "",
        *flagged,
        "",
        "## llama.cpp and ik_llama.cpp",
        "",
        "They allocate what they are asked for, so the aim is equality to a tenth of a MiB.",
        "",
        "| starts | KV cache exact | compute buffers exact | median error of the buffers | within the bounds |",
        "|---|---|---|---|---|",
    ]
    rows = kv.cases("llama.cpp")
    for name, chosen in kv.start_kinds(rows).items():
        count = kv.buffers(chosen)
        lines.append(
            f"| {name} | {count.kv_exact} of {count.kv_cases} | {count.compute_exact} of {count.compute_cases} "
            f"| {count.compute_median_percent:.1f} % | {count.compute_within} |"
        )
    inexact = ", ".join(kv.buffers(rows).compute_inexact)
    return [*lines, "", f"Not met for the compute buffers of: {inexact}."]


SECTIONS: list[Callable[[], list[str]]] = [memory_section, decode.section, holdout.section]


def page() -> str:
    lines = list(HEAD)
    for section in SECTIONS:
        lines += ["", *section()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else f"{PAGE} is stale: make reality")
    PAGE.write_text(text, encoding="utf-8")
