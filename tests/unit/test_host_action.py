"""Which answers of the host program stop a run: decided in the action plugin by the exit code, and nowhere else."""

import importlib.util
import json
import pathlib
import re
from collections.abc import Iterator

import pytest
import yaml

from inferhost.schema import result

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOES_ON = (result.EXIT_AS_WANTED, result.EXIT_DRIFT, result.EXIT_PENDING)
TASKS = [*(ROOT / "roles").glob("*/tasks/*.yml"), *(ROOT / "playbooks").glob("*.yml"), ROOT / "site.yml"]


@pytest.fixture(scope="module")
def plugin():
    spec = importlib.util.spec_from_file_location("inferhost_host", ROOT / "action_plugins/inferhost_host.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("code", result.EXIT_CODES)
@pytest.mark.parametrize("verb", ["apply", "engines", "install", "revert", "verify"])
def test_a_run_goes_on_after_drift_and_what_is_pending_and_stops_at_all_else(plugin, verb, code):
    said = {"changed": True, "diff": [], "verdicts": [], "notes": [], "facts": {}}
    ran = {"rc": code, "stdout": json.dumps(said), "stderr": "progress: x\nerror: a: b\nhint: c\n"}
    answer = plugin._answer(ran, verb)
    assert (answer.get("failed", False), answer["drifted"]) == (code not in GOES_ON, code == result.EXIT_DRIFT)
    assert answer["msg"] == "error: a: b\nhint: c"
    assert ("failed" in answer["summary"]) is (code not in GOES_ON)


def _tasks(found: object) -> Iterator[dict]:
    """Every task below, in whatever play, block or rescue."""
    for one in found if isinstance(found, list) else []:
        yield one
        for inner in ("pre_tasks", "tasks", "block", "rescue", "always"):
            yield from _tasks(one.get(inner))


def test_no_task_decides_for_itself_what_of_the_host_program_is_a_failure():
    calls = [(path, t) for path in TASKS for t in _tasks(yaml.safe_load(path.read_text())) if "inferhost_host" in t]
    assert len(calls) > 20
    assert [(path.name, t["name"]) for path, t in calls if {"failed_when", "ignore_errors"} & set(t)] == []


def test_the_readme_tells_of_each_exit_code():
    text = (ROOT / "README.md").read_text()
    told = re.search(r"Exit codes of the\s+host program: (.*?)\.\n", text, re.DOTALL)[1]
    assert [int(number) for number in re.findall(r"(?:^|,\s)(\d) ", told)] == list(result.EXIT_CODES)
