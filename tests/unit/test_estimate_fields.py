"""What people write into a line of the estimator: spellings mean the same, nonsense is refused with what works."""

import csv
import json
import pathlib

import pytest

from inferhost import cli
from inferhost.estimate import misspelt
from inferhost.planner.card_names import named_card
from inferhost.planner.estimate.case import quantised, windowed_layers
from inferhost.planner.estimate.decode_case import estimate_decode, mean_context_tokens
from inferhost.planner.estimate.kv_case import GGUF_SPREAD_SHARE, estimate_kv
from inferhost.planner.memory.weights import weights_bytes
from inferhost.planner.names import model_named, name_quantisation
from tests.unit.planner_wishes import CATALOGUE

KV = {"engine": "vllm", "engine_version": "0.10.2", "gpu": "RTX 4090", "arch_model": "Qwen/Qwen3-8B", "quant": "bf16"}
SERVER = {"engine": "llama.cpp", "gpu": "RTX 3090", "arch_model": "Qwen3-8B", "quant": "Q4_K_M", "n_ctx": 8192}
DECODE = {"engine": "vllm", "gpu": "RTX 4090", "model": "Qwen3-8B", "quant": "bf16"}
REALITY = pathlib.Path(__file__).parents[1] / "reality"

REFUSED = [
    ({"mem_fraction": 90}, "mem_fraction: found 90, wanted a share above 0 and at most 1: 90 % is 0.9"),
    ({"mem_fraction": 1.5}, "mem_fraction: found 1.5, wanted a share above 0 and at most 1"),
    ({"mem_fraction": 0}, "mem_fraction: found 0, wanted a share above 0 and at most 1"),
    (
        {"tp": 3},
        "tp: found 3, and 32 query and 8 KV heads of Qwen/Qwen3-8B cannot be shared out evenly; wanted one of 1, 2",
    ),
    ({"tp": 1000}, "tp: found 1000, and 32 query and 8 KV heads of"),
    ({"gpu_count": 6}, "gpu_count: found 6, and 32 query and 8 KV heads of"),
    ({"tp": 8, "arch_model": "microsoft/phi-4"}, "tp: found 8, and 40 query and 10 KV heads of"),
    ({"tp": 1.5}, "tp: found 1.5, wanted a whole number of at least 1"),
    ({"tp": 0}, "tp: found 0, wanted a whole number of at least 1"),
    ({"tp": -2}, "tp: found -2.0, wanted a number"),
    ({"pp": 37}, "pp: found 37, wanted at most 36, the layers of Qwen/Qwen3-8B"),
    ({"pp": 0.5}, "pp: found 0.5, wanted a whole number"),
    ({"dp": 0}, "dp: found 0, wanted a whole number"),
    ({"gpu_count": 2, "tp": 2, "pp": 2}, "gpu_count: found 2, wanted at least 4: tp 2 times pp 2"),
    ({"gpu_count": 4, "tp": 2, "dp": 4}, "gpu_count: found 4, wanted at least 8: tp 2 times pp 1 times dp 4"),
    ({"max_model_len": 0}, "max_model_len: found 0, wanted a whole number of at least 1"),
    ({"max_model_len": 10**9}, "max_model_len: found 1000000000, wanted at most 16777216 tokens"),
    ({"max_num_seqs": 0}, "max_num_seqs: found 0, wanted a whole number"),
    (
        {"max_num_seqs": 256, "max_num_batched_tokens": 64},
        "max_num_batched_tokens: found 64, wanted at least max_num_seqs, 256",
    ),
    ({"vram_gib": 0}, "vram_gib: found 0, wanted the memory of one card in GiB"),
    ({"vram_gib": 24564}, "vram_gib: found 24564, wanted the memory of one card in GiB: 24564 MiB are 23.99"),
    ({"eager": "maybe"}, "eager: found 'maybe', wanted 1 or 0, true or false"),
    ({"gpu": "RTX 5060 Ti"}, "vram_gib: is missing"),
]


@pytest.mark.parametrize(("changes", "why"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_nonsense_is_refused_with_the_field_the_value_and_what_would_work(engine, changes, why):
    if engine == "sglang" and ("eager" in changes or "dp" in changes):
        return  # read by vLLM alone, or shared out otherwise
    assert estimate_kv({**KV, "engine": engine, **changes}, CATALOGUE)["refused"].startswith(why)


SAME = [
    ("gpu", "RTX 4090", ("NVIDIA GeForce RTX 4090", "RTX 4090 24GB", "RTX4090", "rtx-4090", "1x RTX 4090", "4090")),
    ("gpu", "A100-SXM4-80GB", ("NVIDIA A100-SXM4-80GB", "A100 80GB", "A100 80G", "A100-80G")),
    ("gpu", "NVIDIA H100 80GB HBM3", ("H100", "H100 SXM", "H100-SXM5-80GB", "H100 80GB")),
    ("gpu", "L40S", ("NVIDIA L40S", "NVIDIA L40S-48GB", "L40S 48 GB")),
    (
        "quant",
        "bf16",
        ("BF16", "bfloat16", "fp16", "half", "none", "None", "", "auto", "unquantized", "n/a", "-", None),
    ),
    ("quant", "fp8", ("FP8", "fp8 w8a8", "fp8_e4m3", "FP8-dynamic", "w8a8", "int8", "modelopt_fp8", "bnb-8bit")),
    ("quant", "awq", ("AWQ", "AWQ-INT4", "awq_marlin", "GPTQ", "gptq-int4", "w4a16", "4-bit", "AWQ 4-bit", "int4")),
    (
        "quant",
        "Q4_K_M",
        ("q4_k_m", "GGUF Q4_K_M", "Q4_K - Medium", "Qwen3-8B-Q4_K_M.gguf", "UD-Q4_K_XL", "Q4KM", "Q4"),
    ),
    ("quant", "Q5_K_S", ("Q5_K - Small", "GGUF Q5_K - Small", "q5_k_s")),
    ("kv_dtype", "auto", ("", None, "bf16", "float16", "half", "auto (16-bit)", "default", "none")),
    ("kv_dtype", "fp8", ("fp8_e5m2", "fp8_e4m3", "FP8", "auto (fp8)", "int8", "float8")),
    ("engine_version", "0.8.5", ("v0.8.5", "0.8.5.post1", "vllm 0.8.5", "0.8.5+cu128", "vllm/vllm-openai:v0.8.5")),
    ("eager", 1, ("1", True, "true", "True", "yes", 1.0)),
    ("eager", 0, ("0", False, "false", "no", None, "")),
    ("max_model_len", None, ("",)),
    ("max_model_len", "auto", (-1, "-1")),
    ("vram_gib", 23.5, ("23.5", "23.5 GiB", "23.5GB", " 23.5 ")),
    ("mem_fraction", 0.9, ("0.9", "90%", "90 %")),
    ("tp", 2, ("2", 2.0, "2.0")),
    ("arch_model", "Qwen3-8B", ("Qwen/Qwen3-8B", "qwen/qwen3-8b", "unsloth/Qwen3-8B", "Qwen3-8B-FP8")),
]
SPELLINGS = [pytest.param(*one, id=f"{one[0]}={one[1]}") for one in SAME]


@pytest.mark.parametrize(("field", "usual", "others"), SPELLINGS)
def test_spellings_of_one_thing_get_one_answer(field, usual, others):
    wanted = estimate_kv({**KV, field: usual}, CATALOGUE)
    assert "kv_tokens" in wanted
    answers = {str(other): estimate_kv({**KV, field: other}, CATALOGUE) for other in others}
    assert {other: found for other, found in answers.items() if found != wanted} == {}


@pytest.mark.parametrize(
    ("engine", "usual"),
    [
        ("vLLM", "vllm"),
        ("vllm-openai", "vllm"),
        ("SGLang", "sglang"),
        ("llama-server", "llama.cpp"),
        ("llama.cpp (CUDA)", "llama.cpp"),
        ("ik-llama.cpp", "ik_llama.cpp"),
    ],
)
def test_engines_are_known_by_what_people_call_them(engine, usual):
    case = {**KV, "n_ctx": 4096, "engine_version": ""}
    assert estimate_kv({**case, "engine": engine}, CATALOGUE) == estimate_kv({**case, "engine": usual}, CATALOGUE)


def test_an_engine_may_be_named_with_its_version():
    named = {**KV, "engine": "vLLM 0.8.5 (V1)", "engine_version": None}
    assert estimate_kv(named, CATALOGUE) == estimate_kv({**KV, "engine_version": "0.8.5"}, CATALOGUE)


@pytest.mark.parametrize("tied", [1, "1", True, "true", "True"])
def test_switches_of_a_shape_are_read_as_those_of_a_case(tied):
    arch = {
        "num_hidden_layers": "28",
        "num_key_value_heads": "8",
        "head_dim": "128",
        "hidden_size": "3072",
        "intermediate_size": "8192",
        "vocab_size": "128256",
        "params_b": "3.213",
        "tie_word_embeddings": tied,
    }
    case = {**KV, "max_model_len": 8192}
    found = estimate_kv({**case, "arch_model": None, "arch": arch}, CATALOGUE)
    assert found == estimate_kv({**case, "arch_model": "Llama-3.2-3B"}, CATALOGUE)


@pytest.mark.parametrize(
    ("words", "layers", "growing", "windowed"),
    [
        ("5 local : 1 global, window 1024", 62, 62, 52),
        ("alternating, window 4096", 42, 42, 21),
        ("4096 window on all layers", 32, 32, 32),
        ("window 128", 24, 12, 12),
    ],
)
def test_layers_with_a_window_are_counted_as_their_description_says(words, layers, growing, windowed):
    assert windowed_layers(words, layers, growing) == windowed


def test_a_shape_in_the_case_is_completed_by_the_model_that_the_case_names():
    row = CATALOGUE.models["qwen3.5-9b"]
    arch = {
        "num_hidden_layers": row.layers,
        "layers_with_growing_kv": row.kv_layers,
        "num_key_value_heads": row.kv_heads,
        "head_dim": row.head_dim,
        "hidden_size": row.hidden_size,
        "vocab_size": row.vocabulary_size,
        "params_b": row.parameters / 1e9,
        "sliding_or_hybrid": "hybrid: 24 gated-delta-net + 8 full-attention layers",
    }
    case = {**KV, "gpu": "H200", "arch_model": row.name}
    assert estimate_kv({**case, "arch": arch}, CATALOGUE) == estimate_kv(case, CATALOGUE)
    assert "refused" in estimate_kv({**case, "arch_model": None, "arch": arch}, CATALOGUE)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "awq"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "gptq-int4"),
        ("RedHatAI/Llama-3.1-8B-Instruct-FP8-dynamic", "fp8"),
        ("Qwen3-8B-Q4_K_M.gguf", "q4_k_m"),
        ("unsloth/Llama-3.1-8B-bnb-4bit", "bnb-4bit"),
        ("Qwen/Qwen3-8B", ""),
    ],
)
def test_a_name_says_how_its_checkpoint_is_quantised(name, quant):
    assert name_quantisation(name) == quant


def test_a_quantised_name_counts_where_no_quantisation_is_given():
    named = {**KV, "arch_model": "Qwen/Qwen3-8B-AWQ"}
    said = estimate_kv({**KV, "quant": "awq"}, CATALOGUE)
    assert estimate_kv({**named, "quant": ""}, CATALOGUE) == said
    assert estimate_kv({**named, "quant": "bf16"}, CATALOGUE) == estimate_kv(KV, CATALOGUE)
    # A row of published cases names the shape beside the checkpoint.
    assert estimate_kv({**KV, "model": "Qwen/Qwen3-8B-AWQ", "quant": ""}, CATALOGUE) == said


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("RTX 3060", 11.58),  # 12 GB as sold
        ("RTX 3060 8GB", 7.72),
        ("H100 NVL", 90.71),  # 94 GB, not the 80 of its sisters
        ("NVIDIA GH200 480GB", 92.64),  # 96 GB beside 480 of the host
        ("NVIDIA A2", 14.44),  # check bits take a sixteenth
        ("RTX 4060 Ti", None),  # sold with two sizes
    ],
)
def test_a_card_has_the_memory_that_it_is_sold_with(name, gib):
    found = named_card(name, None, CATALOGUE)
    assert (None if found is None else round(found.total_bytes / 2**30, 2)) == gib


def test_the_weights_of_a_gguf_file_are_its_size_less_the_embedding_on_the_host():
    # kv-cases.csv ikllama-01 and -40: 4,941 and 117,415.23 MiB on the cards.
    for model, quant, mib in (
        ("Llama-3.1-8B-Instruct", "GGUF Q5_K - Small 5.162 GiB", 4941.0),
        ("nvidia/Llama-3_1-Nemotron-Ultra-253B-v1", "GGUF Q3_K - Medium 115.764 GiB", 117415.23),
    ):
        found = estimate_kv({"engine": "llama.cpp", "arch_model": model, "quant": quant, "n_ctx": 512}, CATALOGUE)
        assert 1024 * found["weights_gib"] == pytest.approx(mib, rel=0.003)


# decode_cases.csv and kv-cases.csv: GiB of whole files.
FILES = [
    ("Llama-3.2-1B", "Q4_K_M", 0.75),  # one table for input and output
    ("Llama-3.2-3B", "Q4_K_M", 1.87),
    ("Qwen3-14B", "Q4_K_M", 8.38),
    ("Llama-2-7B", "Q2_K", 2.63),
    ("Llama-2-7B", "Q4_0", 3.56),
    ("Llama-3.1-8B", "Q5_K - Small", 5.162),
    ("Qwen3-235B-A22B", "Q6_K", 179.754),
    ("Qwen3-Coder-30B-A3B", "Q8_0", 30.25),
    ("deepseek-ai/DeepSeek-R1", "GGUF F16", 1251.99),
]


@pytest.mark.parametrize(("model", "quant", "gib"), FILES)
def test_a_gguf_format_weighs_what_published_files_do(model, quant, gib):
    row = quantised(model_named(model, CATALOGUE), quant, CATALOGUE)
    assert weights_bytes(row, embedding_on_host=False) / 2**30 == pytest.approx(gib, rel=GGUF_SPREAD_SHARE)


def test_the_bounds_of_a_mixture_are_wider():
    found = [estimate_kv({**KV, "quant": quant}, CATALOGUE) for quant in ("Q8_0", "fp8")]
    mixed, plain = (one["high"] - one["low"] for one in found)
    assert mixed > 1.1 * plain


def test_a_context_that_does_not_fit_is_told_and_not_refused():
    # vLLM prints its cache before it ends: kv-cases.csv vllm-17 and -19 are such logs.
    found = estimate_kv({**KV, "max_model_len": 131072}, CATALOGUE)
    assert found["kv_tokens"] < 131072
    assert found["notes"].startswith("max_model_len: found 131072: vLLM prints a cache of this size and ends")
    assert "notes" not in estimate_kv({**KV, "max_model_len": 8192}, CATALOGUE)


def test_llama_cpp_says_what_a_card_does_not_hold():
    large = {**SERVER, "arch_model": "Qwen3-32B"}
    assert "notes" not in estimate_kv(SERVER, CATALOGUE)
    # kv-cases.csv ikllama-25 started so, with most layers in host memory, and says nothing of it.
    told = estimate_kv({**large, "gpu": "Tesla T4"}, CATALOGUE)
    assert (told["kv_tokens"], "of 65 layers fit" in told["notes"]) == (8192, True)
    refused = estimate_kv({**large, "gpu": "Tesla T4", "n_gpu_layers": 65}, CATALOGUE)["refused"]
    fitting = int(refused.partition("about ")[2].split()[0])
    assert refused.startswith("n_gpu_layers: found 65, and 1 x 14.58 GiB hold less (weights 18.")
    assert "refused" not in estimate_kv({**large, "gpu": "Tesla T4", "n_gpu_layers": fitting}, CATALOGUE)
    assert "refused" in estimate_kv({**large, "gpu": "Tesla T4", "n_gpu_layers": fitting + 3}, CATALOGUE)


def test_a_cache_larger_than_the_cards_is_refused():
    found = estimate_kv({**SERVER, "n_ctx": 1_000_000}, CATALOGUE)
    assert found["refused"].startswith("n_ctx: its cache takes 137.36 GiB, and Qwen/Qwen3-8B runs on 1 x 23.58 GiB")


def test_a_context_of_zero_is_the_models_own():
    asked = CATALOGUE.models["qwen3-8b"].context_max_tokens
    assert estimate_kv({**SERVER, "n_ctx": 0}, CATALOGUE)["kv_tokens"] == asked


DECODE_REFUSED = [
    ({"split": "diagonal", "gpus": 2}, "split: found 'diagonal', wanted one of single, layer, pp, row, tp"),
    ({"split": "dp", "gpus": 2}, "split: found 'dp': copies do not share a step"),
    ({"split": "TP=8", "gpus": 2}, "split: found 'TP=8', and gpus says 2; wanted the same number in both"),
    ({"gpus": 3}, "gpus: found 3, and 32 heads of Qwen/Qwen3-8B cannot be shared out evenly"),
    ({"gpus": 1.5}, "gpus: found 1.5, wanted a whole number of at least 1"),
    ({"batch": 10**6}, "batch: found 1000000, wanted at most 65536 sequences of one step"),
    ({"batch": 0.5}, "batch: found 0.5, wanted a whole number of at least 1"),
    ({"layers": 10**9}, "layers: found 1000000000, wanted at most 1000"),
    ({"mem_bw_gbs": 0}, "mem_bw_gbs: found 0, wanted 10^9 bytes per second of one card"),
    (
        {"model": "Llama-3-70B"},
        "quant: Llama-3-70B bf16 takes at least 118.3 GiB, and 1 x RTX 4090 hold 24; give more gpus",
    ),
    ({"file_gib": 40}, "file_gib: Qwen3-8B 40 takes at least 36.0 GiB, and 1 x RTX 4090 hold 24"),
]


@pytest.mark.parametrize(("changes", "why"), DECODE_REFUSED, ids=[str(changes) for changes, _ in DECODE_REFUSED])
def test_a_speed_that_no_cards_give_is_refused(changes, why):
    assert estimate_decode({**DECODE, **changes}, CATALOGUE)["refused"].startswith(why)


@pytest.mark.parametrize("gpu", ["2x RTX 4090", "2\u00d7RTX4090", "2 x RTX 4090", "2xRTX 4090", "RTX 4090 x2"])
def test_a_name_may_count_the_cards(gpu):
    assert estimate_decode({**DECODE, "gpu": gpu}, CATALOGUE) == estimate_decode({**DECODE, "gpus": 2}, CATALOGUE)
    assert estimate_kv({**KV, "gpu": gpu}, CATALOGUE) == estimate_kv({**KV, "gpu_count": 2}, CATALOGUE)
    assert estimate_kv({**KV, "gpu": gpu, "gpu_count": 1}, CATALOGUE) == estimate_kv(KV, CATALOGUE)


@pytest.mark.parametrize("split", ["tp", "TP", "tensor-parallel", "tensor_parallel", "tp2", "TP=2", "row", ""])
def test_spellings_of_a_split_mean_the_same(split):
    usual = estimate_decode({**DECODE, "gpus": 2, "split": "tp"}, CATALOGUE)
    assert estimate_decode({**DECODE, "gpus": 2, "split": split}, CATALOGUE) == usual


def test_a_checkpoint_without_a_word_on_its_format_is_taken_as_it_is_published():
    usual = estimate_decode(DECODE, CATALOGUE)
    assert estimate_decode({**DECODE, "quant": ""}, CATALOGUE) == usual
    named = {**DECODE, "model": "Qwen/Qwen3-8B-AWQ"}
    assert estimate_decode({**named, "quant": None}, CATALOGUE) == estimate_decode(
        {**named, "quant": "awq"}, CATALOGUE
    )
    assert "refused" in estimate_decode({**DECODE, "engine": "llama.cpp", "quant": ""}, CATALOGUE)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("8k", 8192),
        ("1k/1k", 1536),
        ("tg128 @ d4096", 4160),
        ("512 in, 256 out", 640),
        ("128 in / 128 out", 192),
        ("pp512+tg128", 64),
    ],
)
def test_contexts_are_read_as_people_write_them(text, tokens):
    assert mean_context_tokens(text) == tokens


@pytest.mark.parametrize(
    ("what", "name", "meant"),
    [
        ("kv", "max_modle_len", "max_model_len"),
        ("kv", "gpu_memory_utilization", "mem_fraction"),
        ("kv", "tensor-parallel-size", "tp"),
        ("kv", "gpus", "gpu_count"),
        ("decode", "gpu_count", "gpus"),
        ("decode", "mem_bw_gb", "mem_bw_gbs"),
        ("kv", "colour", None),
    ],
)
def test_a_misspelt_field_is_told(what, name, meant):
    assert misspelt({"id": 1, name: 2}, what) == ({} if meant is None else {name: meant})


@pytest.mark.parametrize(("what", "file"), [("kv", "kv-cases.csv"), ("decode", "decode_cases.csv")])
def test_whole_rows_of_results_may_be_given(what, file):
    with (REALITY / file).open(encoding="utf-8", newline="") as opened:
        assert misspelt(next(csv.DictReader(opened)), what) == {}


def test_a_hint_goes_to_standard_error_once(monkeypatch, capsys, tmp_path):
    lines = tmp_path / "lines"
    lines.write_text(2 * (json.dumps({**KV, "max_modle_len": 1}) + "\n"))
    with lines.open() as source:
        monkeypatch.setattr("sys.stdin", source)
        assert cli.main(["estimate", "kv"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("kv_tokens") == 2
    assert shown.err == 'hint: nothing reads the field "max_modle_len"; did you mean "max_model_len"?\n'
