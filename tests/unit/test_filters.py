"""The filters: documented for `ansible-doc`, at most eight, and thin over the planner."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from inferhost.schema import document
from tests.unit.planner_wishes import gpu, hardware, planned, wish

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "filter_plugins"


def filters():
    spec = importlib.util.spec_from_file_location("inferhost_filters", FOLDER / "inferhost.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FilterModule().filters()


FILTERS = filters()


def plan_of(**own):
    return document.plain(planned(wish("rtx-3090", "qwen3-4b", **own)))


def test_there_are_at_most_eight_and_each_is_documented():
    assert len(FILTERS) <= 8
    assert {path.stem for path in FOLDER.glob("*.yml")} == set(FILTERS)


@pytest.mark.parametrize("name", FILTERS)
def test_ansible_doc_shows_it_with_description_example_and_result(name):
    tool = pathlib.Path(sys.executable).with_name("ansible-doc")
    done = subprocess.run([tool, "-t", "filter", name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    for part in ("EXAMPLES", "RETURN VALUES", "OPTIONS"):
        assert part in done.stdout


def circuit(watts, budget, name="rack-1"):
    own = hardware(gpu("rtx-3090", power_min_w=100, power_default_w=350, power_max_w=400))
    plan = document.plain(planned({**wish("rtx-3090", "qwen3-4b", gpu_power_limit=watts), "inferhost_hardware": own}))
    return {
        "__inferhost_plan": plan,
        "inferhost_gpu_circuit": name,
        "inferhost_gpu_circuit_budget_w": budget,
    }


def test_a_circuit_carries_the_sum_of_its_hosts_and_no_more():
    problems = FILTERS["inferhost_circuit_problems"]
    hosts = {"a": circuit("300", 700), "b": circuit("350", 700), "c": circuit("400", 400, "rack-2"), "d": {}}
    assert problems(hosts, list(hosts)) == ""
    hosts["b"] = circuit("max", 700)
    hosts["a"] = circuit("350", 700)
    assert problems(hosts, list(hosts)) == (
        "error: inferhost_gpu_circuit_budget_w: found 700 W for 350 + 400 = 750 W\n"
        "hint: inferhost_gpu_power_limit: 350 at most, if the limits are to be equal, or a larger budget"
    )


def test_a_circuit_whose_hosts_disagree_on_its_budget_is_a_problem():
    hosts = {"a": circuit("300", 700), "b": circuit("300", 800)}
    found = FILTERS["inferhost_circuit_problems"](hosts, ["a", "b"])
    assert "differs within rack-1: a 700, b 800\nhint: one number" in found


def test_explanations_come_from_the_plan():
    text = FILTERS["inferhost_explain"](plan_of(), "service.main.engine")
    assert "  possible: inferhost_service_engine: auto, sglang," in text
    assert "  changes with: inferhost_service_engine (default auto)" in text
    assert "  changes with: inferhost_hardware.gpus: compute capability" in text
