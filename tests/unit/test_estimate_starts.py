"""Cases that no engine starts with, and starts that end: refused or told, and for cache and speed alike."""

import pytest

from inferhost.planner.estimate.decode_case import estimate_decode
from inferhost.planner.estimate.engine_runs import files_of
from inferhost.planner.estimate.kv_case import estimate_kv
from inferhost.planner.speed.decode import capability, min_compute_capability, speed_row
from tests.unit.planner_wishes import CATALOGUE

BOTH = {"gpu": "RTX 4090", "arch_model": "Qwen3-8B", "model": "Qwen3-8B", "quant": "bf16", "n_ctx": 8192}
KV = {"engine": "vllm", "engine_version": "0.10.2", "gpu": "RTX 4090", "arch_model": "Qwen3-8B", "quant": "bf16"}
SERVER = {"engine": "llama.cpp", "gpu": "RTX 3090", "arch_model": "Qwen3-8B", "quant": "Q4_K_M", "n_ctx": 32768}
DECODE = {"engine": "vllm", "gpu": "RTX 4090", "model": "Llama-3.1-8B", "quant": "bf16"}
PASCAL = {"gpu": "Tesla P4", "arch_model": "Qwen3-0.6B", "model": "Qwen3-0.6B"}

NO_START = [
    ({"engine": "vllm", **PASCAL}, "engine: vllm runs from compute capability 7.5, and Tesla P4 has 6.1"),
    (
        {"engine": "sglang", **PASCAL},
        "engine: sglang runs from compute capability 7.5, and Tesla P4 has 6.1",
    ),
    ({"engine": "llama.cpp", "quant": "awq"}, "quant: found 'awq', which is safetensors, and llama.cpp reads gguf"),
    (
        {"engine": "ik_llama.cpp", "quant": "GPTQ-Int4"},
        "quant: found 'gptq-int4', which is safetensors, and llama.cpp reads gguf",
    ),
    (
        {"engine": "vllm", "quant": "Q4_K_M"},
        "quant: found 'q4_k_m', which is gguf, and vllm reads safetensors; for gguf take llama.cpp; vllm before "
        "0.24.0 did, later ones with a plug-in",
    ),
    ({"engine": "vllm", "engine_version": "0.24.0", "quant": "Q8_0"}, "quant: found 'q8_0', which is gguf"),
    ({"engine": "vllm", "quant": "EXL2 4.0bpw"}, "quant: found 'exl2 4.0bpw', which is exl2"),
]


@pytest.mark.parametrize(("changes", "why"), NO_START, ids=[str(changes) for changes, _ in NO_START])
def test_cache_and_speed_refuse_what_an_engine_does_not_start_with(changes, why):
    for estimate in (estimate_kv, estimate_decode):
        assert estimate({**BOTH, **changes}, CATALOGUE)["refused"].lower().startswith(why.lower())


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": "vllm", "engine_version": "0.22.1", "quant": "Q4_K_M"},
        {"engine": "vllm 0.8.5 (V1)", "quant": "Q4_K_M", "engine_version": "0.8.5"},
        {"engine": "sglang", "quant": "Q4_K_M"},
        {"engine": "llama.cpp", "gpu": "Tesla P4", "quant": "Q4_K_M"},
        {"engine": "llama.cpp", "quant": "F16"},
        {"engine": "vllm", "engine_version": "0.10.2", "gpu": "Tesla V100-SXM2-32GB"},
    ],
    ids=str,
)
def test_cache_and_speed_answer_what_an_engine_starts_with(changes):
    for estimate in (estimate_kv, estimate_decode):
        assert "refused" not in estimate({**BOTH, **changes}, CATALOGUE)


def test_the_planner_and_the_estimator_start_an_engine_on_the_same_cards():
    for row in CATALOGUE.engines.values():
        speed = speed_row(row.engine, row.version, CATALOGUE.speeds.values())
        least = min_compute_capability(speed, row.version)
        assert least is None or capability(least) == capability(row.min_compute_capability)


def test_a_format_that_several_kinds_of_files_have_is_not_told_apart():
    words = ("bf16", "mxfp4", "4-bit", "", "GGUF BF16", "nvfp4", "bnb-4bit", "exl3", "UD-Q4_K_XL")
    kinds = [files_of(word, CATALOGUE) for word in words]
    assert kinds == [None, None, None, None, "gguf", None, "safetensors", "exl3", "gguf"]


def test_a_speed_with_a_cache_that_no_card_holds_is_refused():
    def why(**changes):
        return estimate_decode({**DECODE, **changes}, CATALOGUE).get("refused", "")

    assert why(batch=256, context=4096).startswith("context: found 4096 with a batch of 256: 128.0 GiB")
    assert why(engine="llama.cpp", model="Qwen3-32B", quant="Q4_K_M", context=131072).startswith(
        "context: found 131072"
    )
    assert "weights, and 2x RTX 4090 hold 48;" in why(gpu="2x RTX 4090", batch=256, context=4096)
    # Weights and cache are less than the card, but vLLM needs more beside them.
    assert "tokens are cached, and vllm has room for" in why(batch=19, context=4096)
    assert not why(batch=8, context=4096)


def test_a_format_of_experts_is_that_of_all_layers_where_there_are_none():
    case = {**DECODE, "gpu": "H100", "model": "Llama-3.1-70B"}
    narrow, awq = (estimate_decode({**case, "quant": quant}, CATALOGUE) for quant in ("mxfp4", "awq"))
    assert narrow["ceiling_tok_s"] == pytest.approx(awq["ceiling_tok_s"], rel=0.03)


def test_a_speed_with_more_tokens_than_usual_is_told():
    found = estimate_decode({**DECODE, "batch": 14, "context": 4096}, CATALOGUE)
    assert found["expected_tok_s"] > 0
    assert found["notes"].startswith("context: 57344 tokens are cached, and about")
    long = estimate_decode({**DECODE, "model": "Qwen3-8B", "quant": "awq", "context": 65536}, CATALOGUE)
    assert long["notes"] == "context: 65536 tokens are more than the 40960 of Qwen/Qwen3-8B"
    assert "notes" not in estimate_decode({**DECODE, "context": 4096}, CATALOGUE)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "TensorRT-LLM"])
def test_a_rate_that_no_figure_was_fitted_for_has_a_wider_band(engine):
    # 35 % of the ceiling: nothing of 16 bit on a card this fast was seen that was not a mixture.
    case = {**DECODE, "engine": engine, "gpu": "B200", "model": "Llama-3.1-70B"}
    found = estimate_decode(case, CATALOGUE)
    assert found["high"] > 1.5 * found["expected_tok_s"]
    assert found["high"] <= found["ceiling_tok_s"]
    assert found["notes"].startswith("high: no figure of this engine")
    eight_bit = estimate_decode({**case, "quant": "fp8"}, CATALOGUE)
    assert eight_bit["high"] < 1.2 * eight_bit["expected_tok_s"]


def test_a_negative_context_is_refused():
    for context in (-5, "-5", " - 5 tok"):
        assert estimate_decode({**DECODE, "context": context}, CATALOGUE)["refused"].startswith("context: found")


def test_a_quantised_v_needs_flash_attention():
    off = {**SERVER, "flash_attn": "off"}
    why = "v_type: found 'q8_0', and llama.cpp ends at a quantised V without flash attention"
    assert estimate_kv({**off, "k_type": "q8_0", "v_type": "q8_0"}, CATALOGUE)["refused"].startswith(why)
    assert estimate_kv({**off, "kv_dtype": "f16/q8_0"}, CATALOGUE)["refused"].startswith(why)
    for fitting in ({"k_type": "q8_0", "v_type": "f16"}, {"k_type": "q8_0"}, {"kv_dtype": "f16"}):
        assert "refused" not in estimate_kv({**off, **fitting}, CATALOGUE)


def test_a_cache_type_of_the_fork_is_offered_to_it_alone():
    refused = estimate_kv({**SERVER, "k_type": "q3_k"}, CATALOGUE)["refused"]
    assert refused.startswith("k_type: found 'q3_k', wanted one of f32")
    assert "q6_0" not in refused
    assert "refused" in estimate_kv({**SERVER, "k_type": "q6_0"}, CATALOGUE)
    assert "refused" not in estimate_kv({**SERVER, "engine": "ik_llama.cpp", "k_type": "q6_0"}, CATALOGUE)


TOLD = [
    (
        {"engine_version": "v0.11.0rc1"},
        "max_model_len: not given, and Qwen/Qwen3-8B has 40960 positions: vLLM prints a cache of this size and ends",
    ),
    ({"max_model_len": 131072}, "max_model_len: Qwen/Qwen3-8B has 40960 positions: vLLM takes more with"),
    (
        {"gpu": "H100", "arch_model": "Llama-3.1-70B", "quant": "fp8", "engine_version": "", "max_model_len": 8192},
        "max_model_len: found 8192: vLLM may print a cache of this size and end; about 6496 fit",
    ),
    (
        {"engine": "sglang", "arch_model": "Qwen3-30B-A3B", "quant": "gptq-int4", "engine_version": ""},
        "gpu: the weights leave so little that there may be no room for a cache at all",
    ),
    ({"engine_version": "99.0"}, "engine_version: 99.0.0 is newer than 0.33.0"),
    ({"n_ctx": 4096}, "n_ctx: read for llama.cpp alone; vllm's context is max_model_len"),
    ({"gpu": "RTX 3090", "vram_gib": 80}, "vram_gib: found 80, and RTX 3090 is sold with 24 GB"),
]


@pytest.mark.parametrize(("changes", "note"), TOLD, ids=[str(changes) for changes, _ in TOLD])
def test_what_may_not_be_meant_is_answered_and_told(changes, note):
    assert note in estimate_kv({**KV, **changes}, CATALOGUE)["notes"]


def test_the_length_that_fits_is_the_estimate_and_not_its_upper_bound():
    found = estimate_kv({**KV, "max_model_len": 40960, "engine_version": "v0.11.0rc1"}, CATALOGUE)
    assert f"about {found['kv_tokens']} fit" in found["notes"]
    automatic = estimate_kv({**KV, "max_model_len": "auto", "engine_version": "v0.11.0rc1"}, CATALOGUE)
    assert "notes" not in automatic
    assert "notes" not in estimate_kv({**KV, "max_model_len": 8192}, CATALOGUE)


def test_a_larger_share_is_advised_only_where_it_helps():
    large, small = (
        estimate_kv({**KV, **changes}, CATALOGUE)["refused"]
        for changes in ({"arch_model": "Llama-3.1-70B"}, {"mem_fraction": 0.5})
    )
    assert large.endswith("give more cards (tp), a larger one or a smaller quant")
    assert small.endswith("a smaller quant, or a larger mem_fraction")


def test_a_refusal_offers_what_the_case_has():
    def refused(**changes):
        return estimate_kv({**KV, **changes}, CATALOGUE)["refused"]

    assert refused(engine="tabbyapi").endswith("sglang, vllm; inferhost plan counts its cache")
    assert not refused(engine="trt").endswith("counts its cache")
    assert refused(tp=3, gpu_count=3).endswith("wanted one of 1, 2")
    assert refused(vram_gib=1e308) == "vram_gib: found 1e+308, wanted the memory of one card in GiB"
    assert refused(max_model_len="8k") == "max_model_len: found '8k', wanted a number: 8 x 1024 are 8192"
