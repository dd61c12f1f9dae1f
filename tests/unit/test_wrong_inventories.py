"""Wrong inventories, each refused by the planner alone: the variable, what was found there, and what would work."""

import copy
import pathlib

import pytest
import yaml

from tests.bed.playbook import run_playbook
from tests.unit.planner_wishes import planned, refusal, wish

FOLDER = pathlib.Path(__file__).parent / "wrong"
CASES = [case for file in sorted(FOLDER.glob("*.yml")) for case in yaml.safe_load(file.read_text())]
SECRETS = ("sk-12345", "hf_12345", "hunter2")


def inventory(case):
    """A right inventory with the one thing that is wrong about it."""
    values = copy.deepcopy(wish("rtx-pro-6000-bw-ws", "mistral-large-instruct-2411-awq"))
    changes = dict(case.get("hardware", {}))
    values["inferhost_hardware"]["gpus"][0].update(changes.pop("gpu", {}))
    values["inferhost_hardware"].update(changes)
    return {**values, **case.get("set", {})}


def test_there_are_sixty_and_more():
    assert len({case["name"] for case in CASES}) == len(CASES) >= 60


def test_the_inventory_is_right_without_the_change():
    assert planned(inventory({})).service[0].engine == "sglang"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_wrong_inventory_is_refused_with_the_variable_the_value_and_what_would_work(case):
    told = refusal(inventory(case))
    assert f"error: {case['names']}: {case['says']}" in told
    assert any(line.startswith("hint: ") and case["works"] in line for line in told.splitlines())
    assert not any(secret in told for secret in SECRETS)


PROVEN_THROUGH_ANSIBLE = [
    "unknown option",
    "hardware missing",
    "power limit above the card",
    "model that does not fit",
    "placebo flag",
    "secret in a variable",
]


def inventory_folder(folder, values, host="box"):
    """The inventory as files, with an address where nothing listens: contact would show as unreachable."""
    address = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    given = {key: value for key, value in values.items() if value is not None}
    hosts = {"all": {"hosts": {host: {**given, **address}}}}
    folder.mkdir(exist_ok=True)
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return str(folder)


@pytest.mark.parametrize("name", PROVEN_THROUGH_ANSIBLE)
def test_site_refuses_before_any_contact(name, tmp_path):
    case = next(case for case in CASES if case["name"] == name)
    ran = run_playbook("site.yml", "-i", inventory_folder(tmp_path / "one", inventory(case)))
    assert ran.code != 0
    assert f"error: {case['names']}: {case['says']}" in ran.told()
    assert case["works"] in ran.told()
    assert not any(result.get("unreachable") for _, result in ran.tasks)


def test_two_inventories_that_share_a_host_name_are_refused(tmp_path):
    folders = [inventory_folder(tmp_path / name, inventory({})) for name in ("one", "two")]
    ran = run_playbook("site.yml", "-i", folders[0], "-i", folders[1])
    assert ran.code != 0
    assert f'error: inventory: found host "box" in {folders[0]} and {folders[1]}' in ran.told()
    assert "hint: rename one of the two" in ran.told()
    assert not any(result.get("unreachable") for _, result in ran.tasks)


def test_two_inventories_with_hosts_of_their_own_are_planned(tmp_path):
    folders = [inventory_folder(tmp_path / name, inventory({}), name) for name in ("one", "two")]
    ran = run_playbook("playbooks/plan.yml", "-i", folders[0], "-i", folders[1])
    assert ran.code == 0, ran.told()


def test_one_wrong_host_stops_the_right_ones_too(tmp_path):
    wrong = inventory(next(case for case in CASES if case["name"] == "unknown option"))
    folders = [inventory_folder(tmp_path / "a", inventory({}), "a"), inventory_folder(tmp_path / "b", wrong, "b")]
    ran = run_playbook("site.yml", "-i", folders[0], "-i", folders[1])
    assert ran.code != 0
    assert not any(result.get("unreachable") for _, result in ran.tasks)
