"""The compute buffers of llama.cpp and its fork ik_llama.cpp: the largest set of tensors alive at one time, per card.

A graph of one micro batch is laid out once, for a full cache, and each card's buffer is what its part of the graph
needs at its widest place: the logits, one block's attention, or one mixture of experts. What the start's command line
alone decides (`-mla`, `-amb`, `-ot`) is taken as the fork's guides advise, or as it is by default.
"""

from __future__ import annotations

import dataclasses
import math

from inferhost.catalogue.rows import ModelRow

MIB = 2**20
NUMBER = 4  # bytes of an activation: all of them are 32 bit
CHUNK_BYTES = 512 * MIB
"""What `-amb 512` of the fork's guides lets one step of compressed attention take."""
CACHED = 2  # bytes of a number in the cache at 16 bit
MIXED_BITS = 6.5625
"""Q6_K, the most that a mixture around Q4_K or Q5_K gives a tensor of a layer."""
PIPELINE_COPIES = 4
"""`GGML_SCHED_MAX_COPIES` of a usual build."""
OFFLOAD_LEAST_TOKENS = 32
"""Tokens per expert from which the fork copies experts to a card instead of computing them on the host."""
SINGLE_SPREAD, SHARED_SPREAD, LATENT_SPREAD = (0.95, 1.15), (0.7, 1.3), (0.5, 2.0)
"""Source: 70 start-up logs in the fork's threads, of which the published cases are a part."""
EXPANDED_CHUNK_SHARE = 0.4
"""Of one chunk, what stays allocated beside it where the heads are taken in several: holes in the buffer."""


@dataclasses.dataclass(frozen=True)
class Graph:
    """One start: what decides the sizes of its graph."""

    fork: bool
    cells: int
    micro_batch_tokens: int
    flash_attention: bool
    cards: int
    latent: bool  # the cache holds one vector per token, not K and V of every head
    experts_on_host: bool = False
    repacked: bool = False  # row-interleaved weights of the fork, which no card computes
    pipelined: bool = False  # every layer on one of several cards: inputs of a card are kept for four batches
    card_bytes: int | None = None


def compute_bytes(model: ModelRow, graph: Graph) -> int:
    """The compute buffers of all cards together.

    One card holds the output layer; one, the first, takes the copies of experts that the host holds.
    Source: formulas `memory.llama_cpp_compute`, `memory.llama_cpp_latent` and `memory.llama_cpp_experts`.
    """
    block = block_bytes(model, graph) + pipeline_bytes(model, graph)
    copied = max(block, copied_expert_bytes(model, graph))
    output = max(output_bytes(model, graph), block)
    if graph.cards == 1:
        return round(max(output, copied))
    return round(copied + (graph.cards - 2) * block + output)


def spread(model: ModelRow, graph: Graph) -> tuple[float, float]:
    """Between which multiples of the estimate about nine starts in ten lie, by what the command line leaves open."""
    if model.mla is not None:
        return LATENT_SPREAD
    return SHARED_SPREAD if graph.cards > 1 or graph.experts_on_host else SINGLE_SPREAD


def output_bytes(model: ModelRow, graph: Graph) -> int:
    """The logits and the hidden states they come from.

    llama.cpp normalises the last hidden states in place; the fork's fused norm keeps both, except for gemma's.
    """
    copies = 2 if graph.fork and model.family != "gemma" else 1
    return NUMBER * graph.micro_batch_tokens * (model.vocabulary_size + copies * model.hidden_size)


def block_bytes(model: ModelRow, graph: Graph) -> float:
    """The widest place of one block: attention or feed-forward, beside the mask."""
    return max(attention_bytes(model, graph), feed_forward_bytes(model, graph) + mask_bytes(model, graph))


def mask_bytes(model: ModelRow, graph: Graph) -> int:
    """The mask as it is made and, for flash attention, at 16 bit: that copy hides in the queries if it fits."""
    cells, micro = graph.cells, graph.micro_batch_tokens
    if not graph.flash_attention:
        return NUMBER * micro * cells
    hidden = 2 * cells <= NUMBER * query_width(model)
    return micro * cells * (NUMBER if hidden else NUMBER + 2)


def query_width(model: ModelRow) -> int:
    """Numbers of one token's queries."""
    if model.mla is not None:
        return (model.query_heads or 0) * ((model.mla.qk_nope_head_dim or 0) + model.mla.qk_rope_head_dim)
    return (model.query_heads or model.kv_heads) * (model.head_dim or 0)


def feed_forward_bytes(model: ModelRow, graph: Graph) -> int:
    """The hidden states, and what the experts in use, or the gate and its product, put out."""
    width = model.intermediate_size or 0
    if model.moe is None:
        numbers = 2 * model.hidden_size + (2 if graph.fork else 3) * width
    else:
        numbers = 3 * model.hidden_size + model.moe.experts_per_token * (width + model.hidden_size)
    return NUMBER * graph.micro_batch_tokens * numbers


def attention_bytes(model: ModelRow, graph: Graph) -> float:
    """The widest place of attention; without flash attention that is the scores of every head."""
    micro, heads = graph.micro_batch_tokens, model.query_heads or model.kv_heads
    if model.mla is not None and graph.latent:
        return latent_attention_bytes(model, graph)
    if graph.flash_attention:
        return mask_bytes(model, graph) + NUMBER * micro * (2 * model.hidden_size + query_width(model))
    numbers = graph.cells * heads + 2 * query_width(model) + 2 * model.hidden_size
    return NUMBER * micro * numbers + mask_bytes(model, graph)


def latent_attention_bytes(model: ModelRow, graph: Graph) -> float:
    """Attention over latent vectors.

    llama.cpp takes the latent vector for K and V of every head. So does the fork without flash attention, where the
    scores are the larger part; with it, it expands the vectors to K and V of every head at 16 bit, as many heads at a
    time at 32 bit as `-amb` allows.
    """
    mla, heads, micro = model.mla, model.query_heads or 0, graph.micro_batch_tokens
    assert mla is not None
    key, value = (mla.qk_nope_head_dim or 0) + mla.qk_rope_head_dim, mla.v_head_dim or 0
    latent = mla.kv_lora_rank
    mask = NUMBER * micro * graph.cells
    if not graph.flash_attention:
        scores = NUMBER * micro * graph.cells * heads
        if graph.fork and scores > (graph.card_bytes or math.inf):
            scores = CHUNK_BYTES
        queries = NUMBER * micro * heads * (key + 3 * latent + mla.qk_rope_head_dim)
        return scores + mask + queries
    if not graph.fork:
        queries = NUMBER * micro * (heads * (key + 2 * latent + mla.qk_rope_head_dim) + 2 * model.hidden_size)
        return queries + mask_bytes(model, graph)
    expanded = 2 * graph.cells * heads * (key + value)
    whole = NUMBER * graph.cells * heads * ((mla.qk_nope_head_dim or 0) + value)
    chunk, parts = whole, 1
    while chunk > CHUNK_BYTES and parts < heads:
        chunk, parts = chunk // 2, parts * 2
    holes = EXPANDED_CHUNK_SHARE * chunk if parts > 1 else 0.0
    queries = NUMBER * micro * heads * (key + mla.qk_rope_head_dim)
    return expanded + mask + chunk + holes + queries


def pipeline_bytes(model: ModelRow, graph: Graph) -> int:
    """Further copies of what one card hands to the next, and of the mask."""
    if not graph.pipelined:
        return 0
    return (PIPELINE_COPIES - 1) * NUMBER * graph.micro_batch_tokens * (graph.cells + model.hidden_size)


def copied_expert_bytes(model: ModelRow, graph: Graph) -> float:
    """A block whose experts are in host memory and are copied to a card for large batches.

    llama.cpp copies one tensor at a time, beside the mask. The fork's fused step takes both of its tensors, where the
    mask was before it was copied at 16 bit; row-interleaved weights stay on the host.
    """
    if model.moe is None or not graph.experts_on_host or graph.repacked:
        return 0.0
    tensor = model.moe.experts * (model.intermediate_size or 0) * model.hidden_size * bits_per_weight(model) / 8
    mask = mask_bytes(model, graph)
    if not graph.fork:
        attention = attention_bytes(model, graph) if graph.latent and model.mla is not None else 0.0
        return max(feed_forward_bytes(model, graph) + mask, attention) + tensor
    if graph.micro_batch_tokens * model.moe.experts_per_token <= OFFLOAD_LEAST_TOKENS * model.moe.experts:
        return 0.0
    kept = mask - NUMBER * graph.micro_batch_tokens * graph.cells
    return feed_forward_bytes(model, graph) + kept + 2 * tensor


def bits_per_weight(model: ModelRow) -> float:
    """Of the file as a whole where its size is known."""
    if model.weights_bytes is None:
        return model.linear_bits
    return 8 * model.weights_bytes / model.parameters
