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
from inferhost.catalogue.rows import ModelRow, SpeedRow
from inferhost.planner.estimate.case import NOT_SAID, inline_model
from inferhost.planner.estimate.decode_cards import cache_notes, check_fits, check_heads, read_cards
from inferhost.planner.estimate.engine_runs import check_runs
from inferhost.planner.estimate.fields import Refused, text, whole
from inferhost.planner.estimate.fields import number as _any_number
from inferhost.planner.estimate.notes import joined, version_notes
from inferhost.planner.memory.kv_cache import state_bytes
from inferhost.planner.memory.weights import linear_parameters, routed_parameters
from inferhost.planner.names import Format, Shape, format_named, gguf_format, name_quantisation, shape_named
from inferhost.planner.speed.decode import (
    STATE_PASSES,
    Cards,
    Step,
    band,
    below_ceiling,
    ceiling_tok_s,
    distinct_experts,
    speed_row,
    step_parts,
    step_s,
)
from inferhost.planner.versions import version as number_of

GIB = 2**30
GB = 1e9
KV_BYTES_PER_ELEMENT = 2
UNKNOWN_BITS = 4.5
ROUTED_SHARE = 0.5
"""What of the weights in use are routed experts, where only the model's name is known: 0.3 to 0.7 of known ones."""
GGUF_ENGINES = ("llama", "ollama", "ggml", "koboldcpp", "lm studio")
GGUF_BITS = 8.5
"""Q8_0: with it for what is no expert the printed sizes of gpt-oss come out to 1 %, of Qwen3.5-35B-A3B to 3 %."""
SMALLEST_RESIDENT_SHARE = 0.9
"""Formats are averages over models, and a part of a file need not be on the card."""
LEAST, MOST = 1e-6, 1e12
"""No quantity of a case is smaller or larger; that is a typing error."""
UNFITTED_AT_16_BIT = ("vllm", "tensorrt-llm", "sglang")
"""Every fitted figure of a dense model at 16 bit waited for memory: how fast they work such weights off is unseen."""
UNFITTED = (
    "high: no figure of this engine says how fast such a card works off 16 bit weights; it may be the memory alone"
)
MOST_LAYERS, MOST_SEQUENCES = 1000, 2**16

WINDOWS = re.compile(r"windows|wsl", re.IGNORECASE)
NEGATIVE = re.compile(r"\s*-\s*\d")
CONTEXT = re.compile(r"(\d+)(?:\s*[+/]\s*(\d+))?(?:\s*tok\w*)?\s*(gen|chat|prompt)?", re.IGNORECASE)
GENERATED = re.compile(r"\btg\s*(\d+)", re.IGNORECASE)
DEPTH = re.compile(r"(?:@\s*|\b)d\s*(\d+)", re.IGNORECASE)
THOUSANDS = re.compile(r"(\d+(?:\.\d+)?)\s*k\b", re.IGNORECASE)
IN_AND_OUT = re.compile(r"(\d+)\s*(?:in|input|prompt)\w*\W+(\d+)\s*(?:out|output|gen)\w*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Case:
    """A case made ready for the decode model."""

    step: Step
    cards: Cards
    speed: SpeedRow
    client_average: bool  # the rate was taken over whole requests
    windows: bool
    version: str = ""
    row: ModelRow | None = None
    sequences: int = 1
    context_tokens: float = 0.0


def estimate_decode(case: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Ceiling, expectation and a band that holds about nine of ten figures, or why there is none.

    Rates are those of each sequence, as the class `batch4` of the published figures counts.
    """
    number = case.get("id")
    try:
        ready = read_case(case, catalogue)
        quant = _said_quant(case)
        check_runs(ready.speed, ready.version, ready.cards.chip, quant, catalogue)
        name = ready.speed.key.partition("-")[0]
        notes = version_notes(name, number_of(name, ready.version), catalogue)
        notes += cache_notes(case, ready.row, quant, ready.sequences * ready.context_tokens, catalogue)
        expected = expected_tok_s(ready, catalogue)
    except Refused as refused:
        return {"id": number, "refused": str(refused)}
    ceiling = ceiling_tok_s(ready.step.bytes_read, ready.cards)
    low, high = band(ready.step, ready.speed, catalogue.decode)
    most = max(expected, _unfitted_tok_s(ready, catalogue))
    if most > expected:
        notes.append(UNFITTED)
    try:
        below_ceiling(expected, ceiling)
    except ValueError as error:
        return {"id": number, "refused": str(error)}
    return {
        "id": number,
        "ceiling_tok_s": round(ceiling, 3),
        "expected_tok_s": round(expected, 3),
        "low": round(expected * low, 3),
        "high": round(min(most * high, ceiling), 3),
        **joined(notes),
    }


def _unfitted_tok_s(case: Case, catalogue: Catalogue) -> float:
    """The rate if 16 bit weights were worked off as fast as they are read, where no figure says that they are not."""
    if case.step.family != "16bit" or case.step.mixture_layers or case.speed.key not in UNFITTED_AT_16_BIT:
        return 0.0
    parts = step_parts(case.step, case.cards, case.speed, catalogue.decode)
    if parts.other_work_s <= parts.reading_s:
        return 0.0
    return 1 / dataclasses.replace(parts, other_work_s=0.0).step_s


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
    """The case in the terms of the decode model, or `Refused`."""
    engine, version, context = _text(case, "engine"), _text(case, "engine_version"), _text(case, "context")
    batch = whole(case, "batch") or 1
    if batch > MOST_SEQUENCES:
        raise Refused(f"batch: found {batch}, wanted at most {MOST_SEQUENCES} sequences of one step")
    cards, memory = read_cards(case, engine, catalogue)
    shape = _shape(case, catalogue)
    quant = _quant(case, shape, engine, catalogue)
    check_heads(engine, cards.shares, shape.row if shape else None)
    layers = whole(case, "layers")
    if layers is not None and layers > MOST_LAYERS:
        raise Refused(f"layers: found {layers}, wanted at most {MOST_LAYERS}")
    if layers is None:
        if shape is None:
            raise Refused(f"layers: not given, and the model {_shown(case, 'model')} is not known; give layers")
        layers = shape.layers
    if quant is not None and any(part in engine.lower() for part in GGUF_ENGINES):
        quant = _in_gguf(quant, shape)
    if NEGATIVE.match(context):
        raise Refused(f"context: found {context[:40]!r}, wanted tokens, such as 4096, 1024+256 or tg128 @ d4096")
    context_tokens = mean_context_tokens(context)
    read = _read(case, shape, quant, batch, context_tokens)
    row = shape.row if shape else None
    cached = 0.0 if row is None else batch * _cached_bytes(row, context_tokens, state_passes=1)
    check_fits(case, memory, _least_bytes(case, shape, quant, engine), cached)
    mixture = shape is not None and shape.active_parameters < shape.parameters
    dense_layers = shape.row.moe.dense_layers if shape and shape.row and shape.row.moe else 0
    return Case(
        Step(
            read.bytes,
            8 * read.bytes / _bits(quant, read.bytes, shape),
            quant.family if quant else "4bit",
            round(layers),
            read.expert_bytes,
            max(0, round(layers) - dense_layers) if mixture else 0,
            shape.row.state.layers if shape and shape.row and shape.row.state else 0,
            round(layers) if shape and shape.row and shape.row.mla else 0,
        ),
        cards,
        speed_row(engine, version, catalogue.speeds.values()),
        "chat" in context.lower(),
        any(WINDOWS.search(_text(case, key)) for key in ("engine", "engine_version", "note", "context")),
        version,
        row,
        batch,
        context_tokens,
    )


def _in_gguf(quant: Format, shape: Shape | None) -> Format:
    """The format as GGUF files hold it: all but experts at 8 bit in MXFP4, and in mixtures with linear attention."""
    if quant.rest_bits is not None:
        return dataclasses.replace(quant, rest_bits=GGUF_BITS, embedding_bits=GGUF_BITS, head_bits=GGUF_BITS)
    mixed = shape is not None and shape.row is not None and shape.row.state is not None and shape.row.moe is not None
    return dataclasses.replace(quant, rest_bits=GGUF_BITS) if mixed and quant.bits_per_weight < GGUF_BITS else quant


def mean_context_tokens(context: str) -> float:
    """How many tokens are cached on average while these are generated; 0 where the text does not say.

    `1024+256` (or `1k/1k`) is a prompt and what is generated, `tg128 @ d4096` is generated behind a depth,
    `1024 gen`, `tg128` and `~200 tok chat` are generated alone, a bare number is a depth.
    """
    text = THOUSANDS.sub(lambda found: str(round(1024 * float(found[1]))), context.strip())
    generated, depth, both = GENERATED.search(text), DEPTH.search(text), IN_AND_OUT.search(text)
    if generated:
        return float(generated[1]) / 2 + (float(depth[1]) if depth else 0.0)
    if both:
        return float(both[1]) + float(both[2]) / 2
    found = CONTEXT.search(text)
    if not found:
        return 0.0
    first, second, word = float(found[1]), found[2], (found[3] or "").lower()
    if second is not None:
        return first + float(second) / 2
    return first / 2 if word in ("gen", "chat") else first


def _shape(case: Mapping[str, Any], catalogue: Catalogue) -> Shape | None:
    """The shape by the model's name, else by an inline `arch`."""
    found = shape_named(_text(case, "model"), catalogue)
    arch = case.get("arch")
    if (found is None or found.row is None) and isinstance(arch, Mapping) and arch:
        row = inline_model(arch, None)
        active = found.active_parameters if found is not None else row.parameters
        return Shape(row.parameters, min(active, row.parameters), row.layers, row)
    return found


def _quant(case: Mapping[str, Any], shape: Shape | None, engine: str, catalogue: Catalogue) -> Format | None:
    """The number format: as said, as the model's name says, else that of the checkpoint for engines that load one."""
    said = _said_quant(case)
    if said:
        return gguf_format(said, catalogue) or format_named(said, catalogue)
    if shape is None or shape.row is None or any(part in engine.lower() for part in GGUF_ENGINES):
        return None
    return format_named("BF16" if shape.row.quantisation == "none" else shape.row.quantisation, catalogue)


def _said_quant(case: Mapping[str, Any]) -> str:
    """The number format in the case's words or in the model's name; nothing where neither says one."""
    said = _text(case, "quant")
    return said if said.lower() not in NOT_SAID else name_quantisation(_text(case, "model"))


def _least_bytes(case: Mapping[str, Any], shape: Shape | None, quant: Format | None, engine: str) -> float:
    """The least that the cards have to hold: the file, or the weights; 0 where neither is known."""
    file_gib = _number(case, "file_gib")
    if file_gib:
        return file_gib * GIB * SMALLEST_RESIDENT_SHARE
    if shape is None or quant is None:
        return 0.0
    rest, routed, unread = weight_bytes(shape, quant)
    on_host = any(part in engine.lower() for part in GGUF_ENGINES)
    return (rest + routed + (0.0 if on_host else unread)) * SMALLEST_RESIDENT_SHARE


@dataclasses.dataclass(frozen=True)
class Read:
    """Bytes of one step, and what of them are experts that a router chose."""

    bytes: float
    expert_bytes: float


def _read(
    case: Mapping[str, Any], shape: Shape | None, quant: Format | None, batch: int, context_tokens: float
) -> Read:
    """What one step reads: as given, else from the file, else from parameters and format.

    Source: formula `roofline.bytes_read`.
    """
    given, file_gib = _number(case, "read_gb_per_step"), _number(case, "file_gib")
    cached = 0.0 if shape is None or shape.row is None else batch * _cached_bytes(shape.row, context_tokens)
    if shape is None and file_gib and not given:
        return Read(file_gib * GIB, 0.0)
    if shape is None or (quant is None and not file_gib):
        if given:
            return Read(given * GB, 0.0)
        lacking = "model" if shape is None else "quant"
        raise Refused(
            f"{lacking}: {_shown(case, lacking)} is not known, so the bytes of a step are not; "
            "give read_gb_per_step or file_gib"
        )
    rest, routed, unread = weight_bytes(shape, quant or Format("4bit", UNKNOWN_BITS, UNKNOWN_BITS, UNKNOWN_BITS))
    chosen = routed * _share_chosen(shape, batch)
    if given:
        return Read(given * GB, given * GB * chosen / (rest + chosen))
    scale = file_gib * GIB / (rest + routed + unread) if file_gib else 1.0
    return Read(scale * (rest + chosen) + cached, scale * chosen)


def weight_bytes(shape: Shape, quant: Format) -> tuple[float, float, float]:
    """Bytes of all but the routed experts, of those, and of the input embedding where no step reads it.

    Of a mixture that only its name is known of, half of what a token passes through is taken to be experts.
    """
    row = shape.row
    if row is None:
        routed = 0.0
        if shape.active_parameters < shape.parameters:
            routed = shape.parameters - shape.active_parameters * (1 - ROUTED_SHARE)
        return (shape.parameters - routed) * quant.bits_per_weight / 8, routed * quant.bits_per_weight / 8, 0.0
    table, all_routed = row.vocabulary_size * row.hidden_size, routed_parameters(row)
    linear = linear_parameters(row, False) - all_routed
    rest_bits = quant.rest_bits if all_routed else None  # without experts a format is that of all layers
    rest = linear * (rest_bits or quant.bits_per_weight) / 8 + table * quant.head_bits / 8
    unread = 0.0 if row.tied_embeddings else table * quant.embedding_bits / 8
    return rest, all_routed * quant.bits_per_weight / 8, unread


def _share_chosen(shape: Shape, batch: int) -> float:
    """Which part of the routed experts a step of so many sequences reads."""
    moe = shape.row.moe if shape.row else None
    if moe is not None:
        return distinct_experts(moe.experts, moe.experts_per_token, batch) / moe.experts
    if shape.active_parameters >= shape.parameters:
        return 0.0
    used = ROUTED_SHARE * shape.active_parameters
    return 1 - (1 - used / (shape.parameters - shape.active_parameters + used)) ** batch


def _cached_bytes(row: ModelRow, context_tokens: float, state_passes: float = STATE_PASSES) -> float:
    """What a step reads of one sequence's cache, and reads and writes of its state."""
    state = state_passes * state_bytes(row.state) if row.state is not None else 0
    if row.mla is not None:
        elements = row.layers * (row.mla.kv_lora_rank + row.mla.qk_rope_head_dim)
        return elements * context_tokens * KV_BYTES_PER_ELEMENT + state
    per_layer = 2 * row.kv_heads * (row.head_dim or 0) * KV_BYTES_PER_ELEMENT
    windowed, window = (row.sliding.layers, row.sliding.window_tokens) if row.sliding else (0, 0)
    return per_layer * ((row.kv_layers - windowed) * context_tokens + windowed * min(context_tokens, window)) + state


def _bits(quant: Format | None, read: float, shape: Shape | None) -> float:
    """Bits per weight, to tell how many weights the bytes of a step are."""
    if quant is not None:
        return quant.bits_per_weight
    return min(max(8 * read / shape.active_parameters, 1.0), 16.0) if shape else UNKNOWN_BITS


def _text(case: Mapping[str, Any], key: str) -> str:
    return text(case, key)


def _shown(case: Mapping[str, Any], key: str) -> str:
    return f'"{_text(case, key)}"'


def _number(case: Mapping[str, Any], key: str) -> float | None:
    """The number under `key`, or nothing; text that is no number above 0 is refused."""
    found = _any_number(case, key)
    if found is not None and not LEAST <= found <= MOST:
        raise Refused(f"{key}: found {_shown(case, key)}, wanted a number above 0")
    return found
