"""`inferhost estimate kv|decode`: one JSON object per line in, one per line out, in the same order.

Answers while it reads, so that it can stand in a pipe, and never ends with a traceback: a line that is no case says
why. What is computed lives in the planner; this file only reads and writes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from inferhost import catalogue
from inferhost.catalogue import Catalogue
from inferhost.planner.estimate.decode_case import estimate_decode
from inferhost.planner.estimate.kv_case import estimate_kv

Estimator = Callable[[Mapping[str, Any], Catalogue], dict[str, Any]]

ESTIMATORS: dict[str, Estimator] = {"kv": estimate_kv, "decode": estimate_decode}

EXAMPLES = """\
Any field may be absent; what cannot be estimated is answered with "refused" and why.

kv: engine, engine_version, gpu, gpu_count, vram_gib, arch_model (or an object arch), quant, kv_dtype, tp, dp,
    mem_fraction, pre_load_avail_gib, max_model_len, max_num_seqs, max_num_batched_tokens, eager;
    for llama.cpp n_ctx, n_ubatch, flash_attn, k_type, v_type
  {"id": 1, "engine": "vllm", "gpu": "RTX 4090", "arch_model": "Qwen3-8B", "quant": "bf16", "max_model_len": 8192}

decode: engine, engine_version, gpu, gpus, split, mem_bw_gbs, model, quant, layers, file_gib, read_gb_per_step,
    context, batch, arch
  {"id": 2, "engine": "llama.cpp", "gpu": "RTX 4090", "model": "Qwen3-8B", "quant": "Q4_K_M"}
"""


def add_command(commands: Any) -> None:
    """`estimate` with its choice of estimators."""
    command = commands.add_parser(
        "estimate",
        help="what an engine's cache holds or how fast it decodes, for cases on stdin, one JSON object per line",
    )
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = EXAMPLES
    command.add_argument("what", choices=sorted(ESTIMATORS))
    command.set_defaults(run=_run)


def answers(lines: Iterable[str], estimator: Estimator, known: Catalogue) -> Iterator[dict[str, Any]]:
    """One answer per line that is not blank."""
    for line in lines:
        if line.strip():
            yield _answer(line, estimator, known)


def _answer(line: str, estimator: Estimator, known: Catalogue) -> dict[str, Any]:
    try:
        case = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return {"id": None, "refused": f"this line is no JSON: {str(error)[:80]}"}
    if not isinstance(case, dict):
        return {"id": None, "refused": f"this line is no JSON object but {type(case).__name__}"}
    return estimator(case, known)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _run(options: argparse.Namespace) -> str:
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a wrapped stream of bytes, as run
    stream(sys.stdin, sys.stdout, ESTIMATORS[options.what])
    return ""


def stream(source: Iterable[str], target: TextIO, estimator: Estimator) -> None:
    """Answers every case of `source` on `target`, each as soon as it is read."""
    known = catalogue.load()
    for answer in answers(source, estimator, known):
        target.write(json.dumps(answer, allow_nan=False) + "\n")
        target.flush()
