"""The estimator: cases in, answers out, whatever the line holds; how good the figures are is `tests/reality`."""

import io
import json

import pytest

from inferhost import estimate
from inferhost.planner.card_names import named_card
from inferhost.planner.estimate.case import quantised
from inferhost.planner.estimate.kv_case import estimate_kv
from inferhost.planner.names import model_named
from inferhost.planner.versions import version
from tests.unit.planner_wishes import CATALOGUE

# kv-cases.csv vllm-06: 58,192 tokens and 6.22 GiB were printed.
VLLM = {
    "id": "vllm-06",
    "engine": "vllm",
    "engine_version": "0.8.2",
    "gpu": "Tesla T4",
    "vram_gib": 14.74,
    "arch_model": "meta-llama/Llama-3.2-3B-Instruct",
    "quant": "fp16",
    "mem_fraction": 0.8939,
    "max_model_len": 2048,
    "max_num_seqs": 192,
    "max_num_batched_tokens": 2048,
}
BAD = [
    ({"engine": "trt"}, "engine: found 'trt', wanted one of ik_llama.cpp, llama.cpp, sglang, vllm"),
    ({"arch_model": "no-such"}, "arch_model: 'no-such' is not in the catalogue; give arch, with its shape"),
    ({"vram_gib": "much"}, "vram_gib: found 'much', wanted a number"),
    ({"vram_gib": -1}, "vram_gib: found -1.0, wanted a number that is finite and not negative"),
    ({"vram_gib": 10**400}, f"vram_gib: found {str(10**400)[:40]!r}, wanted a number"),
    (
        {"quant": "magic"},
        "quant: found 'magic', whose bits per weight are not known; give a format such as bf16, fp8, awq, int8 or "
        "Q4_K_M, or the bits, such as 4.5 bpw",
    ),
    ({"gpu": "Voodoo", "vram_gib": None}, "vram_gib: is missing, and gpu names no card whose memory is known"),
    (
        {"vram_gib": 6},
        "gpu: 5.98 GiB of weights of meta-llama/Llama-3.2-3B-Instruct leave no room for a cache on a card of 6.00 "
        "GiB; give more cards (tp), a larger one or a smaller quant",
    ),
]


def test_a_known_case_is_answered_with_tokens_bytes_and_bounds():
    found = estimate_kv(VLLM, CATALOGUE)
    assert set(found) == {"id", "kv_tokens", "kv_gib", "weights_gib", "low", "high"}
    assert found["kv_tokens"] == pytest.approx(58192, rel=0.02)
    assert found["low"] <= found["kv_tokens"] <= found["high"]


def test_numbers_may_come_as_text():
    as_text = {key: str(value) for key, value in VLLM.items()}
    assert estimate_kv(as_text, CATALOGUE) == estimate_kv(VLLM, CATALOGUE)


@pytest.mark.parametrize(("change", "refused"), BAD, ids=[next(iter(change)) for change, _ in BAD])
def test_what_cannot_be_estimated_says_why(change, refused):
    assert estimate_kv({**VLLM, **change}, CATALOGUE) == {"id": "vllm-06", "refused": refused}


def test_a_shape_in_the_case_itself_counts_as_much_as_the_catalogues():
    row = CATALOGUE.models["llama-3.2-3b-instruct"]
    arch = {
        "num_hidden_layers": row.layers,
        "num_key_value_heads": row.kv_heads,
        "head_dim": row.head_dim,
        "hidden_size": row.hidden_size,
        "intermediate_size": row.intermediate_size,
        "vocab_size": row.vocabulary_size,
        "tie_word_embeddings": 1,
        "params_b": 3.213,
    }
    inline = {**VLLM, "arch_model": None, "arch": arch}
    assert estimate_kv(inline, CATALOGUE) == estimate_kv(VLLM, CATALOGUE)
    unshaped = {"id": "vllm-06", "refused": "arch.head_dim: is missing"}
    assert estimate_kv({**inline, "arch": {**arch, "head_dim": ""}}, CATALOGUE) == unshaped


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("QWEN/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b"),
        ("Qwen/Qwen4-1T", None),
        ("qwen3-8b-fp8", "qwen3-8b"),
        ("unsloth/llama-3.1-8B-Instruct-unsloth-bnb-4bit", "llama-3.1-8b-instruct"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-r1"),
        ("Mistral-7B-Instruct-v0.3", "mistral-7b-instruct-v0.3"),
        ("llama3.1:8b", "llama-3.1-8b-instruct"),
        ("llama3:70b", "meta-llama-3-70b-instruct"),
        ("casperhansen/llama-3-70b-instruct-awq", "meta-llama-3-70b-instruct"),
        ("Qwen 2.5 72B", "qwen2.5-72b-instruct"),
        ("Llama 4 Scout", "llama-4-scout-17b-16e-instruct"),
        ("Mistral Small 3.1 24B", "mistral-small-3.1-24b-instruct-2503"),
        ("cognitivecomputations/dolphin-2.9-llama3-8b", "meta-llama-3-8b"),
        ("facebook/opt-13b", "opt-13b"),
        ("Qwen/Qwen4-7B", None),
        ("tiiuae/Falcon-H1-7B-Instruct", None),
        ("google/gemma-4-2b-it", None),
    ],
)
def test_a_models_name_is_known_without_organisation_case_and_quantisation(name, key):
    found = model_named(name, CATALOGUE)
    assert (found.key if found else None) == key


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("Tesla T4", 14.58),
        ("NVIDIA GeForce RTX 5090", 31.4),
        ("24GB class GPU", 23.16),
        ("4090 48GB", 46.32),
        ("?", None),
    ],
)
def test_a_cards_name_says_what_cuda_reports_on_it(name, gib):
    found = named_card(name, None, CATALOGUE)
    assert (None if found is None else round(found.total_bytes / 2**30, 2)) == gib


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.8.5.post1", (0, 8, 5)),
        ("0.7.x", (0, 7, 9)),
        ("0.9/0.10", (0, 9, 0)),
        ("0.10.1.dev101", (0, 10, 1)),
        ("2026-08", (0, 26, 0)),
        ("0.2x (2026-08)", (0, 26, 0)),
        ("0.19.2rc1", (0, 19, 2)),
        ("", (999, 0, 0)),
    ],
)
def test_versions_are_read_as_people_write_them(text, found):
    assert version("vllm", text) == found


def test_llama_cpp_answers_for_the_context_it_is_given():
    case = {"engine": "ik_llama.cpp", "arch_model": "Qwen3-235B-A22B", "n_ctx": 40960, "k_type": "q8_0"}
    found = estimate_kv({**case, "v_type": "q8_0", "n_ubatch": 4096}, CATALOGUE)
    # kv-cases.csv ikllama-12: 3995.0 and 2502.0 MiB were printed.
    assert (found["kv_total_mib"], found["gpu_compute_buffers_mib"]) == (3995.0, 2502.0)
    refused = {"id": None, "refused": "n_ctx: is missing, and llama.cpp allocates its cache for it"}
    assert estimate_kv({**case, "n_ctx": None}, CATALOGUE) == refused


def test_every_line_gets_one_answer_in_order_and_no_traceback():
    lines = [json.dumps(VLLM), "", "{", "[1]", '{"id": NaN}', "[" * 100_000, '{"id": {"a": [1]}}', '"text"']
    target = io.StringIO()
    estimate.stream(lines, target, estimate_kv)
    found = [json.loads(line) for line in target.getvalue().splitlines()]
    assert [answer["id"] for answer in found] == ["vllm-06", None, None, None, None, {"a": [1]}, None]
    assert all("refused" in answer for answer in found[1:])


# vLLM 0.10.2 and 0.19.1 print blocks // groups * tokens per block, 0.21.0 what requests of the whole context find.
QWEN3_NEXT = {"engine": "vllm", "gpu": "NVIDIA H200", "gpu_count": 2, "tp": 2, "max_model_len": 262144} | {
    "arch_model": "Qwen/Qwen3-Next-80B-A3B-Instruct"
}


@pytest.mark.parametrize("version", ["0.10.2", "0.19.1"])
def test_old_versions_print_a_groups_share_of_a_hybrid_cache(version):
    old, new = (estimate_kv(QWEN3_NEXT | {"engine_version": v}, CATALOGUE) for v in (version, "0.21.0"))
    # 36 layers of states and 12 of attention are four groups.
    assert 3.9 < new["kv_tokens"] / new["kv_gib"] / (old["kv_tokens"] / old["kv_gib"]) < 4


def test_experts_in_mxfp4_are_padded_for_vllms_kernels():
    # 0.10.2 printed 65.9651 GiB on one card with the Marlin kernels (vllm-project/vllm#23278).
    found = estimate_kv(
        {"engine": "vllm", "engine_version": "0.10.2", "gpu": "NVIDIA H200", "arch_model": "gpt-oss-120b"}, CATALOGUE
    )
    assert found["weights_gib"] == pytest.approx(65.97, rel=0.01)


def test_the_bits_of_mxfp4_are_not_those_of_nvfp4():
    bits = {q: quantised(CATALOGUE.models["qwen3-30b-a3b"], q, CATALOGUE).linear_bits for q in ("mxfp4", "nvfp4")}
    assert bits == {"mxfp4": 4.25, "nvfp4": 4.5}


def test_the_experts_of_a_hybrid_model_are_its_feed_forward():
    # Nearly all of it is experts, so a 4 bit checkpoint of it is nearly at 4 bit.
    assert 4.5 < quantised(CATALOGUE.models["qwen3.6-35b-a3b"], "nvfp4", CATALOGUE).linear_bits < 4.8


@pytest.mark.parametrize("field", ["vram_gib", "max_model_len", "pre_load_avail_gib", "n_ctx", "gpu_count"])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_numbers_that_overflow_are_refused_and_not_raised(engine, field):
    found = estimate_kv({**VLLM, "engine": engine, "engine_version": "", "n_ctx": 4096, field: 1e308}, CATALOGUE)
    assert "refused" in found or found["kv_tokens"] >= 0


def test_a_size_beyond_all_numbers_says_so():
    found = estimate_kv({**VLLM, "pre_load_avail_gib": 1e308, "engine": "sglang", "engine_version": ""}, CATALOGUE)
    assert found["refused"].startswith("the numbers of this case cannot be used: ")
