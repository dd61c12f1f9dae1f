"""What a refusal offers in place of a model that does not fit would be planned."""

import dataclasses
import re

import pytest

from inferhost import planner
from inferhost.planner.memory.weights import (
    embedding_bytes,
    linear_parameters,
    rest_bytes,
    routed_bytes,
    weights_bytes,
)
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal, wish

BITS = re.compile(r"(\d+\.\d) bits per weight for (1 request|(\d+) requests at once) of (\d+) tokens")


@pytest.mark.parametrize(
    ("card", "model", "engine"),
    [
        ("rtx-4090", "qwen3-32b", "vllm"),
        ("rtx-4090", "deepseek-r1-distill-qwen-14b", "sglang"),
        ("rtx-pro-6000-bw-ws", "llama-3.3-70b-instruct", "vllm"),
        ("rtx-pro-6000-bw-ws", "llama-3.3-70b-instruct", "tabbyapi"),
        ("a100-pcie-40gb", "llama-3-70b-instruct-q4_k_m", "llama.cpp"),
    ],
)
def test_as_many_bits_as_a_refusal_names_leave_the_asked_context_and_requests(card, model, engine):
    values = wish(card, model, service_engine=engine, service_context_tokens=4096)
    found = BITS.findall(refusal(values))
    assert found
    for bits, _, several, context in found:
        row, count = CATALOGUE.models[model], int(several or 1)
        less = round(linear_parameters(row, False) * (row.linear_bits - float(bits)) / 8)
        file_bytes = None if row.weights_bytes is None else row.weights_bytes - less
        fewer = dataclasses.replace(row, linear_bits=float(bits), weights_bytes=file_bytes)
        known = dataclasses.replace(CATALOGUE, models={**CATALOGUE.models, model: fewer})
        plan = planner.plan({**values, "inferhost_service_max_sequences": count}, "host", known)
        assert plan.budget["main"]["concurrent_requests"] >= count
        assert int(context) == plan.budget["main"]["context_tokens"] == 4096


def test_a_refusal_on_several_cards_speaks_of_each_card():
    values = wish("rtx-4090", "qwen3-32b", service_gpus=["all"], service_engine="vllm", service_context_tokens=32768)
    values["inferhost_hardware"] = hardware(gpu("rtx-4090"), gpu("rtx-4090"))
    found = refusal(values)
    assert 'found "qwen3-32b" with 30.51 GiB of weights on each of 2 cards, but vllm has ' in found
    assert "hint: on each of 2 rtx-4090 it fits as " in found
    assert "awq (4.16 bit) 9.00 GiB with sglang" in found
    assert "llama.cpp" not in found  # which is planned for one card


def on_two(card, model, **own):
    values = wish(card, model, service_context_tokens=4096, **own)
    return {**values, "inferhost_hardware": hardware(gpu(card), gpu(card))}


def test_a_model_that_one_card_does_not_hold_is_offered_the_cards_that_do():
    found = refusal(on_two("rtx-4090", "deepseek-r1-distill-qwen-14b", service_engine="vllm"))
    assert "inferhost_service_tensor_parallel_size: 2 holds it over 2 such cards" in found
    planned(on_two("rtx-4090", "deepseek-r1-distill-qwen-14b", service_engine="vllm", service_tensor_parallel_size=2))
    assert "such cards" not in refusal(wish("rtx-4090", "deepseek-r1-distill-qwen-14b", service_engine="vllm"))
    assert "such cards" not in refusal(on_two("rtx-4090", "llama-3.1-70b-instruct", service_engine="vllm"))


def test_llama_cpp_over_several_cards_is_refused_with_what_works():
    found = refusal(on_two("rtx-3090", "llama-3-70b-instruct-q4_k_m", service_gpus=["all"]))
    assert found == (
        "error: inferhost_service_gpus: found 2 cards, and llama.cpp 0.7.0 is planned for one\n"
        "hint: one card per instance, or sglang or vllm with a checkpoint in safetensors over several; "
        "inferhost_service_gpu_layers: auto leaves in host memory what one card does not hold"
    )
    planned(on_two("rtx-3090", "llama-3-70b-instruct-q4_k_m", service_gpu_layers="auto"))


@pytest.mark.parametrize(
    ("card", "model", "room"),
    [("rtx-3070", "llama-3.1-8b-instruct", 6.98), ("rtx-3090", "llama-3.1-70b-instruct", 22.8)],
)
def test_sfllm_never_has_more_room_than_the_card_and_is_offered_no_bits_that_it_cannot_read(card, model, room):
    found = refusal(wish(card, model, service_engine="sfllm", service_host="0.0.0.0"))
    has, of = map(float, re.findall(r"has (\d+\.\d+) GiB for weights and KV cache on a card of (\d+\.\d+)", found)[0])
    assert has == pytest.approx(room, abs=0.05)
    assert has < of
    assert "bits per weight" not in found


def test_fewer_bits_than_the_engine_has_a_format_for_are_no_offer():
    # 4.1 bits would fit; the fewest that sglang reads for a dense model are 4.16.
    values = wish("rtx-4090", "qwen3-32b", service_engine="sglang", service_context_tokens=4096)
    assert "bits per weight" not in refusal(values)


@pytest.mark.parametrize(
    ("card", "key", "share"), [("rtx-4060-ti-16gb", "gpt-oss-20b", 100), ("rtx-pro-6000-bw-ws", "gpt-oss-120b", 68)]
)
def test_the_ordinary_file_of_a_mixture_is_named_where_its_checkpoint_does_not_fit(card: str, key: str, share: int):
    values = wish(card, key, service_memory_share=share)
    assert f"the catalogue knows {key}-mxfp4-gguf" in refusal(values)
    file = planned({**values, "inferhost_service_model": f"{key}-mxfp4-gguf"})
    assert [service.engine for service in file.service] == ["llama.cpp"]


def test_the_file_of_a_mixture_keeps_what_is_no_expert_at_8_bit():
    for name in ("gpt-oss-20b", "gpt-oss-120b"):
        file, checkpoint = CATALOGUE.models[f"{name}-mxfp4-gguf"], CATALOGUE.models[name]
        assert routed_bytes(file) == routed_bytes(checkpoint)
        assert rest_bytes(file) * 16 == pytest.approx(rest_bytes(checkpoint) * 8.5)
        whole = routed_bytes(file) + rest_bytes(file) + embedding_bytes(file)
        assert whole == pytest.approx(weights_bytes(file, False), rel=0.01)


@pytest.mark.parametrize(
    ("own", "setting"),
    [
        (
            {"service_engine": "vllm", "service_extra_args": ["--gpu-memory-utilization", "0.5"]},
            "--gpu-memory-utilization 0.5 of inferhost_service_extra_args",
        ),
        ({"service_memory_share": 10}, "inferhost_service_memory_share 10"),
    ],
)
def test_a_wish_that_keeps_the_engine_from_the_cards_memory_is_named_first(own: dict[str, object], setting: str):
    found = refusal(wish("rtx-4090", "llama-3.1-8b-instruct", **own))
    assert f"\nhint: without {setting} it fits; or " in found
    assert "without" not in refusal(wish("rtx-3070", "llama-3.1-8b-instruct", **own))


def test_where_nothing_fits_whole_a_checkpoint_of_which_a_part_can_stay_on_the_host_is_named():
    key, values = "llama-3-70b-instruct-q4_k_m", wish("rtx-3090", "llama-3.1-70b-instruct")
    offer = f"hint: {key} with llama.cpp and inferhost_service_gpu_layers: auto, which leaves a part in host memory"
    assert offer in refusal(values)
    taken = {**values, "inferhost_service_model": key, "inferhost_service_gpu_layers": "auto"}
    assert [service.engine for service in planned(taken).service] == ["llama.cpp"]
    assert "gpu_layers" not in refusal(wish("rtx-3070", "llama-3.1-8b-instruct"))
