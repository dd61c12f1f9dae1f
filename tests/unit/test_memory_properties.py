"""Laws of the memory budget, for any card size, model and demand; a refusal holds nothing."""

import dataclasses
import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from inferhost.planner.estimate.case import quantised
from inferhost.planner.estimate.kv_case import estimate_kv
from inferhost.planner.memory.budget import memory_budget
from inferhost.planner.memory.engine_rules import MIB, Demand
from inferhost.planner.memory.weights import weights_bytes
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import CATALOGUE

SERVED = sorted(k for k, row in CATALOGUE.models.items() if row.format == "safetensors" and row.parameters < 130e9)
MODELS = st.sampled_from(SERVED)
ENGINES = st.sampled_from(["vllm", "sglang", "llama.cpp", "tabbyapi", "sfllm"])
SIZES_MIB = st.integers(12 * 1024, 192 * 1024)
SEQUENCES = st.sampled_from([1, 8, 64, 256])
TERMS = (
    *("weights_bytes", "kv_cache_bytes", "activation_bytes", "graphs_bytes", "non_torch_bytes", "margin_bytes"),
    *("reserved_bytes", "unallocated_bytes"),
)


class AnyInstance:
    """What a refusal asks of an instance: the names of its options, and nothing set."""

    def path(self, option):
        return option

    def text(self, option):
        return "auto"


def budget(engine, model, memory_mib, sequences, context=512):
    """The budget on a card of this size, or nothing where it is refused."""
    row, demand = CATALOGUE.engines[engine], Demand(context, sequences)
    try:
        found = memory_budget(
            memory_mib * MIB, CATALOGUE.models[model], row, row.kv_cache["auto"], demand, instance=AnyInstance()
        )
    except InputError:
        return None
    return found.document()


def tokens(found):
    return 0 if found is None else found["kv_cache_tokens"]


@settings(deadline=None, max_examples=150)
@given(ENGINES, MODELS, SIZES_MIB, SEQUENCES)
def test_ten_more_mib_never_lower_the_tokens(engine, model, memory_mib, sequences):
    less, more = (budget(engine, model, size, sequences) for size in (memory_mib, memory_mib + 10))
    assert tokens(less) <= tokens(more)


@settings(deadline=None, max_examples=60)
@given(ENGINES, MODELS, st.sampled_from([20, 35, 60, 70, 160]), st.integers(0, 600), SEQUENCES)
@example("sglang", "phi-4", 35, 12, 1)  # a smaller chunk may not rescue the smaller card alone
@example("sglang", "phi-4", 35, 24, 1)
def test_nor_do_they_over_the_steps_of_the_engines_tables(engine, model, step_gib, tens, sequences):
    step_mib = step_gib * 1024
    less, more = (budget(engine, model, size, sequences) for size in (step_mib - 10, step_mib + 10 * tens))
    assert tokens(less) <= tokens(more)


@settings(deadline=None, max_examples=100)
@given(ENGINES, MODELS, SIZES_MIB, SEQUENCES, st.tuples(st.integers(1, 4096), st.integers(1, 8192)).map(sorted))
def test_a_longer_context_never_raises_the_concurrency(engine, model, memory_mib, sequences, contexts):
    short, long = (budget(engine, model, memory_mib, sequences, c) for c in contexts)
    assert long is None or (short is not None and long["concurrent_requests"] <= short["concurrent_requests"])


@settings(deadline=None, max_examples=100)
@given(ENGINES, MODELS, SIZES_MIB, SEQUENCES)
def test_the_terms_add_up_to_the_card_and_none_is_negative(engine, model, memory_mib, sequences):
    found = budget(engine, model, memory_mib, sequences)
    if found is not None:
        parts = [found[term] for term in TERMS]
        assert sum(parts) == found["total_memory_bytes"] == memory_mib * 2**20
        assert min(parts) >= 0


@given(MODELS, st.sampled_from([1, 2, 4, 8]))
def test_quantising_never_raises_the_weights(model, cards):
    row = dataclasses.replace(CATALOGUE.models[model], weights_bytes=None)
    steps = ("fp32", "bf16", "fp8", "nvfp4", "awq", "bnb-4bit")
    sizes = [weights_bytes(quantised(row, quant, CATALOGUE), False, cards) for quant in steps]
    assert sizes == sorted(sizes, reverse=True)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
FIELDS = (
    *("engine", "engine_version", "gpu", "gpu_count", "tp", "pp", "dp", "vram_gib", "arch_model", "arch", "quant"),
    *("kv_dtype", "mem_fraction", "pre_load_avail_gib", "max_model_len", "max_num_seqs", "max_num_batched_tokens"),
    *("eager", "n_ctx", "n_ubatch", "flash_attn", "k_type", "v_type"),
)
USUAL = st.fixed_dictionaries(
    {
        "engine": st.sampled_from(["vllm", "sglang", "llama.cpp", "ik_llama.cpp"]),
        "arch_model": st.sampled_from(sorted(CATALOGUE.models)),
        "gpu": st.sampled_from(["Tesla T4", "NVIDIA H100 80GB", "24GB class", "?"]),
    }
)


@settings(deadline=None, max_examples=400)
@given(USUAL, st.dictionaries(st.sampled_from(FIELDS), LEAVES | st.lists(LEAVES, max_size=2), max_size=6))
def test_any_case_is_answered_or_refused_and_an_answer_is_within_its_bounds(usual, changes):
    found = estimate_kv({**usual, **changes}, CATALOGUE)
    json.dumps(found, allow_nan=False)
    if "refused" not in found:
        assert 0 <= found["low"] <= found["kv_tokens"] <= found["high"]
        assert found["weights_gib"] >= 0
