"""The roofline: published ceilings and speeds, promise 5, and levers that say what they can give."""

import re

import pytest

from inferhost.planner.speed import roofline
from inferhost.planner.speed.decode import below_ceiling
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import CATALOGUE, planned, wish

MISTRAL = "mistral-large-instruct-2411-awq"
PRO_6000 = "rtx-pro-6000-bw-ws"


@pytest.fixture(scope="module")
def speed():
    return planned(wish(PRO_6000, MISTRAL, service_engine="sglang", service_context_tokens=8192)).roofline["main"]


def test_the_ceilings_of_the_real_gb200_are_28_0_and_26_7(speed):
    # planner-anchors.md 2.4: 64.1 GB per token at 1792 GB/s, and at the 1711 GB/s of 13365 MHz.
    assert (speed["ceiling_tok_s_max_clock"], speed["ceiling_tok_s_running_clock"]) == (28.0, 26.7)
    assert speed["memory_bandwidth_running_clock_bytes_s"] == 2 * 13365 * 10**6 * 512 // 8


def test_the_arithmetic_stands_beside_the_ceilings(speed):
    assert speed["arithmetic"] == (
        "64.09 GB per token (weights of 4.15625 bit 63.28 GB, output layer 805.31 MB); KV cache 360.45 kB per token "
        "of context; 1792 GB/s / 64.09 GB = 28.0 tok/s at the highest memory clock; 2 x 13365 MHz x 512 bit / 8 = "
        "1711 GB/s under CUDA: 26.7 tok/s"
    )


@pytest.mark.parametrize(("engine", "measured"), [("sglang", 22.72), ("tabbyapi", 24.0)])
def test_what_the_guide_measured_lies_in_the_expected_band(engine, measured):
    # guide 003. Neither figure was fitted. The checkpoint is SGLang's; TabbyAPI's bits are not stated there.
    speed = roofline.speed_of(
        CATALOGUE.gpus[PRO_6000],
        CATALOGUE.models[MISTRAL],
        next(row for row in CATALOGUE.engines.values() if row.engine == engine),
        kv_bytes_per_token=360_448,
        shares=1,
        catalogue=CATALOGUE,
    )
    rate = speed.rate(1, 0)
    assert rate.low_tok_s <= measured <= rate.high_tok_s


def test_what_the_guides_promised_lies_above_the_ceiling(speed):
    # guides 000 and 003: 30-35, 45-60 and 70-90 tok/s for one stream.
    with pytest.raises(ValueError, match=r"30\.0 tok/s is promised above the ceiling of 28\.0"):
        below_ceiling(30.0, speed["ceiling_tok_s_max_clock"])


BATCH = re.compile(r"batching, (\d+) requests at once")


@pytest.mark.parametrize("context", [2048, 8192, 20_000])
@pytest.mark.parametrize(
    ("engine", "model"), [("sglang", MISTRAL), ("vllm", MISTRAL), ("llama.cpp", "llama-3-70b-instruct-q4_k_m")]
)
def test_no_batch_is_offered_that_the_cache_does_not_hold_at_the_asked_context(engine, model, context):
    asked = min(context, CATALOGUE.models[model].context_max_tokens or context)
    plan = planned(wish(PRO_6000, model, service_engine=engine, service_context_tokens=asked))
    speed, budget = plan.roofline["main"], plan.budget["main"]
    offered = [int(found[1]) for lever in speed["levers"] if (found := BATCH.fullmatch(lever["lever"]))]
    counts = [*offered, *(batch["sequences"] for batch in speed["batches"]), speed["energy"]["sequences"]]
    assert max(counts) == min(budget["max_sequences"], budget["concurrent_requests"])
    assert max(counts) * asked <= budget["kv_cache_tokens"]


def test_the_levers_say_what_batching_speculation_and_bits_can_give(speed):
    # planner-anchors.md 2.4: 8 users 214 tok/s in all at 1k context; 3.5 bit 33.2, 3.0 bit 38.7, 2.5 bit 46.3 tok/s.
    ceilings = {lever["lever"]: lever["ceiling_tok_s"] for lever in speed["levers"]}
    shorter = planned(wish(PRO_6000, MISTRAL, service_engine="sglang", service_context_tokens=4096)).roofline["main"]
    batched = {lever["lever"]: lever["ceiling_tok_s"] for lever in shorter["levers"]}
    assert batched["batching, 8 requests at once"] == pytest.approx(214, abs=0.5)
    assert ceilings["3.5 bits per weight"] == pytest.approx(33.2, abs=0.25)
    assert ceilings["3 bits per weight"] == pytest.approx(38.7, abs=0.25)
    assert ceilings["2.5 bits per weight"] == pytest.approx(46.3, abs=0.25)
    assert ceilings["tensor parallel over 2 such cards"] == pytest.approx(2 * 28.0, abs=0.2)
    assert ceilings["speculative decoding"] is None
    assert ceilings["clocks and power limit"] == 28.0


def test_no_lever_is_expected_above_its_ceiling(speed):
    for lever in speed["levers"]:
        if lever["expected_tok_s"] is not None:
            assert lever["expected_tok_s"] <= lever["ceiling_tok_s"], lever["lever"]


def test_a_measurement_is_asked_for_where_other_work_is_not_hidden_behind_reading(speed):
    # planner-anchors.md 2.4: "no loss" only where the memory takes longer than the arithmetic; else ask for a sweep.
    pascal = planned(wish("tesla-p4", "llama-2-7b-q4_k_m")).roofline["main"]
    assert pascal["parts_ms"]["other_work"] > pascal["parts_ms"]["reading"]
    assert pascal["paced_by"] == "other work per weight (fitted)"
    assert "only a measurement tells" in pascal["conclusion"]
    assert "only a measurement tells" in pascal["levers"][-1]["effect"]
    assert speed["paced_by"] == "memory"
    assert "ask for a sweep" not in speed["levers"][-1]["effect"]


def test_a_fitted_term_is_not_called_arithmetic():
    # One token of an 8B model is 16 GFLOP, 0.05 ms on an A100, where the fitted term is some 10 ms.
    found = planned(wish("a100-pcie-80gb", "llama-3.1-8b-instruct", service_engine="vllm")).roofline["main"]
    assert found["paced_by"] == "other work per weight (fitted)"
    told = [found["conclusion"], *(lever["effect"] for lever in found["levers"])]
    assert not any("computing" in text for text in [*told, *found["parts_ms"]])


def test_clocks_promise_nothing(speed):
    assert speed["levers"][-1]["lever"] == "clocks and power limit"
    assert speed["levers"][-1]["expected_tok_s"] is None


def test_the_conclusion_names_what_cannot_lift_the_ceiling_and_what_can(speed):
    assert speed["conclusion"] == (
        "GPU clocks and power limit cannot lift this ceiling: the memory is what every token waits for. Batching, "
        "speculative decoding and fewer bits per weight can"
    )


def test_a_tesla_p4_is_expected_where_its_relatives_were_measured():
    # planner-anchors.md 2.4: ceiling 47.9 tok/s, 17 to 32 at Pascal's ratios; no figure of a P4 was fitted.
    found = planned(wish("tesla-p4", "llama-2-7b-q4_k_m")).roofline["main"]
    low, high = found["expected_band_tok_s"]
    assert found["ceiling_tok_s_max_clock"] == pytest.approx(47.9, abs=0.2)
    assert 17 <= low <= found["expected_tok_s"] <= high <= 37
    assert found["ceiling_tok_s_running_clock"] is None


def test_fewer_bits_are_called_no_faster_where_the_integer_work_eats_the_bytes():
    # planner-anchors.md 2.2: a P40 decodes Q2_K at 33.5 and Q3_K_S at 30.9 tok/s, Q4_0 at 56.8.
    levers = planned(wish("tesla-p4", "llama-2-7b-q4_k_m")).roofline["main"]["levers"]
    effects = [lever["effect"] for lever in levers if "bits per weight" in lever["lever"]]
    assert effects
    assert all("no faster here" in effect for effect in effects)


def test_a_random_model_says_that_its_speed_says_nothing():
    values = wish(PRO_6000, "tiny-random")
    assert planned(values).roofline["main"]["note"] == "random numbers: no speed is predicted"
    assert planned(wish(PRO_6000, MISTRAL)).roofline["main"]["note"] == ""


def test_the_running_clock_never_gives_more_than_the_data_sheet():
    for card in CATALOGUE.gpus.values():
        found = roofline.memory_bandwidth(card)
        assert found.running_clock_bytes_s is None or found.running_clock_bytes_s <= found.max_clock_bytes_s, card.key


def test_the_clock_formula_reproduces_the_data_sheet():
    # facts-nvml.md A.2: 11 of 12 cards; the H200's memory bus is derived and overshoots.
    for card in CATALOGUE.gpus.values():
        if card.memory_bus_bits and card.memory_clock_max_mhz and card.key != "h200-sxm":
            by_clock = 2 * card.memory_clock_max_mhz * card.memory_bus_bits / 8 / 1000
            assert by_clock == pytest.approx(card.memory_bandwidth_gb_s, rel=0.005), card.key


def test_an_asked_latency_below_the_memorys_is_refused_with_what_could_move_the_limit():
    # guides 000 and 003 promise 70 to 90 tok/s: 11 ms per token.
    with pytest.raises(InputError) as refused:
        planned(wish(PRO_6000, MISTRAL, service_engine="sglang", service_target_tpot_ms=11))
    assert str(refused.value) == (
        "error: inferhost_service_target_tpot_ms: found 11, which is 91 tok/s, but the memory bounds one request to "
        "26.7 tok/s (37 ms)\n"
        "hint: a much smaller model, speculative decoding with a draft that is not planned yet, or 4 such cards in "
        "tensor parallel; clocks, power limit and flags cannot"
    )


def test_an_asked_latency_between_physics_and_expectation_is_pending_until_it_is_measured():
    found = planned(wish(PRO_6000, MISTRAL, service_engine="sglang", service_target_tpot_ms=40))
    (pending,) = [p for p in found.pending if p.setting == "service.main.target_tpot_ms"]
    assert pending.needs == "a measurement on the host"
    assert pending.because.startswith("40 ms for one request is not expected")


def test_an_asked_latency_that_the_band_holds_asks_for_nothing():
    found = planned(wish(PRO_6000, MISTRAL, service_engine="sglang", service_target_tpot_ms=80))
    assert not [p for p in found.pending if "target" in p.setting]


def test_a_first_token_before_the_weights_are_read_once_is_refused():
    with pytest.raises(InputError, match=r"target_ttft_ms: found 20, but the first token .* takes at least 36 ms"):
        planned(wish(PRO_6000, MISTRAL, service_engine="sglang", service_target_ttft_ms=20))
    found = planned(wish(PRO_6000, MISTRAL, service_engine="sglang", service_target_ttft_ms=500))
    assert [p.setting for p in found.pending if "target" in p.setting] == ["service.main.target_ttft_ms"]


def test_a_negative_latency_is_refused():
    with pytest.raises(InputError, match="target_tpot_ms: found -1, wanted milliseconds"):
        planned(wish(PRO_6000, MISTRAL, service_target_tpot_ms=-1))


def test_energy_is_the_expected_rate_over_the_power_limit(speed):
    energy = speed["energy"]
    alone = next(batch for batch in speed["batches"] if batch["sequences"] == 1)
    assert energy["power_limit_w"] == 600
    assert energy["least_tok_per_j"] == pytest.approx(alone["expected_tok_s"] / 600, rel=0.01)


def test_prefill_is_bounded_by_arithmetic_where_the_tensor_rate_is_known_and_says_where_not(speed):
    assert speed["prefill"]["ceiling_tok_s"] is None
    found = planned(wish("rtx-4090", "llama-3.1-8b-instruct", service_engine="vllm")).roofline["main"]["prefill"]
    # 165.2 TFLOPS over two operations for each of 6.98 B linear weights.
    assert found["ceiling_tok_s"] == pytest.approx(165.2e12 / (2 * 6.98e9), rel=0.01)
    assert found["least_ttft_ms"] == pytest.approx(1024 / found["ceiling_tok_s"] * 1000, rel=0.01)


def locked(mhz, **more):
    more = {"service_engine": "vllm", "gpu_memory_clock_lock": mhz, **more}
    return planned(wish("rtx-4090", "llama-3.1-8b-instruct", **more))


def test_a_lock_of_the_memory_clock_is_in_every_rate_of_the_plan():
    # 2 x 5001 MHz x 384 bit / 8 = 480 GB/s over the bytes of a token.
    free, held = locked("unlocked").roofline["main"], locked("5001").roofline["main"]
    at_most = 2 * 5001e6 * 384 / 8 / held["bytes_read_per_token"]
    assert held["ceiling_tok_s_max_clock"] == held["ceiling_tok_s_running_clock"] == round(at_most, 1)
    assert "2 x 5001 MHz x 384 bit / 8 = 480 GB/s" in held["arithmetic"]
    assert "the lock" in held["arithmetic"]
    assert held["expected_tok_s"] < at_most < free["expected_tok_s"]
    for mine, other in zip(held["batches"], free["batches"], strict=True):
        assert mine["ceiling_tok_s"] < 0.5 * other["ceiling_tok_s"]
        assert mine["expected_tok_s"] < 0.6 * other["expected_tok_s"]
    rates = [[lever["expected_tok_s"] for lever in plan["levers"]] for plan in (held, free)]
    assert all(mine < other for mine, other in zip(*rates, strict=True) if mine is not None)


def test_a_locked_memory_clock_is_named_where_speed_is_spoken_of():
    plan = locked("5001")
    unlocked = locked("unlocked").roofline["main"]["ceiling_tok_s_max_clock"]
    clocks = plan.roofline["main"]["levers"][-1]
    assert clocks["ceiling_tok_s"] == unlocked
    assert "from unlocking the memory clock" in clocks["effect"]
    assert f"unlocked it is {unlocked} tok/s" in plan.roofline["main"]["conclusion"]
    gain = next(r.gain for r in plan.reasons if r.setting == "gpus[0].memory_clock_lock_mhz")
    assert gain == "costs up to 51.2 % decode: CUDA runs at 10251 MHz without it"
    with pytest.raises(InputError) as refused:
        locked("5001", service_target_tpot_ms=20)
    assert "inferhost_gpu_memory_clock_lock: unlocked" in refused.value.problems[0].hint


def test_a_lock_above_the_clock_under_cuda_lifts_nothing():
    free, held = locked("unlocked").roofline["main"], locked("10501").roofline["main"]
    assert held == free
    assert locked("10251").roofline["main"]["expected_tok_s"] == free["expected_tok_s"]


def test_the_slowest_cards_lock_paces_an_instance_of_several():
    cards = {"gpu_cards": {"rtx-4090": {"memory_clock_lock": "5001"}}}
    assert locked("unlocked", **cards).roofline["main"] == locked("5001").roofline["main"]
