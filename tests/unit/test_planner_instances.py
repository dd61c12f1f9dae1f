"""Several engines on one host: each with its cards, its port, its budget and its reasons."""

import pytest

from tests.unit.planner_wishes import gpu, hardware, planned, refusal, wish

CARD, LARGE, SMALL = "rtx-3090", "mistral-7b-instruct-v0.3", "qwen3-4b"
INSTANCES = "inferhost_service_instances"
UNITS = [f"/etc/systemd/system/inferhost-{name}@.service" for name in ("serve", "warm")]


def on_cards(count, instances, card=CARD, **own):
    """A wish for these instances on a host with `count` equal cards."""
    cards = [gpu(card, uuid=f"GPU-{number}") for number in range(count)]
    return {**wish(card, LARGE, service_instances=instances, **own), "inferhost_hardware": hardware(*cards)}


def entries(plan, instance):
    """The drop-in of an instance as (key, value)."""
    unit = f"inferhost-serve@{instance}.service"
    return [(key, value) for d in plan.dropins if d.unit == unit for _, key, value in d.entries]


def two(**second):
    return {"a": {"gpus": [0], "port": 8000}, "b": {"gpus": [1], "port": 8001, "model": SMALL, **second}}


def test_each_instance_has_its_card_its_unit_and_its_own_documents():
    plan = planned(on_cards(2, two()))
    assert [(s.instance, s.model, s.port) for s in plan.service] == [("a", LARGE, 8000), ("b", SMALL, 8001)]
    assert [plan.env[name]["CUDA_VISIBLE_DEVICES"] for name in ("a", "b")] == ["GPU-0", "GPU-1"]
    assert [d.unit for d in plan.dropins] == ["inferhost-serve@a.service", "inferhost-serve@b.service"]
    assert sorted(plan.budget) == sorted(plan.roofline) == ["a", "b"]
    assert [f.path for f in plan.files if f.section == "service"] == UNITS


def test_a_port_that_another_instance_has_is_refused_with_the_next_free_one():
    assert refusal(on_cards(2, two(port=8000))) == (
        f'error: {INSTANCES}.b.port: found 8000 for "b", where "a" listens already\nhint: {INSTANCES}.b.port: 8001'
    )


def test_a_card_that_is_not_there_is_refused_with_those_that_are():
    assert refusal(on_cards(2, two(gpus=[2]))) == (
        f'error: {INSTANCES}.b.gpus: found "2", which is no card of inferhost_hardware.gpus\nhint: 0 to 1, or all'
    )
    assert refusal(on_cards(2, two(gpus=[1, 1]))) == (
        f"error: {INSTANCES}.b.gpus: found 1, 1, with a card named twice\nhint: name each card once"
    )


def test_no_instance_at_all_is_refused():
    assert refusal(on_cards(1, {})) == (
        f"error: {INSTANCES}: names no instance\n"
        "hint: name one, for example main: {}; for none, leave service out of inferhost_manage"
    )


def test_the_problems_of_all_instances_are_told_at_once():
    found = refusal(on_cards(2, {"a": {"gpus": [0], "model": "x"}, "b": {"gpus": [1], "port": 99999}}))
    assert f"error: {INSTANCES}.a.model:" in found
    assert f"error: {INSTANCES}.b.port:" in found


SHARED = {"a": {"port": 8000, "model": SMALL}, "b": {"port": 8001, "model": SMALL}}
PARALLEL = "inferhost_service_tensor_parallel_size"


def shared(engine, card="rtx-pro-6000-bw-ws", **own):
    return on_cards(1, SHARED, card, service_engine=engine, service_model=SMALL, **own)


@pytest.mark.parametrize("engine", ["sglang", "vllm", "sfllm"])
def test_engines_on_one_card_share_its_memory_and_take_no_more_than_all_of_it(engine):
    plan = planned(shared(engine, "h100-sxm", **({"service_host": "0.0.0.0"} if engine == "sfllm" else {})))
    total = plan.budget["a"]["total_memory_bytes"]
    taken = [total - b["reserved_bytes"] for b in plan.budget.values()]
    assert sum(taken) <= total
    assert min(taken) > 0.4 * total


def test_vllms_fractions_are_of_the_whole_card_and_add_up():
    plan = planned(shared("vllm"))
    assert sum(b["memory_fraction"] for b in plan.budget.values()) < 1


def test_sglangs_fraction_is_of_what_is_free_when_it_starts():
    budget = planned(shared("sglang")).budget
    total, context = budget["a"]["total_memory_bytes"], budget["a"]["non_torch_bytes"]
    static = total // 2 - context - budget["a"]["activation_bytes"]
    first = budget["a"]["memory_fraction"] * (total - context)
    second = budget["b"]["memory_fraction"] * (total - total // 2 - context)
    # Rounded down to a thousandth of what is free.
    assert static - total / 1000 <= first <= static
    assert abs(second - static) <= total / 1000
    assert budget["a"]["memory_fraction"] < budget["b"]["memory_fraction"]


def test_the_second_engine_on_a_card_waits_until_the_first_serves():
    plan = planned(shared("sglang"))
    first, second = plan.service
    assert ("After", "inferhost-serve@a.service") in entries(plan, "b")
    assert ("ExecStartPre", "+/usr/local/bin/inferhost gate --wait --instance a") in entries(plan, "b")
    assert ("TimeoutStartSec", str(300 + first.probe.wait_s)) in entries(plan, "b")
    assert {"After", "ExecStartPre", "TimeoutStartSec"} & {key for key, _ in entries(plan, "a")} == set()
    assert second.probe.wait_s == 300 + plan.budget["b"]["weights_bytes"] // 200_000_000


def test_a_share_is_asked_for_in_percent_and_the_rest_is_the_others():
    instances = {"a": {"port": 8000, "memory_share": 70, "model": SMALL}, "b": {"port": 8001, "model": SMALL}}
    plan = planned(on_cards(1, instances, "rtx-pro-6000-bw-ws"))
    total = plan.budget["a"]["total_memory_bytes"]
    assert plan.budget["a"]["reserved_bytes"] == pytest.approx(0.3 * total, rel=1e-6)
    assert plan.budget["b"]["reserved_bytes"] == pytest.approx(0.7 * total, rel=1e-6)


def test_shares_above_the_card_are_refused_with_what_is_left():
    instances = {"a": {"memory_share": 70, "port": 1}, "b": {"memory_share": 40, "port": 2}}
    assert refusal(on_cards(1, instances)) == (
        f"error: {INSTANCES}.b.memory_share: the shares of gpus[0] leave nothing for some: a 70, b 40 percent\n"
        "hint: at most 30 for b"
    )
    assert refusal(on_cards(1, {"a": {"memory_share": 101}})) == (
        f"error: {INSTANCES}.a.memory_share: found 101, wanted 0 to 100\nhint: for example 50; 0 is an equal part"
    )


def test_a_memory_fraction_of_ones_own_is_refused_on_a_shared_card():
    found = refusal(shared("vllm", service_extra_args=["--gpu-memory-utilization", "0.4"]))
    assert "hint: use inferhost_service_memory_share: the plan computes the fraction from the shares" in found


@pytest.mark.parametrize(("engine", "flag"), [("vllm", "--tensor-parallel-size"), ("sglang", "--tp-size")])
def test_a_model_larger_than_a_card_is_split_over_equal_cards(engine, flag):
    own = {"service_engine": engine, "service_gpus": ["0", "1"], "service_model": "phi-4"}
    assert "weights" in refusal(on_cards(2, {"main": {}}, **{**own, "service_gpus": ["0"]}))
    plan = planned(on_cards(2, {"main": {}}, **own))
    argv = plan.service[0].argv
    assert argv[argv.index(flag) + 1] == "2"
    assert plan.env["main"]["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"
    speed = plan.roofline["main"]
    one_card = speed["memory_bandwidth_max_clock_bytes_s"] / speed["bytes_read_per_token"]
    assert speed["tensor_parallel_size"] == 2
    assert speed["ceiling_tok_s_max_clock"] == pytest.approx(2 * one_card, rel=0.01)
    assert speed["parts_ms"]["joining"] > 0


def test_the_number_of_cards_alone_takes_the_first_ones():
    plan = planned(on_cards(4, {"main": {}}, service_tensor_parallel_size=2))
    assert plan.env["main"]["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"


def test_more_cards_hold_more_tokens_of_the_same_model():
    held = [
        planned(on_cards(4, {"main": {"tensor_parallel_size": size}})).budget["main"]["kv_cache_tokens"]
        for size in (1, 2, 4)
    ]
    assert held == sorted(set(held))


def test_cards_that_a_model_cannot_be_split_over_are_refused_with_those_it_can():
    assert refusal(on_cards(3, {"main": {}}, service_tensor_parallel_size=3)) == (
        f"error: {PARALLEL}: found 3, which does not divide the 32 query heads and 8 KV heads of {LARGE}\n"
        "hint: 1, 2, 4, 8, 16, 32 for this model"
    )
    assert refusal(on_cards(2, {"main": {}}, service_tensor_parallel_size=4)) == (
        f"error: {PARALLEL}: found 4, and inferhost_hardware.gpus names 2\n"
        "hint: at most 2, or 0 for all cards of inferhost_service_gpus"
    )
    assert refusal(on_cards(2, {"main": {}}, service_gpus=["0", "1"], service_tensor_parallel_size=1)) == (
        f"error: {PARALLEL}: found 1, and inferhost_service_gpus names 2\nhint: 2, or 0, which means all of them"
    )


def test_unequal_cards_and_an_engine_for_one_card_are_refused():
    values = on_cards(2, {"main": {}}, service_gpus=["all"])
    values["inferhost_hardware"] = hardware(gpu("rtx-3090"), gpu("rtx-4090"))
    assert "error: inferhost_service_gpus: found unequal cards: rtx-3090 with " in refusal(values)
    values = on_cards(2, {"main": {}}, service_gpus=["all"], service_engine="tabbyapi")
    assert "hint: one card per instance, or sglang or vllm with a checkpoint in safetensors over several" in refusal(
        values
    )


def test_a_port_that_two_want_is_told_first_and_with_what_else_is_wrong():
    values = {
        **wish("tesla-p4", "llama-2-7b-q4_k_m", service_engine="llama.cpp"),
        "inferhost_service_instances": {"one": {}, "two": {}},
        "inferhost_service_context_tokens": 4096,
    }
    lines = refusal(values).splitlines()
    assert lines[0] == 'error: inferhost_service_port: found 8080 for "two", where "one" listens already'
    assert lines[1] == "hint: inferhost_service_instances.two.port: 8081"
    assert any("model" in line or "context_tokens" in line for line in lines[2:])
