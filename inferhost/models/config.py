"""A model's shape from its `config.json`: dense, grouped, mixture of experts, compressed, sliding window, hybrid.

Only architectures whose keys are known are read; any other is refused by its name, because a key that is missing
means a different default in each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from inferhost.catalogue.rows import MlaShape, MoeShape, SlidingShape, StateShape
from inferhost.models.bounds import UnreadableModel

FAMILIES = {
    "llama": "llama",
    "mistral": "mistral",
    "mixtral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3-moe",
    "qwen2_vl": "qwen2-vl",
    "qwen2_5_vl": "qwen2-vl",
    "qwen3_next": "qwen3-next",
    "qwen3_5": "qwen3-next",
    "phi3": "phi",
    "glm4": "glm",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gemma3_text": "gemma",
    "cohere": "command-r",
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
    "kimi_k2": "deepseek",
    "llava_next": "llava",
}
"""Architectures whose keys are read, and what the catalogue calls their family."""
TIED_UNLESS_SAID = ("gemma2", "gemma3", "gemma3_text", "cohere")
EXPERT_KEYS = ("num_experts", "n_routed_experts", "num_local_experts")
FEATURES_NOT_READ = (
    "cross_attention_layers",
    "block_configs",
    "index_topk",
    "layers_block_type",
)
"""Keys of features that change the cache and are not understood."""
LONGEST_MODEL = 10_000
LARGEST_SIZE = 2**24


@dataclasses.dataclass(frozen=True)
class Shape:
    """What of a catalogue row a configuration decides."""

    family: str
    attention: str
    layers: int
    kv_layers: int
    kv_heads: int
    query_heads: int
    head_dim: int | None
    hidden_size: int
    intermediate_size: int
    vocabulary_size: int
    tied_embeddings: bool
    mla: MlaShape | None
    sliding: SlidingShape | None
    state: StateShape | None
    moe: MoeShape | None
    context_max_tokens: int | None
    has_vision: bool

    def linear_parameters(self, active_only: bool = False) -> int:
        """Weights between the embeddings, counted from the shape; norms and routers are left out.

        With `active_only` those that one token passes through.
        """
        return self._attention_parameters() + self._feed_forward_parameters(active_only)

    def table_parameters(self) -> int:
        """Input embedding and output layer; one of them where they are tied."""
        return (1 if self.tied_embeddings else 2) * self.vocabulary_size * self.hidden_size

    def _attention_parameters(self) -> int:
        hidden = self.hidden_size
        if self.mla is not None:
            mla, heads = self.mla, self.query_heads
            nope, value = mla.qk_nope_head_dim or 0, mla.v_head_dim or 0
            query = heads * (nope + mla.qk_rope_head_dim)
            queries = mla.q_lora_rank * (hidden + query) if mla.q_lora_rank else hidden * query
            latent = hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim) + mla.kv_lora_rank * heads * (nope + value)
            return self.layers * (queries + latent + heads * value * hidden)
        head = self.head_dim or 0
        gates = 1 if self.state is not None else 0  # a hybrid's attention has a gate as wide as its queries
        per_layer = hidden * head * ((2 + gates) * self.query_heads + 2 * self.kv_heads)
        found = self.kv_layers * per_layer
        if self.state is not None:
            state = self.state
            keys, values = state.key_heads * state.key_head_dim, state.value_heads * state.value_head_dim
            found += state.layers * hidden * (2 * keys + 3 * values + 2 * state.value_heads)
        return found

    def _feed_forward_parameters(self, active_only: bool) -> int:
        each = 3 * self.hidden_size * self.intermediate_size
        if self.moe is None:
            return self.layers * each
        moe = self.moe
        experts = (moe.experts_per_token if active_only else moe.experts) + moe.shared_experts
        dense = 3 * self.hidden_size * (moe.dense_intermediate_size or 0)
        return (self.layers - moe.dense_layers) * experts * each + moe.dense_layers * dense


class _Keys:
    """Whole numbers of a configuration, each refused by name where it is missing or absurd."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def need(self, name: str, most: int = LARGEST_SIZE) -> int:
        found = self.get(name, most)
        if found is None:
            raise UnreadableModel(f"config.json: {name}: is missing")
        return found

    def get(self, name: str, most: int = LARGEST_SIZE) -> int | None:
        found = self.values.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= most:
            raise UnreadableModel(f"config.json: {name}: found {str(found)[:40]!r}, wanted a number up to {most}")
        return found


def read_shape(config: Any) -> Shape:
    """The shape, or `UnreadableModel` naming the key at fault."""
    if not isinstance(config, dict):
        raise UnreadableModel("config.json: is no JSON object")
    kind = config.get("model_type")
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnreadableModel(f"config.json: model_type: found {str(kind)[:40]!r}, wanted one of {known}")
    text = config.get("text_config")
    merged = {**config, **text} if isinstance(text, dict) else config
    unread = [name for name in FEATURES_NOT_READ if merged.get(name)]
    if unread:
        raise UnreadableModel(f"config.json: {unread[0]}: changes the cache in a way that is not understood")
    keys = _Keys(merged)
    layers = keys.need("num_hidden_layers", LONGEST_MODEL)
    heads, hidden = keys.need("num_attention_heads"), keys.need("hidden_size")
    if not (layers and heads and hidden):
        raise UnreadableModel("config.json: num_hidden_layers, num_attention_heads and hidden_size: wanted above 0")
    mla, state = _mla(keys), _state(merged, keys, layers)
    sliding = _sliding(str(kind), merged, keys, layers)
    moe = _moe(merged, keys)
    own_width = moe is not None and "moe_intermediate_size" in merged
    growing = layers - (state.layers if state else 0)
    attention = "mla" if mla else "hybrid" if state else "sliding" if sliding else "full"
    tied = merged.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return Shape(
        family=FAMILIES[str(kind)],
        attention=attention,
        layers=layers,
        kv_layers=growing,
        kv_heads=1 if mla else keys.get("num_key_value_heads") or heads,
        query_heads=heads,
        head_dim=None if mla else keys.get("head_dim") or hidden // heads,
        hidden_size=hidden,
        intermediate_size=keys.need("moe_intermediate_size" if own_width else "intermediate_size"),
        vocabulary_size=keys.need("vocab_size"),
        tied_embeddings=tied if isinstance(tied, bool) else kind in TIED_UNLESS_SAID,
        mla=mla,
        sliding=sliding,
        state=state,
        moe=moe,
        context_max_tokens=keys.get("max_position_embeddings", 2**31),
        has_vision=isinstance(config.get("vision_config"), dict),
    )


def _mla(keys: _Keys) -> MlaShape | None:
    latent = keys.get("kv_lora_rank")
    if not latent:
        return None
    return MlaShape(
        latent,
        keys.need("qk_rope_head_dim"),
        keys.need("qk_nope_head_dim"),
        keys.need("v_head_dim"),
        keys.get("q_lora_rank"),
    )


def _moe(values: Mapping[str, Any], keys: _Keys) -> MoeShape | None:
    name = next((key for key in EXPERT_KEYS if values.get(key)), None)
    if name is None:
        return None
    dense = keys.get("first_k_dense_replace", LONGEST_MODEL) or 0
    shared = keys.get("n_shared_experts") or 0
    wide = keys.get("intermediate_size") if dense else None
    return MoeShape(keys.need(name), keys.need("num_experts_per_tok"), shared, dense, wide)


def _state(values: Mapping[str, Any], keys: _Keys, layers: int) -> StateShape | None:
    """Linear attention: the layers that `layer_types` says, or all but every n-th."""
    if not values.get("linear_num_value_heads"):
        return None
    kinds = values.get("layer_types")
    every = keys.get("full_attention_interval")
    if isinstance(kinds, list) and len(kinds) == layers:
        linear = sum(kind == "linear_attention" for kind in kinds)
    elif every:
        linear = layers - layers // every
    else:
        raise UnreadableModel("config.json: layer_types: is missing, and which layers keep a state is not known")
    return StateShape(
        linear,
        keys.need("linear_num_key_heads"),
        keys.need("linear_num_value_heads"),
        keys.need("linear_key_head_dim"),
        keys.need("linear_value_head_dim"),
        keys.need("linear_conv_kernel_dim"),
    )


def _sliding(kind: str, values: Mapping[str, Any], keys: _Keys, layers: int) -> SlidingShape | None:
    """Layers with a window: those that `layer_types` says, else by the rule of the architecture."""
    window = keys.get("sliding_window", 2**31)
    switch = values.get("use_sliding_window")
    if not window or switch is False or (kind.startswith("qwen") and not switch):
        return None
    if (keys.get("max_position_embeddings", 2**31) or 2**31) <= window:
        return None  # no sequence gets so long that the window matters
    kinds = values.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return SlidingShape(window, sum(k == "sliding_attention" for k in kinds))
    if kind in ("mistral", "mixtral", "phi3"):
        return SlidingShape(window, layers)
    every = keys.get("sliding_window_pattern") or {"gemma2": 2, "gemma3": 6, "gemma3_text": 6}.get(kind)
    if every:
        return SlidingShape(window, layers - layers // every)
    raise UnreadableModel("config.json: sliding_window: which layers have it is not known for this architecture")
