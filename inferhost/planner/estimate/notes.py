"""What to know beside the figures of a case that is answered: how its start may end, and what nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import ChipRow, ModelRow
from inferhost.planner.estimate.fields import number, text
from inferhost.planner.names import card_memory_gb
from inferhost.planner.versions import NEWEST, Version
from inferhost.planner.versions import version as number_of

LLAMA_CPP_ONLY = ("n_ctx", "n_ubatch", "n_gpu_layers", "flash_attn", "k_type", "v_type")
MORE_THAN_SOLD = 1.1


def joined(notes: list[str]) -> dict[str, str]:
    """The field of an answer, where there is anything to tell."""
    return {"notes": "; ".join(notes)} if notes else {}


def version_notes(engine: str, found: Version, catalogue: Catalogue) -> list[str]:
    """That a version is newer than the one whose source the rules were read from."""
    row = next((row for row in catalogue.engines.values() if row.pinned and row.engine == engine), None)
    if row is None or engine not in ("vllm", "sglang") or found == NEWEST or found <= number_of(engine, row.version):
        return []
    shown = ".".join(map(str, found))
    return [f"engine_version: {shown} is newer than {row.version}, the last one that these rules were read for"]


def field_notes(fields: Mapping[str, Any], engine: str, chip: ChipRow | None, catalogue: Catalogue) -> list[str]:
    """What of a case is not read, or cannot be meant of this card."""
    notes = []
    unread = [name for name in LLAMA_CPP_ONLY if text(fields, name)]
    if unread and engine in ("vllm", "sglang"):
        notes.append(f"{unread[0]}: read for llama.cpp alone; {engine}'s context is max_model_len")
    given, sold = number(fields, "vram_gib"), card_memory_gb(chip, catalogue) if chip else None
    if given and chip and sold and given > MORE_THAN_SOLD * sold:
        notes.append(f"vram_gib: found {given:g}, and {chip.names[0]} is sold with {sold:g} GB; the {given:g} count")
    return notes


def length_notes(model: ModelRow, asked: int | None, length: int | None, likely: int, high: int) -> list[str]:
    """That vLLM prints its cache and then ends, because one request of the longest context does not fit.

    `length` is what is asked, or the model's own where nothing is. Logs of such starts are what people ask about.
    """
    own, notes = model.context_max_tokens, []
    counted_apart = model.attention not in ("full", "mla")
    if length is not None and length > likely and not counted_apart:
        found = f"found {asked}" if asked is not None else f"not given, and {model.name} has {own} positions"
        ends = "prints a cache of this size and ends" if length > high else "may print a cache of this size and end"
        notes.append(f"max_model_len: {found}: vLLM {ends}; about {likely} fit")
    if asked is not None and own is not None and asked > own:
        notes.append(
            f"max_model_len: {model.name} has {own} positions: vLLM takes more with VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 "
            "or a longer rope scaling alone"
        )
    return notes
