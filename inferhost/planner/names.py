"""What people mean by the name of a card, a model or a number format, where the catalogue knows it.

Published figures write `RTX 3090`, `NVIDIA GeForce RTX 3090` and `A100-PCIE-80GB`; a name is a set of words, and a
row fits when all its words are there. A word that tells cards apart (`Ti`, `Super`, `laptop`) must not be left over:
the wrong card is worse than none.
"""

from __future__ import annotations

import dataclasses
import re

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import ChipRow, FormatRow, ModelRow, ShapeRow

CARD_NOISE = frozenset(
    ("nvidia", "geforce", "tesla", "quadro", "rtx", "gtx", "gpu", "edition", "workstation", "ws", "generation")
) | {"blackwell", "bw", "founders", "fe", "hbm2", "hbm2e", "hbm3", "hbm3e", "gddr6", "gddr6x", "gddr7"}
COUNTED = re.compile(r"^\s*\d+\s*x\s+")
CARD_JOINED = re.compile(r"(?<=\d)(ti|super)\b")
MODEL_NOISE = frozenset(
    ("instruct", "hf", "it", "chat", "meta", "base", "gguf", "awq", "gptq", "v0.1", "v0.2", "v0.3"),
)
MEMORY_SIZE = re.compile(r"\d+gb")
PARAMETERS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s?b(?![a-z0-9])")
ACTIVE_PARAMETERS = re.compile(r"(?<![a-z0-9])a(\d+(?:\.\d+)?)b(?![a-z0-9])")
BITS_PER_WEIGHT = re.compile(r"(\d+(?:\.\d+)?)\s*(?:bpw|bits? per weight)")
EXL_HEAD_BITS = 6.0
GROUPED = re.compile(r"-?G(?:64|128)$")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model's shape; what only a table of models can know is `None` where a bare name was all there was."""

    parameters: float
    active_parameters: float
    layers: int
    embedding_parameters: float | None
    tied_embeddings: bool
    kv_elements_per_token: int | None
    experts: int | None
    experts_per_token: int | None


@dataclasses.dataclass(frozen=True)
class Format:
    """How wide weights are, and whose kernels read them."""

    family: str
    bits_per_weight: float
    embedding_bits: float
    head_bits: float


def chip_named(name: str, catalogue: Catalogue) -> ChipRow | None:
    """The card of that name, or nothing where no row or several fit."""
    words = _card_words(name)
    best: tuple[int, ChipRow] | None = None
    for row in catalogue.chips.values():
        known = catalogue.gpus.get(row.key)
        for alias in (*row.names, *((known.name,) if known else ())):
            wanted = _card_words(alias)
            rest = {word for word in words - wanted if not MEMORY_SIZE.fullmatch(word)}
            if wanted <= words and not rest and (best is None or len(wanted) > best[0]):
                best = len(wanted), row
    return best[1] if best else None


def card_bandwidth_gb_s(chip: ChipRow, catalogue: Catalogue) -> float | None:
    """The data sheet's memory bandwidth in 10^9 bytes per second."""
    known = catalogue.gpus.get(chip.key)
    return chip.memory_bandwidth_gb_s or (known.memory_bandwidth_gb_s if known else None)


def shape_named(name: str, catalogue: Catalogue) -> Shape | None:
    """The shape of a model: from the catalogue where it is known, else from the size in its name, else nothing."""
    words = model_words(name)
    best: tuple[int, ShapeRow | ModelRow] | None = None
    for shape in catalogue.shapes.values():
        for alias in shape.names:
            best = _longer(best, words, alias, shape)
    for model in catalogue.models.values():
        if model.weights_bytes is None and not model.random:
            best = _longer(best, words, model.name.rpartition("/")[2], model)
    if best is not None:
        return _known_shape(best[1])
    found = PARAMETERS.search(name.lower())
    if not found:
        return None
    parameters = float(found[1]) * 1e9
    active = ACTIVE_PARAMETERS.search(name.lower())
    in_use = float(active[1]) * 1e9 if active else parameters
    return Shape(
        parameters,
        in_use,
        likely_layers(in_use),
        None,
        False,
        None,
        None,
        None,
    )


def likely_layers(parameters: float) -> int:
    """How many layers a dense model of this size has, within 30 % from 3 to 130 billion parameters.

    Source: formula `decode.likely_layers`.
    """
    return max(1, round(32 * float((parameters / 7.5e9) ** 0.41)))


def format_named(name: str, catalogue: Catalogue) -> Format | None:
    """The number format of that name, or nothing; EXL2 and EXL3 name their bits per weight."""
    bits = BITS_PER_WEIGHT.search(name.lower())
    if bits:
        return Format("4bit", float(bits[1]), 16.0, EXL_HEAD_BITS)
    word = re.sub(r"[\s_]*-[\s_]*|\s+", "-", name.strip().upper()).removeprefix("UD-").removeprefix("I1-")
    candidates = dict.fromkeys((word, GROUPED.sub("", word), word.partition("-")[0]))
    known = catalogue.formats_by_name
    for candidate in candidates:
        if candidate in known:
            return _format(known[candidate])
    beginnings = [name for name in known if word.startswith(name)]
    return _format(known[max(beginnings, key=len)]) if beginnings else None


def _format(row: FormatRow) -> Format:
    return Format(row.family, row.bits_per_weight, row.embedding_bits, row.head_bits)


def _known_shape(row: ShapeRow | ModelRow) -> Shape:
    if isinstance(row, ShapeRow):
        experts, per_token = row.experts, row.experts_per_token
    else:
        experts = row.moe.experts if row.moe else None
        per_token = row.moe.experts_per_token if row.moe else None
    return Shape(
        row.parameters,
        row.active_parameters or row.parameters,
        row.layers,
        row.vocabulary_size * row.hidden_size,
        row.tied_embeddings,
        2 * row.kv_layers * row.kv_heads * row.head_dim if row.head_dim else None,
        experts,
        per_token,
    )


def _longer(
    best: tuple[int, ShapeRow | ModelRow] | None, words: frozenset[str], alias: str, row: ShapeRow | ModelRow
) -> tuple[int, ShapeRow | ModelRow] | None:
    wanted = model_words(alias)
    if wanted <= words and (best is None or len(wanted) > best[0]):
        return len(wanted), row
    return best


def _card_words(name: str) -> frozenset[str]:
    text = COUNTED.sub("", name.lower()).replace("max-q", "maxq")
    text = re.sub(r"(\d+)\s*gi?b\b", r"\1gb", text)
    text = re.sub(r"\b(sxm|pcie?)\d*\b", lambda found: "pcie" if found[1].startswith("pci") else "sxm", text)
    text = CARD_JOINED.sub(r" \1", text)
    return frozenset(re.findall(r"[a-z0-9]+", text)) - CARD_NOISE


def model_words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9.]+", name.lower().rpartition("/")[2])) - MODEL_NOISE
