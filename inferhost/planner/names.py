"""What people mean by the name of a card, a model or a number format, where the catalogue knows it.

Published figures write `RTX 3090`, `NVIDIA GeForce RTX 3090` and `A100-PCIE-80GB`; a name is a set of words, and a
row fits when all its words are there. A word that tells cards apart (`Ti`, `Super`, `laptop`) must not be left over:
the wrong card is worse than none.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import ChipRow, FormatRow, ModelRow

CARD_NOISE = frozenset(
    (
        "nvidia",
        "geforce",
        "tesla",
        "quadro",
        "rtx",
        "gtx",
        "gpu",
        "gpus",
        "edition",
        "workstation",
        "ws",
        "generation",
    )
) | {"blackwell", "bw", "founders", "fe", "hbm2", "hbm2e", "hbm3", "hbm3e", "gddr6", "gddr6x", "gddr7", "graphics"}
CARD_NOISE |= {"card", "cards", "vram", "memory", "ampere", "lovelace", "hopper", "turing", "volta", "desktop", "oc"}
COUNTED = re.compile(r"^\s*\(?(\d+)\)?\s*[x\u00d7*]\s*(?=[a-z\d])|\s[x\u00d7*]\s?(\d+)\s*$")
CARD_JOINED = re.compile(r"(?<=\d)(ti|super|d)\b")
SERIES_JOINED = re.compile(r"\b(rtx|gtx|tesla|quadro)(?=a?\d)")
MODEL_NOISE = frozenset(
    ("instruct", "hf", "it", "chat", "meta", "base", "gguf", "awq", "gptq", "v0.1", "v0.2", "v0.3"),
)
MEMORY_SIZE = re.compile(r"\d+gb")
PARAMETERS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s?b(?![a-z0-9])")
ACTIVE_PARAMETERS = re.compile(r"(?<![a-z0-9])a(\d+(?:\.\d+)?)b(?![a-z0-9])")
BITS_PER_WEIGHT = re.compile(r"(\d+(?:\.\d+)?)\s*(?:bpw|bits? per weight)")
QUANT_SUFFIX = re.compile(
    r"[-_.](fp8|awq|gptq.*|int[48]|w[48]a\d+|bf16|fp16|nvfp4|mxfp4|bnb.*|unsloth.*|gguf|q\d.*|iq\d.*|2507|hf)$"
)
QUANT_IN_NAME = re.compile(
    r"[-_.](?:(fp8|awq(?:-int4)?|gptq(?:-int[48]|-[48]bit)?|int[48]|w[48]a(?:8|16)|nvfp4|mxfp4|bnb-[48]bit)"
    r"|((?:ud-)?i?q\d(?:-\w+)+|tq\d-\d))(?:-(?:dynamic|block|\d{4}))?$"
)
OWN_GGUF_NAME = re.compile(
    r"(?<![a-z0-9])(?:i?q\d(?:k[sml]?|_k ?- ?(?:small|medium|large)|_\w+)?|tq\d_\d)(?![a-z0-9])"
)
GGUF_NAME = re.compile(rf"{OWN_GGUF_NAME.pattern}|(?<![a-z0-9])(?:mxfp4|bf16|f16|f32)(?![a-z0-9])")
TUNED_SUFFIX = re.compile(r"-(instruct|chat|it|base|thinking)$")
FAMILY_JOINED = re.compile(r"\b(llama|qwen|gemma|phi|yi|falcon|granite|olmo|smollm|internlm|mistral)(?=\d)")
VERSION_WORD = re.compile(r"[a-z]?\d+(?:\.\d+)?")
TOTAL_WORD = re.compile(r"(?:\d+x)?(\d+(?:\.\d+)?)b")
SIZE_TOLERANCE = 0.05
OTHER_PARTS = frozenset(("vl", "omni", "vision", "audio", "embedding", "reranker", "multimodal"))
"""Words of a name that say: not only the language model of that size."""
EXL_HEAD_BITS = 6.0
GGUF_SPELLED = re.compile(r"^(I?Q\d)_?K[-_]?(S|M|L|SMALL|MEDIUM|LARGE)$")
remembered = functools.lru_cache(maxsize=8192)
"""The catalogue's own names are asked about with every case."""
GROUPED = re.compile(r"-?G(?:64|128)$")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What of a model decides how fast it decodes; `None` where a bare name was all there was."""

    parameters: float
    active_parameters: float
    layers: int
    row: ModelRow | None  # the catalogue's, where the name is known


@dataclasses.dataclass(frozen=True)
class Format:
    """How wide weights are, and whose kernels read them."""

    family: str
    bits_per_weight: float
    embedding_bits: float
    head_bits: float
    rest_bits: float | None = None  # of what is no expert, where only experts are that narrow


def chip_named(name: str, catalogue: Catalogue) -> ChipRow | None:
    """The card of that name, or nothing where no row fits; the row with the most words wins, then its own names."""
    words = _card_words(name)
    best: tuple[tuple[int, bool], ChipRow] | None = None
    for row in catalogue.chips.values():
        known = catalogue.gpus.get(row.key)
        for alias in (*row.names, *((known.name,) if known else ())):
            wanted = _card_words(alias)
            rest = {word for word in words - wanted if not MEMORY_SIZE.fullmatch(word)}
            rank = len(wanted), alias in row.names
            if wanted <= words and not rest and (best is None or rank > best[0]):
                best = rank, row
    return best[1] if best else None


def cards_counted(name: str) -> int | None:
    """How many cards a name counts, `2x RTX 3090` or `RTX 3090 x2`; nothing where it counts none."""
    found = COUNTED.search(name.lower())
    return int(found[1] or found[2]) or None if found else None


def card_bandwidth_gb_s(chip: ChipRow, catalogue: Catalogue) -> float | None:
    """The data sheet's memory bandwidth in 10^9 bytes per second."""
    known = catalogue.gpus.get(chip.key)
    return chip.memory_bandwidth_gb_s or (known.memory_bandwidth_gb_s if known else None)


def card_memory_gb(chip: ChipRow, catalogue: Catalogue) -> float | None:
    """The memory that the card is sold with; nothing where cards of its name differ."""
    known = catalogue.gpus.get(chip.key)
    return known.memory_label_gb if known else chip.memory_label_gb


def model_named(name: str, catalogue: Catalogue, *, parts_matter: bool = True) -> ModelRow | None:
    """The unquantised row of a model, whatever organisation, case or suffix its name carries.

    The exact name wins over the one without quantisation, that over the one without tuning, and all over a tune of
    a known model: its name holds the words of one, its size among them, and nothing says that it has other parts.
    Those take memory; a text is written as fast with them, so `parts_matter` may be off for speed.
    """
    rows = sorted(catalogue.models.values(), key=lambda row: (row.linear_bits != 16, row.format != "safetensors"))
    for reduced in (plain_name, bare_name, base_name):
        wanted = reduced(name)
        for row in rows:
            if wanted in (reduced(row.name), reduced(row.key), *map(reduced, row.aliases)):
                return row
    words = model_words(name)
    best: tuple[int, ModelRow] | None = None
    for row in rows:
        for known in (row.name, *row.aliases):
            own = model_words(known)
            fits = own <= words and not _of_other_version(known, name) and _tuned(row, own, words, parts_matter)
            if fits and (best is None or len(own) > best[0]):
                best = len(own), row
    return best[1] if best else None


def _of_other_version(known: str, name: str) -> bool:
    """Whether a name puts another version behind the family: `Qwen4-7B` and `Falcon-H1-7B` are no `Falcon-7B`."""
    own, words = _ordered_words(known), _ordered_words(name)
    behind = {after for before, after in itertools.pairwise(words) if before == own[0]}
    return any(VERSION_WORD.fullmatch(word) and word not in own for word in behind)


def _tuned(row: ModelRow, own: frozenset[str], words: frozenset[str], parts_matter: bool) -> bool:
    """Whether the words around a known name leave it that model: a size among them has to be its own."""
    rest = words - own
    sizes = [float(found[1]) for word in rest if (found := TOTAL_WORD.fullmatch(word))]
    sized = bool(sizes) or any(TOTAL_WORD.fullmatch(word) for word in own)
    fits = all(abs(size * 1e9 / row.parameters - 1) <= SIZE_TOLERANCE for size in sizes)
    alike = not (parts_matter and rest & OTHER_PARTS)
    return sized and fits and alike and row.weights_bytes is None and not row.random


@remembered
def plain_name(name: str) -> str:
    return re.sub(r"[\s_:]+", "-", name.strip().lower().rpartition("/")[2])


@remembered
def bare_name(name: str) -> str:
    """A name without organisation, case and what says only how it is quantised."""
    return _without(QUANT_SUFFIX, plain_name(name))


@remembered
def base_name(name: str) -> str:
    """A name without what says how it was tuned: that changes no shape."""
    return _without(TUNED_SUFFIX, bare_name(name))


def _without(suffix: re.Pattern[str], name: str) -> str:
    shorter = suffix.sub("", name)
    return name if shorter in (name, "") else _without(suffix, shorter)


def shape_named(name: str, catalogue: Catalogue) -> Shape | None:
    """The shape of a model: from the catalogue where it is known, else from the size in its name, else nothing."""
    row = model_named(name, catalogue, parts_matter=False)
    if row is not None:
        text = row.parameters - row.vision_parameters
        return Shape(text, row.active_parameters or text, row.layers, row)
    found = PARAMETERS.search(name.lower())
    if not found:
        return None
    parameters = float(found[1]) * 1e9
    active = ACTIVE_PARAMETERS.search(name.lower())
    in_use = float(active[1]) * 1e9 if active else parameters
    return Shape(parameters, in_use, likely_layers(in_use), None)


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
    word = GGUF_SPELLED.sub(lambda found: f"{found[1]}_K_{found[2][0]}", word)
    candidates = dict.fromkeys((word, GROUPED.sub("", word), word.partition("-")[0]))
    known = catalogue.formats_by_name
    for candidate in candidates:
        if candidate in known:
            return _format(known[candidate])
    spoken = [name for name in known if word.startswith(name)] or [
        name for name in known if re.search(rf"(?<![A-Z0-9.]){re.escape(name)}(?![A-Z0-9])", word)
    ]
    return _format(known[max(spoken, key=len)]) if spoken else None


def gguf_format(words: str, catalogue: Catalogue) -> Format | None:
    """The number format of a GGUF file that a text names, `GGUF BF16` and `model-Q4_K_M.gguf` alike, or nothing.

    Names that other checkpoints have too (`bf16`, `mxfp4`) mean a GGUF file only where the text says so.
    """
    told = "gguf" in words.lower()
    names = (GGUF_NAME if told else OWN_GGUF_NAME).findall(words.lower().removesuffix(".gguf"))
    return format_named(names[-1], catalogue) if names else None


def name_quantisation(name: str) -> str:
    """What the name of a checkpoint says of its quantisation: `awq` of `Qwen2.5-7B-Instruct-AWQ`, or nothing."""
    found = QUANT_IN_NAME.search(plain_name(name).removesuffix(".gguf"))
    if not found:
        return ""
    return found[1] or found[2].replace("-", "_")


def _format(row: FormatRow) -> Format:
    return Format(row.family, row.bits_per_weight, row.embedding_bits, row.head_bits, row.rest_bits)


@remembered
def _card_words(name: str) -> frozenset[str]:
    text = COUNTED.sub("", name.lower()).replace("max-q", "maxq")
    text = SERIES_JOINED.sub(r"\1 ", text)
    text = re.sub(r"\b(\d+)[\s_-]*g(?:i?b)?\b", r"\1gb", text)
    text = re.sub(r"\b(sxm|pcie?)\d*\b", lambda found: "pcie" if found[1].startswith("pci") else "sxm", text)
    text = CARD_JOINED.sub(r" \1", text)
    return frozenset(re.findall(r"[a-z0-9]+", text)) - CARD_NOISE


@remembered
def model_words(name: str) -> frozenset[str]:
    return frozenset(_ordered_words(name)) - MODEL_NOISE


@remembered
def _ordered_words(name: str) -> tuple[str, ...]:
    """The words of a name; a version is a word of its own, as in `llama3.1` and `Llama-3.1`."""
    return tuple(re.findall(r"[a-z0-9.]+", FAMILY_JOINED.sub(r"\1 ", name.lower().rpartition("/")[2])))
