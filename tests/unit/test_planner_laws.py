"""Laws over the whole catalogue: any card, model and engine is planned or refused, and no plan promises too much."""

import contextlib
import sys

import pytest

from inferhost import planner
from inferhost.planner.memory.weights import weights_bytes
from inferhost.schema import document
from inferhost.schema.problems import InputError
from inferhost.schema.wish import options
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, wish

ENGINES = ("auto", *sorted(CATALOGUE.engines))
TERMS = (
    "weights_bytes",
    "kv_cache_bytes",
    "activation_bytes",
    "graphs_bytes",
    "non_torch_bytes",
    "margin_bytes",
    "reserved_bytes",
    "unallocated_bytes",
)


@pytest.fixture(scope="module")
def plans():
    """Every plan that the catalogue allows: card x model x engine; a traceback fails here."""
    found = {}
    for card in CATALOGUE.gpus:
        for model in CATALOGUE.models:
            for engine in ENGINES:
                # Refused is as good as planned here; anything but `InputError` is a traceback and fails.
                with contextlib.suppress(InputError):
                    found[card, model, engine] = planned(wish(card, model, service_engine=engine))
    return found


def test_every_card_serves_something(plans):
    assert {card for card, _, _ in plans} == set(CATALOGUE.gpus)


def test_every_model_that_fits_some_card_is_served(plans):
    served = {model for _, model, _ in plans}
    unserved = {key for key in CATALOGUE.models if key not in served}
    largest = max(row.memory_under_cuda_mib or row.memory_mib or 0 for row in CATALOGUE.gpus.values()) * 2**20
    assert unserved == {key for key, row in CATALOGUE.models.items() if weights_bytes(row, False) > largest}


def test_auto_serves_whatever_its_engine_of_choice_serves(plans):
    for (card, model, engine), plan in plans.items():
        if engine == "auto":
            assert (card, model, plan.service[0].engine) in plans


def test_no_plan_promises_above_the_ceiling(plans):
    for key, plan in plans.items():
        speed = plan.roofline["main"]
        low, high = speed["expected_band_tok_s"]
        assert low <= speed["expected_tok_s"] <= high <= speed["ceiling_tok_s_max_clock"], key
        if speed["ceiling_tok_s_running_clock"] is not None:
            assert high <= speed["ceiling_tok_s_running_clock"] <= speed["ceiling_tok_s_max_clock"], key


def test_the_budget_adds_up_to_the_cards_memory_and_no_term_is_negative(plans):
    for key, plan in plans.items():
        parts = [plan.budget["main"][term] for term in TERMS]
        assert min(parts) >= 0, key
        assert sum(parts) == plan.budget["main"]["total_memory_bytes"], key


def test_the_budget_never_exceeds_what_the_hardware_has(plans):
    for (card, _, _), plan in plans.items():
        assert plan.budget["main"]["total_memory_bytes"] <= gpu(card)["memory_mib"] * 2**20


def test_the_cache_holds_at_least_one_request_of_the_asked_length(plans):
    for key, plan in plans.items():
        assert plan.budget["main"]["kv_cache_tokens"] >= plan.budget["main"]["context_tokens"], key
        assert plan.budget["main"]["concurrent_requests"] >= 1, key


def test_every_setting_has_a_reason_and_every_source_exists(plans):
    names = options()
    for key, plan in plans.items():
        explained = {reason.setting for reason in plan.reasons}
        assert planner.setting_paths(plan, CATALOGUE) <= explained, key
        assert all(planner.resolve(reason.source, CATALOGUE, names) for reason in plan.reasons), key


def test_every_flag_of_every_command_line_is_read_by_its_engine(plans):
    for key, plan in plans.items():
        service = plan.service[0]
        known = CATALOGUE.flags.table(f"{service.engine}-{service.engine_version}").flags
        flags = [word for word in service.argv if word.startswith("--")]
        assert [flag for flag in flags if flag not in known or known[flag].status != "real"] == [], key


def test_planning_twice_gives_the_same_bytes():
    for model in ("mistral-large-instruct-2411-awq", "llama-3.1-8b-instruct"):
        values = wish("rtx-pro-6000-bw-ws", model)
        assert document.text(planned(values)) == document.text(planned(dict(values)))


@pytest.mark.parametrize("engine", ["sglang", "vllm", "tabbyapi"])
def test_more_memory_never_holds_fewer_tokens_at_the_same_chunk_size(engine):
    # SGLang's chunk grows at 20, 35, 60 and 160 GiB and takes room from the cache there, so chunks are kept apart.
    held = {}
    for memory_mib in range(18_000, 24_577, 256):
        values = wish("rtx-3090", "llama-3.1-8b-instruct", service_engine=engine)
        values["inferhost_hardware"] = hardware(gpu("rtx-3090", memory_mib=memory_mib))
        with contextlib.suppress(InputError):
            budget = planned(values).budget["main"]
            held.setdefault(budget["batched_tokens"], []).append(budget["kv_cache_tokens"])
    assert held
    for tokens in held.values():
        assert tokens == sorted(tokens)


def test_longer_context_never_raises_concurrency():
    for engine in ("sglang", "vllm", "tabbyapi", "llama.cpp"):
        model = "llama-2-7b-q4_k_m" if engine == "llama.cpp" else "mistral-7b-instruct-v0.3"
        found = []
        for context in (256, 500, 1000, 2048, 4096):
            plan = planned(wish("rtx-3090", model, service_engine=engine, service_context_tokens=context))
            found.append(plan.budget["main"]["concurrent_requests"])
        assert found == sorted(found, reverse=True), engine


def test_the_work_for_a_host_does_not_grow_with_the_hosts_before_it():
    # Calls, not time: a busy machine must not fail this. `make perf` prints milliseconds.
    values = wish("rtx-pro-6000-bw-ws", "mistral-large-instruct-2411-awq")
    planned(values)
    before = calls_of(values)
    for number in range(50):
        planned({**values, "inferhost_service_port": 20_000 + number})
    assert 500 < calls_of(values) == before


def calls_of(values):
    """How many functions run for one plan."""
    count = 0

    def counted(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        planned(values)
    finally:
        sys.setprofile(None)
    return count
