"""vLLM with windows beside full attention, over several cards, in stages: rules read from its source, by version."""

import dataclasses

import pytest

from inferhost.planner.estimate.kv_case import estimate_kv
from inferhost.planner.memory import vllm_rules
from inferhost.planner.memory.kv_cache import cache_layout, layer_groups
from inferhost.planner.memory.vllm_rules import VllmRun
from inferhost.planner.names import model_named
from tests.unit.planner_wishes import CATALOGUE

GIB = 2**30
GEMMA, GPT_OSS = CATALOGUE.models["gemma-3-27b-it"], CATALOGUE.models["gpt-oss-20b"]


def run(version, **fields):
    return VllmRun(version, 80 * GIB, **{"compute_capability": (9, 0), "context_tokens": 32768, **fields})


def test_groups_are_as_large_as_the_fewer_kind_and_the_last_is_filled_up():
    # kv_cache_utils.py: gemma-3-27b has 10 layers of full attention and 52 with a window.
    found = layer_groups(GEMMA)
    assert (found.size, found.full, found.windowed, found.padded_layers) == (10, 1, 6, 70)
    assert layer_groups(GPT_OSS).padded_layers == 24
    assert layer_groups(CATALOGUE.models["llama-3.1-8b-instruct"]).padded_layers == 32


@pytest.mark.parametrize(("version", "size"), [((0, 10, 2), 12), ((0, 14, 1), 13), ((0, 19, 1), 13)])
def test_kinds_that_are_nearly_as_many_share_the_greater_size_since_0_14(version, size):
    # The example in the source: 12 layers with a window and 13 of full attention.
    drafting = dataclasses.replace(GPT_OSS, layers=25, kv_layers=25)
    assert vllm_rules.groups(drafting, run(version)).size == size


@pytest.mark.parametrize(("version", "card"), [((0, 9, 1), (9, 0)), ((0, 10, 2), (7, 5))])
def test_before_0_9_2_and_in_the_first_engine_core_all_layers_are_alike(version, card):
    assert vllm_rules.groups(GEMMA, dataclasses.replace(run(version), compute_capability=card)) is None


def test_the_printed_size_is_a_groups_share_and_since_0_21_what_full_requests_find_room_in():
    layer_bytes, room = 1024.0, 10_000 * 16 * 1024 * 10
    found = vllm_rules.groups(GEMMA, run((0, 10, 2)))
    assert vllm_rules.windowed_tokens(GEMMA, run((0, 10, 2)), found, layer_bytes, room) == 10_000 // 7 * 16
    # 2048 pages for all tokens of a request; a window of 1024 and a batch of 8192 tokens in each of six groups.
    kept = -(-(1023 + 8192) // 16) + 1
    new = run((0, 21, 0), batched_tokens=8192)
    expected = int(10_000 / (2048 + 6 * kept) * 32768)
    assert vllm_rules.windowed_tokens(GEMMA, new, found, layer_bytes, room) == expected
    two = dataclasses.replace(new, version=(0, 26, 0))
    assert vllm_rules.windowed_tokens(GEMMA, two, found, layer_bytes, room) < expected


def test_a_plan_counts_the_layers_that_fill_a_group():
    per_layer = cache_layout(GEMMA, "vllm", 2, grouped=False).bytes_per_token / 62
    assert cache_layout(GEMMA, "vllm", 2).bytes_per_token == 70 * per_layer
    assert cache_layout(GEMMA, "sglang", 2).bytes_per_token == 62 * per_layer


def test_what_torch_kept_after_summing_is_counted_up_to_0_2_5():
    # vllm-project/vllm#2031: 20865 blocks on four A100, of which the sums of 80 layers over 4096 tokens left less.
    model = CATALOGUE.models["llama-2-70b-hf"]
    old, new = (run(v, tensor_parallel_size=4, context_tokens=4096) for v in ((0, 2, 5), (0, 2, 6)))
    assert vllm_rules.kept_bytes(model, old) == 2 * 80 * 4096 * 8192 * 2
    assert vllm_rules.kept_bytes(model, new) == 0
    assert vllm_rules.kept_bytes(model, dataclasses.replace(old, tensor_parallel_size=1)) == 0
    case = {"engine": "vllm", "engine_version": "0.2.5", "gpu": "A100 80GB", "gpu_count": 4, "max_model_len": 4096}
    found = estimate_kv({**case, "arch_model": "Llama-2-70b-hf"}, CATALOGUE)
    assert found["kv_tokens"] == pytest.approx(20865 * 16, rel=0.12)


def test_channels_of_an_nvlink_group_grow_with_it_before_the_second_core():
    # A public log of DeepSeek-Coder-V2-Lite on eight A100 prints 2.10 GiB outside torch and 29.02 GiB of cache.
    model = CATALOGUE.models["deepseek-coder-v2-lite-instruct"]
    eight = run((0, 7, 2), tensor_parallel_size=8, nvlink=True, compute_capability=(8, 0))
    assert vllm_rules.non_torch_bytes(model, eight) / GIB == pytest.approx(2.1, abs=0.05)
    apart = dataclasses.replace(eight, nvlink=False)
    assert vllm_rules.non_torch_bytes(model, apart) / GIB == pytest.approx(0.27, abs=0.05)
    case = {"engine": "vllm", "engine_version": "0.7.2", "gpu": "A100-SXM4-40GB", "gpu_count": 8, "tp": 8}
    case |= {"arch_model": model.name, "quant": "fp16", "vram_gib": 39.39, "mem_fraction": 0.9}
    assert estimate_kv(case, CATALOGUE)["kv_gib"] == pytest.approx(29.02, rel=0.03)


def test_what_is_not_understood_widens_the_bound_and_leaves_the_estimate():
    # vllm-project/vllm#5248: 507 blocks on two T4 with 0.4.
    case = {"engine": "vllm", "engine_version": "0.4.3", "gpu": "Tesla T4", "gpu_count": 2, "max_model_len": 16384}
    case |= {"arch_model": "deepseek-coder-6.7b-instruct", "quant": "fp16"}
    wide, narrow = (estimate_kv({**case, "engine_version": v}, CATALOGUE) for v in ("0.4.3", "0.6.4"))
    assert wide["low"] <= 507 * 16 <= wide["high"]
    assert narrow["low"] > wide["low"]


def test_stages_of_a_pipeline_hold_their_layers_and_the_larger_end():
    case = {"engine": "vllm", "engine_version": "0.10.2", "gpu": "H100 80GB", "arch_model": "Qwen3-32B"}
    case |= {"max_model_len": 8192, "quant": "bf16"}
    one, two = (estimate_kv({**case, "gpu_count": n, "pp": n, "tp": 1}, CATALOGUE) for n in (1, 2))
    linear, table = 61.0, 151936 * 5120 * 2 / GIB
    assert two["weights_gib"] == pytest.approx((linear - 2 * table) / 2 + table, rel=0.01)
    # Half the layers per card: half the bytes of a token, beside half the weights.
    assert two["kv_tokens"] / two["kv_gib"] == pytest.approx(2 * one["kv_tokens"] / one["kv_gib"], rel=0.001)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NousResearch/Hermes-3-Llama-3.1-8B", "llama-3.1-8b-instruct"),
        ("deepseek-r1:14b", "deepseek-r1-distill-qwen-14b"),
        ("GLM-4.6-355B-A32B", "glm-4.6"),
        ("Mistral-Large-3-675B", None),
        ("Phi-4-multimodal-instruct", None),
        ("Phi-4-flash", None),
        ("Qwen3-Omni-30B-A3B-Instruct", None),
        ("Qwen3-VL-8B-Thinking", "qwen3-vl-8b-instruct"),
        ("DeepSeek-R1-Distill-Foo-3B", None),
    ],
)
def test_a_tune_is_its_base_where_size_and_parts_agree(name, key):
    found = model_named(name, CATALOGUE)
    assert (found.key if found else None) == key


@pytest.mark.parametrize(
    ("version", "card", "sequences"),
    [((0, 8, 2), (8, 9), 1024), ((0, 8, 4), (8, 9), 256), ((0, 8, 2), (7, 5), 256), ((0, 7, 3), (8, 9), 256)],
)
def test_the_second_core_took_1024_sequences_on_every_card_before_0_8_4(version, card, sequences):
    small = VllmRun(version, 24 * GIB, card)
    assert vllm_rules.max_sequences(small) == sequences


def test_the_peak_of_a_vision_tower_in_the_first_core_may_be_as_much_again():
    seeing, one = CATALOGUE.models["qwen2.5-vl-7b-instruct"], run((0, 7, 3))
    assert vllm_rules.unexplained_bytes(seeing, one) == vllm_rules.activation_bytes(seeing, one)
    assert vllm_rules.unexplained_bytes(seeing, run((0, 10, 2))) == 0
    assert vllm_rules.unexplained_bytes(CATALOGUE.models["llama-3.1-8b-instruct"], one) == 0


@pytest.mark.parametrize(
    ("version", "gpu", "changes", "second_core"),
    [
        ("0.8.5", "RTX 4090", {}, True),
        ("0.8.5", "Tesla T4", {}, False),
        ("0.8.5", "RTX 4090", {"kv_dtype": "fp8"}, False),
        ("0.8.5", "H100", {"kv_dtype": "fp8"}, True),
        ("0.10.2", "RTX 4090", {"kv_dtype": "fp8"}, False),
        ("0.10.2", "RTX 5090", {"kv_dtype": "fp8"}, True),
        ("0.9.2", "RTX 4090", {"quant": "Q4_K_M"}, False),
        ("0.10.2", "RTX 4090", {"quant": "Q4_K_M"}, True),
        ("0.11.0", "Tesla T4", {"kv_dtype": "fp8"}, True),
    ],
)
def test_what_the_second_engine_core_could_not_do_starts_the_first(version, gpu, changes, second_core):
    # The first core takes a prompt of 16384 tokens at once, the second 2048 at a time.
    case = {"engine": "vllm", "gpu": gpu, "engine_version": version, "arch_model": "Qwen2.5-1.5B"}
    asked = {"quant": "bf16", "max_num_seqs": 1, **changes}
    long, short = (estimate_kv({**case, **asked, "max_model_len": n}, CATALOGUE) for n in (16384, 2048))
    assert (long["kv_gib"] == short["kv_gib"]) == second_core
