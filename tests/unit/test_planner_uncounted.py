"""The command line of a plan agrees with its budget: what changes memory or speed is counted or refused."""

import fnmatch
import re

import pytest

from inferhost.planner.launch.flags import concept_of
from tests.unit.planner_wishes import CATALOGUE, planned, refusal
from tests.unit.test_planner_placebo import served

REFUSED = {
    "vllm": [
        ["--quantization", "fp8"],
        ["-q", "fp8"],
        ["--kv-cache-memory-bytes", "8G"],
        ["--cpu-offload-gb", "4"],
        ["--block-size", "64"],
        ["--dtype", "float32"],
        ["--enable-lora"],
        ["--enforce-eager"],
        ["--speculative-config.method", "ngram"],
        ["--compilation-config.cudagraph_mode=NONE"],
        ["--device-ids", "1"],
        ["--hf-overrides", '{"num_hidden_layers": 8}'],
        ["--runner", "pooling"],
        ["--convert", "embed"],
    ],
    "sglang": [
        ["--quantization", "fp8"],
        ["--dtype=float32"],
        ["--page-size", "64"],
        ["--speculative-algorithm", "EAGLE"],
        ["--cuda-graph-max-bs-decode", "512"],
        ["--swa-full-tokens-ratio", "1.0"],
        ["--cpu-offload-gb", "4"],
        ["--enable-lora"],
        ["--base-gpu-id", "1"],
        ["--is-embedding"],
    ],
    "llama.cpp": [
        ["-ot", "exps=CPU"],
        ["--no-kv-offload"],
        ["-nkvo"],
        ["--swa-full"],
        ["--kv-unified"],
        ["--flash-attn", "off"],
        ["-md", "/srv/models/draft.gguf"],
        ["--spec-type", "ngram-simple,draft-eagle3"],
        ["--split-mode", "row"],
        ["--override-kv", "llama.expert_used_count=int:1"],
        ["--mmproj", "/srv/models/mmproj.gguf"],
        ["-hf", "ggml-org/gemma-3-4b-it-GGUF"],
        ["--embedding"],
        ["--reranking"],
    ],
    "tabbyapi": [["--gpu-split", "20"], ["--draft-model-name", "small"], ["--cpu-moe-offload-layers", "4"]],
    "sfllm": [["--quantization", "fp8"], ["--disable-cuda-graph"], ["--speculative-algorithm", "eagle3"]],
}
PASSED = {
    "vllm": [
        ["--dtype", "bfloat16"],
        ["--block-size", "16"],
        ["--no-enforce-eager"],
        ["--runner", "generate"],
        ["--convert", "none"],
    ],
    "sglang": [["--dtype", "half"], ["--page-size", "1"], ["--schedule-policy", "lpm"]],
    "llama.cpp": [["--kv-offload"], ["-fa", "on"], ["--spec-type", "ngram-mod"], ["--no-kv-unified"]],
    "tabbyapi": [["--backend", "exllamav3"]],
    "sfllm": [["--dtype", "bfloat16"]],
}


def cases(table):
    return [
        pytest.param(engine, words, id=f"{engine} {' '.join(words)}") for engine in table for words in table[engine]
    ]


@pytest.mark.parametrize(("engine", "words"), cases(REFUSED))
def test_what_the_budget_does_not_count_is_refused_with_what_takes_its_place(engine, words):
    found = refusal(served(engine, service_extra_args=words))
    assert found.startswith('error: inferhost_service_extra_args[0]: "')
    assert found.count("error: ") == 1
    assert found.partition("\nhint: ")[2]


@pytest.mark.parametrize(("engine", "words"), cases(PASSED))
def test_what_changes_neither_memory_nor_speed_passes(engine, words):
    plan = planned(served(engine, service_extra_args=words))
    assert words[-1] in plan.service[0].argv
    assert plan.budget == planned(served(engine)).budget


@pytest.mark.parametrize(
    ("engine", "variable", "value"),
    [
        ("vllm", "VLLM_MLA_DISABLE", "1"),
        ("sglang", "SGLANG_MAMBA_SSM_DTYPE", "float32"),
        ("llama.cpp", "LLAMA_ARG_OVERRIDE_TENSOR", "exps=CPU"),
        ("llama.cpp", "LLAMA_ARG_KV_OFFLOAD", "0"),
        ("llama.cpp", "LLAMA_ARG_EMBEDDINGS", "1"),
        ("llama.cpp", "LLAMA_ARG_FLASH_ATTN", "off"),
        ("llama.cpp", "GGML_CUDA_ENABLE_UNIFIED_MEMORY", "1"),
    ],
)
def test_a_variable_that_the_budget_does_not_count_is_refused(engine, variable, value):
    found = refusal(served(engine, service_env={variable: value}))
    assert found.startswith(f"error: inferhost_service_env.{variable}: ")
    assert "\nhint: " in found


def test_a_limit_of_the_cache_is_counted():
    values = served("sglang", service_extra_args=["--max-total-tokens", "16384"])
    plan, free = planned(values), planned(served("sglang"))
    assert plan.budget["main"]["kv_cache_tokens"] == 16384 < free.budget["main"]["kv_cache_tokens"]
    assert plan.budget["main"]["concurrent_requests"] == 8
    terms = [name for name in plan.budget["main"] if name.endswith("_bytes") and not name.startswith("kv_bytes")]
    assert (
        sum(plan.budget["main"][name] for name in terms if name != "total_memory_bytes")
        == (plan.budget["main"]["total_memory_bytes"])
    )


def test_a_limit_of_the_cache_below_one_request_is_refused():
    found = refusal(served("sglang", service_extra_args=["--max-total-tokens", "1000"]))
    assert found == (
        "error: inferhost_service_extra_args: the cache is limited to 1000 tokens, and one request may have 2048\n"
        "hint: at least 2048, or leave it to the plan"
    )


TELLING = re.compile(
    r"quant|offload|lora|specul|^--spec-|graph|draft|(page|block|pool)-size|dtype|kv-cache|swa-full|split|eager"
    r"|compile|gpu-id|device|override|mmproj|(cache|pool|total)-(tokens|bytes|memory)|parallel"
)
"""Words in the name of a flag that may change memory or speed."""
NEUTRAL = (
    # with nothing to act on until another flag, refused here, switches it on
    *("--*lora-*", "--*-lora", "--*-loras", "--*-loras-*", "--max-cpu-loras", "--*draft*", "--disaggregation-*"),
    *("--spec-*", "--speculative-*", "--decoupled-spec-*", "--sleep-mode-*", "--*data-parallel-*", "--mmproj-*"),
    *("--mooncake-ib-device", "--*cp-kv-cache-interleave-size", "--debug-cuda-graph", "--kv-offloading-backend"),
    "--enable-torch-compile-debug-mode",
    # says how something is written, read or shown
    *("--override-generation-config", "--override-preset", "--cudagraph-metrics", "--enable-profile-cuda-graph"),
    *("--kv-cache-metrics*", "--per-request-spec-decode-metrics", "--max-parallel-loading-workers", "--list-devices"),
    *("--safetensors-prefetch-block-size", "--quantization-param-path"),
    # for cards or models that no row of the catalogue has
    *("--qsa-indexer-dtype", "--enable-dsa-cache-layer-split", "--*megamoe*", "--c128-page-size", "--deepep-*"),
    *("--enable-quant-communications", "--allow-deprecated-quantization"),
    # kernels of a step, not what they read
    *("--triton-attention-*split*", "--enable-cudagraph-gc", "--mm-encoder-attn-dtype", "--mm-device-do-normalize"),
    "--mm-processor-device",
)


@pytest.mark.parametrize("engine", CATALOGUE.engines)
def test_every_flag_with_a_telling_name_is_planned_counted_refused_or_known_to_be_neutral(engine):
    """A new engine version brings flags: each has to be looked at before it passes."""
    row = CATALOGUE.engines[engine]
    patterns = [p for u in CATALOGUE.uncounted.values() if u.engine == row.engine for p in u.names]
    patterns += [*NEUTRAL, *row.size_flags]
    patterns += [need.flag for need in row.host_memory]
    unseen = {
        flag.names[0]
        for flag in CATALOGUE.flags_of(row).values()
        if flag.status == "real"
        and concept_of(flag, row) is None
        and any(TELLING.search(name) for name in flag.names)
        and not any(fnmatch.fnmatchcase(name, pattern) for name in flag.names for pattern in patterns)
    }
    assert unseen == set()


def test_a_row_names_what_its_engine_reads():
    for row in CATALOGUE.uncounted.values():
        engine = next(e for e in CATALOGUE.engines.values() if e.engine == row.engine)
        read = {*CATALOGUE.flags_of(engine), *CATALOGUE.engine_table(engine).variables, *CATALOGUE.env}
        assert [n for n in row.names if not fnmatch.filter(read, n)] == [], row.key


def test_what_takes_the_place_of_a_refused_setting_is_not_refused_itself():
    refused = {
        (row.engine, pattern) for row in CATALOGUE.uncounted.values() for pattern in row.names if not row.harmless
    }
    texts = [(r.engine, r.replacement) for r in CATALOGUE.uncounted.values()]
    texts += [(f.engine, f.replacement) for f in CATALOGUE.flags.values() if f.status != "real"]
    for engine, text in texts:
        for flag in re.findall(r"--[a-z][a-z0-9-]+", text or ""):
            assert not any(e == engine and fnmatch.fnmatchcase(flag, p) for e, p in refused), (engine, text)


def test_a_variable_of_vllm_on_a_processor_is_refused_on_a_card():
    found = refusal(served("vllm", service_env={"VLLM_CPU_KVCACHE_SPACE": "40"}))
    assert "is for vllm on a processor" in found
