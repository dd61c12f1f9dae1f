"""Properties of any wish: planned or refused, the same twice, and never changed by a fact that is found out later."""

import json
import random

from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from inferhost import planner
from inferhost.schema import document
from inferhost.schema.problems import InputError
from inferhost.schema.wish import options
from tests.unit.planner_wishes import CATALOGUE, planned, wish
from tests.unit.wish_strategies import hardwares, undiscovered, wishes

# The same examples on every run, so that a red test is red again; raise max_examples to search further.
quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)
thorough = settings(quick, max_examples=500)


def outcome(values):
    """The plan's text, or the problems."""
    try:
        plan = planned(values)
    except InputError as error:
        event("refused")
        return error.problems
    event("planned")
    sources = {reason.source for reason in plan.reasons}
    assert [s for s in sources if not planner.resolve(s, CATALOGUE, options())] == []
    return document.text(plan)


def check_refusal(problems):
    for problem in problems:
        assert problem.path.startswith("inferhost_"), problem
        assert problem.message, problem
        assert problem.hint, problem
        "\n".join(problem.lines()).encode()


@thorough
@example({**wish("rtx-3090", "qwen3-4b"), "inferhost_service_host": "half a character: \ud800"})
@example({**wish("h200-sxm", "qwen3-4b"), "inferhost_gpu_mig": ""})
@given(wishes())
def test_any_wish_is_planned_or_refused_with_a_hint(values):
    found = outcome(values)
    if isinstance(found, list):
        check_refusal(found)
    else:
        found.encode()


@quick
@given(hardwares())
def test_any_hardware_is_planned_or_refused_with_a_hint(own):
    found = outcome({**wish("rtx-3090", "qwen3-4b"), "inferhost_hardware": own})
    if isinstance(found, list):
        check_refusal(found)


@quick
@given(wishes(), st.integers())
def test_the_order_of_keys_changes_nothing_and_neither_does_planning_twice(values, seed):
    assert outcome(values) == outcome(shuffled(values, random.Random(seed)))


def shuffled(value, chance):
    if isinstance(value, dict):
        names = list(value)
        chance.shuffle(names)
        return {name: shuffled(value[name], chance) for name in names}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def decided(plan):
    """Every value that the plan has decided, by setting.

    What is `None` is left to nobody yet, what `pending` names waits for a fact, and while an engine is pending so is
    everything that follows from it. Files and drop-ins repeat these values as text.
    """
    found = {f"sysctl.{name}": value for name, value in plan.sysctl.items()}
    found["cpu"] = plan.cpu
    for number, card in enumerate(plan.gpus):
        for name in ("persistence_mode", "power_limit_w", "graphics_clock_lock_mhz", "memory_clock_lock_mhz"):
            found[f"gpus[{number}].{name}"] = getattr(card, name)
        found[f"gpus[{number}].select"] = (card.select.pci_device_id, card.select.ordinal)
    for service in plan.service:
        name = service.instance
        found |= {f"env.{name}.{key}": value for key, value in plan.env[name].items()}
        found[f"service.{name}.engine"] = service
        found[f"budget.{name}"] = plan.budget[name]
        found[f"roofline.{name}"] = plan.roofline[name]
    waiting = {pending.setting for pending in plan.pending}
    provisional = {s.removeprefix("service.").removesuffix(".engine") for s in waiting if s.endswith(".engine")}
    return {
        key: value
        for key, value in found.items()
        if value is not None and key not in waiting and not set(key.split(".")) & provisional
    }


@thorough
@given(undiscovered(), st.sampled_from(["qwen3-4b", "llama-2-7b-q4_k_m"]), st.sampled_from(["default", "max", "250"]))
def test_a_fact_that_is_found_out_later_confirms_or_refuses_and_never_changes_a_value(hosts, model, watts):
    before, after = ({**wish("rtx-3090", model, gpu_power_limit=watts), "inferhost_hardware": host} for host in hosts)
    try:
        first = planned(before)
    except InputError:
        assume(False)
    try:
        second = planned(after)
    except InputError as error:
        check_refusal(error.problems)
        return
    settled = decided(second)
    changed = {key: (value, settled.get(key)) for key, value in decided(first).items() if settled.get(key) != value}
    assert json.dumps({key: str(pair) for key, pair in changed.items()}, indent=1) == "{}"
