"""How far the decode estimates are off published figures: the section of docs/accuracy.md.

In-sample errors are computed here from the catalogue as it is; errors of fits that had not seen a figure come from
`decode_left_out.csv`, which the fit writes, because they take a fit per figure, card and source.
"""

import csv
import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from inferhost.catalogue import load
from inferhost.planner.estimate.decode_case import expected_tok_s
from inferhost.planner.speed.decode import band, ceiling_tok_s
from tests.reality.fit_decode import GROUPS, LEFT_OUT, Figure, figures

NAMES = {
    "llama.cpp-2024": "llama.cpp before CUDA graphs",
    "llama.cpp": "llama.cpp",
    "vllm-2024": "vLLM before V1",
    "vllm": "vLLM",
    "tensorrt-llm": "TensorRT-LLM",
    "sglang-2025": "SGLang before 0.5",
    "sglang": "SGLang",
    "exllama": "ExLlamaV2",
    "gpt-fast": "gpt-fast",
}


@dataclasses.dataclass(frozen=True)
class Judged:
    """One figure: its error in per cent as fitted and by fits that had not seen its figure, card or source."""

    figure: Figure
    fitted: float
    unseen: dict[str, float]
    in_band: bool
    below_ceiling: bool

    @property
    def mixture(self) -> bool:
        """Whether the model is a mixture of experts."""
        return self.figure.case.step.mixture_layers > 0


def judged() -> list[Judged]:
    """Every fitted figure."""
    catalogue = load()
    with LEFT_OUT.open(encoding="utf-8", newline="") as file:
        left_out = {row["id"]: row for row in csv.DictReader(file)}
    found = []
    for figure in figures(catalogue):
        case, measured = figure.case, figure.tok_s
        expected, ratios = expected_tok_s(case, catalogue), band(case.step, case.speed, catalogue.decode)
        unseen = {group: float(left_out[figure.raw["id"]][group]) for group in GROUPS}
        ceiling = ceiling_tok_s(case.step.bytes_read, case.cards)
        in_band = expected * ratios[0] <= measured <= min(expected * ratios[1], ceiling)
        found.append(Judged(figure, 100 * (expected / measured - 1), unseen, in_band, measured <= ceiling))
    return found


def median_and_p90(errors: Iterable[float]) -> tuple[float, float]:
    """Of the sizes of errors; the 90th percentile is the nearest one above."""
    sizes = sorted(abs(error) for error in errors)
    return statistics.median(sizes), sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]


def section() -> list[str]:
    """Decode speeds per engine, and what is flagged."""
    found = judged()
    lines = [
        "## Decode speed",
        "",
        "Tokens per second of each sequence. Errors are median / 90th percentile; left out is one figure, every",
        "figure of its card, or every figure of its source at a time. `python -m tests.reality.fit_decode --write`",
        "fits the model, writes its numbers into the catalogue, and these errors. Mixtures of experts move only the",
        "numbers that are theirs.",
        "",
        "| engine | figures | fitted | figure left out | card left out | source left out | in the band |",
        "|---|---|---|---|---|---|---|",
        _line("all", found),
        _line("dense models", [one for one in found if not one.mixture]),
        _line("mixtures of experts", [one for one in found if one.mixture]),
    ]
    by_row: dict[str, list[Judged]] = {}
    for one in (one for one in found if not one.mixture):
        by_row.setdefault(NAMES.get(one.figure.case.speed.key, "others"), []).append(one)
    lines += [_line(f"dense, {name}", by_row[name]) for name in [*NAMES.values(), "others"] if name in by_row]
    mixtures: dict[str, list[Judged]] = {}
    for one in (one for one in found if one.mixture):
        mixtures.setdefault(one.figure.case.speed.key.partition("-")[0], []).append(one)
    lines += [_line(f"experts, {NAMES[name]}", mixtures[name]) for name in NAMES if name in mixtures]
    worst = sorted(found, key=lambda one: -abs(one.unseen["figure"]))[:5]
    lines += [
        "",
        "Aim: median at most 5 %, 90th percentile at most 15 %, no figure above its ceiling. Met over all, and by",
        "dense models, where other figures of the same card and source were seen; missed where none of the source",
        "or of the card was, and by mixtures of experts, whose kernels differ by version and card: their bands,",
        "one for llama.cpp and one for all others, are as much wider. Two rules of launches are theirs: without",
        "CUDA graphs a layer's additional kernels cost as much more as its others, and compressed attention",
        "launches more of them.",
        "",
        f"Above their ceiling: {', '.join(o.figure.raw['id'] for o in found if not o.below_ceiling) or 'none'}.",
        "",
        "Furthest off, their own figure left out:",
        "",
        *(f"- {_named(one.figure)}: {one.unseen['figure']:+.0f} %" for one in worst),
        "",
        "Flagged, not fitted:",
        "",
        *(f"- {_named(figure)}: {figure.raw['note']}" for figure in figures(load(), "flag")),
    ]
    return lines


def _line(name: str, found: Sequence[Judged]) -> str:
    cells = [_cell(one.fitted for one in found), *(_cell(one.unseen[group] for one in found) for group in GROUPS)]
    band = f"{sum(one.in_band for one in found)} of {len(found)}"
    return f"| {name} | {len(found)} | {' | '.join(cells)} | {band} |"


def _cell(errors: Iterable[float]) -> str:
    median, p90 = median_and_p90(errors)
    return f"{median:.1f} / {p90:.1f} %"


def _named(figure: Figure) -> str:
    raw = figure.raw
    return f"{raw['id']}, {raw['engine']} on {raw['gpu']}, {raw['model']} {raw['quant']}"
