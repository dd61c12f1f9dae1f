"""What no engine starts with, whatever the memory: refused before anything is estimated.

A start that prints its cache and only then ends for a reason is estimated, and told in `notes`: logs of such starts
are what people ask about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferhost.catalogue.rows import ModelRow
from inferhost.planner.estimate.fields import Refused, number, whole

COUNTS = ("gpu_count", "tp", "pp", "dp", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "n_ubatch")
MOST_VRAM_GIB = 1024
MOST_CONTEXT_TOKENS = 2**24
"""No model and no cache of one host is longer."""


def check_numbers(fields: Mapping[str, Any]) -> None:
    """Numbers that mean nothing: no parts of a card, no context without a token, no share above the whole."""
    for name in COUNTS:
        whole(fields, name)
    for name in ("max_model_len", "n_ctx"):
        tokens = whole(fields, name, least=0)
        if tokens is not None and tokens > MOST_CONTEXT_TOKENS:
            raise Refused(f"{name}: found {tokens}, wanted at most {MOST_CONTEXT_TOKENS} tokens: no model has more")
    vram = number(fields, "vram_gib")
    if vram is not None and not 0 < vram <= MOST_VRAM_GIB:
        in_gib = f": {vram:g} MiB are {vram / 1024:.2f}" if 1 < vram / 1024 <= MOST_VRAM_GIB else ""
        raise Refused(f"vram_gib: found {vram:g}, wanted the memory of one card in GiB{in_gib}")
    share = number(fields, "mem_fraction")
    if share is not None and not 0 < share <= 1:
        meant = f": {share:g} % is {share / 100:g}" if 2 <= share <= 100 else ""
        raise Refused(f"mem_fraction: found {share:g}, wanted a share above 0 and at most 1{meant}")
    batched, sequences = whole(fields, "max_num_batched_tokens"), whole(fields, "max_num_seqs")
    if batched is not None and sequences is not None and batched < sequences:
        raise Refused(
            f"max_num_batched_tokens: found {batched}, wanted at least max_num_seqs, {sequences}: a step has a token "
            "of each sequence"
        )


def check_split(fields: Mapping[str, Any], engine: str, model: ModelRow, tensor_parallel_size: int) -> None:
    """A division over cards that the engine does not make of this model.

    Source: vLLM config, ModelConfig.verify_with_parallel_config; step and sequences: SchedulerConfig.
    """
    cards, stages, copies = (whole(fields, name) for name in ("gpu_count", "pp", "dp"))
    asked = whole(fields, "tp")
    needed = (asked or 1) * (stages or 1) * (copies or 1 if engine == "vllm" else 1)
    if cards is not None and needed > cards:
        raise Refused(
            f"gpu_count: found {cards}, wanted at least {needed}: tp {asked or 1} times pp {stages or 1}"
            + (f" times dp {copies}" if engine == "vllm" and (copies or 1) > 1 else "")
        )
    if stages is not None and stages > model.layers:
        raise Refused(f"pp: found {stages}, wanted at most {model.layers}, the layers of {model.name}")
    if engine == "sglang" and copies and tensor_parallel_size % copies == 0:
        tensor_parallel_size //= copies  # attention is divided over the cards of one copy
    if tensor_parallel_size > 1 and not _divides(model, tensor_parallel_size):
        name = "tp" if asked is not None else "gpu_count"
        query, cached = model.query_heads, "" if model.mla else f"{model.kv_heads} KV"
        heads = " and ".join(part for part in (f"{query} query" if query else "", cached) if part)
        most = query or model.kv_heads
        if asked is not None and cards is not None:
            most = min(most, cards * asked // needed)
        fitting = [str(n) for n in range(1, most + 1) if _divides(model, n)]
        raise Refused(
            f"{name}: found {tensor_parallel_size}, and {heads} heads of {model.name} cannot be shared out evenly; "
            f"wanted one of {', '.join(fitting[:8])}"
        )


def _divides(model: ModelRow, cards: int) -> bool:
    """Every card gets as many query heads as any; heads of keys and values are shared out, or copied to several."""
    if model.query_heads is not None and model.query_heads % cards:
        return False
    return model.mla is not None or model.kv_heads % cards == 0 or cards % model.kv_heads == 0
