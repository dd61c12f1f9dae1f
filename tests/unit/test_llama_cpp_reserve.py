"""What llama-server 0.7.0 (build 11669) itself reserves, on stand-in devices that only count bytes (no GPU).

The figures are its own lines "compute buffer size", for models of four layers with the shapes below, random in
nothing: the files hold no weights. The stand-in takes every operation, copies host tensors for 32 tokens and more,
and adds the cache at 16 bit to attention over a quantised one, as the CUDA backend does (ggml-cuda.cu, fattn.cu).
What that backend's own fusions hold longer is not in them.
"""

import dataclasses

import pytest

from inferhost.catalogue.rows import MoeShape
from inferhost.planner.estimate.kv_case import estimate_kv
from inferhost.planner.memory import llama_cpp_reserve
from inferhost.planner.memory.llama_cpp_offload import Placement
from inferhost.planner.memory.llama_cpp_reserve import Reserve, card_buffer_bytes, host_buffer_bytes, margin_bytes
from tests.unit.planner_wishes import CATALOGUE, planned, wish

MIB, GIB = 2**20, 2**30
ALL, Q8 = Placement(5), 34 / 32


def shape(key, **own):
    row = CATALOGUE.models[key]
    moe = row.moe and dataclasses.replace(row.moe, experts=16, dense_layers=min(1, row.moe.dense_layers))
    bits = {"linear_bits": 8.5, "embedding_bits": 8.5, "head_bits": 8.5, "quantisation": "q8_0", "format": "gguf"}
    return dataclasses.replace(row, layers=4, kv_layers=4, vocabulary_size=8192, moe=moe, **bits, **own)


MODELS = {
    "llama 8b": shape("llama-3.1-8b-instruct"),
    "llama 70b": shape("llama-3.3-70b-instruct"),
    "qwen3 32b": shape("qwen3-32b"),
    "qwen3 30b-a3b": shape("qwen3-30b-a3b"),
    "qwen3 235b-a22b": shape("qwen3-235b-a22b"),
    "deepseek r1": shape("deepseek-r1"),
}

# model, cells of all sequences, sequences, micro batch, bytes of a cached number, MiB on the card, MiB on the host
WHOLE = [
    ("llama 8b", 8192, 1, 512, 2.0, 124.01, 40.02),
    ("llama 8b", 131072, 1, 512, 2.0, 244.01, 160.02),
    ("llama 8b", 8192, 8, 512, 2.0, 117.01, 33.02),
    ("llama 8b", 131072, 16, 512, 2.0, 124.01, 40.02),
    ("llama 8b", 8192, 1, 2048, 2.0, 496.05, 160.07),
    ("llama 70b", 131072, 1, 512, 2.0, 360.01, 192.02),
    ("llama 70b", 8192, 8, 512, 2.0, 233.01, 65.02),
    ("qwen3 32b", 8192, 1, 512, 2.0, 198.01, 48.02),
    ("qwen3 32b", 131072, 1, 512, 2.0, 318.01, 168.02),
    ("qwen3 30b-a3b", 8192, 1, 512, 2.0, 92.01, 24.02),
    ("qwen3 30b-a3b", 131072, 1, 512, 2.0, 212.01, 144.02),
    ("qwen3 30b-a3b", 8192, 8, 512, 2.0, 85.01, 17.02),
    ("qwen3 235b-a22b", 8192, 1, 512, 2.0, 176.01, 40.02),
    ("qwen3 235b-a22b", 131072, 1, 512, 2.0, 296.01, 160.02),
    ("deepseek r1", 8192, 8, 512, 2.0, 393.01, 57.01),
]

# model, cells of one sequence, bytes of a cached number, layers on the card, MiB on the card
BOUNDED = [
    ("llama 8b", 131072, Q8, 5, 680.09),
    ("llama 8b", 8192, 2.0, 3, 172.50),
    ("llama 8b", 131072, 2.0, 3, 680.00),
    ("llama 8b", 131072, Q8, 3, 968.00),
    ("llama 8b", 8192, 2.0, 1, 172.50),
    ("llama 70b", 8192, 2.0, 3, 438.00),
    ("llama 70b", 131072, 2.0, 3, 720.00),
    ("qwen3 32b", 8192, 2.0, 3, 272.82),
    ("qwen3 32b", 131072, 2.0, 3, 712.00),
    ("qwen3 30b-a3b", 8192, 2.0, 3, 117.50),
    ("qwen3 30b-a3b", 131072, 2.0, 3, 416.00),
    ("qwen3 235b-a22b", 8192, 2.0, 3, 246.00),
    ("qwen3 235b-a22b", 131072, 2.0, 3, 448.00),
    ("deepseek r1", 8192, 2.0, 3, 446.00),
    ("deepseek r1", 131072, 2.0, 3, 817.25),
]

# model, cells of one sequence, layers of experts off the card, MiB on the card
EXPERTS = [
    ("qwen3 30b-a3b", 8192, 2, 93.51),
    ("qwen3 30b-a3b", 131072, 4, 213.51),
    ("qwen3 235b-a22b", 8192, 2, 230.01),
    ("qwen3 235b-a22b", 131072, 4, 350.01),
    ("deepseek r1", 8192, 2, 446.01),
    ("deepseek r1", 131072, 4, 566.01),
]


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: "-".join(map(str, case[:3])))
def test_the_buffers_of_a_model_that_is_on_its_card_are_the_reserved_ones(case):
    name, cells, sequences, micro, cached, card, host = case
    start = Reserve(cells // sequences, sequences, micro, cached, ALL)
    assert card_buffer_bytes(MODELS[name], start) / MIB == pytest.approx(card, abs=0.13)
    assert host_buffer_bytes(MODELS[name], start) / MIB == pytest.approx(host, abs=0.13)


@pytest.mark.parametrize(("name", "cells", "off_card", "printed"), EXPERTS)
def test_the_buffer_beside_experts_in_host_memory_is_the_reserved_one(name, cells, off_card, printed):
    start = Reserve(cells, 1, 512, 2.0, Placement(5, off_card))
    assert card_buffer_bytes(MODELS[name], start) / MIB == pytest.approx(printed, abs=0.13)


@pytest.mark.parametrize(("name", "cells", "cached", "layers", "printed"), BOUNDED)
def test_the_buffer_beside_layers_in_host_memory_is_never_more_than_planned(name, cells, cached, layers, printed):
    start = Reserve(cells, 1, 512, cached, Placement(layers))
    found = card_buffer_bytes(MODELS[name], start) / MIB
    assert printed <= found <= 1.5 * printed


def test_a_quantised_cache_keeps_one_layer_of_it_at_16_bit():
    plain, quantised = (
        planned(wish("rtx-5090", "llama-2-7b-q4_k_m", service_kv_cache_dtype=kind, service_context_tokens=4096))
        for kind in ("f16", "q8_0")
    )
    more = quantised.budget["main"]["activation_bytes"] - plain.budget["main"]["activation_bytes"]
    cells = quantised.budget["main"]["kv_cache_tokens"]
    one_layer = 2 * 2 * 32 * 128 * cells
    hidden_in = 512 * 4 * (3 * 11008 + 4 * 4096) - 512 * 4 * (4 * 4096 + 3 * 4096)  # the feed-forward is wider
    assert more == one_layer - hidden_in


def test_the_margin_names_what_it_is_for():
    model, start = MODELS["llama 70b"], Reserve(8192, 1, 512, 2.0, ALL)
    tensor = 2 * 8192 * 28672
    named = tensor + 2 * 512 * (8192 + 28672) + 0.05 * card_buffer_bytes(model, start)
    fixed = llama_cpp_reserve.BLAS_WORKSPACE_BYTES + llama_cpp_reserve.CONTEXT_SPREAD_BYTES
    assert margin_bytes(model, start) == pytest.approx(named + fixed, abs=1)
    assert margin_bytes(MODELS["llama 8b"], start) < margin_bytes(model, start)


def test_a_mixture_sorts_the_rows_of_its_experts():
    row = MODELS["qwen3 30b-a3b"]
    more = dataclasses.replace(row, moe=MoeShape(16, 16, 0, 0, None))
    start = Reserve(8192, 1, 512, 2.0, ALL)
    assert margin_bytes(more, start) - margin_bytes(row, start) >= 2 * 4 * 512 * 8 * 2048


@pytest.mark.parametrize(("version", "printed"), [("0.7.0", 124.01), ("b11669", 124.01), ("b5274", 266.5)])
def test_the_estimator_takes_the_rule_of_the_version(version, printed):
    asked = {"engine": "llama.cpp", "engine_version": version, "arch_model": "Llama-3.1-8B-Instruct", "n_ctx": 8192}
    found = estimate_kv({**asked, "quant": "GGUF Q8_0", "gpu": "RTX 3090"}, CATALOGUE)
    # Older builds hold the logits of every token; the fork, whose log this figure is from, two hidden states.
    assert found["gpu_compute_buffers_mib"] == pytest.approx(printed, abs=8.1)
