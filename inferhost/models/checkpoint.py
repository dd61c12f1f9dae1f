"""A catalogue row from a checkpoint on disk: a folder with `config.json` and safetensors, or a GGUF file.

Sizes come from the headers; the shape from the configuration; what neither says is `None`. The row is ready for
`models.json`, with the file's name as its source.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from inferhost.catalogue.rows import MlaShape, ModelRow, MoeShape, SlidingShape
from inferhost.models import safetensors
from inferhost.models.bounds import WANTED, UnreadableModel
from inferhost.models.config import Shape, read_shape
from inferhost.models.gguf import FILE_TYPES, Gguf, read_gguf

LARGEST_CONFIG_BYTES = 4 * 2**20
GGUF_FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3-moe",
    "gemma3": "gemma",
    "deepseek2": "deepseek",
    "glm4": "glm",
    "command-r": "command-r",
    "phi3": "phi",
}
"""Architectures of GGUF files whose keys are read."""
GEMMA_WINDOW_EVERY = 6


def read_model(path: pathlib.Path) -> ModelRow:
    """The row of a checkpoint, or `UnreadableModel` saying what cannot be understood."""
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".gguf":
        return _gguf(path)
    raise UnreadableModel(f"{path.name}: is no checkpoint", WANTED)


def _folder(path: pathlib.Path) -> ModelRow:
    """A row from `config.json`, with the bytes of the weights where they lie beside it."""
    file = path / "config.json"
    if not file.is_file():
        raise UnreadableModel(f"{path.name}: has no config.json", WANTED)
    if file.stat().st_size > LARGEST_CONFIG_BYTES:
        raise UnreadableModel(f"config.json: is larger than {LARGEST_CONFIG_BYTES} bytes")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnreadableModel(f"config.json: is no JSON: {str(error)[:60]}") from None
    shape = read_shape(config)
    found: dict[str, int] = {}
    for part in sorted(path.glob("*.safetensors")):
        for kind, count in safetensors.bytes_by_format(part).items():
            found[kind] = found.get(kind, 0) + count
    total = sum(found.values()) or None
    quantisation = _quantisation(config)
    linear, tables = shape.linear_parameters(), shape.table_parameters()
    parameters, bits = linear + tables, 16.0
    if quantisation == "none" and total:
        parameters = sum(count * 8 // safetensors.BITS[kind] for kind, count in found.items())
        bits = 8 * total / parameters
    elif total:
        bits = max(1.0, 8 * (total - 2 * tables) / linear)
    elif quantisation != "none":
        raise UnreadableModel(f"{path.name}: is {quantisation} and has no safetensors to take its size from")
    return _row(path.name, shape, quantisation, form="safetensors", bits=bits, parameters=parameters, total=total)


def _quantisation(config: dict[str, Any]) -> str:
    """The method of a quantised checkpoint, `none` for a plain one."""
    method = config.get("quantization_config")
    if method is None:
        return "none"
    found = method.get("quant_method") if isinstance(method, dict) else None
    if not isinstance(found, str) or not found:
        raise UnreadableModel("config.json: quantization_config.quant_method: is missing")
    return found.lower()


def _row(
    name: str, shape: Shape, quantisation: str, *, form: str, bits: float, parameters: int, total: int | None
) -> ModelRow:
    return ModelRow(
        key=name.lower().removesuffix(".gguf"),
        name=name.removesuffix(".gguf"),
        family=shape.family,
        attention=shape.attention,
        format=form,
        quantisation=quantisation,
        linear_bits=round(bits, 3),
        embedding_bits=16.0 if form == "safetensors" else round(bits, 3),
        head_bits=16.0 if form == "safetensors" else round(bits, 3),
        layers=shape.layers,
        kv_layers=shape.kv_layers,
        kv_heads=shape.kv_heads,
        query_heads=shape.query_heads,
        head_dim=shape.head_dim,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        vocabulary_size=shape.vocabulary_size,
        tied_embeddings=shape.tied_embeddings,
        mla=shape.mla,
        sliding=shape.sliding,
        state=shape.state,
        vision=None,
        parameters=parameters,
        active_parameters=_active(shape),
        moe=shape.moe,
        weights_bytes=total,
        context_max_tokens=shape.context_max_tokens,
        random=False,
        notes="the vision tower's shape is not read: its activations are not planned for" if shape.has_vision else "",
        source=f"read from {name}",
    )


def _active(shape: Shape) -> int | None:
    return None if shape.moe is None else shape.linear_parameters(active_only=True) + shape.table_parameters()


def _gguf(path: pathlib.Path) -> ModelRow:
    found = read_gguf(path)
    shape = gguf_shape(found, path.name)
    kind = found.keys.get("general.file_type")
    if kind not in FILE_TYPES:
        raise UnreadableModel(f"{path.name}: general.file_type: found {str(kind)[:20]!r}, which is not known")
    total, parameters = found.tensor_bytes(), found.parameters()
    if parameters <= 0:
        raise UnreadableModel(f"{path.name}: has no tensors")
    bits = 8 * total / parameters
    return _row(path.name, shape, FILE_TYPES[kind], form="gguf", bits=bits, parameters=parameters, total=total)


def gguf_shape(found: Gguf, name: str) -> Shape:
    """The shape that a GGUF header describes."""
    kind = found.keys.get("general.architecture")
    if kind not in GGUF_FAMILIES:
        known = ", ".join(sorted(GGUF_FAMILIES))
        raise UnreadableModel(f"{name}: general.architecture: found {str(kind)[:40]!r}, wanted one of {known}")

    def get(key: str) -> int | None:
        value = found.keys.get(f"{kind}.{key}")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UnreadableModel(
                f"{name}: {kind}.{key}: found {str(value)[:40]!r}, wanted one number for all layers"
            )
        return value

    def need(key: str) -> int:
        value = get(key)
        if not value:
            raise UnreadableModel(f"{name}: {kind}.{key}: is missing")
        return value

    layers, heads, hidden = need("block_count"), need("attention.head_count"), need("embedding_length")
    vocabulary = get("vocab_size") or found.lengths.get("tokenizer.ggml.tokens")
    if not vocabulary:
        raise UnreadableModel(f"{name}: {kind}.vocab_size and tokenizer.ggml.tokens: are missing")
    experts, latent, window = get("expert_count"), get("attention.kv_lora_rank"), get("attention.sliding_window")
    moe = None
    if experts:
        dense = get("leading_dense_block_count") or 0
        moe = MoeShape(
            experts, need("expert_used_count"), get("expert_shared_count") or 0, dense, get("feed_forward_length")
        )
    mla = None
    if latent:
        rope = need("rope.dimension_count")
        key = get("attention.key_length_mla") or need("attention.key_length")
        value = get("attention.value_length_mla") or need("attention.value_length")
        mla = MlaShape(latent, rope, key - rope, value, get("attention.q_lora_rank"))
    sliding = None
    if window and kind == "gemma3":
        sliding = SlidingShape(window, layers - layers // GEMMA_WINDOW_EVERY)
    elif window and window < (get("context_length") or window):
        sliding = SlidingShape(window, layers)
    return Shape(
        family=GGUF_FAMILIES[str(kind)],
        attention="mla" if mla else "sliding" if sliding else "full",
        layers=layers,
        kv_layers=layers,
        kv_heads=1 if mla else get("attention.head_count_kv") or heads,
        query_heads=heads,
        head_dim=None if mla else get("attention.key_length") or hidden // heads,
        hidden_size=hidden,
        intermediate_size=need("expert_feed_forward_length") if moe else need("feed_forward_length"),
        vocabulary_size=vocabulary,
        tied_embeddings="output.weight" not in found.tensors,
        mla=mla,
        sliding=sliding,
        state=None,
        moe=moe,
        context_max_tokens=get("context_length"),
        has_vision=False,
    )
