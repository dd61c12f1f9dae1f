"""`inferhost estimate kv|decode`: one JSON object per line in, one per line out, in the same order.

Answers while it reads, so that it can stand in a pipe, and never ends with a traceback: a line that is no case says
why. A field that looks misspelt is told once on standard error, because what is not known is not read: whole rows of
a table of results may be given. What is computed lives in the planner; this file only reads and writes.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from inferhost import catalogue
from inferhost.catalogue import Catalogue
from inferhost.planner.estimate.decode_case import estimate_decode
from inferhost.planner.estimate.kv_case import estimate_kv

Estimator = Callable[[Mapping[str, Any], Catalogue], dict[str, Any]]

FIELDS = {
    "kv": (
        *("id", "engine", "engine_version", "gpu", "gpu_count", "tp", "pp", "dp", "vram_gib", "arch_model", "model"),
        *("arch", "quant", "kv_dtype", "mem_fraction", "pre_load_avail_gib", "max_model_len", "max_num_seqs"),
        *("max_num_batched_tokens", "chunked_prefill_size", "eager", "n_ctx", "n_ubatch", "n_gpu_layers"),
        *("flash_attn", "k_type", "v_type"),
    ),
    "decode": (
        *("id", "engine", "engine_version", "gpu", "gpus", "split", "mem_bw_gbs", "model", "quant", "layers"),
        *("file_gib", "read_gb_per_step", "context", "batch", "arch", "note"),
    ),
}
"""What is read of a line."""
RESULTS = frozenset(
    ("weights_gib", "activation_gib", "non_torch_gib", "graph_gib", "post_load_avail_gib", "kv_gib", "kv_tokens")
) | {"kv_blocks", "block_size", "max_concurrency", "gpu_model_buffers_mib", "gpu_compute_buffers_mib", "kv_total_mib"}
RESULTS |= {"gpu_named", "model_named", "placement", "source_kind", "source", "notes", "compute_capability", "class"}
RESULTS |= {"effective_bw_gbs", "tok_s", "ceiling_tok_s", "ratio", "date", "use", "arch"}
"""Columns of published cases that are results or say where a row comes from."""
SAID_ELSEWHERE = {
    **dict.fromkeys(("gpu_memory_utilization", "mem_fraction_static"), "mem_fraction"),
    **dict.fromkeys(("tensor_parallel_size", "tp_size"), "tp"),
    **dict.fromkeys(("pipeline_parallel_size", "pp_size"), "pp"),
    **dict.fromkeys(("data_parallel_size", "dp_size"), "dp"),
    **dict.fromkeys(("context_length", "ctx_len"), "max_model_len"),
    **dict.fromkeys(("ctx_size", "num_ctx"), "n_ctx"),
    **dict.fromkeys(("quantization", "quantisation"), "quant"),
    **dict.fromkeys(("kv_cache_dtype",), "kv_dtype"),
    **dict.fromkeys(("enforce_eager",), "eager"),
    **dict.fromkeys(("ngl", "gpu_layers"), "n_gpu_layers"),
    **dict.fromkeys(("batch_size",), "batch"),
}
"""What engines call a field."""
OTHER_TABLE = {"gpus": "gpu_count", "gpu_count": "gpus", "arch_model": "model"}
"""What the other estimator calls it."""
LIKENESS = 0.8

ESTIMATORS: dict[str, Estimator] = {"kv": estimate_kv, "decode": estimate_decode}

EXAMPLES = """\
Any field may be absent; what cannot be estimated is answered with "refused" and why.

kv (vllm, sglang, llama.cpp, ik_llama.cpp; a plan counts tabbyapi's and sfllm's cache):
    engine, engine_version, gpu, gpu_count, vram_gib, arch_model (or an object arch), quant, kv_dtype, tp, dp,
    mem_fraction, pre_load_avail_gib, max_model_len, max_num_seqs, max_num_batched_tokens, eager;
    for llama.cpp n_ctx, n_ubatch, n_gpu_layers, flash_attn, k_type, v_type
  {"id": 1, "engine": "vllm", "gpu": "RTX 4090", "arch_model": "Qwen3-8B", "quant": "bf16", "max_model_len": 8192}

decode (any engine):
    engine, engine_version, gpu, gpus, split, mem_bw_gbs, model, quant, layers, file_gib, read_gb_per_step,
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
    words: list[str] = []
    try:
        case = json.loads(line, parse_constant=words.append)
    except (ValueError, RecursionError) as error:
        return {"id": None, "refused": f"this line is no JSON: {str(error)[:80]}"}
    if words:
        name = case.get("id") if isinstance(case, dict) else None
        return {"id": name, "refused": f"this line is no JSON: {words[0]} is no number of JSON"}
    if not isinstance(case, dict):
        return {"id": None, "refused": f"this line is no JSON object but {type(case).__name__}"}
    return estimator(case, known)


def misspelt(case: Mapping[str, Any], what: str) -> dict[str, str]:
    """Fields of a case that nobody reads, and the one that was probably meant."""
    known = FIELDS[what]
    found = {}
    for name in case:
        if name in known or name in RESULTS:
            continue
        plain = name.lower().strip("-").replace("-", "_")
        other = OTHER_TABLE.get(plain) or SAID_ELSEWHERE.get(plain)
        near = [other] if other in known else difflib.get_close_matches(plain, known, n=1, cutoff=LIKENESS)
        found.update({name: str(near[0])} if near else {})
    return found


def _run(options: argparse.Namespace) -> str:
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a wrapped stream of bytes, as run
    told: set[str] = set()

    def estimator(case: Mapping[str, Any], known: Catalogue) -> dict[str, Any]:
        for name, meant in misspelt(case, options.what).items():
            if name not in told:
                sys.stderr.write(f'hint: nothing reads the field "{name}"; did you mean "{meant}"?\n')
                told.add(name)
        return ESTIMATORS[options.what](case, known)

    stream(sys.stdin, sys.stdout, estimator)
    return ""


def stream(source: Iterable[str], target: TextIO, estimator: Estimator) -> None:
    """Answers every case of `source` on `target`, each as soon as it is read."""
    known = catalogue.load()
    for answer in answers(source, estimator, known):
        target.write(json.dumps(answer, allow_nan=False) + "\n")
        target.flush()
