"""Runs a playbook against a sandbox host and answers per task: the tests' only way into Ansible."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = os.environ.get("INFERHOST_SANDBOX_NAME", "inferhost-test")
PORT = os.environ.get("INFERHOST_SANDBOX_PORT", "22122")


@dataclasses.dataclass(frozen=True)
class Ran:
    """One playbook run: the task results in order, the totals, and the whole output."""

    code: int
    tasks: list[tuple[str, dict[str, Any]]]
    stats: dict[str, Any]
    output: str

    def told(self) -> str:
        """What failed, in a few lines; everything else only where nothing says that it failed."""
        failed = [f"{name}: {r.get('msg', r)}" for name, r in self.tasks if r.get("failed") or r.get("unreachable")]
        return "\n".join(failed) or self.output[-4000:]

    def changes(self) -> list[tuple[str, bool, str]]:
        """Name, `changed` and diff of every task that ran; a skipped task counts as an unchanged one."""
        return [(name, result.get("changed", False), _diff_text(result)) for name, result in self.tasks]

    def on_the_host(self) -> list[str]:
        """Every task execution that reached the host: loop items count one each, controller tasks do not."""
        reached = []
        for name, result in self.tasks:
            if result.get("skipped") or result.get("action") in CONTROLLER_ACTIONS:
                continue
            reached += [name] * len([r for r in result.get("results", [result]) if not r.get("skipped")])
        return reached


CONTROLLER_ACTIONS = (
    "ansible.builtin.set_fact", "ansible.builtin.debug", "ansible.builtin.assert", "ansible.builtin.meta",
    "ansible.builtin.validate_argument_spec", "set_fact", "debug", "assert", "validate_argument_spec",
)  # fmt: skip


def run_playbook(*arguments: str, cwd: pathlib.Path = ROOT) -> Ran:
    """`ansible-playbook ARGUMENTS` from the repository root, with one JSON line per event."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.jsonl",
        "INFERHOST_SANDBOX_PORT": PORT,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    ran = subprocess.run(
        ["ansible-playbook", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    events = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    tasks, stats = [], {}
    for event in events:
        if event["_event"] == "v2_playbook_on_stats":
            stats = event["stats"]
        elif event["_event"].startswith("v2_runner_on_") and event["_event"] != "v2_runner_on_start":
            for result in event["hosts"].values():
                tasks.append((event["task"]["name"], result))
    return Ran(ran.returncode, tasks, stats, ran.stdout + ran.stderr)


def bed(*arguments: str) -> str:
    """Standard output of the bed's command line."""
    ran = subprocess.run([ROOT / "tests/bed/bed", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def snapshot(root_shell: tuple[Any, ...] = (ROOT / "tests/bed/bed", "exec", NAME)) -> dict[str, Any]:
    """A host as the judge of a revert sees it, for `tests.bed.snapshot.differences`."""
    script = (ROOT / "tests/bed/snapshot.py").read_bytes()
    ran = subprocess.run([*root_shell, "python3", "-"], input=script, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def _diff_text(result: dict[str, Any]) -> str:
    """The diff without what belongs to the run itself: temporary file names of the controller."""
    diffs = []
    for item in result.get("results", [result]):
        found = item.get("diff") or []
        for diff in found if isinstance(found, list) else [found]:
            diffs.append({key: diff.get(key) for key in ("before", "after")})
    return json.dumps(diffs, sort_keys=True)
