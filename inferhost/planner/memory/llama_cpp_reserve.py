"""The compute buffer that llama-server 0.7.0 reserves on the one card of a plan, and what to keep free beside it.

Newer builds reserve less than those of most published logs (`llama_cpp_buffers`): the mask is made at 16 bit, each
sequence has cells of its own, and a server asks for one output per sequence. Everything that lives at the widest
place of a block adds up exactly; where a part of the model is in host memory the sum is an upper bound, because what
is freed early leaves holes that later tensors may or may not fit. Checked against what the program itself reserves on
stand-in devices that only count bytes: tests/unit/test_llama_cpp_reserve.py.
"""

from __future__ import annotations

import dataclasses
import math

from inferhost.catalogue.rows import ModelRow
from inferhost.planner.memory.llama_cpp_buffers import CACHED, MIB, MIXED_BITS, NUMBER, bits_per_weight, query_width
from inferhost.planner.memory.llama_cpp_offload import Placement

INPUT_BYTES = MIB // 8
"""Positions, ids and rows of the cache to write: a few numbers per token."""
BLAS_WORKSPACE_BYTES = 32 * MIB
FREE_TEMPORARY_RATIO = 0.05
"""Of the compute buffer, what fused steps of the CUDA backend can keep allocated longer: a choice, not measured."""
CONTEXT_SPREAD_BYTES = 256 * MIB
"""By how much a context of CUDA with its kernels differs between cards and drivers: a choice, not measured."""


@dataclasses.dataclass(frozen=True)
class Reserve:
    """One start with flash attention: cells and number of sequences, micro batch, bytes of a cached number."""

    cells_per_sequence: int
    sequences: int
    micro_batch_tokens: int
    cached_bytes: float
    placement: Placement


def card_buffer_bytes(model: ModelRow, start: Reserve) -> int:
    """The compute buffer of the card, in bytes: exact for a model that is on it whole, else at most.

    Source: formulas `memory.llama_cpp_reserve` and `memory.llama_cpp_copies`.
    """
    block, attention = _block_bytes(model, start), _attention_bytes(model, start) + converted_bytes(model, start)
    widest = max(block, attention, _output_bytes(model, start))
    if start.placement.cpu_expert_layers and model.moe is not None:
        widest = max(widest, _copied_expert_bytes(model, start))
    if start.placement.host_layers(model):
        widest = max(widest, block + _largest_tensor_bytes(model), attention + _copied_cache_bytes(model, start))
    return math.ceil(widest) + INPUT_BYTES


def host_buffer_bytes(model: ModelRow, start: Reserve) -> int:
    """The host's compute buffer, in bytes: the mask and the embedded tokens.

    Layers that are in host memory add nothing to it: large batches of theirs are computed by the card.
    """
    return math.ceil(_mask_bytes(model, start) + 4 * _each(start) * model.hidden_size) + INPUT_BYTES


def margin_bytes(model: ModelRow, start: Reserve) -> int:
    """What to keep free beside the buffers: what the CUDA backend takes while it runs, and what is not known.

    One tensor of a layer at 16 bit and the activations that go with it (where a card or a format has no kernel of its
    own), the rows of a mixture's experts sorted, the workspace of cuBLAS, and two choices.
    Source: formula `memory.llama_cpp_margin`.
    """
    width = max(model.intermediate_size or 0, query_width(model))
    tokens = start.micro_batch_tokens
    taken = 2 * model.hidden_size * width + 2 * tokens * (model.hidden_size + width)
    if model.moe is not None:
        taken += 2 * NUMBER * tokens * model.moe.experts_per_token * model.hidden_size
    free = FREE_TEMPORARY_RATIO * card_buffer_bytes(model, start)
    return math.ceil(taken + free) + BLAS_WORKSPACE_BYTES + CONTEXT_SPREAD_BYTES


def converted_bytes(model: ModelRow, start: Reserve) -> float:
    """A quantised cache is turned to 16 bit for attention, one layer at a time; the latent vector serves as V too."""
    if start.cached_bytes == CACHED:
        return 0.0
    return CACHED * start.sequences * start.cells_per_sequence * _cached_numbers(model)


def _each(start: Reserve) -> int:
    """Bytes of one number per token of a micro batch."""
    return NUMBER * start.micro_batch_tokens


def _mask_bytes(model: ModelRow, start: Reserve) -> int:
    """The mask at 16 bit, and a second one over the window of models that have one."""
    cells = start.cells_per_sequence
    if model.sliding is not None:
        cells += min(cells, model.sliding.window_tokens + start.micro_batch_tokens)
    return 2 * start.micro_batch_tokens * cells


def _block_bytes(model: ModelRow, start: Reserve) -> float:
    """The feed-forward's widest place: gate, up and their product, and the hidden states four times."""
    width = model.intermediate_size or 0
    if model.moe is None:
        numbers = 3 * width
    else:
        numbers = model.moe.experts_per_token * (3 * width + model.hidden_size)
        dense = 3 * (model.moe.dense_intermediate_size or 0)
        numbers = max(numbers, dense)
    return _each(start) * (numbers + 4 * model.hidden_size) + _mask_bytes(model, start)


def _attention_bytes(model: ModelRow, start: Reserve) -> float:
    """The widest place of attention; queries, what they become and what comes out of the latent cache of MLA."""
    if model.mla is not None:
        mla, heads = model.mla, model.query_heads or 0
        key = (mla.qk_nope_head_dim or 0) + mla.qk_rope_head_dim
        numbers = heads * (key + 2 * mla.kv_lora_rank + 2 * mla.qk_rope_head_dim)
    else:
        numbers = 3 * query_width(model)
    return _each(start) * (numbers + 4 * model.hidden_size) + _mask_bytes(model, start)


def _output_bytes(model: ModelRow, start: Reserve) -> int:
    """The logits: a server asks for one row per sequence."""
    return NUMBER * start.sequences * (model.vocabulary_size + 2 * model.hidden_size)


def _copied_expert_bytes(model: ModelRow, start: Reserve) -> float:
    """One tensor of a layer's experts as a copy, beside what goes into it and what comes out."""
    assert model.moe is not None
    width, used = model.intermediate_size or 0, model.moe.experts_per_token
    kept = _each(start) * (4 * model.hidden_size + used * (width + model.hidden_size)) + _mask_bytes(model, start)
    return kept + _largest_tensor_bytes(model)


def _largest_tensor_bytes(model: ModelRow) -> float:
    """The largest tensor of a layer, at the most bits that a mixture of K-quants gives it."""
    bits = bits_per_weight(model)
    if "_k_" in model.quantisation:
        bits = max(bits, MIXED_BITS)
    width = model.hidden_size * (model.intermediate_size or 0)
    if model.moe is not None:
        width = max(width * model.moe.experts, model.hidden_size * (model.moe.dense_intermediate_size or 0))
    return max(width, model.hidden_size * query_width(model)) * bits / 8


def _copied_cache_bytes(model: ModelRow, start: Reserve) -> float:
    """A layer's part of the cache as a copy; of compressed attention K, the V within it, and one projection."""
    cells = start.sequences * start.cells_per_sequence
    copied = start.cached_bytes * cells * _cached_numbers(model)
    if model.mla is None:
        return copied
    lora = model.mla.q_lora_rank or model.hidden_size
    return copied + start.cached_bytes * cells * model.mla.kv_lora_rank + lora * query_width(model) * MIXED_BITS / 4


def _cached_numbers(model: ModelRow) -> int:
    """Numbers of one cell in one layer's cache."""
    if model.mla is not None:
        return model.mla.kv_lora_rank + model.mla.qk_rope_head_dim
    return 2 * model.kv_heads * (model.head_dim or 0)
