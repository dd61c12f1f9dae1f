"""Compute buffers of llama.cpp against single cards of start-up logs, printed in MiB; rows of kv-cases.csv by id."""

import dataclasses

import pytest

from inferhost import catalogue
from inferhost.planner.memory import llama_cpp_buffers as buffers
from inferhost.planner.memory.llama_cpp_buffers import Graph

CATALOGUE = catalogue.load()
MIB = 2**20
R1 = "deepseek-r1"


def model(key, bits=4.0):
    return dataclasses.replace(CATALOGUE.models[key], linear_bits=bits, weights_bytes=None)


def graph(fork, cells, micro, *, cards=1, **options):
    return Graph(fork, cells, micro, flash_attention=True, cards=cards, latent=True, **options)


def mib(key, start, bits=4.0):
    return buffers.compute_bytes(model(key, bits), start) / MIB


@pytest.mark.parametrize(
    ("key", "start", "bits", "printed"),
    [
        # A mask that fits where the queries were, and one that does not: ikllama-37, ikllama-14.
        ("qwen3-235b-a22b", graph(True, 16384, 512, cards=2), 4.0, 144.0 + 312.75),
        ("qwen3-235b-a22b", graph(True, 65536, 4096, cards=2), 4.0, 2432.02 + 2502.0),
        # One expert tensor of 816 MiB at 8.5 bits and one of 630 at 6.5625: ikllama-38 and its thread.
        ("qwen3-235b-a22b", graph(False, 32768, 512, experts_on_host=True), 8.5, 1024.0),
        ("qwen3-235b-a22b", graph(False, 16384, 512, cards=2, experts_on_host=True), 6.5625, 774.0 + 304.75),
        ("glm-z1-32b-0414", dataclasses.replace(graph(True, 8192, 512), flash_attention=False), 4.0, 832.0),
    ],
    ids=["small mask", "large mask", "8 bit experts", "6 bit experts", "scores"],
)
def test_the_buffers_are_the_printed_ones(key, start, bits, printed):
    assert mib(key, start, bits) == pytest.approx(printed, abs=0.1)


@pytest.mark.parametrize(
    ("start", "printed"),
    [
        (graph(True, 2048, 512), 503.0),
        (graph(True, 32768, 512), 3425.0),
        (graph(True, 32768, 4096), 4104.0),
        (graph(True, 131072, 1024), 11718.25),
        (dataclasses.replace(graph(True, 32768, 256), flash_attention=False), 4349.0),
        (graph(True, 61440, 4096, cards=2), 7272.02 + 6632.03),
    ],
)
def test_compressed_attention_is_predicted_to_six_percent(start, printed):
    assert mib(R1, start) == pytest.approx(printed, rel=0.06)


def test_scores_that_no_card_holds_are_taken_in_chunks():
    start = dataclasses.replace(graph(True, 163840, 1024), flash_attention=False)
    assert mib(R1, start) > 80_000
    assert mib(R1, dataclasses.replace(start, card_bytes=24 * 2**30)) < 6000


def test_row_interleaved_experts_are_not_copied():
    start = graph(True, 4096, 4096, cards=2, experts_on_host=True)
    copied = mib("qwen3-235b-a22b", start, 4.5)
    assert copied == pytest.approx(1732.02 + 2502.0, rel=0.01)  # ikllama-15
    assert mib("qwen3-235b-a22b", dataclasses.replace(start, repacked=True), 4.5) < copied - 700
    fewer = dataclasses.replace(start, micro_batch_tokens=512)  # 32 tokens per expert: still on the host
    assert mib("qwen3-235b-a22b", fewer) == mib("qwen3-235b-a22b", dataclasses.replace(fewer, repacked=True))


def test_more_cells_or_cards_never_need_less():
    for key in ("llama-3.1-8b-instruct", "qwen3-30b-a3b", R1):
        for fork in (False, True):
            found = [mib(key, graph(fork, cells, 512)) for cells in (1024, 8192, 65536, 262144)]
            assert found == sorted(found)
            found = [mib(key, graph(fork, 8192, 512, cards=cards, pipelined=cards > 1)) for cards in (1, 2, 4)]
            assert found == sorted(found)
