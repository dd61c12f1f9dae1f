"""A model that its card does not hold whole: what goes to host memory, whether that is there, what is promised."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferhost.planner.memory.budget import memory_budget
from inferhost.planner.memory.engine_rules import MIB, Demand
from inferhost.planner.memory.kv_cache import cache_layout
from inferhost.planner.memory.llama_cpp_offload import (
    Placement,
    card_weights_bytes,
    host_weights_bytes,
    layer_bytes,
    part_of_cache,
    placements,
    whole,
)
from inferhost.planner.memory.weights import bytes_read_per_token, head_bytes
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal, wish
from tests.unit.test_memory_properties import AnyInstance

GIB = 2**30
DENSE, MOE = "llama-3-70b-instruct-q4_k_m", "qwen3-235b-a22b-q4_k_m"
ENGINE = CATALOGUE.engines["llama.cpp"]


def offloaded(card="rtx-3090", model=DENSE, layers="auto", host_gib=128, **own):
    made = hardware(gpu(card), memory_mib=host_gib * 1024)
    return {**wish(card, model, service_gpu_layers=layers, **own), "inferhost_hardware": made}


def told(plan, flag):
    argv = plan.service[0].argv
    return argv[argv.index(flag) + 1] if flag in argv else None


def at(key, bits):
    return dataclasses.replace(
        CATALOGUE.models[key], linear_bits=bits, embedding_bits=bits, head_bits=bits, weights_bytes=None
    )


@pytest.mark.parametrize(
    ("model", "placement", "without_output", "printed_mib"),
    [
        # kv-cases.csv ikllama-38, llama.cpp itself: 95 of 95 layers, experts of some in host memory; 14 layers of
        # experts of 2,448 MiB each are what the printed figure holds beside the rest.
        (at("qwen3-235b-a22b", 8.5), Placement(95, 80), False, 41723.89),
        # ikllama-17: the last 3 of 61 layers, which old builds counted without the output layer.
        (at("deepseek-r1", 16.0), Placement(4), True, 65951.82),
    ],
    ids=["experts", "layers"],
)
def test_the_weights_on_the_card_are_the_printed_ones(model, placement, without_output, printed_mib):
    found = card_weights_bytes(model, placement) - (head_bytes(model) if without_output else 0)
    assert found / MIB == pytest.approx(printed_mib, rel=0.003)


@pytest.mark.parametrize("key", [DENSE, MOE, "deepseek-r1"])
def test_card_and_host_hold_every_weight_between_them(key):
    model = CATALOGUE.models[key]
    total = card_weights_bytes(model, whole(model)) + host_weights_bytes(model, whole(model))
    for placement in placements(model):
        both = card_weights_bytes(model, placement) + host_weights_bytes(model, placement)
        assert both >= total - 2  # each rounds up; a mixture of quantisations counts its unevenness on both sides


@pytest.mark.parametrize("key", [DENSE, MOE, "gemma-3-27b-it"])
def test_less_on_the_card_never_takes_more_of_it(key):
    model = CATALOGUE.models[key]
    layout = cache_layout(model, "llama.cpp", 2.0)
    weights = [card_weights_bytes(model, one) for one in placements(model)]
    caches = [part_of_cache(layout, model, layers).sequence_bytes(8192) for layers in range(model.layers, -1, -1)]
    assert weights == sorted(weights, reverse=True)
    assert caches == sorted(caches, reverse=True)
    assert caches[0] == layout.sequence_bytes(8192)
    assert caches[-1] == 0


def test_a_k_quant_mixture_counts_the_heavier_last_layers():
    """The last eighth of the layers of Q4_K_M has Q6_K where half of the others have it."""
    model, last = CATALOGUE.models[DENSE], Placement(11)  # 10 layers and the output layer
    down = 8192 * 28672 * (6.5625 - 4.5) / 8
    value = 8192 * 1024 * (6.5625 - 4.5) / 8
    even = 10 * layer_bytes(model).common + head_bytes(model)
    assert card_weights_bytes(model, last) == pytest.approx(even + 5 * (down + value), abs=2)
    assert card_weights_bytes(dataclasses.replace(model, quantisation="q8_0"), last) == pytest.approx(even, abs=2)


def test_a_model_that_does_not_fit_is_refused_unless_the_wish_allows_a_part_in_host_memory():
    text = refusal(offloaded(layers="all"))
    assert "39.04 GiB of weights" in text
    assert "inferhost_service_gpu_layers: auto, which would leave" in text
    layers = int(told(planned(offloaded()), "--n-gpu-layers"))
    assert f"{80 + 1 - layers} of 80 layers in host memory" in text


def test_auto_leaves_a_model_that_fits_whole_on_its_card():
    one, other = (planned(wish("tesla-p4", "llama-2-7b-q4_k_m", service_gpu_layers=w)) for w in ("all", "auto"))
    assert told(one, "--n-gpu-layers") == "33"
    assert one.service == other.service
    assert other.roofline["main"]["expected_tok_s"] > 0


def test_one_layer_more_than_auto_does_not_fit():
    layers = int(told(planned(offloaded()), "--n-gpu-layers"))
    assert told(planned(offloaded(layers=str(layers))), "--n-gpu-layers") == str(layers)
    text = refusal(offloaded(layers=str(layers + 1)))
    assert f"inferhost_service_gpu_layers: found {layers + 1}: " in text
    assert f"hint: at most {layers}, or auto" in text


def test_the_experts_of_a_mixture_leave_the_card_before_any_layer():
    plan = planned(offloaded("rtx-pro-6000-bw-ws", MOE))
    assert told(plan, "--n-gpu-layers") == "95"
    experts = int(told(plan, "--n-cpu-moe"))
    assert 0 < experts < 94
    budget = plan.budget["main"]
    assert budget["kv_bytes_per_token"] == 192512  # the whole cache stays on the card
    reason = next(r for r in plan.reasons if r.setting.endswith("argv.--n-cpu-moe"))
    assert f"the experts of the first {experts} of 94 layers" in reason.because
    small = planned(offloaded("rtx-3070", MOE, host_gib=256, service_context_tokens=32768))
    assert (told(small, "--n-cpu-moe"), int(told(small, "--n-gpu-layers")) < 95) == ("94", True)


def test_more_room_for_requests_is_had_by_naming_fewer_layers():
    auto, named = planned(offloaded()), planned(offloaded(layers="20"))
    assert auto.service[0].max_sequences < named.service[0].max_sequences == 8


def test_the_cache_of_a_layer_in_host_memory_is_in_host_memory():
    plan = planned(offloaded(layers="21"))
    cached = {need["what"]: need["bytes"] for need in plan.budget["main"]["host"]["needs"]}["KV cache"]
    assert plan.budget["main"]["kv_cache_bytes"] + cached == 16384 * 2 * 80 * 8 * 128 * 2
    assert 3 * plan.budget["main"]["kv_cache_bytes"] == cached  # 20 of 80 layers


def test_no_speed_is_promised_where_a_token_waits_for_host_memory():
    speed = planned(offloaded()).roofline["main"]
    assert speed["expected_tok_s"] is None
    assert "The bandwidth of the host's memory is not known" in speed["note"]
    on_card = speed["bytes_read_per_token"] - speed["bytes_read_on_host"]
    assert speed["ceiling_tok_s_max_clock"] == pytest.approx(936.2e9 / on_card, abs=0.1)


def test_what_the_host_bounds_is_told_before_what_the_card_could_do_alone():
    # A card that held all of the model would be slower than the part of it that lies on the card.
    note = planned(offloaded()).roofline["main"]["note"]
    assert note.index("50 GB/s") < note.index("the card's part alone")
    assert "at most" not in note.lower().partition("the card's part alone")[2]


def test_a_mixture_reads_only_the_experts_in_use_from_host_memory():
    speed = planned(offloaded("rtx-pro-6000-bw-ws", MOE)).roofline["main"]
    model, experts = CATALOGUE.models[MOE], int(told(planned(offloaded("rtx-pro-6000-bw-ws", MOE)), "--n-cpu-moe"))
    bits = 8 * model.weights_bytes / model.parameters
    assert speed["bytes_read_on_host"] == pytest.approx(experts * 8 * 3 * 4096 * 1536 * bits / 8, rel=0.001)
    assert speed["bytes_read_per_token"] == bytes_read_per_token(model)


def test_weights_that_the_host_does_not_hold_are_refused_with_both_sizes():
    text = refusal(offloaded(host_gib=16))
    assert "inferhost_service_gpu_layers: needs " in text
    assert "the host has 16.00 GiB, of which 2.00 GiB stay free" in text


def test_a_limit_of_the_engines_own_is_told_lower_where_the_host_is_small():
    large, small = planned(offloaded(host_gib=128)), planned(offloaded(host_gib=26))
    assert told(large, "--cache-ram") is None
    lowered = int(told(small, "--cache-ram"))
    host = small.budget["main"]["host"]
    assert 0 < lowered < 8192
    assert host["needed_bytes"] <= host["host_memory_bytes"] - host["reserved_bytes"]
    own = offloaded(host_gib=26, service_extra_args=["--cache-ram", "8192"])
    assert f"at most --cache-ram {lowered}, or leave it out" in refusal(own)


def test_engines_on_one_host_share_its_memory():
    pair = {
        **wish("rtx-5090", "llama-2-7b-q4_k_m"),
        "inferhost_service_instances": {"one": {}, "two": {"port": 8081}},
        "inferhost_hardware": hardware(gpu("rtx-5090"), memory_mib=12 * 1024),
    }
    plan = planned(pair)
    needed = sum(plan.budget[name]["host"]["needed_bytes"] for name in ("one", "two"))
    assert needed <= 10 * GIB
    assert all("--cache-ram" in service.argv for service in plan.service)


@pytest.mark.parametrize(
    ("engine", "words", "fits"),
    [
        ("vllm", ["--kv-offloading-size", "500"], "--kv-offloading-size 120"),
        ("sglang", ["--enable-hierarchical-cache", "--hicache-size", "200"], "--hicache-size 126"),  # 118 GiB
        ("sglang", ["--enable-hicache", "--hicache-ratio", "90"], "--hicache-ratio "),
    ],
)
def test_pools_that_a_flag_asks_for_are_checked_against_the_host(engine, words, fits):
    text = refusal(wish("rtx-3090", "llama-3.1-8b-instruct", service_engine=engine, service_extra_args=words))
    assert "inferhost_service_extra_args: needs " in text
    assert f"at most {fits}" in text


def test_a_pool_that_is_not_switched_on_takes_nothing():
    words = ["--hicache-size", "200"]
    plan = planned(wish("rtx-3090", "llama-3.1-8b-instruct", service_engine="sglang", service_extra_args=words))
    assert plan.budget["main"]["host"]["needed_bytes"] == 0


def test_a_pool_is_pending_where_the_hosts_memory_is_not_known():
    words = ["--kv-offloading-size", "20"]
    values = wish("rtx-3090", "llama-3.1-8b-instruct", service_engine="vllm", service_extra_args=words)
    plan = planned({**values, "inferhost_hardware": hardware(gpu("rtx-3090"), memory_mib=0)})
    waiting = next(p for p in plan.pending if p.setting == "service.main.host_memory")
    assert waiting.needs == "20.00 GiB of host memory"


def test_a_locked_file_needs_the_limit_for_it():
    words = ["--load-mode", "mmap+mlock"]
    values = wish("tesla-p4", "llama-2-7b-q4_k_m", service_extra_args=words, cpu_limit_memlock="1048576")
    text = refusal(values)
    assert "inferhost_cpu_limit_memlock: found 1048576 KiB, and 3.80 GiB are to be locked" in text
    assert "at least 3984375" in text
    planned({**values, "inferhost_cpu_limit_memlock": "unlimited"})


@pytest.mark.parametrize(
    ("layers", "model", "said"),
    [
        ("twenty", DENSE, 'found "twenty", wanted all, auto or a number of layers'),
        ("0", DENSE, 'found "0", wanted all, auto or a number of layers'),
        ("82", DENSE, "found 82, and llama-3-70b-instruct-q4_k_m has 80 layers and an output layer"),
        ("20", "llama-3.1-8b-instruct", "sglang 0.5.23 keeps every layer on its cards"),
    ],
)
def test_a_number_of_layers_that_cannot_be_is_refused(layers, model, said):
    assert said in refusal(offloaded(model=model, layers=layers))


@pytest.mark.parametrize("flag", ["--cpu-moe", "--n-cpu-moe", "--n-gpu-layers"])
def test_flags_that_place_layers_have_an_option(flag):
    words = [flag] if flag == "--cpu-moe" else [flag, "3"]
    text = refusal(offloaded(service_extra_args=words))
    assert "use inferhost_service_gpu_layers" in text


@settings(deadline=None, max_examples=80)
@given(st.sampled_from([DENSE, MOE]), st.integers(6 * 1024, 160 * 1024), st.integers(0, 4096))
def test_a_larger_card_never_holds_less_of_a_model(model, memory_mib, more_mib):
    def held(mib):
        demand = Demand(2048, 4, may_offload=True)
        try:
            found = memory_budget(
                mib * MIB, CATALOGUE.models[model], ENGINE, ENGINE.kv_cache["auto"], demand, instance=AnyInstance()
            )
        except InputError:
            return (0, 0)
        assert found.unallocated_bytes >= 0
        assert found.placement is not None
        return (found.placement.gpu_layers, -found.placement.cpu_expert_layers)

    assert held(memory_mib) <= held(memory_mib + more_mib)
