"""The memory budget: published figures, the engines' own arithmetic, and refusals with the number that would fit."""

import pytest

from inferhost.planner.memory import budget, engine_rules, sglang_rules, vllm_rules, weights
from inferhost.planner.memory.kv_cache import cache_layout
from inferhost.planner.memory.sglang_rules import SglangRun
from inferhost.planner.memory.vllm_rules import VllmRun
from tests.unit.planner_wishes import CATALOGUE, planned, refusal, wish

MIB, GIB = 2**20, 2**30
MISTRAL = "mistral-large-instruct-2411-awq"

# kv-cases.csv: id, model, cells, K and V bytes per element, KV cache in MiB as llama.cpp printed it.
LLAMA_CPP_LOGS = [
    ("llamacpp-02", "qwq-32b", 32768, 34 / 32, 34 / 32, 4352.0),
    ("ikllama-01", "llama-3.1-8b-instruct", 1024, 18 / 32, 2.0, 82.0),
    ("ikllama-12", "qwen3-235b-a22b", 40960, 34 / 32, 34 / 32, 3995.0),
    ("ikllama-25", "qwen3-32b", 8192, 2.0, 2.0, 2048.0),
    ("ikllama-34", "glm-z1-32b-0414", 32768, 2.0, 2.0, 1952.0),
]

# kv-cases.csv: id, model, weights in GiB as the engine printed them.
WEIGHT_LOGS = [
    ("vllm-06", "llama-3.2-3b-instruct", 6.02),
    ("vllm-26", "llama-3.1-8b-instruct", 15.0),
    ("vllm-31", "qwen2.5-7b-instruct", 14.25),
    ("vllm-33", "qwen2.5-math-1.5b", 2.88),
    ("vllm-39", "phi-4-mini-instruct", 7.17),
    ("vllm-46", "llava-v1.6-mistral-7b-hf", 14.08),
]

# kv-cases.csv: id, model, GiB as CUDA sees it, fraction, sequences, batched tokens, KV tokens as vLLM printed them.
VLLM_LOGS = [
    ("vllm-23", "qwen2.5-0.5b-instruct", 15.55, 0.9, 256, 2048, 1043072),
    ("vllm-24", "qwen2.5-0.5b-instruct", 23.99, 0.92, 256, 2048, 1793232),
    ("vllm-26", "llama-3.1-8b-instruct", 79.25, 0.92, 1024, 8192, 460496),
]


@pytest.mark.parametrize("case", LLAMA_CPP_LOGS, ids=lambda case: case[0])
def test_the_kv_cache_is_the_published_one_exactly(case):
    _, model, cells, k_bytes, v_bytes, printed_mib = case
    per_token = cache_layout(CATALOGUE.models[model], "llama.cpp", (k_bytes + v_bytes) / 2).bytes_per_token
    assert cells * per_token / MIB == printed_mib


@pytest.mark.parametrize("case", WEIGHT_LOGS, ids=lambda case: case[0])
def test_the_weights_are_within_a_tenth_of_a_gib_of_the_published_ones(case):
    _, model, printed_gib = case
    # kv-cases.md 2: median error of the rule 0.08 GiB, 90th percentile 0.33 GiB.
    found = weights.weights_bytes(CATALOGUE.models[model], embedding_on_host=False) / GIB
    assert found == pytest.approx(printed_gib, abs=0.1)


@pytest.mark.parametrize("case", VLLM_LOGS, ids=lambda case: case[0])
def test_vllm_is_never_promised_more_tokens_than_it_printed(case):
    _, model, total_gib, fraction, sequences, batch, printed = case
    row = CATALOGUE.models[model]
    demand = engine_rules.Demand(2048, sequences, fraction, batch)
    division = engine_rules.vllm(round(total_gib * GIB), row, CATALOGUE.engines["vllm"], demand)
    promised = division.kv_room_bytes // cache_layout(row, "vllm", 2.0).bytes_per_token
    # The rule keeps its margin, so the promise is below; 10 % bounds how much of a small card the margin may cost.
    assert 0.9 * printed <= promised <= printed


def test_mistral_large_awq_reads_the_published_bytes_per_token():
    # planner-anchors.md 2.4: 64.1 GB per token and 0.36 MB of KV cache per token of context.
    row = CATALOGUE.models[MISTRAL]
    assert weights.bytes_read_per_token(row) / 1e9 == pytest.approx(64.1, abs=0.05)
    assert cache_layout(row, "vllm", 2.0).bytes_per_token == 360448


@pytest.mark.parametrize(
    ("version", "total_mib", "cards", "model", "fraction"),
    [
        # planner-anchors.md 1.2: "default mem_fraction is about 0.86" on 97,887 MiB.
        ((0, 5, 23), 97887, 1, "qwen3-8b", 0.858),
        ((0, 3, 6), 196608, 1, "llama-3.1-8b-instruct", 0.88),  # kv-cases.csv sglang-14 prints it
        ((0, 5, 9), 81920, 1, "qwen2.5-0.5b-instruct", 0.836),  # sglang-15: (64.9 + 1.2) / 79.11 = 0.8355
        ((0, 5, 9), 24576, 2, "qwen3.5-9b", 0.800),  # sglang-11: 1 - (14.08 - 5.0 - 4.48) / 22.93 = 0.7994
        ((0, 4, 3), 23034, 4, "qwq-32b", 0.85),  # sglang-01
        ((0, 4, 9), 81559, 8, "deepseek-r1", 0.83),
    ],
)
def test_sglangs_own_fraction_is_the_published_one_by_version(version, total_mib, cards, model, fraction):
    run = SglangRun(version, total_mib, cards)
    assert sglang_rules.default_fraction(run, CATALOGUE.models[model]) == pytest.approx(fraction, abs=0.0015)


@pytest.mark.parametrize(
    ("version", "capability", "gib", "card", "context", "found"),
    [
        ((0, 6, 6), (8, 0), 79.1, "A100", 20480, (256, 20480)),  # a whole prompt at once
        ((0, 6, 6), (8, 0), 79.1, "A100", 131072, (256, 2048)),  # too long for that: chunks
        ((0, 8, 5), (7, 5), 14.7, "T4", 4096, (256, 4096)),  # the first core still
        ((0, 8, 5), (8, 9), 22.0, "L4", 4096, (256, 2048)),
        ((0, 10, 2), (9, 0), 79.1, "H100", 131072, (1024, 8192)),
        ((0, 10, 2), (8, 0), 79.1, "NVIDIA A100-SXM4-80GB", 131072, (256, 2048)),
    ],
)
def test_vllms_profiling_run_is_the_one_of_its_version(version, capability, gib, card, context, found):  # noqa: PLR0917
    run = VllmRun(version, round(gib * GIB), capability, card, context)
    assert (vllm_rules.max_sequences(run), vllm_rules.batched_tokens(run)) == found


def test_a_bigger_chunk_lowers_sglangs_fraction():
    values = wish("rtx-pro-6000-bw-ws", MISTRAL, service_engine="sglang")
    bigger = {**values, "inferhost_service_extra_args": ["--chunked-prefill-size", "16384"]}
    fractions = [planned(v).budget["main"]["memory_fraction"] for v in (values, bigger)]
    assert fractions == [0.86217, 0.73453]


def test_the_guides_pair_of_chunk_and_fraction_is_refused_with_the_room_that_it_takes():
    # guide-mistakes.md 17: the chunk wants about 25 GiB, the fraction leaves 7.6 GiB.
    extra = ["--mem-fraction-static", "0.92", "--chunked-prefill-size", "16384"]
    assert refusal(wish("rtx-pro-6000-bw-ws", MISTRAL, service_engine="sglang", service_extra_args=extra)) == (
        'error: inferhost_service_extra_args: "--mem-fraction-static" 0.92 leaves 7.60 GiB '
        "beside the pool, but chunks "
        "of 16384 tokens need 25.22 GiB\nhint: at most 0.735 with chunks of 16384, or leave both to the plan"
    )


def test_sglang_gets_smaller_chunks_where_its_own_leave_no_room():
    plan = planned(wish("l4", "llama-3.1-8b-instruct", service_engine="sglang"))
    because = next(r.because for r in plan.reasons if r.setting == "service.main.argv.--chunked-prefill-size")
    assert plan.budget["main"]["batched_tokens"] == 2048
    assert because == "less than the engine's own 4096, which leaves too little room for the cache"


def test_weights_that_do_not_fit_are_refused_with_both_sizes():
    assert refusal(wish("rtx-5090", MISTRAL)) == (
        f'error: inferhost_service_model: found "{MISTRAL}" with 60.44 GiB of weights, but sglang has 26.54 GiB for '
        "weights and KV cache on a card of 31.40 GiB\nhint: a smaller model, or a card with more memory"
    )


def test_a_context_that_does_not_fit_is_refused_with_the_one_that_does():
    values = wish("tesla-p4", "llama-2-7b-q4_k_m", service_context_tokens=4096)
    values["inferhost_hardware"]["gpus"][0]["memory_mib"] = 6300
    found = refusal(values)
    assert found == (
        "error: inferhost_service_context_tokens: found 4096, but the KV cache of llama.cpp holds 2816 tokens beside "
        "llama-2-7b-q4_k_m\nhint: at most 2816 tokens; inferhost_service_kv_cache_dtype: q8_0 nearly doubles it; or "
        "inferhost_service_gpu_layers: auto, which would leave 4 of 32 layers in host memory"
    )
    assert planned({**values, "inferhost_service_context_tokens": 2816}).budget["main"]["kv_cache_tokens"] == 2816


def test_llama_cpp_gets_the_total_of_all_sequences_with_their_number():
    plan = planned(wish("tesla-p4", "llama-2-7b-q4_k_m", service_max_sequences=8, service_context_tokens=2000))
    argv = plan.service[0].argv
    cells, sequences = int(argv[argv.index("--ctx-size") + 1]), int(argv[argv.index("--parallel") + 1])
    # Each sequence gets cells / sequences, so the total has to be a multiple; 256 is llama.cpp's padding.
    assert (cells, sequences) == (2 * 2048, 2)
    assert plan.service[0].max_sequences == 2
    assert argv[argv.index("--n-gpu-layers") + 1] == "33"


def test_fewer_bits_never_take_more_memory():
    rows = [CATALOGUE.models[key] for key in ("llama-2-7b-q4_k_m", "llama-2-7b-hf")]
    sizes = [weights.weights_bytes(row, embedding_on_host=False) for row in rows]
    assert sizes == sorted(sizes)


def test_the_states_of_a_hybrid_model_get_their_share_of_sglangs_pool_and_no_more():
    """kv-cases.csv sglang-12: 22.2 GiB of states in 46.9 GiB, which is 0.9 to 1."""
    row, engine = CATALOGUE.models["qwen3.5-9b"], CATALOGUE.engines["sglang"]
    layout = cache_layout(row, "sglang", 2.0)
    division = engine_rules.sglang(48 * GIB, row, engine, engine_rules.Demand(1024, 4096))
    assert division.state_pool_bytes == pytest.approx(22.2 / 46.9 * division.kv_room_bytes, rel=0.002)
    asked = engine_rules.Demand(64, 4096)
    most = division.state_pool_bytes // layout.fixed_bytes
    assert most < division.kv_room_bytes // (layout.fixed_bytes + 64 * layout.bytes_per_token)
    assert budget._sequences(division, layout, asked) == most


@pytest.mark.parametrize(
    ("total_mib", "cards", "graphs"), [(16384, 4, 8), (24576, 4, 160), (24576, 2, 48), (49140, 8, 160)]
)
def test_sglangs_graphs_by_size_and_number_of_cards(total_mib, cards, graphs):
    """planner-anchors.md 1.2: two MiB per graph, an eighth of a GiB per card."""

    def reserve(sequences, several):
        run = SglangRun((0, 5, 23), total_mib, several, sequences=sequences)
        return sglang_rules.needed_mib(run, CATALOGUE.models["llama-3.1-8b-instruct"])

    assert reserve(None, cards) - reserve(1, cards) == 2 * (graphs - 1)
    assert reserve(1, cards) - reserve(1, 1) == 128 * (cards - 1)


def test_the_margin_is_the_estimators_spread_where_that_is_larger():
    row, demand = CATALOGUE.models["qwq-32b"], engine_rules.Demand(4096, 8, tensor_parallel_size=2)
    for name, divide in (("vllm", engine_rules.vllm), ("sglang", engine_rules.sglang)):
        engine = CATALOGUE.engines[name]
        division = divide(80 * GIB, row, engine, demand)
        # Over two cards: 0.7 and 0.5 GiB, and a share of the weights.
        assert division.margin_bytes > 1.1 * engine.memory["margin_bytes"]
        small = divide(24 * GIB, CATALOGUE.models["qwen2.5-0.5b-instruct"], engine, engine_rules.Demand(4096, 8))
        assert small.margin_bytes == round(engine.memory["margin_bytes"])


def test_vllm_is_told_a_batch_that_holds_a_token_of_every_sequence():
    plan = planned(wish("rtx-4090", "qwen3-4b", service_engine="vllm", service_max_sequences=4096))
    argv = plan.service[0].argv
    assert argv[argv.index("--max-num-batched-tokens") + 1] == "4096"
    (reason,) = [r for r in plan.reasons if r.setting.endswith("argv.--max-num-batched-tokens")]
    assert reason.because.startswith("more than the engine's own 2048: each sequence needs a token")


@pytest.mark.parametrize(
    "own",
    [
        {"service_extra_args": ["--max-num-batched-tokens", "1"]},
        {"service_workload": "interactive", "service_max_sequences": 2049},
    ],
)
def test_a_batch_below_the_sequences_is_refused_because_vllm_would_not_start(own):
    found = refusal(wish("rtx-4090", "llama-3.1-8b-instruct", service_engine="vllm", **own))
    asked = own.get("service_max_sequences", 8)
    batch = 2048 if "service_workload" in own else 1
    assert f'found {asked}, but "--max-num-batched-tokens" is {batch}' in found
    assert f'at most {batch}, or "--max-num-batched-tokens" {asked}' in found


@pytest.mark.parametrize("chunk", [[], ["--chunked-prefill-size", "4096"]])
def test_a_fraction_that_leaves_what_a_chunk_needs_is_planned_and_waits_for_a_start(chunk):
    # On large cards SGLang keeps 10 GiB however small the chunk is; its guide calls 5 to 8 GB enough.
    extra = ["--mem-fraction-static", "0.88", *chunk]
    plan = planned(wish("h100-sxm", "llama-3.1-8b-instruct", service_engine="sglang", service_extra_args=extra))
    (waits,) = [p for p in plan.pending if p.setting == "service.main.argv.--mem-fraction-static"]
    assert waits.because == "0.88 leaves 9.49 GiB beside the pool, sglang itself would keep 10.00 GiB"
    assert plan.budget["main"]["batched_tokens"] == 4096


def test_a_fraction_that_leaves_less_than_the_least_chunk_needs_is_refused():
    extra = ["--mem-fraction-static", "0.97"]
    found = refusal(wish("h100-sxm", "llama-3.1-8b-instruct", service_engine="sglang", service_extra_args=extra))
    assert "chunks of 2048 tokens need" in found
    most = found.partition("hint: at most ")[2].partition(" ")[0]
    extra[1] = most
    planned(wish("h100-sxm", "llama-3.1-8b-instruct", service_engine="sglang", service_extra_args=extra))


def test_a_fraction_below_the_engines_own_waits_for_nothing():
    extra = ["--mem-fraction-static", "0.8"]
    plan = planned(wish("h100-sxm", "llama-3.1-8b-instruct", service_engine="sglang", service_extra_args=extra))
    assert [p for p in plan.pending if "--mem-fraction-static" in p.setting] == []


def test_a_card_whose_memory_under_cuda_nobody_printed_counts_less_than_its_label():
    row = CATALOGUE.gpus["rtx-3060"]
    assert row.memory_under_cuda_mib is None
    assert 11.5 < budget.card_bytes(12288, row) / 2**30 < 11.6
