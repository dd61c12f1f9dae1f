"""One published or planned figure, judged before it is measured: the ceiling and the expected tokens per second.

Takes what a person knows before starting an engine, in the words that people use, any of it absent. What cannot be
told is refused with what would help; nothing is guessed but the layers of a model whose size is all that is known.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import SpeedRow
from inferhost.planner.names import Format, Shape, card_bandwidth_gb_s, chip_named, format_named, shape_named
from inferhost.planner.speed.decode import (
    Cards,
    Step,
    below_ceiling,
    capability,
    ceiling_tok_s,
    distinct_experts,
    speed_row,
    step_s,
)

GIB = 2**30
GB = 1e9
KV_BYTES_PER_ELEMENT = 2
UNKNOWN_BITS = 4.5
UNFITTED_LOW_RATIO = 0.5
"""No mixture of experts was fitted: its many small matrices are read slower, by how much is not known."""
MOST = 1e12
"""No quantity of a case is larger; more is a typing error."""

LAYER_SPLITS = ("layer", "pp", "pipeline", "single", "none")
TENSOR_SPLITS = ("tp", "tensor", "row", "tensor parallel")
SPLIT_BY_LAYER = ("llama", "ollama", "exllama", "tabby", "mlc", "transformers", "autoawq")
"""Engines that give each card whole layers unless told otherwise."""

WINDOWS = re.compile(r"windows|wsl", re.IGNORECASE)
CONTEXT = re.compile(r"(\d+)(?:\s*\+\s*(\d+))?(?:\s*tok\w*)?\s*(gen|chat|prompt)?", re.IGNORECASE)
GENERATED = re.compile(r"\btg\s*(\d+)", re.IGNORECASE)


class Unknown(ValueError):
    """What keeps a case from being estimated, and what would help."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A case made ready for the decode model."""

    step: Step
    cards: Cards
    speed: SpeedRow
    client_average: bool  # the rate was taken over whole requests
    windows: bool
    mixture: bool  # of experts


def estimate_decode(case: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Ceiling, expectation and a band that holds about nine of ten figures, or why there is none.

    Rates are those of each sequence, as the class `batch4` of the published figures counts.
    """
    number = case.get("id")
    try:
        ready = read_case(case, catalogue)
        _check_engine_runs(ready)
        expected = expected_tok_s(ready, catalogue)
    except Unknown as unknown:
        return {"id": number, "refused": str(unknown)}
    ceiling = ceiling_tok_s(ready.step.bytes_read, ready.cards)
    try:
        below_ceiling(expected, ceiling)
    except ValueError as error:
        return {"id": number, "refused": str(error)}
    return {
        "id": number,
        "ceiling_tok_s": round(ceiling, 3),
        "expected_tok_s": round(expected, 3),
        "low": round(expected * (UNFITTED_LOW_RATIO if ready.mixture else ready.speed.low_ratio), 3),
        "high": round(min(expected * ready.speed.high_ratio, ceiling), 3),
    }


def expected_tok_s(case: Case, catalogue: Catalogue) -> float:
    """Tokens per second of each sequence.

    Source: formulas `decode.step` and `decode.client_average`.
    """
    seconds = step_s(case.step, case.cards, case.speed, catalogue.decode)
    if case.windows:
        seconds += case.step.layers * catalogue.decode["overhead.windows"].value * 1e-6
    if case.client_average:
        seconds *= 1 + catalogue.decode["client_average"].value
    return 1 / seconds


def read_case(case: Mapping[str, Any], catalogue: Catalogue) -> Case:
    """The case in the terms of the decode model, or `Unknown`."""
    engine, version, context = _text(case, "engine"), _text(case, "engine_version"), _text(case, "context")
    batch = max(1, round(_number(case, "batch") or 1))
    cards = _cards(case, engine, catalogue)
    shape = shape_named(_text(case, "model"), catalogue)
    quant = format_named(_text(case, "quant"), catalogue)
    layers = _number(case, "layers")
    if layers is None:
        if shape is None:
            raise Unknown(f"layers: not given, and the model {_shown(case, 'model')} is not known; give layers")
        layers = shape.layers
    read = _bytes_read(case, shape, quant, batch, mean_context_tokens(context))
    return Case(
        Step(read, 8 * read / _bits(quant, read, shape), quant.family if quant else "4bit", round(layers)),
        cards,
        speed_row(engine, version, catalogue.speeds.values()),
        "chat" in context.lower(),
        any(WINDOWS.search(_text(case, key)) for key in ("engine", "engine_version", "note", "context")),
        shape is not None and shape.active_parameters < shape.parameters,
    )


def mean_context_tokens(context: str) -> float:
    """How many tokens are cached on average while these are generated; 0 where the text does not say.

    `1024+256` is a prompt and what is generated, `1024 gen`, `tg128` and `~200 tok chat` are generated alone, a bare
    number is a depth.
    """
    text = context.strip()
    generated = GENERATED.search(text)
    if generated:
        return float(generated[1]) / 2
    found = CONTEXT.search(text)
    if not found:
        return 0.0
    first, second, word = float(found[1]), found[2], (found[3] or "").lower()
    if second is not None:
        return first + float(second) / 2
    return first / 2 if word in ("gen", "chat") else first


def _check_engine_runs(case: Case) -> None:
    """Refuses an engine that has no code for the card, whatever its memory would allow."""
    least, chip = case.speed.min_compute_capability, case.cards.chip
    if chip and least and capability(chip.compute_capability) < capability(least):
        raise Unknown(
            f"engine: {case.speed.key} runs from compute capability {least}, and {chip.names[0]} has "
            f"{chip.compute_capability}; llama.cpp runs there"
        )


def _cards(case: Mapping[str, Any], engine: str, catalogue: Catalogue) -> Cards:
    name, count = _text(case, "gpu"), max(1, round(_number(case, "gpus") or 1))
    chip = chip_named(name, catalogue) if name else None
    bandwidth = _number(case, "mem_bw_gbs") or (card_bandwidth_gb_s(chip, catalogue) if chip else None)
    if bandwidth is None or bandwidth <= 0:
        what = "is not in the catalogue" if name else "is not given"
        raise Unknown(f"gpu: {_shown(case, 'gpu')} {what} and mem_bw_gbs is not given; give either")
    split = _text(case, "split").lower()
    if count > 1 and split not in LAYER_SPLITS + TENSOR_SPLITS:
        split = "layer" if any(part in engine.lower() for part in SPLIT_BY_LAYER) else "tp"
    return Cards(bandwidth * GB, chip, count if split in TENSOR_SPLITS else 1)


def _bytes_read(
    case: Mapping[str, Any], shape: Shape | None, quant: Format | None, batch: int, context_tokens: float
) -> float:
    """Bytes of one step: as given, else from the file, else from parameters and format.

    Source: formula `roofline.bytes_read`.
    """
    given, file_gib = _number(case, "read_gb_per_step"), _number(case, "file_gib")
    if given:
        return given * GB
    cached = 0.0
    if shape and shape.kv_elements_per_token:
        cached = batch * context_tokens * shape.kv_elements_per_token * KV_BYTES_PER_ELEMENT
    if file_gib:
        whole = file_gib * GIB
        if shape and shape.embedding_parameters and not shape.tied_embeddings:
            whole -= shape.embedding_parameters * (quant.embedding_bits if quant else UNKNOWN_BITS) / 8
        return whole * _share_in_use(shape, batch) + cached
    if shape is None or quant is None:
        lacking = "model" if shape is None else "quant"
        raise Unknown(
            f"{lacking}: {_shown(case, lacking)} is not known, so the bytes of a step are not; "
            "give read_gb_per_step or file_gib"
        )
    head = shape.embedding_parameters or 0.0
    linear = shape.parameters - (1 if shape.tied_embeddings else 2) * head
    return linear * _share_in_use(shape, batch) * quant.bits_per_weight / 8 + head * quant.head_bits / 8 + cached


def _share_in_use(shape: Shape | None, batch: int) -> float:
    """The part of the weights that a step reads: all of a dense model, less of a mixture of experts."""
    if shape is None or shape.active_parameters >= shape.parameters:
        return 1.0
    alone = shape.active_parameters / shape.parameters
    if not shape.experts or not shape.experts_per_token:
        return 1 - (1 - alone) ** batch
    chosen = shape.experts_per_token / shape.experts
    # What every token passes through (attention, shared parts) is read once whatever the batch.
    always = max(0.0, (alone - chosen) / (1 - chosen))
    return always + (1 - always) * distinct_experts(shape.experts, shape.experts_per_token, batch) / shape.experts


def _bits(quant: Format | None, read: float, shape: Shape | None) -> float:
    """Bits per weight, to tell how many weights the bytes of a step are."""
    if quant is not None:
        return quant.bits_per_weight
    return min(max(8 * read / shape.active_parameters, 1.0), 16.0) if shape else UNKNOWN_BITS


def _text(case: Mapping[str, Any], key: str) -> str:
    value = case.get(key)
    return "" if value is None else str(value).strip()


def _shown(case: Mapping[str, Any], key: str) -> str:
    return f'"{_text(case, key)}"'


def _number(case: Mapping[str, Any], key: str) -> float | None:
    """The number under `key`, or nothing; text that is no number above 0 is refused."""
    text = _text(case, key)
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        raise Unknown(f"{key}: found {_shown(case, key)}, wanted a number") from None
    if not 0 < found <= MOST:
        raise Unknown(f"{key}: found {_shown(case, key)}, wanted a number above 0")
    return found
