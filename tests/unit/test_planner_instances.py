"""Several engines on one host: each with its cards, its port, its budget and its reasons."""

from tests.unit.planner_wishes import gpu, hardware, planned, refusal, wish

CARD, LARGE, SMALL = "rtx-3090", "mistral-7b-instruct-v0.3", "qwen3-4b"
INSTANCES = "inferhost_service_instances"


def on_cards(count, instances, card=CARD, **own):
    """A wish for these instances on a host with `count` equal cards."""
    cards = [gpu(card, uuid=f"GPU-{number}") for number in range(count)]
    return {**wish(card, LARGE, service_instances=instances, **own), "inferhost_hardware": hardware(*cards)}


def two(**second):
    return {"a": {"gpus": [0], "port": 8000}, "b": {"gpus": [1], "port": 8001, "model": SMALL, **second}}


def test_each_instance_has_its_card_its_unit_and_its_own_documents():
    plan = planned(on_cards(2, two()))
    assert [(s.instance, s.model, s.port) for s in plan.service] == [("a", LARGE, 8000), ("b", SMALL, 8001)]
    assert [plan.env[name]["CUDA_VISIBLE_DEVICES"] for name in ("a", "b")] == ["GPU-0", "GPU-1"]
    assert [d.unit for d in plan.dropins] == ["inferhost-serve@a.service", "inferhost-serve@b.service"]
    assert sorted(plan.budget) == sorted(plan.roofline) == ["a", "b"]
    assert [f.path for f in plan.files if f.section == "service"] == ["/etc/systemd/system/inferhost-serve@.service"]


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
