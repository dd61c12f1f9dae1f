"""Workloads: what they fill in, with a reason each, and never over what the wish sets itself."""

import pytest

from tests.unit.planner_wishes import planned, wish

CARD, MODEL = "rtx-pro-6000-bw-ws", "qwen3-4b"


def served(workload, engine="sglang", **own):
    return planned(wish(CARD, MODEL, service_engine=engine, service_workload=workload, **own))


def told(plan, flag):
    return next(r for r in plan.reasons if r.setting == f"service.main.argv.{flag}")


@pytest.mark.parametrize(("workload", "sequences"), [("interactive", 4), ("balanced", 8), ("bulk", 64)])
def test_a_workload_says_how_many_requests_at_once(workload, sequences):
    plan = served(workload)
    assert plan.service[0].max_sequences == sequences
    source = "max_sequences" if workload == "balanced" else "workload"
    assert told(plan, "--max-running-requests").source == f"wish:inferhost_service_{source}"


def test_interactive_work_gets_short_prefill_chunks_and_the_memory_that_they_free():
    small, usual = served("interactive"), served("balanced")
    chunk = told(small, "--chunked-prefill-size")
    assert (chunk.value, told(usual, "--chunked-prefill-size").value) == (2048, 8192)
    assert chunk.source == "wish:inferhost_service_workload"
    assert chunk.because.startswith("workload interactive: ")
    assert served("interactive", "vllm").budget["main"]["batched_tokens"] == 2048


def test_what_the_wish_sets_wins_over_the_workload():
    plan = served("bulk", service_max_sequences=3)
    assert plan.service[0].max_sequences == 3
    assert told(plan, "--max-running-requests").source == "wish:inferhost_service_max_sequences"
    plan = served("interactive", service_extra_args=["--chunked-prefill-size", "4096"])
    assert plan.budget["main"]["batched_tokens"] == 4096
    assert told(plan, "--chunked-prefill-size").source == "wish:inferhost_service_extra_args"


def test_each_instance_has_a_workload_of_its_own():
    instances = {"chat": {"workload": "interactive", "port": 8000}, "batch": {"workload": "bulk", "port": 8001}}
    plan = planned(wish(CARD, MODEL, service_instances=instances, service_engine="vllm"))
    assert {s.instance: s.max_sequences for s in plan.service} == {"chat": 4, "batch": 64}
