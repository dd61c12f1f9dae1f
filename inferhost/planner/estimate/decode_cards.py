"""The cards of a decode case: bandwidth, how a model is divided over them, and whether they hold it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import ModelRow
from inferhost.planner.card_names import LABEL
from inferhost.planner.estimate.fields import Refused, number, text, whole
from inferhost.planner.estimate.kv_case import estimate_kv
from inferhost.planner.names import card_bandwidth_gb_s, card_memory_gb, cards_counted, chip_named
from inferhost.planner.speed.decode import Cards

GIB = 2**30
GB = 1e9
MOST_CARDS, MOST_BANDWIDTH = 1024, 1e6
LAYER_SPLITS = ("layer", "layers", "pp", "pipeline", "pipeline parallel", "single", "none", "no", "1")
TENSOR_SPLITS = (
    "tp",
    "tensor",
    "row",
    "graph",
    "tensor parallel",
    "ep",
    "expert",
    "expert parallel",
    "tp+ep",
    "tpep",
)
SPLIT_BY_LAYER = ("llama", "ollama", "exllama", "tabby", "mlc", "transformers", "autoawq")
"""Engines that give each card whole layers unless told otherwise."""
SHARES_HEADS = ("vllm", "sglang", "tensorrt")
COUNTED = re.compile(r"^(tp|pp|ep|tensor|pipeline)\s*(?:size)?\s*[=:x]?\s*(\d+)$")


def read_cards(case: Mapping[str, Any], engine: str, catalogue: Catalogue) -> tuple[Cards, float | None]:
    """The cards that read a step together, and the memory of all in bytes, where it is known."""
    name = text(case, "gpu")
    kind, counted = _split(text(case, "split"))
    count = whole(case, "gpus") or counted or cards_counted(name) or 1
    if counted and count % counted:
        raise Refused(f"split: found {text(case, 'split')!r}, and gpus says {count}; wanted the same number in both")
    if count > MOST_CARDS:
        raise Refused(f"gpus: found {count}, wanted at most {MOST_CARDS}")
    chip = chip_named(name, catalogue) if name else None
    bandwidth = number(case, "mem_bw_gbs")
    if bandwidth is None and chip is not None:
        bandwidth = card_bandwidth_gb_s(chip, catalogue)
    if bandwidth is not None and not 1 <= bandwidth <= MOST_BANDWIDTH:
        raise Refused(f"mem_bw_gbs: found {bandwidth:g}, wanted 10^9 bytes per second of one card, 1 or more")
    if bandwidth is None:
        what = "is not in the catalogue" if name else "is not given"
        raise Refused(f'gpu: "{name}" {what} and mem_bw_gbs is not given; give either')
    if not kind:
        kind = "layer" if any(part in engine.lower() for part in SPLIT_BY_LAYER) else "tp"
    label, sold_gb = LABEL.search(name.lower()), card_memory_gb(chip, catalogue) if chip else None
    memory_gb = max(float(label[1]) if label else 0.0, sold_gb or 0.0)
    return Cards(bandwidth * GB, chip, count if kind == "tp" else 1), memory_gb * GIB * count or None


def _split(said: str) -> tuple[str, int | None]:
    """`layer`, `tp` or nothing for a split, and how many cards it counts; an unknown word is refused."""
    words = re.sub(r"[\s_-]+", " ", said.strip().lower())
    counted = COUNTED.match(words)
    kind = counted[1] if counted else words
    cards = int(counted[2]) if counted and int(counted[2]) else None
    if kind in TENSOR_SPLITS:
        return "tp", cards
    if kind in ("", *LAYER_SPLITS):
        return "layer" if kind else "", cards
    if kind in ("dp", "data", "data parallel"):
        raise Refused(
            f"split: found {said[:40]!r}: copies do not share a step; ask for one, with its own gpus and batch"
        )
    raise Refused(f"split: found {said[:40]!r}, wanted one of single, layer, pp, row, tp")


def check_heads(engine: str, cards: int, model: ModelRow | None) -> None:
    """Refuses what engines that share out heads end at; llama.cpp shares out rows, which always divides."""
    if model is None or not model.query_heads or not any(one in engine.lower() for one in SHARES_HEADS):
        return
    if model.query_heads % cards:
        heads = f"{model.query_heads} heads of {model.name}"
        raise Refused(f"gpus: found {cards}, and {heads} cannot be shared out evenly")


def check_fits(case: Mapping[str, Any], memory_bytes: float | None, needed_bytes: float, cached_bytes: float) -> None:
    """Refuses a model, or a cache beside it, that the cards cannot hold.

    What is left in host memory is read at another speed.
    """
    if memory_bytes is None or needed_bytes + cached_bytes <= memory_bytes:
        return
    name = text(case, "gpu")
    counted = name if cards_counted(name) and not text(case, "gpus") else f"{text(case, 'gpus') or '1'} x {name}"
    cards = f"{counted} hold {memory_bytes / GIB:.0f}"
    if needed_bytes <= memory_bytes:
        fitting = (memory_bytes - needed_bytes) / cached_bytes
        beside = f"{cached_bytes / GIB:.1f} GiB of cache beside at least {needed_bytes / GIB:.1f} of weights"
        raise Refused(
            f"context: found {text(case, 'context')} with a batch of {text(case, 'batch') or '1'}: {beside}, and "
            f"{cards}; about {fitting:.0%} of it fit; give a shorter context, a smaller batch or more gpus"
        )
    of = "file_gib" if text(case, "file_gib") else "quant"
    raise Refused(
        f"{of}: {text(case, 'model')} {text(case, of)} takes at least {needed_bytes / GIB:.1f} GiB, and {cards}; "
        "give more gpus or a smaller quant: layers in host memory are not estimated"
    )


def cache_notes(
    case: Mapping[str, Any], row: ModelRow | None, quant: str, tokens: float, catalogue: Catalogue
) -> list[str]:
    """What a person should know of so many cached tokens; `Refused` where vLLM and SGLang have no room for them.

    Refused is only what they could not hold with all of the card theirs; with their usual share of it, requests wait.
    """
    if row is None:
        return []
    notes, each = [], tokens / (whole(case, "batch") or 1)
    if row.context_max_tokens and each > row.context_max_tokens:
        notes.append(f"context: {each:.0f} tokens are more than the {row.context_max_tokens} of {row.name}")
    kind, counted = _split(text(case, "split"))
    cards = whole(case, "gpus") or counted or cards_counted(text(case, "gpu")) or 1
    alike = {name: case.get(name) for name in ("engine", "engine_version", "gpu", "arch")}
    alike |= {"arch_model": text(case, "model"), "quant": quant, "gpu_count": cards}
    alike |= {"pp": cards, "tp": 1} if kind == "layer" else {"tp": cards}
    usual = estimate_kv(alike, catalogue)
    # A cache of more kinds than one is not counted in tokens; llama.cpp allocates what it is asked for.
    if row.attention not in ("full", "mla") or "kv_total_mib" in usual or tokens <= usual.get("high", 0):
        return notes
    most = estimate_kv({**alike, "mem_fraction": 1}, catalogue)
    asked = f"{tokens:.0f} tokens are cached"
    if tokens > most.get("high", tokens):
        raise Refused(
            f"context: {asked}, and {text(case, 'engine')} has room for {most['high']} at most; give a shorter "
            "context, a smaller batch or more gpus"
        )
    if "kv_tokens" in usual:
        notes.append(f"context: {asked}, and about {usual['kv_tokens']} fit at the usual mem_fraction: others wait")
    elif "kv_tokens" in most:
        notes.append("gpu: the weights leave room for a cache at a mem_fraction above the usual one alone")
    return notes
