"""One case for the estimator, read from what a person knows before the start: card, model, quantisation, options.

Fields are named as the columns of the published cases. Numbers may come as text, anything may be absent, names of
models are compared without organisation, case and quantisation suffix. What cannot be resolved is refused by name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import MlaShape, ModelRow, SlidingShape
from inferhost.planner.card_names import GIB, Card, named_card
from inferhost.planner.estimate.checks import check_numbers, check_split
from inferhost.planner.estimate.engine_runs import check_runs
from inferhost.planner.estimate.fields import Refused, number, switch, text, whole
from inferhost.planner.estimate.notes import field_notes, version_notes
from inferhost.planner.memory.weights import linear_parameters
from inferhost.planner.names import cards_counted, chip_named, gguf_format, model_named, name_quantisation
from inferhost.planner.speed.decode import speed_row
from inferhost.planner.versions import Version, version

ENGINES = (
    (re.compile(r"\bik[_-]?llama"), "ik_llama.cpp"),
    (re.compile(r"llama[._-]?(cpp|server|bench|cli)|\bollama|\bgguf"), "llama.cpp"),
    (re.compile(r"vllm"), "vllm"),
    (re.compile(r"sglang|\bsgl\b"), "sglang"),
)
"""What people call an engine; `vLLM 0.8.5 (V1)` names its version too."""
LINEAR_BITS: tuple[tuple[str, float], ...] = (
    (r"(bnb|bitsandbytes|hqq|torchao|quanto)\W*(int)?8", 8.0),
    (r"bnb|nf4|bitsandbytes", 4.128),  # 4 bit and doubly quantised scales per 64: 0.516 bytes printed
    (r"mxfp4", 4.25),
    (r"nvfp4|fp4", 4.5),
    (r"awq|gptq|int4|w4a|(?<![\d.])4-?bit|autoround", 4.15625),
    (r"mxfp8", 8.25),
    (r"fp8|float8|int8|w8a|(?<![\d.])8-?bit|q8|smoothquant|eetq", 8.0),
    (r"fp32|f32", 32.0),
    (r"bf16|fp16|f16|none|auto|half|16|^no$|unquanti|original|^full", 16.0),
)
NOT_SAID = ("", "-", "?", "n/a", "na", "null", "nan", "unknown", "unstated", "default")
GIGABYTES = re.compile(r"(\d+(?:\.\d+)?)\s*g(i?)b\b")
PER_WEIGHT = re.compile(r"(\d+(?:\.\d+)?)\s*(?:bpw|bits? per weight)")
AUTOMATIC = ("auto", "-1")
"""vLLM takes the longest context that fits: the cache is what it would be without the option."""
KV_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q6_0": 26 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes per element of llama.cpp's cache types. Source: engines.md 5."""
FORKS_KV_TYPES = ("q6_0",)
"""Those of ik_llama.cpp alone."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked, with everything resolved that the catalogue can resolve."""

    engine: str
    version: Version
    model: ModelRow
    card: Card | None
    fields: Mapping[str, Any]
    nvlink: bool = False
    notes: tuple[str, ...] = ()
    longest_that_fits: bool = False  # vLLM is told to find max_model_len itself

    def number(self, name: str) -> float | None:
        return number(self.fields, name)

    def whole(self, name: str, least: int = 1) -> int | None:
        return whole(self.fields, name, least)

    def text(self, name: str) -> str:
        return text(self.fields, name)

    def switch(self, name: str) -> bool | None:
        return switch(self.fields, name)

    @property
    def stages(self) -> int:
        """Stages of a pipeline."""
        return self.whole("pp") or 1

    @property
    def tensor_parallel_size(self) -> int:
        """Cards that share one copy; a known count of cards without a split means all of them."""
        asked = self.whole("tp")
        if asked is None:
            copies = self.stages * (self.whole("dp") or 1)
            asked = (self.whole("gpu_count") or 1) // copies
        return max(1, asked)


def read_case(fields: Mapping[str, Any], catalogue: Catalogue) -> Case:
    """The case, or `Refused` with the field at fault."""
    asked = text(fields, "engine").lower()
    engine = next((name for pattern, name in ENGINES if pattern.search(asked)), None)
    if engine is None:
        known = ", ".join(sorted(name for _, name in ENGINES))
        planned = (
            "; inferhost plan counts its cache" if asked in {row.engine for row in catalogue.engines.values()} else ""
        )
        raise Refused(f"engine: found {asked[:40]!r}, wanted one of {known}{planned}")
    automatic = engine == "vllm" and text(fields, "max_model_len").lower() in AUTOMATIC
    if automatic:
        fields = {**fields, "max_model_len": None}
    counted = cards_counted(text(fields, "gpu"))
    if counted is not None and not text(fields, "gpu_count"):
        fields = {**fields, "gpu_count": counted}
    check_numbers(fields)
    quant = text(fields, "quant").lower()
    if quant in NOT_SAID:
        quant = name_quantisation(text(fields, "arch_model")) or name_quantisation(text(fields, "model"))
    model = quantised(case_model(fields, catalogue), quant, catalogue)
    found = version(engine, text(fields, "engine_version") or asked)
    name = text(fields, "gpu")
    chip = chip_named(name, catalogue)
    said = text(fields, "engine_version") or (asked if re.search(r"\d", asked) else "")
    check_runs(speed_row(engine, said, catalogue.speeds.values()), said, chip, quant, catalogue)
    card = named_card(name, number(fields, "vram_gib"), catalogue)
    notes = (*version_notes(engine, found, catalogue), *field_notes(fields, engine, chip, catalogue))
    case = Case(engine, found, model, card, fields, chip is not None and chip.nvlink, notes, automatic)
    if engine in ("vllm", "sglang"):
        check_split(fields, engine, model, case.tensor_parallel_size)
    return case


def case_model(fields: Mapping[str, Any], catalogue: Catalogue) -> ModelRow:
    """The model of the case: an inline `arch`, else the catalogue's row of that name."""
    arch = fields.get("arch")
    if isinstance(arch, Mapping) and arch:
        named = (text(arch, "model"), text(fields, "arch_model"), text(fields, "model"))
        known = next((row for name in named if name and (row := model_named(name, catalogue))), None)
        return inline_model(arch, known)
    name = text(fields, "arch_model") or text(fields, "model")
    found = model_named(name, catalogue) if name else None
    if found is None:
        raise Refused(f"arch_model: {name[:60]!r} is not in the catalogue; give arch, with its shape")
    return found


def inline_model(arch: Mapping[str, Any], known: ModelRow | None) -> ModelRow:
    """A model described in the case itself, by the columns of the published shapes."""

    def need(name: str) -> float:
        value = number(arch, name)
        if not value:
            raise Refused(f"arch.{name}: is missing" if value is None else f"arch.{name}: found 0, wanted more")
        return value

    layers = int(need("num_hidden_layers"))
    growing = int(number(arch, "layers_with_growing_kv") or layers)
    latent, rope = number(arch, "kv_lora_rank"), number(arch, "qk_rope_head_dim")
    words = f"{text(arch, 'sliding_or_hybrid')} {text(arch, 'notes')}".lower()
    mla = None
    if latent:
        own = known.mla if known is not None else None
        mla = own or MlaShape(int(latent), int(rope or 64), None, None, None)
    hidden, vocabulary = int(need("hidden_size")), int(need("vocab_size"))
    intermediate = number(arch, "intermediate_size")
    parts: dict[str, Any] = {
        "layers": layers,
        "kv_layers": growing,
        "kv_heads": int(number(arch, "num_key_value_heads") or 1),
        "head_dim": int(number(arch, "head_dim") or 0) or None,
        "hidden_size": hidden,
        "intermediate_size": int(intermediate) if intermediate else None,
        "vocabulary_size": vocabulary,
        "tied_embeddings": bool(switch(arch, "tie_word_embeddings")),
        "parameters": round(need("params_b") * 1e9),
        "mla": mla,
    }
    if parts["head_dim"] is None and mla is None:
        raise Refused("arch.head_dim: is missing")
    if known is not None:
        return dataclasses.replace(known, **{k: v for k, v in parts.items() if v is not None})
    if "hybrid" in words:
        raise Refused("arch.sliding_or_hybrid: the state of a hybrid model is not described by these fields")
    window = re.search(r"window (\d+)|(\d+) window", words)
    sliding = None
    if window:
        sliding = SlidingShape(int(window[1] or window[2]), windowed_layers(words, layers, growing))
        parts["kv_layers"] = layers
    kind = "mla" if mla else "sliding" if sliding else "mixed" if growing < layers else "full"
    return ModelRow(
        key="arch",
        name=text(arch, "model") or "arch",
        family="unknown",
        attention=kind,
        format="safetensors",
        quantisation="none",
        linear_bits=16.0,
        embedding_bits=16.0,
        head_bits=16.0,
        query_heads=int(number(arch, "num_attention_heads") or 0) or None,
        sliding=sliding,
        state=None,
        vision=None,
        active_parameters=None,
        moe=None,
        weights_bytes=None,
        context_max_tokens=None,
        random=False,
        notes="",
        source="the case itself",
        **parts,
    )


def windowed_layers(words: str, layers: int, growing: int) -> int:
    """How many layers have a window: `5 local : 1 global`, `alternating`, those that do not grow, or all."""
    ratio = re.search(r"(\d+)\s*(?:local|sliding|swa)?\s*:\s*(\d+)\s*(?:global|full)?", words)
    if ratio and int(ratio[2]):
        return layers - layers // (int(ratio[1]) + int(ratio[2])) * int(ratio[2])
    if "altern" in words or "every other" in words or "every second" in words:
        return layers - layers // 2
    return layers - growing or layers


def quantised(model: ModelRow, quant: str, catalogue: Catalogue) -> ModelRow:
    """The model with the bits of a checkpoint's quantisation; embeddings stay at 16 bit, except in a GGUF file."""
    words = quant.lower()
    size, per_weight, named = GIGABYTES.search(words), PER_WEIGHT.search(words), gguf_format(words, catalogue)
    if named is not None and words != model.quantisation:
        model = dataclasses.replace(
            model,
            linear_bits=named.bits_per_weight,
            # One table for both is kept as wide as an output layer. Source: decode_cases.csv, files of Llama 3.2.
            embedding_bits=named.head_bits if model.tied_embeddings else named.embedding_bits,
            head_bits=named.head_bits,
            weights_bytes=None,
            format="gguf",
        )
    if size:
        unit = GIB if size[2] else 1e9
        return dataclasses.replace(model, weights_bytes=round(float(size[1]) * unit), format="gguf")
    if per_weight:
        return dataclasses.replace(model, linear_bits=float(per_weight[1]), weights_bytes=None)
    if not words or words == model.quantisation or named is not None:
        return model
    if words == "gguf":
        return model
    widths = [bits for part in words.split("/") for bits in _bits(part)[:1]]
    if not widths:
        raise Refused(
            f"quant: found {quant[:40]!r}, whose bits per weight are not known; give a format such as bf16, fp8, "
            "awq, int8 or Q4_K_M, or the bits, such as 4.5 bpw"
        )
    bits = max(widths)
    if model.state is not None and bits < 8:
        bits = mixed_bits(model, bits)
    return dataclasses.replace(model, linear_bits=bits, weights_bytes=None)


def _bits(words: str) -> list[float]:
    """Bits per linear weight, the most telling word first."""
    return [bits for pattern, bits in LINEAR_BITS if re.search(pattern, words)]


def mixed_bits(model: ModelRow, bits: float) -> float:
    """Bits per linear weight where only the feed-forward layers are at `bits` and attention stays at 8.

    That is how 4 bit checkpoints of hybrid models are made.
    """
    experts = 1 if model.moe is None else model.moe.experts + model.moe.shared_experts
    feed_forward = 3 * model.layers * experts * model.hidden_size * (model.intermediate_size or 0)
    linear = linear_parameters(model, active_only=False)
    return (feed_forward * bits + (linear - feed_forward) * 8) / linear
