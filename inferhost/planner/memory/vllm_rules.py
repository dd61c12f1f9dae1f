"""What vLLM leaves for its cache, version by version: its defaults, its profiling run and what it then subtracts.

vLLM measures its own peak with a dummy run, so every term here predicts a measurement: the widest layer of that run
against the sampler over the whole vocabulary, libraries outside torch, and since 0.21 the CUDA graphs.
"""

from __future__ import annotations

import dataclasses
import math

from inferhost.catalogue.rows import ModelRow
from inferhost.planner.memory.kv_cache import FEW_PADDED_RATIO, CacheLayout, LayerGroups, layer_groups
from inferhost.planner.memory.weights import expert_parameters, linear_parameters
from inferhost.planner.versions import Version

GIB = 2**30
SORTED_BYTES_PER_LOGIT = 38.75
"""Sampling by a full sort: 16 and 32 bit logits, sorted values and indices, and the sort's scratch."""
MASKED_BYTES_PER_LOGIT = 14
"""Sampling in place (since 0.15): 16 and 32 bit logits, probabilities and noise."""
NON_TORCH_GIB, CONTEXT_GIB, GRAPHS_GIB = 0.07, 0.27, 0.27
"""Medians of what was printed: libraries, libraries with the CUDA context, graphs."""
LINKED_GIB = 0.25
"""Channels to each card of an NVLink group: 2.1 GiB were printed for eight."""
FIRST_COUNTED_CONTEXT: Version = (0, 11, 0)
FIRST_IN_PLACE_SAMPLER: Version = (0, 15, 0)
FIRST_PROFILER: Version = (0, 6, 4)
"""Before it, what torch holds in reserve after the run was counted, used or not."""
FIRST_V1: Version = (0, 8, 0)
LAST_BOTH_CORES: Version = (0, 10, 0)
"""The last series that fell back to the first engine core, for less than those before it."""
FIRST_FEW_SEQUENCES: Version = (0, 8, 4)
"""Before it the second engine core took 1024 sequences on every card, which small ones ran out of memory by."""
FIRST_COUNTED_GRAPHS: Version = (0, 21, 0)
FIRST_PRINTED_CAPACITY: Version = (0, 21, 0)
"""Since it the printed size of a hybrid model's cache is what requests of the full context find room in."""
FIRST_GROUPS: Version = (0, 9, 2)
"""Before it, and in the first engine core, layers with a window got a cache for the whole context."""
FEW_PADDED_RATIOS: tuple[tuple[Version, float], ...] = ((0, 19, 0), FEW_PADDED_RATIO), ((0, 14, 0), 1.25)
FIRST_TWO_BATCHES: Version = (0, 26, 0)
"""Since it a window keeps what two batches in flight may need."""
LAST_KEPT_REDUCED: Version = (0, 2, 5)
"""Up to it torch held each tensor that was summed over cards until the whole profiling run was through."""
PADDED_INNER, PADDED_HIDDEN = 128, 256
"""Multiples that vLLM's kernels for MXFP4 experts round the two sides of an expert's matrices up to."""
UNSURE_BITS_SHARE = 0.15
"""4 bit checkpoints of hybrid models leave different parts at 8 or 16 bit."""
LONG_CONTEXT_TOKENS = 32768
CHUNK_TOKENS = 2048
BLOCK_TOKENS = 16
LARGE_CARD_BYTES = 70 * GIB
LARGEST_CARD_BYTES = 160 * GIB


@dataclasses.dataclass(frozen=True)
class VllmRun:
    """One start of vLLM, before its defaults are filled in."""

    version: Version
    total_bytes: int
    compute_capability: tuple[int, int]
    card: str = ""
    context_tokens: int | None = None
    sequences: int | None = None
    batched_tokens: int | None = None
    tensor_parallel_size: int = 1
    eager: bool = False
    nvlink: bool = False
    fp8_cache: bool = False
    gguf: bool = False

    @property
    def v1(self) -> bool:
        """Whether the second engine core runs: from 0.8 where card and options allow it, everywhere from 0.11.

        Source: formula `memory.vllm_first_core`.
        """
        if self.version >= (0, 11, 0) or self.version < FIRST_V1:
            return self.version >= FIRST_V1
        hopper, blackwell = self.compute_capability[0] == 9, self.compute_capability[0] >= 10
        fp8_runs = not self.fp8_cache or hopper or (blackwell and self.version >= LAST_BOTH_CORES)
        gguf_runs = not self.gguf or self.version >= LAST_BOTH_CORES
        return self.compute_capability >= (8, 0) and fp8_runs and gguf_runs

    @property
    def large_card(self) -> bool:
        """Whether the larger defaults hold; an A100 is left out since 0.9."""
        a100 = self.version >= (0, 9, 0) and "a100" in self.card.lower()
        return self.version >= (0, 8, 3) and self.total_bytes >= LARGE_CARD_BYTES and not a100


def default_fraction(version: Version) -> float:
    """`gpu_memory_utilization` where nobody sets it."""
    return 0.92 if version >= (0, 20, 0) else 0.9


def max_sequences(run: VllmRun) -> int:
    """`max_num_seqs`, asked or by default.

    Source: formula `memory.vllm_defaults`.
    """
    if run.sequences is not None:
        return run.sequences
    return 1024 if run.v1 and (run.large_card or run.version < FIRST_FEW_SEQUENCES) else 256


def batched_tokens(run: VllmRun) -> int:
    """`max_num_batched_tokens`, asked or by default: the tokens of the profiling run.

    The first engine core takes a whole prompt at once unless the context is long; then, and always in the second,
    prefill comes in chunks.
    Source: formula `memory.vllm_defaults`.
    """
    if run.batched_tokens is not None:
        return run.batched_tokens
    context = run.context_tokens or CHUNK_TOKENS
    if not run.v1:
        if context > LONG_CONTEXT_TOKENS and run.version >= (0, 5, 5):
            return CHUNK_TOKENS if run.version >= FIRST_PROFILER else 512
        return max(context, CHUNK_TOKENS)
    if run.version >= (0, 29, 0) and run.total_bytes >= LARGEST_CARD_BYTES:
        return 16384
    return 8192 if run.large_card else CHUNK_TOKENS


def layer_bytes(model: ModelRow, run: VllmRun) -> int:
    """Peak of the dummy run in its widest layer, on one card.

    Dense: gate, up and their product beside the hidden states. Experts: every token's copies for its experts.
    Source: formula `memory.vllm_activation`.
    """
    tokens, tp = batched_tokens(run), run.tensor_parallel_size
    hidden = model.hidden_size
    if model.moe is None:
        width = 3 * (model.intermediate_size or 0) / tp + hidden_copies(model, run) * hidden
    else:
        inner = (model.intermediate_size or 0) / tp
        width = model.moe.experts_per_token * (max(2 * inner, hidden) + inner) + 3 * hidden
    return round(2 * tokens * width)


def hidden_copies(model: ModelRow, run: VllmRun) -> int:
    """How many sets of hidden states live beside the widest layer.

    Compiled models hand over in place; the first engine core does not, old ones keep freed ones in reserve, and a
    vision tower's embeddings come as a set of their own.
    """
    if run.version < FIRST_PROFILER:
        return 6
    return 2 if run.v1 and model.vision is None else 4


def sampler_bytes(model: ModelRow, run: VllmRun) -> int:
    """Peak of the dummy sampler: one row of logits per sequence, in several copies.

    Source: formula `memory.vllm_sampler`.
    """
    in_place = run.version >= FIRST_IN_PLACE_SAMPLER
    per_logit = MASKED_BYTES_PER_LOGIT if in_place else SORTED_BYTES_PER_LOGIT
    return round(per_logit * min(max_sequences(run), batched_tokens(run)) * model.vocabulary_size)


def activation_bytes(model: ModelRow, run: VllmRun) -> int:
    """What the profiling run peaks at above the weights: the widest of vision tower, layer and sampler.

    Source: formulas `memory.vllm_activation`, `memory.vllm_sampler` and `memory.vllm_vision`.
    """
    return max(vision_bytes(model), layer_bytes(model, run), sampler_bytes(model, run))


def vision_bytes(model: ModelRow) -> int:
    """Peak of the vision tower over the largest picture: ten sets of its hidden states and the picture itself.

    Source: formula `memory.vllm_vision`.
    """
    tower = model.vision
    return 0 if tower is None else 2 * tower.profiled_patches * (10 * tower.hidden_size + tower.patch_values)


def non_torch_bytes(model: ModelRow, run: VllmRun) -> int:
    """CUDA context and communication buffers, as far as vLLM counts them.

    Source: formula `memory.vllm_non_torch`.
    """
    cards = run.tensor_parallel_size
    alone = CONTEXT_GIB if run.version >= FIRST_COUNTED_CONTEXT else NON_TORCH_GIB
    shared = 0.0 if cards == 1 else 0.5 if cards == 2 else 1.8
    if cards > 1 and not run.v1:
        shared = LINKED_GIB * cards if run.nvlink else 0.2
    if cards >= 8 and model.mla is not None and model.linear_bits == 8 and run.version < FIRST_V1:
        shared = 7.2
    return round((alone + shared) * GIB)


def graph_bytes(run: VllmRun) -> int:
    """CUDA graphs, where this version takes them off the cache.

    Source: formula `memory.vllm_graphs`.
    """
    counted = run.version >= FIRST_COUNTED_GRAPHS and not run.eager
    return round(GRAPHS_GIB * GIB) if counted else 0


def absorbed_bytes(model: ModelRow, run: VllmRun) -> float:
    """Weights that 0.7 multiplied out for compressed attention and kept beside the originals, on one card.

    Per layer: K and V up-projections and the rotary queries at 16 bit, and two products in the checkpoint's bits.
    Source: formula `memory.vllm_absorbed`.
    """
    mla, heads = model.mla, (model.query_heads or 0) // run.tensor_parallel_size
    if mla is None or not (0, 7, 0) <= run.version < FIRST_V1:
        return 0.0
    q_rank = mla.q_lora_rank or model.hidden_size
    plain = heads * (
        mla.kv_lora_rank * ((mla.qk_nope_head_dim or 0) + (mla.v_head_dim or 0)) + q_rank * mla.qk_rope_head_dim
    )
    products = heads * mla.kv_lora_rank * (q_rank + model.hidden_size)
    return model.layers * (2 * plain + products * min(16.0, model.linear_bits) / 8)


def expert_bytes(model: ModelRow) -> float:
    """All experts of a mixture: what ranks of an expert parallel group share out.

    Source: formula `memory.weights_per_card`.
    """
    if model.moe is None:
        return 0.0
    layers = model.layers - model.moe.dense_layers
    each = 3 * model.hidden_size * (model.intermediate_size or 0) * model.linear_bits / 8
    return layers * model.moe.experts * each


def padding_bytes(model: ModelRow, run: VllmRun) -> float:
    """What experts in MXFP4 take beyond their checkpoint, on one card: their sides are rounded up for the kernels.

    Source: formula `memory.vllm_padding`.
    """
    inner, hidden = (model.intermediate_size or 0) / run.tensor_parallel_size, model.hidden_size
    if model.quantisation != "mxfp4" or not inner:
        return 0.0
    padded = math.ceil(inner / PADDED_INNER) * PADDED_INNER * math.ceil(hidden / PADDED_HIDDEN) * PADDED_HIDDEN
    return expert_bytes(model) / run.tensor_parallel_size * (padded / (inner * hidden) - 1)


def groups(model: ModelRow, run: VllmRun) -> LayerGroups | None:
    """The groups of layers with and without a window, or nothing where this version treats all layers alike."""
    if not run.v1 or run.version < FIRST_GROUPS or model.sliding is None:
        return None
    ratio = next((ratio for first, ratio in FEW_PADDED_RATIOS if run.version >= first), 0.0)
    found = layer_groups(model, ratio)
    return found if found.windowed else None


def windowed_tokens(model: ModelRow, run: VllmRun, found: LayerGroups, layer_token_bytes: float, room: float) -> int:
    """What vLLM prints as cache size for a model that mixes windows with full attention.

    All groups draw pages from one pool. Old versions print the tokens of a group's share of the pages; new ones
    concurrency times context, where a window takes its own length and what is in flight.
    Source: formula `memory.vllm_groups`.
    """
    pages = math.floor(room / (BLOCK_TOKENS * layer_token_bytes * found.size))
    if run.version < FIRST_PRINTED_CAPACITY:
        return pages // (found.full + found.windowed) * BLOCK_TOKENS
    context = run.context_tokens or model.context_max_tokens or LONG_CONTEXT_TOKENS
    window = model.sliding.window_tokens if model.sliding else context
    in_flight = batched_tokens(run) * (2 if run.version >= FIRST_TWO_BATCHES else 1)
    kept = math.ceil(min(window - 1 + in_flight, context) / BLOCK_TOKENS) + 1
    each = found.full * math.ceil(context / BLOCK_TOKENS) + found.windowed * kept
    return math.floor(pages / each * context)


def kept_bytes(model: ModelRow, run: VllmRun) -> int:
    """Hidden states that torch held after summing them over cards: two per layer of the profiling run.

    Source: formula `memory.vllm_kept`.
    """
    if run.tensor_parallel_size == 1 or run.version > LAST_KEPT_REDUCED:
        return 0
    return reduced_bytes(model, run)


def reduced_bytes(model: ModelRow, run: VllmRun) -> int:
    """All that the profiling run sums over cards: after attention and feed-forward of every layer, at 16 bit."""
    return 2 * model.layers * batched_tokens(run) * model.hidden_size * 2


def hybrid_tokens(
    model: ModelRow, layout: CacheLayout, room_bytes: float, context_tokens: int | None, version: Version
) -> int:
    """What vLLM prints as cache size for a hybrid model, which is not bytes over bytes per token.

    Pages of attention are made as large as a state; layers of both kinds share one pool in groups of equal size, and
    a request takes one page per group of states beside those of its tokens. Old versions print the tokens of a
    group's share of the pages, new ones concurrency times context.
    Source: formula `memory.vllm_hybrid`.
    """
    if model.state is None:
        raise ValueError(f"{model.key} has no state")
    context = context_tokens or model.context_max_tokens or LONG_CONTEXT_TOKENS
    layer_token_bytes = layout.bytes_per_token / model.kv_layers
    layer_state_bytes = layout.state_bytes / model.state.layers
    page_tokens = BLOCK_TOKENS * math.ceil(layer_state_bytes / layer_token_bytes / BLOCK_TOKENS)
    page_bytes = page_tokens * layer_token_bytes
    pages = math.floor(room_bytes / (page_bytes * model.kv_layers))
    state_groups = math.ceil(model.state.layers / model.kv_layers)
    if version < FIRST_PRINTED_CAPACITY:
        return pages // (1 + state_groups) * page_tokens
    each = math.ceil(context / page_tokens) + state_groups
    return math.floor(pages / each * context)


def spread_bytes(model: ModelRow, run: VllmRun, weights: float) -> tuple[float, float]:
    """By how much the cache stays below and above the estimate in nine cases of ten.

    Weights are known to half a percent; the peak of the profiling run and what libraries take are predictions, and
    more so over several cards. The parts are added up, not their squares: too much is the worse error.
    Source: formula `memory.vllm_spread`.
    """
    peak, several = activation_bytes(model, run), run.tensor_parallel_size > 1
    other = (0.2 if not several else 0.7 if run.v1 else 0.4) * GIB
    # Nobody raises the number of sequences on a small card, and many lower it: an unknown one is at most the default.
    above = (0.1 if run.sequences is not None else 0.5) * peak
    below = 0.01 * weights + 0.1 * peak + other + unsure_bits_bytes(model, run, weights)
    return below, 0.005 * weights + above + other / 2


def unsure_bits_bytes(model: ModelRow, run: VllmRun, weights: float) -> float:
    """What a 4 bit checkpoint of a hybrid model may weigh more: parts outside its feed-forward layers at 16 bit."""
    if model.state is None or not 4 < model.linear_bits < 5:
        return 0.0
    experts = 1 if model.moe is None else model.moe.experts + model.moe.shared_experts
    rest = linear_parameters(model, False) - model.layers * experts * expert_parameters(model)
    return min(UNSURE_BITS_SHARE * weights, max(0, rest) / run.tensor_parallel_size)


def unexplained_bytes(model: ModelRow, run: VllmRun) -> float:
    """What a start may leave less of for no reason that was found in the source: bounds get wider by it, no more.

    Over several cards, from 0.2.6 until the peak alone was counted, one published start of 0.4 took as much more as
    half of the tensors that are summed over cards. With a vision tower in the first engine core, which ran it on as
    many images as it could take, two starts took up to as much again as their peak.
    """
    several = run.tensor_parallel_size > 1 and LAST_KEPT_REDUCED < run.version < FIRST_PROFILER
    summed = reduced_bytes(model, run) / 2 if several else 0.0
    return summed + (activation_bytes(model, run) if model.vision and not run.v1 else 0)
