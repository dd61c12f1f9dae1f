"""Fits the decode model's numbers to published figures and says how wrong it is on figures it has not seen.

`python -m tests.reality.fit_decode` prints the errors; with `--write` it renews `speeds.json` and `decode.json`.
Every number has a prior with a physical meaning (a format's kernels unpack about so many weights per clock), so that
a row with two figures cannot run away with them. Figures marked `flag` in `decode_cases.csv` are shown, never fitted.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from inferhost.catalogue import Catalogue, load
from inferhost.catalogue.reader import FAMILIES, FOLDER
from inferhost.catalogue.rows import DecodeRow, SpeedRow
from inferhost.planner.estimate.decode_case import Case, expected_tok_s, read_case
from inferhost.planner.speed.decode import OVERLAP_POWER, ceiling_tok_s
from tests.reality.priors import CONSTANTS, KERNELS, ROWS, Prior

CASES = pathlib.Path(__file__).with_name("decode_cases.csv")
LEFT_OUT = pathlib.Path(__file__).with_name("decode_left_out.csv")
NOISE = 0.05
"""What two careful people's figures for the same thing differ by."""

HUBER = 1.5
LEAST_SAMPLES, LEAST_CARDS = 12, 3
"""Fewer figures, or of fewer cards, say little about a band of their own."""

OF_MIXTURES = ("constant experts.", "constant mixture.", "constant recurrent.", "constant latent.")
SOURCE = "tests/reality/decode_cases.csv, fitted by tests.reality.fit_decode"
BAND = "of mixtures of experts: what nine figures in ten are to the expectation, their cards left out"
GROUPS: dict[str, Callable[[Mapping[str, str]], str]] = {
    "figure": lambda case: case["id"],
    "card": lambda case: case["gpu"],
    "source": lambda case: case["source"].split(" ", 1)[0].split("#", 1)[0],
}
"""What is left out at a time."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One published figure and the case it is of."""

    raw: Mapping[str, str]
    case: Case

    @property
    def tok_s(self) -> float:
        return float(self.raw["tok_s"])


def figures(catalogue: Catalogue, use: str = "fit") -> list[Figure]:
    """The published figures of one use: `fit` or `flag`."""
    with CASES.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["use"] == use]
    return [Figure(row, read_case(row, catalogue)) for row in rows]


def priors() -> dict[str, Prior]:
    """Every fitted number: where it is expected, and how far it may stray (a standard deviation of its logarithm)."""
    found = {f"constant {row.key}": row.prior for row in CONSTANTS}
    for kernels, rates in KERNELS.items():
        found |= {f"kernels {kernels} {family}": prior for family, prior in rates.items()}
    for row in ROWS:
        found[f"overhead {row.key}"] = row.overhead_us
        if row.without_graphs is None:
            found |= {f"own {row.key} {family}": Prior(1.0, row.own_kernels) for family in FAMILIES}
    return found


def catalogue_with(values: Mapping[str, float], catalogue: Catalogue) -> Catalogue:
    """The catalogue with these numbers in its decode model."""
    constants = {
        row.key: DecodeRow(row.key, values[f"constant {row.key}"], row.unit, 0, row.notes, SOURCE)
        for row in CONSTANTS
    }
    return dataclasses.replace(catalogue, speeds=_speed_rows(values), decode=constants)


def _speed_rows(values: Mapping[str, float]) -> dict[str, SpeedRow]:
    rows: dict[str, SpeedRow] = {}
    for row in ROWS:
        rates = {f: values[f"kernels {row.kernels} {f}"] * values.get(f"own {row.key} {f}", 1.0) for f in FAMILIES}
        overhead = values[f"overhead {row.key}"]
        without = values[f"overhead {row.without_graphs}"] if row.without_graphs else overhead
        rows[row.key] = SpeedRow(
            row.key,
            row.names,
            row.before,
            row.runs_from,
            row.graphs_from,
            overhead,
            without,
            rates,
            1.0,
            1.0,
            0,
            row.notes,
            SOURCE,
        )
    return rows


def errors(values: Mapping[str, float], found: Sequence[Figure], catalogue: Catalogue) -> np.ndarray[Any, Any]:
    """Logarithm of expected over measured, figure by figure."""
    tried = catalogue_with(values, catalogue)
    return np.array(
        [
            np.log(expected_tok_s(dataclasses.replace(f.case, speed=tried.speeds[f.case.speed.key]), tried) / f.tok_s)
            for f in found
        ]
    )


def fit(
    found: Sequence[Figure],
    catalogue: Catalogue,
    start: Mapping[str, float] | None = None,
    slopes: np.ndarray[Any, Any] | None = None,
) -> dict[str, float]:
    """The numbers that explain the figures best: robust least squares on logarithms, Gauss and Newton's way.

    With `slopes` (of these figures, at `start`), as good as before where little changes, they are not taken anew.
    """
    expected = priors()
    names = list(expected)
    centre = np.log([expected[name].value for name in names])
    spread = np.array([expected[name].spread for name in names])
    x = centre if start is None else np.log([start[name] for name in names])
    for _ in range(25):
        now = errors(dict(zip(names, np.exp(x), strict=True)), found, catalogue) / NOISE
        weight = 1 / np.maximum(1, np.abs(now) / HUBER)
        here = slopes_at(dict(zip(names, np.exp(x), strict=True)), found, catalogue) if slopes is None else slopes
        curvature = here.T @ (weight[:, None] * here) + np.diag(spread**-2)
        step = np.linalg.solve(curvature, here.T @ (weight * now) + (x - centre) / spread**2)
        x = x - np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-3:
            break
    return dict(zip(names, (float(value) for value in np.exp(x)), strict=True))


def slopes_at(values: Mapping[str, float], found: Sequence[Figure], catalogue: Catalogue) -> np.ndarray[Any, Any]:
    """What each figure's error, in noises, changes with the logarithm of each number.

    Mixtures of experts move only the numbers that are theirs: what dense models show of cards and engines, which is
    much surer, is not bent by them.
    """
    now = errors(values, found, catalogue)
    moved = (errors({**values, name: value * np.exp(1e-4)}, found, catalogue) for name, value in values.items())
    slopes = np.array([(one - now) / (1e-4 * NOISE) for one in moved]).T
    mixtures = [number for number, figure in enumerate(found) if figure.case.step.mixture_layers]
    others = [number for number, name in enumerate(values) if not name.startswith(OF_MIXTURES)]
    slopes[np.ix_(mixtures, others)] = 0
    return slopes


def left_out(
    found: Sequence[Figure], catalogue: Catalogue, whole: Mapping[str, float], group: str
) -> np.ndarray[Any, Any]:
    """Each figure's error by a fit that saw none of its group."""
    keys = [GROUPS[group](figure.raw) for figure in found]
    slopes = slopes_at(whole, found, catalogue)
    wrong = np.empty(len(found))
    for key in sorted(set(keys)):
        inside = [n for n, one in enumerate(keys) if one == key]
        others = [n for n, one in enumerate(keys) if one != key]
        values = fit([found[n] for n in others], catalogue, whole, slopes[others])
        wrong[inside] = errors(values, [found[n] for n in inside], catalogue)
    return wrong


def summary(title: str, wrong: np.ndarray[Any, Any]) -> str:
    """One line: how many, and the median, 90th percentile and worst error."""
    share = 100 * np.abs(np.expm1(wrong))
    return f"{title:<34}{len(share):>4} {np.median(share):6.1f} {np.percentile(share, 90):6.1f} {share.max():6.1f}"


def rows_of(values: Mapping[str, float], found: Sequence[Figure], unseen: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Both catalogue tables. Bands hold nine of ten figures of cards that the fit had not seen."""
    speeds = []
    for key, row in _speed_rows(values).items():
        own = np.array(
            [
                e
                for e, f in zip(unseen, found, strict=True)
                if f.case.speed.key == key and not f.case.step.mixture_layers
            ]
        )
        cards = {figure.raw["gpu"] for figure in found if figure.case.speed.key == key}
        enough = len(own) >= LEAST_SAMPLES and len(cards) >= LEAST_CARDS
        low, high = np.percentile(np.exp(-(own if enough else unseen)), (5, 95))
        rates = {family: _rounded(rate) for family, rate in row.weights_per_clock.items()}
        speeds.append(
            dataclasses.asdict(
                dataclasses.replace(
                    row,
                    overhead_us_per_layer=_rounded(row.overhead_us_per_layer),
                    overhead_without_graphs_us_per_layer=_rounded(row.overhead_without_graphs_us_per_layer),
                    weights_per_clock=rates,
                    low_ratio=_rounded(min(low, 0.95)),
                    high_ratio=_rounded(max(high, 1.05)),
                    samples=len(own),
                )
            )
        )
    constants = [
        dataclasses.asdict(
            DecodeRow(r.key, _rounded(values[f"constant {r.key}"]), r.unit, _seen(r.key, found), r.notes, SOURCE)
        )
        for r in CONSTANTS
    ]
    for engine in ("llama.cpp", "any"):
        mixtures = [n for n, one in enumerate(found) if one.case.step.mixture_layers and _is_of(engine, one.case)]
        bounds = np.percentile(np.exp(-unseen[mixtures]), (5, 95))
        for side, ratio in zip(("low", "high"), bounds, strict=True):
            key, value = f"mixture_band.{side}.{engine}", _rounded(float(ratio))
            constants.append(dataclasses.asdict(DecodeRow(key, value, "ratio", len(mixtures), BAND, SOURCE)))
    return {"speeds": speeds, "decode": constants}


def _is_of(engine: str, case: Case) -> bool:
    return (case.speed.key == "llama.cpp") == (engine == "llama.cpp")


def _seen(constant: str, found: Sequence[Figure]) -> int:
    """How many figures a constant has a part in."""
    kind, _, what = constant.partition(".")
    return sum(_has_part(kind, what, figure.case) for figure in found)


def _has_part(kind: str, what: str, case: Case) -> bool:
    chip = case.cards.chip
    if kind == "client_average":
        return case.client_average
    if kind == "overhead":
        return case.windows
    if kind in ("experts", "mixture", "recurrent", "latent"):
        layers = {"recurrent": case.step.recurrent_layers, "latent": case.step.latent_layers}.get(
            kind, case.step.mixture_layers
        )
        own = {row.key.removeprefix(f"{kind}.") for row in CONSTANTS if row.key.startswith(f"{kind}.")}
        return bool(layers) and what == (case.speed.key if case.speed.key in own else "any")
    if chip is None:
        return False
    if kind == "all_reduce":
        return case.cards.shares > 1 and chip.nvlink == (what == "nvlink")
    return chip.inline_ecc if what == "inline_ecc" else chip.memory == what


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")


def write_left_out(found: Sequence[Figure], unseen: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Each figure's error in per cent by fits that had not seen it, for docs/accuracy.md."""
    with LEFT_OUT.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", *GROUPS])
        for number, figure in enumerate(found):
            shares = (f"{100 * np.expm1(unseen[group][number]):.1f}" for group in GROUPS)
            table.writerow([figure.raw["id"], *shares])


def write(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Renew both tables of the catalogue, one row per line."""
    for name, rows in tables.items():
        lines = ",\n".join(" " + json.dumps(row, ensure_ascii=False) for row in rows)
        (FOLDER / f"{name}.json").write_text(f'{{"rows": [\n{lines}\n]}}\n', encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew speeds.json and decode.json")
    parser.add_argument("--worst", type=int, default=12, help="how many of the worst figures to show")
    options = parser.parse_args(arguments)
    catalogue = load()
    catalogue = catalogue_with({name: prior.value for name, prior in priors().items()}, catalogue)
    found = figures(catalogue)
    whole = fit(found, catalogue)
    print(f"{'error in %':<34}   n median   p90   worst   (overlap power {OVERLAP_POWER})")
    print(summary("figures that were fitted", errors(whole, found, catalogue)))
    unseen = {}
    for group in GROUPS:
        unseen[group] = left_out(found, catalogue, whole, group)
        print(summary(f"its {group} left out", unseen[group]))
    for number in np.argsort(-np.abs(unseen["figure"]))[: options.worst]:
        raw = found[number].raw
        share = 100 * np.expm1(unseen["figure"][number])
        what = f"{raw['engine'][:12]:12} {raw['gpu'][:18]:18} {raw['model']} {raw['quant']}"
        print(f"  {raw['id']:>4} {what} {share:+.0f}")
    above = [
        f.raw["id"]
        for f in (*found, *figures(catalogue, "flag"))
        if f.tok_s > ceiling_tok_s(f.case.step.bytes_read, f.case.cards)
    ]
    print(f"measured above the ceiling: {', '.join(above) or 'none'}")
    if options.write:
        write(rows_of(whole, found, unseen["card"]))
        write_left_out(found, unseen)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
