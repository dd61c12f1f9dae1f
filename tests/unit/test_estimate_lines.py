"""Every line that `inferhost estimate` reads gets one answer in its place, however odd; a bad line stops nothing."""

import json

import pytest

from inferhost.estimate import ESTIMATORS, answers
from tests.unit.planner_wishes import CATALOGUE

KV = {
    "id": "x", "engine": "vllm", "engine_version": "0.10.2", "gpu": "NVIDIA L4", "gpu_count": 1, "tp": 1, "pp": 1,
    "dp": 1, "vram_gib": 22.16, "arch_model": "Qwen/Qwen3-8B", "arch": None, "quant": "fp8", "kv_dtype": "auto",
    "mem_fraction": 0.9, "pre_load_avail_gib": None, "max_model_len": 8192, "max_num_seqs": 64,
    "max_num_batched_tokens": 2048, "eager": 0, "n_ctx": 8192, "n_ubatch": 512, "flash_attn": 1, "k_type": "f16",
    "v_type": "f16",
}  # fmt: skip
DECODE = {
    "id": "x", "engine": "llama.cpp", "engine_version": "2024-05", "gpu": "RTX 3090", "gpus": 1, "split": "single",
    "mem_bw_gbs": 936, "model": "Llama-3-8B", "quant": "Q4_K_M", "layers": 32, "file_gib": 4.58,
    "read_gb_per_step": 4.622, "context": 1024, "batch": 1, "arch": None,
}  # fmt: skip
ODD = [
    None,
    "",
    0,
    -1,
    3.7,
    1e18,
    True,
    "abc",
    "8",
    " 8 ",
    "8GiB",
    "NaN",
    "1,024",
    "ü",
    "\x00",
    [],
    {},
    [1],
    {"a": 1},
]
BROKEN = [
    "not json",
    "[1, 2]",
    "null",
    "3",
    '"x"',
    '{"id": 9',
    "{}",
    '{"id": NaN}',
    '{"vram_gib": 1e999}',
    "\x00",
    "[" * 9999,
]
ASKED = {"kv": {**KV}, "decode": DECODE, "kv of llama.cpp": {**KV, "engine": "llama.cpp", "quant": "GGUF Q4_K_M"}}


@pytest.mark.parametrize("what", ASKED)
def test_every_odd_line_is_answered_in_its_place_and_stops_no_other(what):
    usual = ASKED[what]
    cases = [{**usual, name: value} for name in usual for value in ODD]
    cases += [{key: value for key, value in usual.items() if key != name} for name in usual]
    lines = [*map(json.dumps, cases), *BROKEN, json.dumps({**usual, "id": "last"})]
    found = list(answers(lines, ESTIMATORS[what.split()[0]], CATALOGUE))
    assert len(found) == len(lines) > 300
    for answer in found:
        json.dumps(answer, allow_nan=False)
        assert "id" in answer
        if "refused" in answer:
            assert isinstance(answer["refused"], str)
            assert answer["refused"]
            continue
        likely = answer["kv_tokens"] if "kv_tokens" in answer else answer["expected_tok_s"]
        assert 0 <= answer["low"] <= likely <= answer["high"]
    assert found[-1]["id"] == "last"
    assert "refused" not in found[-1]


@pytest.mark.parametrize("what", ["kv", "decode"])
def test_numbers_may_come_as_text_and_empty_fields_are_absent(what):
    usual = ASKED[what]
    spoken = {key: str(value) if isinstance(value, (int, float)) else value or "" for key, value in usual.items()}
    plain, texts = answers([json.dumps(usual), json.dumps(spoken)], ESTIMATORS[what], CATALOGUE)
    assert plain == texts


def test_a_line_with_a_number_that_json_does_not_know_keeps_its_id():
    found = next(iter(answers(['{"id": 7, "vram_gib": NaN}'], ESTIMATORS["kv"], CATALOGUE)))
    assert found == {"id": 7, "refused": "this line is no JSON: NaN is no number of JSON"}
