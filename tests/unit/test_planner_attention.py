"""The attention backend: the engine's own choice is said and left alone; one that the card has not is refused."""

import dataclasses
import itertools

import pytest

from inferhost.planner import resolve
from inferhost.planner.service.attention import attention_problems
from inferhost.schema.wish import options
from tests.unit.planner_wishes import CATALOGUE, planned, refusal, wish
from tests.unit.test_memory_properties import AnyInstance

SMALL = "qwen3-4b"


def chosen(plan):
    return [r for r in plan.reasons if r.setting == "service.main.attention_backend"]


@pytest.mark.parametrize(
    ("card", "model", "engine", "backend"),
    [
        ("rtx-3090", SMALL, "vllm", "FLASH_ATTN"),
        ("rtx-5090", SMALL, "vllm", "FLASH_ATTN"),
        ("rtx-3090", SMALL, "sglang", "flashinfer"),
        ("rtx-pro-6000-bw-ws", SMALL, "sglang", "flashinfer"),
        ("h100-sxm", SMALL, "sglang", "fa3"),
        ("tesla-p4", "llama-2-7b-q4_k_m", "llama.cpp", "auto"),
    ],
)
def test_the_engines_own_choice_is_said_with_its_source_and_not_set(card, model, engine, backend):
    plan = planned(wish(card, model, service_engine=engine))
    (reason,) = chosen(plan)
    assert reason.value == backend
    assert "nothing measured is better" in reason.because
    assert resolve(reason.source, CATALOGUE, options())
    assert not any("attn" in word or "attention" in word for word in plan.service[0].argv)


@pytest.mark.parametrize(
    ("card", "engine", "backend", "fitting"),
    [
        ("rtx-5090", "sglang", "fa3", "trtllm_mha, flashinfer, triton, torch_native, flex_attention"),
        ("rtx-3090", "sglang", "trtllm_mha", "fa3, flashinfer, triton, torch_native, flex_attention"),
        ("rtx-3090", "vllm", "flash_attn_mla", "FLASH_ATTN, FLASHINFER, TRITON_ATTN, FLEX_ATTENTION"),
    ],
)
def test_a_backend_that_the_card_has_not_is_refused_with_those_it_has(card, engine, backend, fitting):
    extra = ["--attention-backend", backend]
    found = refusal(wish(card, "qwen3-0.6b", service_engine=engine, service_extra_args=extra))
    assert found.startswith(
        f'error: inferhost_service_extra_args[0]: "--attention-backend" found "{backend}", which {engine}'
    )
    assert found.endswith(f"hint: leave it out, or one of {fitting}")


@pytest.mark.parametrize(
    ("backend", "runs"),
    [("FLASH_ATTN", False), ("FLASHINFER", False), ("TRITON_ATTN", True), ("FLEX_ATTENTION", True)],
)
def test_on_turing_vllm_has_triton_and_flex_only(backend, runs):
    turing = dataclasses.replace(CATALOGUE.gpus["rtx-3090"], compute_capability="7.5")
    model, engine = CATALOGUE.models[SMALL], CATALOGUE.engines["vllm"]
    words = ("--attention-backend", backend)
    found = attention_problems(AnyInstance(), engine, model, turing, words=words, catalogue=CATALOGUE)
    assert (found == []) is runs


def test_a_backend_of_the_wish_that_the_card_has_takes_the_place_of_the_choice():
    plan = planned(
        wish("rtx-3090", SMALL, service_engine="sglang", service_extra_args=["--attention-backend=triton"])
    )
    assert "--attention-backend=triton" in plan.service[0].argv
    assert chosen(plan) == []


def test_with_a_cache_of_fewer_bits_the_choice_is_the_engines_at_start_and_nothing_is_said():
    assert chosen(planned(wish("rtx-4090", SMALL, service_engine="vllm", service_kv_cache_dtype="fp8"))) == []


def test_no_card_has_two_defaults_of_one_engine():
    for engine in ("vllm", "sglang", "llama.cpp"):
        for compressed in (False, True):
            rows = [
                r for r in CATALOGUE.attention.values() if r.engine == engine and r.compressed in (None, compressed)
            ]
            ranges = sorted([tuple(map(float, pair)) for row in rows for pair in row.default_on])
            assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
            for row in rows:
                assert all(
                    any(r[0] <= d[0] and d[1] <= r[1] for r in _floats(row.runs_on)) for d in _floats(row.default_on)
                )


def _floats(pairs):
    return [tuple(map(float, pair)) for pair in pairs]


def test_a_cache_of_16_bit_is_said_with_what_fewer_bits_would_hold():
    plan = planned(wish("rtx-3090", SMALL, service_engine="sglang"))
    (reason,) = [r for r in plan.reasons if r.setting == "service.main.kv_cache_dtype"]
    more = planned(wish("rtx-3090", SMALL, service_engine="sglang", service_kv_cache_dtype="fp8"))
    held = plan.budget["main"]["kv_cache_tokens"]
    assert (reason.value, "measured" in reason.because) == ("16 bit", True)
    assert f"fp8 would hold about {2 * held} tokens instead of {held}" in reason.because
    assert more.budget["main"]["kv_cache_tokens"] == pytest.approx(2 * held, rel=0.01)
    assert [r for r in more.reasons if r.setting == "service.main.kv_cache_dtype"] == []


def test_an_fp8_cache_of_vllm_is_refused_below_8_9_and_no_hint_offers_it():
    asked = {"service_engine": "vllm", "service_context_tokens": 65536}
    found = refusal(wish("rtx-3090", SMALL, service_engine="vllm", service_kv_cache_dtype="fp8"))
    assert found == (
        'error: inferhost_service_kv_cache_dtype: found "fp8": vllm 0.33.0 has no fp8 KV cache below compute '
        "capability 8.9, a rtx-3090 has 8.6 (it has: auto, f16)\n"
        "hint: sglang 0.5.23 serves qwen3-4b on a rtx-3090; auto picks it"
    )
    for card, offered in (("rtx-3090", False), ("rtx-4090", True)):
        assert ("fp8 nearly doubles it" in refusal(wish(card, "llama-3.1-8b-instruct", **asked))) is offered
        plan = planned(wish(card, SMALL, service_engine="vllm"))
        (reason,) = [r for r in plan.reasons if r.setting == "service.main.kv_cache_dtype"]
        assert ("fp8 would hold" in reason.because) is offered
