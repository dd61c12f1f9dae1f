"""How an engine lays out the cache of a model on one card: per token, per window and per sequence, in bytes.

Most layers keep K and V of every token. Compressed attention keeps one latent vector that no rank can share out,
a sliding window only its last tokens, linear attention a state that does not grow. Which of that an engine makes
use of differs by engine and version; what it does not use it allocates in full.
"""

from __future__ import annotations

import dataclasses

from inferhost.catalogue.rows import ModelRow, StateShape

VLLM_PADDED_MLA_ELEMENTS = 640
FEW_PADDED_RATIO = 1.5
"""Where one kind of layers outnumbers the other by less, vLLM makes groups as large as the greater kind."""
STATE_ELEMENT_BYTES = 4
CONVOLUTION_ELEMENT_BYTES = 2


@dataclasses.dataclass(frozen=True)
class CacheLayout:
    """One card's cache. `window_bytes_per_token` counts for at most `window_tokens` of a sequence."""

    bytes_per_token: int
    window_bytes_per_token: int = 0
    window_tokens: int = 0
    state_bytes: int = 0

    def sequence_bytes(self, tokens: int) -> int:
        """What one sequence of this length takes."""
        windowed = min(tokens, self.window_tokens) * self.window_bytes_per_token
        return tokens * self.bytes_per_token + windowed + self.state_bytes

    @property
    def fixed_bytes(self) -> int:
        """What a sequence takes however long it is, once its windows are full."""
        return self.window_tokens * self.window_bytes_per_token + self.state_bytes


def cache_layout(
    model: ModelRow,
    engine: str,
    bytes_per_element: float,
    *,
    tensor_parallel_size: int = 1,
    padded_mla: bool = False,
    grouped: bool = True,
) -> CacheLayout:
    """The layout of `engine` for `model` on each of `tensor_parallel_size` cards.

    KV heads are shared out until one is left per card; a latent vector never is. `padded_mla` is vLLM 0.7, which
    stored 640 elements instead of 576; `grouped` that vLLM fills up groups of layers, as it does since 0.9.2.
    Source: formulas `memory.kv_bytes_per_token`, `memory.kv_latent`, `memory.kv_window`, `memory.kv_state`.
    """
    if model.mla is not None:
        stored = model.mla.kv_lora_rank + model.mla.qk_rope_head_dim
        elements = VLLM_PADDED_MLA_ELEMENTS if padded_mla and stored == 576 else stored
        return CacheLayout(round(model.kv_layers * elements * bytes_per_element))
    heads = max(1, model.kv_heads // tensor_parallel_size)
    per_layer = 2 * heads * (model.head_dim or 0) * bytes_per_element
    state = 0 if model.state is None else state_bytes(model.state, tensor_parallel_size)
    windowed, layers = 0, model.kv_layers
    if engine == "vllm" and grouped:
        layers = layer_groups(model).padded_layers
    # llama.cpp gives windows to models that mix both kinds of layers; where all have one it allocates in full.
    if model.sliding is not None and engine == "llama.cpp" and model.sliding.layers < model.kv_layers:
        windowed = model.sliding.layers
    return CacheLayout(
        round((layers - windowed) * per_layer),
        round(windowed * per_layer),
        model.sliding.window_tokens if windowed and model.sliding is not None else 0,
        state,
    )


@dataclasses.dataclass(frozen=True)
class LayerGroups:
    """Groups of as many layers each, which vLLM gives pages of one pool to: attending to all, and to a window."""

    size: int
    full: int
    windowed: int

    @property
    def padded_layers(self) -> int:
        """Layers that the pool is cut for; the last group of a kind is filled up with some that do not exist."""
        return self.size * (self.full + self.windowed)


def layer_groups(model: ModelRow, few_padded_ratio: float = FEW_PADDED_RATIO) -> LayerGroups:
    """How vLLM groups the layers of a model that mixes windows with full attention; any other has one group.

    Source: formula `memory.vllm_groups`.
    """
    windowed = 0 if model.sliding is None else model.sliding.layers
    full = model.kv_layers - windowed
    if not windowed or not full:
        return LayerGroups(model.kv_layers, 1, 0)
    fewer, more = sorted((full, windowed))
    size = more if more < few_padded_ratio * fewer else fewer
    return LayerGroups(size, -(-full // size), -(-windowed // size))


def state_bytes(state: StateShape, tensor_parallel_size: int = 1) -> int:
    """The state of one sequence on one card: the recurrent matrix at 32 bit and the taps of the convolution.

    Source: formula `memory.kv_state`.
    """
    matrix = state.value_heads * state.key_head_dim * state.value_head_dim * STATE_ELEMENT_BYTES
    channels = 2 * state.key_heads * state.key_head_dim + state.value_heads * state.value_head_dim
    taps = channels * (state.convolution - 1) * CONVOLUTION_ELEMENT_BYTES
    return state.layers * (matrix + taps) // tensor_parallel_size
