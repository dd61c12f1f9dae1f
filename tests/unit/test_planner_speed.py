"""The roofline: published ceilings and speeds, promise 5, and levers that say what they can give."""

import pytest

from inferhost.planner import roofline
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


def test_what_the_guide_measured_lies_in_the_expected_band(speed):
    # guide 003: 22.72 tok/s with SGLang, 24.0 with TabbyAPI.
    low, high = speed["expected_band_tok_s"]
    assert all(low <= measured <= high for measured in (22.72, 24.0))


def test_what_the_guides_promised_lies_above_the_ceiling(speed):
    # guides 000 and 003: 30-35, 45-60 and 70-90 tok/s for one stream.
    with pytest.raises(ValueError, match=r"30\.0 tok/s is promised above the ceiling of 28\.0"):
        roofline.below_ceiling(30.0, speed["ceiling_tok_s_max_clock"])


def test_the_levers_say_what_batching_speculation_and_bits_can_give(speed):
    # planner-anchors.md 2.4: 8 users 214 tok/s in all at 1k context; 3.5 bit 33.2, 3.0 bit 38.7, 2.5 bit 46.3 tok/s.
    ceilings = {lever["lever"]: lever["ceiling_tok_s"] for lever in speed["levers"]}
    assert ceilings["batching, 8 requests at once"] == pytest.approx(214, abs=0.5)
    assert ceilings["3.5 bits per weight"] == pytest.approx(33.2, abs=0.25)
    assert ceilings["3 bits per weight"] == pytest.approx(38.7, abs=0.25)
    assert ceilings["2.5 bits per weight"] == pytest.approx(46.3, abs=0.25)
    assert ceilings["speculative decoding"] is None
    assert ceilings["clocks and power limit"] == 28.0


def test_the_conclusion_names_what_cannot_lift_the_ceiling_and_what_can(speed):
    assert speed["conclusion"] == (
        "GPU clocks and power limit cannot lift this ceiling: the memory is what every token waits for. Batching, "
        "speculative decoding and fewer bits per weight can"
    )


def test_a_tesla_p4_is_expected_where_its_relatives_were_measured():
    # planner-anchors.md 2.4: ceiling 47.9, 17 to 32 tok/s, expected 24 to 29.
    found = planned(wish("tesla-p4", "llama-2-7b-q4_k_m")).roofline["main"]
    assert found["ceiling_tok_s_max_clock"] == pytest.approx(47.9, abs=0.2)
    assert 24 <= found["expected_tok_s"] <= 29
    assert found["expected_band_tok_s"] == pytest.approx([17, 32], abs=0.5)
    assert found["ceiling_tok_s_running_clock"] is None


def test_fewer_bits_are_no_lever_where_they_were_measured_slower():
    levers = planned(wish("tesla-p4", "llama-2-7b-q4_k_m")).roofline["main"]["levers"]
    assert [lever["lever"] for lever in levers if "bits" in lever["lever"]] == ["below 4 bits per weight"]


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


@pytest.mark.parametrize(
    ("bytes_read", "bandwidth_gb_s", "layers", "capability", "measured"),
    [
        # decode-cases.csv 1, 5, 20, 26: llama.cpp of 2024-05, Llama 3 8B and 70B Q4_K_M; all below the ceiling.
        (4.622e9, 448, 32, "8.6", 70.94),
        (4.622e9, 717, 32, "8.9", 106.22),
        (41.918e9, 960, 80, "8.9", 18.36),
        (41.918e9, 864, 80, "8.9", 15.31),
    ],
)
def test_published_speeds_lie_below_the_ceiling_and_near_the_expectation(
    bytes_read, bandwidth_gb_s, layers, capability, measured
):
    bandwidth = roofline.Bandwidth(bandwidth_gb_s * 1e9, None)
    expected, _, _ = roofline.expected_tok_s(bytes_read, bandwidth, layers, CATALOGUE.speeds["llama.cpp"])
    assert measured <= roofline.decode_ceiling_tok_s(bytes_read, bandwidth.max_clock_bytes_s)
    # planner-anchors.md 2.3: that build misses the fit of later ones by 10 % on average.
    assert expected == pytest.approx(measured, rel=0.15)


def test_an_expectation_is_never_above_the_running_ceiling():
    tight = roofline.Bandwidth(1000e9, 500e9)
    expected, low, high = roofline.expected_tok_s(10e9, tight, 1, CATALOGUE.speeds["tabbyapi"])
    assert low <= expected <= high == 50.0
