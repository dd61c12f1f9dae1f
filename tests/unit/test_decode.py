"""Laws of the decode model: what never happens, whatever the fitted numbers are."""

import dataclasses
import io
import json
import random

import pytest

from inferhost import estimate
from inferhost.planner.estimate import decode_case
from inferhost.planner.estimate.decode_case import estimate_decode, mean_context_tokens
from inferhost.planner.memory.weights import bytes_read_per_token
from inferhost.planner.names import Format, chip_named, format_named, likely_layers, shape_named
from inferhost.planner.speed.decode import (
    Cards,
    Step,
    ceiling_tok_s,
    distinct_experts,
    speed_row,
    step_parts,
    step_s,
)
from inferhost.planner.speed.levers import drafted_tokens_per_step
from tests.unit.planner_wishes import CATALOGUE

CASE = {
    "id": "x",
    "engine": "llama.cpp",
    "engine_version": "b9000",
    "gpu": "RTX 3090",
    "model": "Llama-3.1-8B",
    "quant": "Q4_K_M",
    "context": "tg128",
}


def seconds(step, cards, row):
    return step_s(step, cards, row, CATALOGUE.decode)


def some_steps(count=400):
    chance = random.Random(11)
    chips, rows = list(CATALOGUE.chips.values()), list(CATALOGUE.speeds.values())
    for _ in range(count):
        weights = chance.uniform(0.3e9, 130e9)
        family = chance.choice(("16bit", "8bit", "4bit", "3bit", "ternary"))
        step = Step(weights * chance.uniform(0.2, 2), weights, family, chance.randint(8, 120))
        bandwidth = chance.uniform(80e9, 8000e9)
        yield step, Cards(bandwidth, chance.choice([*chips, None]), chance.choice((1, 2, 4, 8))), chance.choice(rows)


def test_no_step_is_faster_than_its_bytes():
    for step, cards, row in some_steps():
        assert 1 / seconds(step, cards, row) < ceiling_tok_s(step.bytes_read, cards)


def test_more_bandwidth_is_never_slower():
    for step, cards, row in some_steps():
        wider = dataclasses.replace(cards, bandwidth_bytes_s=1.5 * cards.bandwidth_bytes_s)
        assert seconds(step, wider, row) <= seconds(step, cards, row)


def test_more_to_read_is_never_faster():
    for step, cards, row in some_steps():
        longer = dataclasses.replace(step, bytes_read=1.2 * step.bytes_read)
        assert seconds(longer, cards, row) >= seconds(step, cards, row)


def test_a_faster_chip_is_never_slower():
    for step, cards, row in some_steps():
        if cards.chip:
            chip = dataclasses.replace(cards.chip, graphics_clock_mhz=2 * cards.chip.graphics_clock_mhz)
            assert seconds(step, dataclasses.replace(cards, chip=chip), row) <= seconds(step, cards, row)


def test_more_sequences_never_lower_the_total_and_never_raise_the_share_of_each():
    for model in ("Llama-3.1-8B", "Qwen3-30B-A3B", "gpt-oss-20b", "Mixtral-8x7B"):
        each = []
        for batch in (1, 2, 3, 4, 8, 16, 64):
            case = {**CASE, "gpu": "H200", "engine": "vLLM", "model": model, "quant": "BF16", "batch": batch}
            each.append((batch, estimate_decode({**case, "context": "1024"}, CATALOGUE)["expected_tok_s"]))
        totals = [batch * rate for batch, rate in each]
        assert totals == sorted(totals), model
        assert [rate for _, rate in each] == sorted((rate for _, rate in each), reverse=True), model


def test_longer_context_is_never_faster():
    rates = [estimate_decode({**CASE, "context": str(n)}, CATALOGUE)["expected_tok_s"] for n in (0, 512, 8192, 65536)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_cards_that_take_turns_give_one_cards_ceiling_and_cards_that_share_give_the_sum():
    one = estimate_decode(CASE, CATALOGUE)
    layer = estimate_decode({**CASE, "gpus": 4, "split": "layer"}, CATALOGUE)
    tensor = estimate_decode({**CASE, "gpus": 4, "split": "tp"}, CATALOGUE)
    assert layer["ceiling_tok_s"] == one["ceiling_tok_s"]
    assert tensor["ceiling_tok_s"] == pytest.approx(4 * one["ceiling_tok_s"], rel=1e-4)
    assert tensor["expected_tok_s"] < 4 * one["expected_tok_s"]


def test_an_expectation_above_the_ceiling_is_refused():
    # What keeps promises below physics: with an efficiency above one the estimate refuses itself.
    row = dataclasses.replace(CATALOGUE.decode["efficiency.gddr"], value=2.0)
    free = {key: dataclasses.replace(speed, overhead_us_per_layer=0.0) for key, speed in CATALOGUE.speeds.items()}
    broken = dataclasses.replace(CATALOGUE, decode={**CATALOGUE.decode, row.key: row}, speeds=free)
    case = {**CASE, "quant": "F16", "gpu": "RTX 4090"}
    assert "is promised above the ceiling of" in estimate_decode(case, broken)["refused"]
    assert "refused" not in estimate_decode(case, CATALOGUE)


def test_numbers_may_be_text_and_anything_may_be_absent():
    full = {**CASE, "gpus": "1", "split": "single", "mem_bw_gbs": "936", "layers": "32", "file_gib": "4.58"}
    full |= {"read_gb_per_step": "4.622", "batch": "1", "arch": "Ampere"}
    found = estimate_decode(full, CATALOGUE)
    # decode-cases.csv row 9: the ceiling of 4.622 GB at 936 GB/s.
    assert found["ceiling_tok_s"] == pytest.approx(202.5, abs=0.1)
    assert found["low"] <= found["expected_tok_s"] <= found["high"] <= found["ceiling_tok_s"]
    bare = estimate_decode({"gpu": "RTX 3090", "model": "Llama-3.1-8B", "quant": "Q4_K_M"}, CATALOGUE)
    assert bare["ceiling_tok_s"] == pytest.approx(found["ceiling_tok_s"], rel=0.03)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"gpu": "Radeon 890M"},
            'gpu: "Radeon 890M" is not in the catalogue and mem_bw_gbs is not given; give either',
        ),
        ({"gpu": None}, 'gpu: "" is not given and mem_bw_gbs is not given; give either'),
        ({"model": "mystery"}, 'layers: not given, and the model "mystery" is not known; give layers'),
        (
            {"quant": "Q9_Z"},
            'quant: "Q9_Z" is not known, so the bytes of a step are not; give read_gb_per_step or file_gib',
        ),
        (
            # guide 001 serves a Tesla P4 with SGLang
            {"gpu": "Tesla P4", "engine": "SGLang"},
            "engine: sglang runs from compute capability 7.5, and Tesla P4 has 6.1; llama.cpp runs there",
        ),
        ({"batch": "many"}, "batch: found 'many', wanted a number"),
        ({"layers": -3}, "layers: found -3.0, wanted a number that is finite and not negative"),
        ({"file_gib": "nan"}, "file_gib: found nan, wanted a number that is finite and not negative"),
    ],
)
def test_what_cannot_be_told_is_refused_with_what_would_help(changes, why):
    assert estimate_decode({**CASE, **changes}, CATALOGUE) == {"id": "x", "refused": why}


def test_no_input_makes_a_traceback():
    chance = random.Random(5)
    junk = (None, "", 0, -1, "0", "x", [], {}, 1e308, "1e400", True, "2 x RTX 3090", "RTX 3090", "7B", "Q4_0", "tg0")
    keys = (*CASE, "gpus", "split", "mem_bw_gbs", "layers", "file_gib", "read_gb_per_step", "batch", "arch")
    for _ in range(3000):
        case = {**CASE, **{key: chance.choice(junk) for key in chance.sample(keys, 3)}}
        found = estimate_decode(case, CATALOGUE)
        assert ("refused" in found) != ("expected_tok_s" in found)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("RTX 3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("RTX 3080Ti", "rtx-3080-ti"),
        ("A100-PCIE-80GB", "a100-pcie-80gb"),
        ("A100 80GB PCIe", "a100-pcie-80gb"),
        ("A100-SXM4-40GB", "a100-sxm4-40gb"),
        ("H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("H20-96GB", "h20"),
        ("RTX PRO 6000 WS", "rtx-pro-6000-bw-ws"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-bw-server"),
        ("RTX 5060 Ti 16GB", "rtx-5060-ti-16gb"),
        ("2x RTX 3090", "rtx-3090"),
        ("RTX 4090 Laptop GPU", "rtx-4090-laptop"),
        ("RTX4090", "rtx-4090"),
        ("RTX 4090D", "rtx-4090-d"),
        ("8\u00d7H100", "h100-sxm"),
        ("RTX 3090 x2", "rtx-3090"),
        ("A100 80G", "a100-sxm4-80gb"),
        ("RTX 5060 Ti", "rtx-5060-ti"),
        ("RTX 4090 Turbo", None),
        ("RX 7900 XTX", None),
    ],
)
def test_a_card_is_known_by_the_names_that_people_write_and_never_taken_for_another(name, key):
    found = chip_named(name, CATALOGUE)
    assert (found.key if found else None) == key


def test_every_card_is_found_under_its_own_names():
    for chip in CATALOGUE.chips.values():
        for name in chip.names:
            found = chip_named(name, CATALOGUE)
            assert found is not None
            assert (found.sm_count, found.graphics_clock_mhz) == (chip.sm_count, chip.graphics_clock_mhz), name


@pytest.mark.parametrize(
    ("name", "family", "bits"),
    [
        ("Q4_K_M", "4bit", 4.89),
        ("UD-Q4_K_XL", "4bit", 4.89),
        ("Q4_K - Medium", "4bit", 4.89),
        ("IQ3_XXS", "3bit", 3.06),
        ("Q5_K - Small", "4bit", 5.53),
        ("q4km", "4bit", 4.89),
        ("MLX 4bit", "4bit", 4.15625),
        ("mixed BF16", "16bit", 16),
        ("GPTQ-Int8", "8bit", 8.156),
        ("AWQ-INT4", "4bit", 4.15625),
        ("EXL2 3.0bpw", "4bit", 3.0),
        ("BF16", "16bit", 16),
        ("FP8-dynamic", "8bit", 8),
    ],
)
def test_a_format_is_known_by_the_names_that_people_write(name, family, bits):
    found = format_named(name, CATALOGUE)
    assert (found.family, found.bits_per_weight) == (family, bits)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1024 gen", 512),
        ("tg128", 64),
        ("~200 tok chat", 100),
        ("1024+256", 1152),
        ("1+2048 gen", 1025),
        ("2048", 2048),
        ("short", 0),
        ("5 tok prompt", 5),
        ("", 0),
    ],
)
def test_a_context_is_read_as_people_write_it(text, tokens):
    assert mean_context_tokens(text) == tokens


@pytest.mark.parametrize(
    ("engine", "version", "key"),
    [
        ("llama.cpp", "2024-05", "llama.cpp-2024"),
        ("llama.cpp", "b1786", "llama.cpp-2024"),
        ("llama.cpp", "b3622", "llama.cpp"),
        ("llama.cpp (Ollama)", "0.33.2", "llama.cpp"),
        ("llama.cpp", "", "llama.cpp"),
        ("vLLM", "0.6.3", "vllm-2024"),
        ("vllm", "0.32.0", "vllm"),
        ("ExLlamaV2", "2023-10..2024", "exllama"),
        ("tabbyapi", "unknown", "exllama"),
        ("AutoAWQ (GEMM)", "2024-01", "autoawq-gemm"),
        ("something new", "1", "any"),
    ],
)
def test_an_engine_is_judged_by_its_own_era(engine, version, key):
    assert speed_row(engine, version, CATALOGUE.speeds.values()).key == key


def test_llama_cpp_waits_longer_on_a_card_for_which_it_has_no_cuda_graphs():
    row, step = CATALOGUE.speeds["llama.cpp"], Step(4.6e9, 7.5e9, "4bit", 32)
    turing = CATALOGUE.chips["rtx-2080"]
    newer = dataclasses.replace(turing, compute_capability="8.0")
    assert seconds(step, Cards(448e9, turing), row) > seconds(step, Cards(448e9, newer), row)


def test_the_layers_that_a_size_suggests_are_near_those_of_known_models():
    known = [row for row in CATALOGUE.models.values() if row.moe is None and 3e9 < row.parameters < 130e9]
    off = [abs(likely_layers(row.parameters) / row.layers - 1) for row in known]
    assert sum(error <= 0.3 for error in off) >= 0.85 * len(known)


def test_a_known_model_wins_over_the_size_in_its_name():
    assert shape_named("Qwen3-30B-A3B", CATALOGUE).active_parameters == 3.3e9
    assert shape_named("DeepSeek-R1-Distill-Qwen-14B", CATALOGUE).layers == 48
    assert shape_named("Never-Heard-Of-9B", CATALOGUE).parameters == 9e9
    assert shape_named("no size", CATALOGUE) is None


def test_one_sequence_reads_its_own_experts_and_many_read_all():
    assert distinct_experts(128, 8, 1) == pytest.approx(8)
    assert distinct_experts(128, 8, 10_000) == pytest.approx(128)


def test_drafting_without_luck_gives_the_steps_own_token_and_with_all_luck_every_one():
    assert drafted_tokens_per_step(0.0, 4) == 1
    assert drafted_tokens_per_step(1.0, 4) == 5
    # 1 + 0.7 + 0.49
    assert drafted_tokens_per_step(0.7, 2) == pytest.approx(2.19)


def test_the_command_answers_decode_cases_line_by_line():
    target = io.StringIO()
    estimate.stream([json.dumps(CASE) + "\n", "[]\n"], target, estimate.ESTIMATORS["decode"])
    first, second = map(json.loads, target.getvalue().splitlines())
    assert set(first) == {"id", "ceiling_tok_s", "expected_tok_s", "low", "high"}
    assert second == {"id": None, "refused": "this line is no JSON object but list"}


def test_the_band_of_a_mixture_of_experts_is_wider():
    case = {"engine": "llama.cpp", "gpu": "RTX 4090", "quant": "Q4_0"}
    found = [estimate_decode(case | {"model": m}, CATALOGUE) for m in ("Qwen3-8B", "Qwen3-30B-A3B")]
    dense, mixture = (one["low"] / one["expected_tok_s"] for one in found)
    assert mixture < 0.97 * dense


def test_experts_of_a_mixture_cost_more_than_their_bytes_and_are_chosen_layer_by_layer():
    row, cards = speed_row("llama.cpp", "", CATALOGUE.speeds.values()), Cards(1e12, None)
    dense = step_parts(Step(2e9, 1e9, "4bit", 40), cards, row, CATALOGUE.decode)
    mixture = step_parts(Step(2e9, 1e9, "4bit", 40, 1e9, 39), cards, row, CATALOGUE.decode)
    slower = (1 / CATALOGUE.decode["experts.llama.cpp"].value - 1) / 2
    assert mixture.reading_s == pytest.approx(dense.reading_s * (1 + slower))
    router_us = CATALOGUE.decode["mixture.llama.cpp"].value
    assert mixture.launching_s - dense.launching_s == pytest.approx(39e-6 * router_us)
    recurrent = step_parts(Step(2e9, 1e9, "4bit", 40, recurrent_layers=30), cards, row, CATALOGUE.decode)
    more_us = CATALOGUE.decode["recurrent.llama.cpp"].value
    assert recurrent.launching_s - dense.launching_s == pytest.approx(30e-6 * more_us)


def test_a_published_size_of_gpt_oss_is_what_experts_and_the_rest_add_up_to():
    # ggml-org/gpt-oss-20b-GGUF and -120b-GGUF print 11.27 and 59.02 GiB, openai/gpt-oss-20b loads 12.88 GiB in vLLM.
    for name, gib in (("gpt-oss-20b", 11.27), ("gpt-oss-120b", 59.02)):
        shape = shape_named(name, CATALOGUE)
        parts = decode_case.weight_bytes(shape, Format("4bit", 4.25, 8.5, 8.5, 8.5))
        assert sum(parts) / 2**30 == pytest.approx(gib, rel=0.01)
    parts = decode_case.weight_bytes(shape_named("gpt-oss-20b", CATALOGUE), format_named("MXFP4", CATALOGUE))
    assert sum(parts) / 2**30 == pytest.approx(12.88, rel=0.01)


def test_what_is_no_expert_is_read_at_16_bit_from_a_checkpoint_and_at_8_from_a_gguf_file():
    case = {"gpu": "RTX 4090", "model": "gpt-oss-20b", "quant": "MXFP4"}
    rates = [estimate_decode(case | {"engine": name}, CATALOGUE)["ceiling_tok_s"] for name in ("vllm", "llama.cpp")]
    experts, rest = 24 * 4 * 3 * 2880**2, 24 * 2880 * 64 * 2 * (64 + 8) + 201088 * 2880
    for rate, bits in zip(rates, (16, 8.5), strict=True):
        assert 1008e9 / rate == pytest.approx((experts * 4.25 + rest * bits) / 8, rel=0.01)
    assert bytes_read_per_token(CATALOGUE.models["gpt-oss-20b"]) == pytest.approx(1008e9 / rates[0], rel=0.01)


def test_several_sequences_read_more_experts_and_the_rest_once():
    case = {"engine": "vllm", "gpu": "H100 SXM", "model": "Qwen3-30B-A3B", "quant": "BF16"}
    alone, eight = (estimate_decode(case | {"batch": n}, CATALOGUE)["ceiling_tok_s"] for n in (1, 8))
    each = 48 * 3 * 2048 * 768 * 2
    more = (distinct_experts(128, 8, 8) - 8) * each
    assert 3350e9 / eight - 3350e9 / alone == pytest.approx(more, rel=0.01)


def test_a_window_bounds_what_is_read_of_a_cache():
    case = {"engine": "llama.cpp", "gpu": "RTX 4090", "model": "gpt-oss-20b", "quant": "MXFP4"}
    rates = [estimate_decode(case | {"context": str(depth)}, CATALOGUE) for depth in (128, 1128)]
    short, long = (1008e9 / one["ceiling_tok_s"] for one in rates)
    # 12 of 24 layers attend to 128 tokens: 2 x 8 heads x 64 numbers x 2 bytes in each of the other 12.
    assert long - short == pytest.approx(1000 * 12 * 2 * 8 * 64 * 2, rel=0.01)
    empty = estimate_decode(case | {"context": "short"}, CATALOGUE)["ceiling_tok_s"]
    assert short - 1008e9 / empty == pytest.approx(128 * 24 * 2 * 8 * 64 * 2, rel=0.05)


@pytest.mark.parametrize(
    ("version", "runs"),
    [("0.11.0", True), ("0.18.1", True), ("2025-07", True), ("0.22.1", False), ("0.33.0", False), ("", False)],
)
def test_vllm_left_volta_behind_at_a_version(version, runs):
    # engines.md 1: the installation guide says 7.0 up to 0.18.1, and 7.5 in 0.22.1.
    case = {**CASE, "gpu": "Tesla V100 SXM2", "engine": "vLLM", "engine_version": version}
    why = estimate_decode(case, CATALOGUE).get("refused", "runs")
    assert ("runs from compute capability 7.5, and Tesla V100 SXM2 has 7.0" in why) == (not runs)


def test_what_experts_and_compressed_attention_launch_costs_as_much_more_without_graphs():
    speed = CATALOGUE.speeds["llama.cpp"]
    pascal, ampere = CATALOGUE.chips["tesla-p4"], CATALOGUE.chips["rtx-3090"]
    plain, more = Step(1e9, 1e9, "4bit", 32), Step(1e9, 1e9, "4bit", 32, 0.0, 32, 0, 32)

    def added_s(chip):
        parts = [step_parts(step, Cards(1e12, chip), speed, CATALOGUE.decode) for step in (plain, more)]
        return parts[1].launching_s - parts[0].launching_s

    each_us = CATALOGUE.decode["mixture.llama.cpp"].value + CATALOGUE.decode["latent.llama.cpp"].value
    assert added_s(ampere) == pytest.approx(32e-6 * each_us)
    ratio = speed.overhead_without_graphs_us_per_layer / speed.overhead_us_per_layer
    assert added_s(pascal) == pytest.approx(ratio * added_s(ampere))
    assert ratio > 1.5
