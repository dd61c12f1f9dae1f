"""What of a model llama.cpp keeps in host memory when the card does not hold it whole.

Layers go to the card from the output layer backwards (`--n-gpu-layers` counts that layer as one), so the first layers
stay with the processor, each with its part of the cache. Of a mixture, the experts of the first layers alone can stay
there (`--n-cpu-moe`), which costs far less speed, because a token reads only a few of them. The input embedding is
always in host memory. Sizes of single layers follow from the shape; a mixture of quantisations makes them uneven.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from inferhost.catalogue.rows import ModelRow
from inferhost.planner.memory.kv_cache import CacheLayout
from inferhost.planner.memory.llama_cpp_buffers import bits_per_weight
from inferhost.planner.memory.weights import embedding_bytes, head_bytes, weights_bytes

UNEVEN_BITS = 6.5625 - 4.5
"""Q6_K less Q4_K: what a K-quant mixture spends more on some layers, the last eighth among them."""
UNEVEN_LAYERS_RATIO = 1 / 16
"""Of all layers, by how many whole ones the last ones can exceed their share: an eighth, half of which is average."""

OFFLOADED_KINDS = ("full", "mla", "sliding")
"""Kinds of attention whose layers all weigh the same; their caches may differ, which `part_of_cache` bounds."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a model lies: layers on the card, output layer included, and first layers whose experts do not."""

    gpu_layers: int
    cpu_expert_layers: int = 0

    def host_layers(self, model: ModelRow) -> int:
        """How many of the first layers are in host memory."""
        return max(0, model.layers + 1 - self.gpu_layers)

    def whole(self, model: ModelRow) -> bool:
        return self.gpu_layers > model.layers and not self.cpu_expert_layers


def whole(model: ModelRow) -> Placement:
    """Everything on the card."""
    return Placement(model.layers + 1)


def placements(model: ModelRow) -> Iterator[Placement]:
    """Every placement short of the whole, the most on the card first: experts leave before layers do.

    None where layers of several kinds differ in a way that a shape does not tell.
    """
    if model.attention not in OFFLOADED_KINDS:
        return
    if model.moe is not None:
        for count in range(model.moe.dense_layers + 1, model.layers + 1):
            yield Placement(model.layers + 1, count)
    experts = 0 if model.moe is None else model.layers
    for count in range(model.layers, 0, -1):
        yield Placement(count, experts)


def largest_placement(model: ModelRow, fits: Callable[[Placement], bool]) -> Placement | None:
    """The placement with the most on the card that fits, or nothing; less on the card keeps fitting."""
    options = list(placements(model))
    low, high = 0, len(options)
    while low < high:
        middle = (low + high) // 2
        if fits(options[middle]):
            high = middle
        else:
            low = middle + 1
    return options[low] if low < len(options) else None


@dataclasses.dataclass(frozen=True)
class LayerBytes:
    """One layer's weights: what every layer has, and what a layer of experts or a dense one has beside it."""

    common: float
    experts: float
    dense: float


def layer_bytes(model: ModelRow) -> LayerBytes:
    """The average layer; routed experts and dense feed-forwards of a mixture apart.

    Source: formula `memory.llama_cpp_offload`.
    """
    repeating = weights_bytes(model, embedding_on_host=True) - head_bytes(model)
    moe = model.moe
    if moe is None:
        return LayerBytes(repeating / model.layers, 0.0, 0.0)
    each = 3 * model.hidden_size * bits_per_weight(model) / 8
    routed = model.layers - moe.dense_layers
    experts = min(moe.experts * each * (model.intermediate_size or 0), repeating / max(1, routed))
    dense = each * (moe.dense_intermediate_size or 0)
    left = max(0.0, repeating - routed * experts - moe.dense_layers * dense)
    return LayerBytes(left / model.layers, experts, dense)


def host_layer_bytes(model: ModelRow, placement: Placement, share_of_experts: float = 1.0) -> float:
    """Weights of the layers and experts that are in host memory; with a share, those that one token reads."""
    each, dense_layers = layer_bytes(model), 0 if model.moe is None else model.moe.dense_layers
    layers = placement.host_layers(model)
    with_experts = max(0, max(layers, placement.cpu_expert_layers) - dense_layers) if model.moe is not None else 0
    return (
        layers * each.common + min(layers, dense_layers) * each.dense + with_experts * each.experts * share_of_experts
    )


def uneven_bytes(model: ModelRow, placement: Placement) -> float:
    """By how much the layers of one side can exceed their average share: the mixture gives some layers more bits.

    Source: formula `memory.llama_cpp_offload`.
    """
    if placement.whole(model) or "_k_" not in model.quantisation:
        return 0.0
    experts = 1 if model.moe is None else model.moe.experts
    if model.moe is not None and placement.cpu_expert_layers >= model.layers:
        experts = 1
    down = model.hidden_size * (model.intermediate_size or 0) * experts
    value = model.hidden_size * model.kv_heads * (model.head_dim or 0)
    return UNEVEN_LAYERS_RATIO * model.layers * (down + value) * UNEVEN_BITS / 8


def card_weights_bytes(model: ModelRow, placement: Placement) -> int:
    """Weights in the card's memory, at most."""
    resident = weights_bytes(model, embedding_on_host=True)
    on_host = host_layer_bytes(model, placement)
    return min(resident, math.ceil(resident - on_host + uneven_bytes(model, placement)))


def host_weights_bytes(model: ModelRow, placement: Placement) -> int:
    """Weights in host memory, at most: the input embedding, and what the card does not hold."""
    return math.ceil(embedding_bytes(model) + host_layer_bytes(model, placement) + uneven_bytes(model, placement))


def part_of_cache(layout: CacheLayout, model: ModelRow, layers: int) -> CacheLayout:
    """The cache of so many neighbouring layers, at most.

    Where kinds of layers alternate, neighbours can hold one more of a kind than their share.
    """
    if layers >= model.layers:
        return layout
    windowed = model.sliding.layers if layout.window_bytes_per_token and model.sliding is not None else 0
    states = model.state.layers if model.state is not None else 0

    def part(total: int, count: int) -> int:
        if not total or not count or not layers:
            return 0
        held = layers if count == model.layers else min(count, layers, math.ceil(count * layers / model.layers) + 1)
        return math.ceil(total * held / count)

    return CacheLayout(
        part(layout.bytes_per_token, model.kv_layers - windowed),
        part(layout.window_bytes_per_token, windowed),
        layout.window_tokens,
        part(layout.state_bytes, states),
    )
