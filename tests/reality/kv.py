"""How far the estimator is off the memory figures that people published, in sample and leaving each source out.

The cases are start-up logs (`kv-cases.csv`, a source per row). A row gives the estimator only what a person knows
before the start; what the engine printed is what it is judged by. A published figure that contradicts itself is
flagged and reported apart, not fitted.
"""

import contextlib
import csv
import dataclasses
import pathlib
import statistics
from unittest import mock

from inferhost import catalogue
from inferhost.planner.estimate.case import Case, read_case
from inferhost.planner.estimate.kv_case import estimate_kv
from inferhost.planner.memory import sglang_rules, vllm_rules
from inferhost.planner.memory.weights import weights_bytes

GIB = 2**30
CATALOGUE = catalogue.load()
PRINTED = {
    "weights_gib",
    "activation_gib",
    "non_torch_gib",
    "graph_gib",
    "kv_gib",
    "kv_tokens",
    "gpu_compute_buffers_mib",
    "kv_total_mib",
    "placement",
    "source",
    "notes",
}
"""Columns that only the start itself shows, or that say where a row comes from."""
FAMILIES = {"vllm": ("vllm",), "sglang": ("sglang",), "llama.cpp": ("llama.cpp", "ik_llama.cpp")}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One case: the error of the tokens in percent of the printed ones, and whether they lie within the bounds."""

    id: str
    error_percent: float
    within: bool
    flag: str


def cases(family: str) -> list[dict[str, str]]:
    with (pathlib.Path(__file__).parent / "kv-cases.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["engine"] in FAMILIES[family]]


def question(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in PRINTED}


def number(row: dict[str, str], name: str) -> float:
    return float(row[name] or 0)


def flag(row: dict[str, str]) -> str:
    """Why a published figure cannot be what it is taken for, or nothing."""
    case = read_case(question(row), CATALOGUE)
    if case.card is None or case.engine != "vllm" or not row["kv_gib"]:
        return ""
    taken = number(row, "kv_gib") * GIB + weights_bytes(case.model, False, case.tensor_parallel_size) / (
        case.whole("dp") or 1
    )
    if taken > case.card.total_bytes:
        return "weights and cache are more than a card of this name holds: another size was used"
    if not row["mem_fraction"] and taken < 0.8 * vllm_rules.default_fraction(case.version) * case.card.total_bytes:
        return "the fraction is not given, and the default is not what was used"
    return ""


def verdict(row: dict[str, str]) -> Verdict | None:
    """How the estimate of a case compares, or nothing where no tokens were printed."""
    if not row["kv_tokens"]:
        return None
    printed, found = number(row, "kv_tokens"), estimate_kv(question(row), CATALOGUE)
    if "refused" in found:
        raise AssertionError(f"{row['id']} is refused: {found['refused']}")
    error = 100 * (found["kv_tokens"] / printed - 1)
    return Verdict(row["id"], error, found["low"] <= printed <= found["high"], flag(row))


def observed(row: dict[str, str]) -> dict[str, float]:
    """What a log says of the constants that were chosen on logs, by module and name."""
    case: Case = read_case(question(row), CATALOGUE)
    found: dict[str, float] = {}
    if case.engine == "sglang" and row["weights_gib"] and case.tensor_parallel_size == 1:
        found["sglang.LOAD_GIB"] = number(row, "weights_gib") - weights_bytes(case.model, False) / GIB
    if case.engine != "vllm" or case.tensor_parallel_size > 1:
        return found
    if row["non_torch_gib"]:
        new = case.version >= vllm_rules.FIRST_COUNTED_CONTEXT
        found["vllm.CONTEXT_GIB" if new else "vllm.NON_TORCH_GIB"] = number(row, "non_torch_gib")
    if row["graph_gib"] and case.version >= vllm_rules.FIRST_COUNTED_GRAPHS:
        found["vllm.GRAPHS_GIB"] = number(row, "graph_gib")
    sequences = case.whole("max_num_seqs")
    if row["activation_gib"] and sequences and case.version < vllm_rules.FIRST_IN_PLACE_SAMPLER:
        logits = sequences * case.model.vocabulary_size
        found["vllm.SORTED_BYTES_PER_LOGIT"] = number(row, "activation_gib") * GIB / logits
    return found


def left_out(row: dict[str, str], rows: list[dict[str, str]]) -> Verdict | None:
    """The verdict with every fitted constant set to the median of the logs of other sources."""
    samples: dict[str, list[float]] = {}
    for other in rows:
        if other["source"] != row["source"]:
            for name, value in observed(other).items():
                samples.setdefault(name, []).append(value)
    modules = {"vllm": vllm_rules, "sglang": sglang_rules}
    with contextlib.ExitStack() as stack:
        for name, values in samples.items():
            module, constant = name.split(".")
            stack.enter_context(mock.patch.object(modules[module], constant, statistics.median(values)))
        return verdict(row)


def verdicts(family: str, leave_out: bool = False) -> list[Verdict]:
    rows = cases(family)
    found = [left_out(row, rows) if leave_out else verdict(row) for row in rows]
    return [v for v in found if v is not None]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Errors of one engine over its cases that are not flagged."""

    cases: int
    median_percent: float
    p90_percent: float
    worst: Verdict
    too_high: int  # promised more than a tenth too much
    within: int


def accuracy(found: list[Verdict]) -> Accuracy:
    kept = [v for v in found if not v.flag]
    errors = sorted(abs(v.error_percent) for v in kept)
    p90 = errors[min(len(errors) - 1, -(-9 * len(errors) // 10) - 1)]
    worst = max(kept, key=lambda v: abs(v.error_percent))
    too_high = sum(v.error_percent > 10 for v in kept)
    return Accuracy(len(kept), statistics.median(errors), p90, worst, too_high, sum(v.within for v in kept))


@dataclasses.dataclass(frozen=True)
class Buffers:
    """llama.cpp: cases whose cache, and whose compute buffers, are the printed ones to a tenth of a MiB."""

    kv_cases: int
    kv_exact: int
    compute_cases: int
    compute_exact: int
    compute_median_percent: float
    compute_within: int
    compute_inexact: tuple[str, ...]


def buffers(rows: list[dict[str, str]]) -> Buffers:
    """How many of these starts are answered exactly."""
    kv: list[bool] = []
    errors: dict[str, float] = {}
    exact: dict[str, bool] = {}
    within = 0
    for row in rows:
        found = estimate_kv(question(row), CATALOGUE)
        if row["kv_total_mib"]:
            kv.append(abs(found["kv_total_mib"] - number(row, "kv_total_mib")) <= 0.01)
        if row["gpu_compute_buffers_mib"]:
            printed = number(row, "gpu_compute_buffers_mib")
            exact[row["id"]] = abs(found["gpu_compute_buffers_mib"] - printed) <= 0.1
            low, high = found["gpu_compute_buffers_low_mib"], found["gpu_compute_buffers_high_mib"]
            within += low <= printed <= high
            errors[row["id"]] = 100 * abs(found["gpu_compute_buffers_mib"] / printed - 1)
    return Buffers(
        len(kv),
        sum(kv),
        len(exact),
        sum(exact.values()),
        statistics.median(errors.values()),
        within,
        tuple(name for name, is_exact in exact.items() if not is_exact),
    )


def start_kinds(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The starts of llama.cpp by what makes their buffers hard: several cards, compressed attention."""
    kinds: dict[str, list[dict[str, str]]] = {"one card": [], "several cards": [], "compressed attention": []}
    for row in rows:
        latent = read_case(question(row), CATALOGUE).model.mla is not None
        cards = "one card" if row["gpu_count"] == "1" else "several cards"
        kinds["compressed attention" if latent else cards].append(row)
    return kinds
