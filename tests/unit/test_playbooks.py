"""The playbooks without a host: what they list, what they refuse, and that the plan really comes from the filter."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Nothing listens there: a refusal that needed the host would show as "unreachable" instead.
NOWHERE = ("-e", "ansible_host=127.0.0.1", "-e", "ansible_port=1")

HARDWARE = yaml.safe_load((ROOT / "inventories/esxi/host_vars/gb200/hardware.yml").read_text())
HARDWARE["inferhost_hardware"]["gpus"][0]["model"] = "rtx-pro-7000"
UNKNOWN_GPU = json.dumps(HARDWARE)


def environment(root: pathlib.Path) -> dict[str, str]:
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "ANSIBLE_CONFIG": str(root / "ansible.cfg"), "PATH": path}


def ansible_playbook(*arguments: str, root: pathlib.Path = ROOT) -> tuple[int, str]:
    argv = ["ansible-playbook", *arguments]
    ran = subprocess.run(argv, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
    assert "Callback dispatch" not in ran.stderr, ran.stderr
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("listing", ["--list-hosts", "--list-tasks"])
def test_site_lists_without_contact(listing):
    code, output = ansible_playbook("site.yml", "-l", "gb200", listing)
    assert code == 0, output
    assert ("gb200" if listing == "--list-hosts" else "Power limit and persistence are as planned") in output


def test_plan_prints_the_plan_of_the_real_host_without_contact():
    code, output = ansible_playbook("playbooks/plan.yml", "-l", "gb200", *NOWHERE)
    assert code == 0, output
    for words in ("28.0", "26.7", "memory_clock_lock_mhz", "inferhost_gpu_power_limit"):
        assert words in output


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("inferhost_gpu_power_limt=450", ("inferhost_gpu_power_limt", "inferhost_gpu_power_limit")),
        ("inferhost_gpu_power_limit=900", ("inferhost_gpu_power_limit", "900", "150", "600")),
        ("inferhost_service_engine=triton", ("inferhost_service_engine", "triton", "llama.cpp")),
        (
            UNKNOWN_GPU,
            ("inferhost_hardware.gpus[0].model", "rtx-pro-7000", "rtx-pro-6000-bw-ws"),
        ),
    ],
    ids=["unknown name", "power out of range", "unknown engine", "unknown GPU"],
)
def test_a_wish_that_cannot_work_is_refused_before_any_contact(given, words):
    code, output = ansible_playbook("site.yml", "-l", "gb200", *NOWHERE, "-e", given)
    assert code != 0
    assert "unreachable=0" in output, output
    for word in words:
        assert word in output


def test_without_the_filter_neither_site_nor_plan_works(tmp_path):
    copy = tmp_path / "checkout"
    left_out = shutil.ignore_patterns(".venv", ".git", "build", "filter_plugins")
    shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
    for playbook in ("site.yml", "playbooks/plan.yml"):
        code, output = ansible_playbook(playbook, "-l", "gb200", *NOWHERE, root=copy)
        assert code != 0
        assert "inferhost_plan" in output


@pytest.mark.parametrize(
    ("least", "after_s", "stays"),
    [(80, 0.125, True), (80, 0.126, False), (0, 9.0, True), (101, 0.1, False), (0, None, False)],
)
def test_an_upgrade_is_held_against_the_speed_that_the_plan_asks_for(tmp_path, least, after_s, stays):
    """0.1 s before; a new version that does not answer at all never stays."""
    tasks = yaml.safe_load((ROOT / "roles/inferhost_service/tasks/upgrade.yml").read_text())
    compare = tasks[-1]["block"][-1]
    new = {} if after_s is None else {"main": after_s}
    values = {
        "__inferhost_plan": {"service": [{"instance": "main", "upgrade_least_percent": least}]},
        "__inferhost_service_old": {"facts": {"answer_s": {"main": 0.1}}},
        "__inferhost_service_new": {"facts": {"answer_s": new}},
    }
    playbook = tmp_path / "compare.yml"
    playbook.write_text(
        yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "vars": values, "tasks": [compare]}])
    )
    code, output = ansible_playbook(str(playbook))
    assert (code == 0) is stays, output
    assert stays or f"inferhost_service_upgrade_least_percent {least} allows" in output


def test_a_task_of_a_stock_module_that_takes_long_is_told_of_while_it_runs(tmp_path):
    """The task waits for the word that is said of it."""
    heard = tmp_path / "heard"
    task = {"name": "The engine is stopped", "ansible.builtin.wait_for": {"path": str(heard), "timeout": 120}}
    playbook = tmp_path / "slow.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    with subprocess.Popen(
        ["ansible-playbook", str(playbook)], cwd=ROOT, env=environment(ROOT), stdout=subprocess.PIPE, text=True
    ) as run:
        assert any(line.startswith("[localhost] The engine is stopped: ") for line in run.stdout)
        heard.touch()
        run.stdout.read()
    assert run.returncode == 0


BUSY = """
from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    _supports_check_mode = True
    def run(self, tmp=None, task_vars=None):
        name = self._task.args["server"]
        member = {"name": name, "state": "DRAIN", "in_flight": 3, "idle": False, "up": name == "two"}
        return {"changed": False, "facts": {"member": member}}
"""
"""Stands in for the host program on a balancer: one member is never idle and never up, two is up."""


def with_a_balancer(tmp_path, tasks, *arguments):
    """What Ansible says of tasks of the balancer's role on hosts two and one, without contact to anybody."""
    (tmp_path / "action").mkdir()
    (tmp_path / "action/inferhost_host.py").write_text(BUSY)
    local = {"ansible_connection": "local"}
    plan = {"balancer": {"members": [{"name": "two"}, {"name": "one"}], "timeout_s": 8}}
    inventory = {
        "engines": {"hosts": {"two": local, "one": local}},
        "__inferhost_balancers": {"hosts": {"front": {**local, "__inferhost_plan": plan}}},
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    task = {"ansible.builtin.import_tasks": str(ROOT / f"roles/inferhost_balancer/tasks/{tasks}.yml")}
    then = {"hosts": "__inferhost_turns", "serial": 1, "tasks": [{"ansible.builtin.debug": {"msg": "its turn"}}]}
    plays = [{"hosts": "engines", "tasks": [task]}, then]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{**play, "gather_facts": False} for play in plays]))
    argv = ["ansible-playbook", str(tmp_path / "play.yml"), "-i", str(tmp_path / "hosts.yml"), *arguments]
    own = {**environment(ROOT), "ANSIBLE_ACTION_PLUGINS": str(tmp_path / "action")}
    return subprocess.run(argv, cwd=ROOT, env=own, capture_output=True, text=True, check=False)


def test_who_was_left_out_of_rotation_has_the_first_turn(tmp_path):
    ran = with_a_balancer(tmp_path, "turns", "--forks", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    last = ran.stdout.rpartition("Then the others")[2]
    assert 0 < last.index("ok: [one] => ") < last.index("ok: [two] => ")


@pytest.mark.parametrize("way", ["drain", "undrain"])
@pytest.mark.parametrize(("mode", "goes_on"), [((), False), (("--check",), True)], ids=["really", "check mode"])
def test_a_member_that_is_not_ready_in_time_stops_the_run_and_check_mode_waits_for_nobody(
    tmp_path, mode, goes_on, way
):
    ran = with_a_balancer(tmp_path, way, "-l", "one,front", *mode)
    assert (ran.returncode == 0) is goes_on, ran.stdout + ran.stderr
    assert ("FAILED - RETRYING" in ran.stdout) is not goes_on
    assert ("error: one: front sees it DRAIN, 3 in flight" in ran.stdout) is not goes_on
