"""The command line on the controller: `inferhost plan` and `inferhost explain`.

Runs `playbooks/plan.yml` through ansible-runner, because only Ansible knows the variables of a host at their
true precedence; no host is contacted. Data goes to stdout, everything else to stderr, each problem as `error:`
with its `hint:`. Functions raise or return; only `main` turns that into an exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inferhost import catalogue, cloudlab, estimate, explain, outdated, table
from inferhost.discover import command as discover
from inferhost.imports import command as imports
from inferhost.models import command as models
from inferhost.schema.problems import InputError, Problem, near
from inferhost.schema.result import EXIT_AS_WANTED, EXIT_BAD_INPUT

SETTING = "a setting, a flag of the engine, a variable, or a figure of the table, as gpus[0].power_limit_w; else all"
ROOT = pathlib.Path(__file__).resolve().parents[1]
PLAYBOOK = "playbooks/plan.yml"
FACT = "__inferhost_plan"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PROBLEM_LINE = re.compile(r"^\s*((?:error|hint): .*\S)\s*$")


class PlaybookError(Exception):
    """The playbook failed and said why; carries the lines for stderr."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 as wanted or 2 for bad input, anything else is a bug's traceback."""
    options = _parsed(arguments)
    try:
        sys.stdout.write(options.run(options))
    except PlaybookError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return EXIT_BAD_INPUT
    except InputError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_AS_WANTED


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; what looks like an option of ours and is none may be a flag that `explain` is asked about."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if len(others) == 1 and getattr(options, "setting", None) == "":
        options.setting = others[0]
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return options


def all_planned(inventory: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The plan of every host of an inventory, or an error where one cannot be planned."""
    _must_exist(inventory)
    events = _events(inventory.resolve(), "all")
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        facts = _result(event).get("ansible_facts")
        if isinstance(facts, Mapping) and FACT in facts:
            found[str(event["event_data"]["host"])] = dict(facts[FACT])
    if not found or any(event.get("event") == "runner_on_failed" for event in events):
        raise PlaybookError(_failure(events, "all", inventory))
    return found


def planned(inventory: pathlib.Path, host: str) -> dict[str, Any]:
    """The plan of `host` as plain data, or an error that names the variable at fault."""
    _must_exist(inventory)
    events = _events(inventory.resolve(), host)
    for event in events:
        facts = _result(event).get("ansible_facts")
        if isinstance(facts, Mapping) and FACT in facts:
            return dict(facts[FACT])
    raise PlaybookError(_failure(events, host, inventory))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="inferhost", description="GPU inference hosts: what they shall be, and why."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    plan = commands.add_parser("plan", help="what a host would be; touches nothing and contacts nobody")
    plan.add_argument("--format", choices=["table", "json"], default="table")
    plan.set_defaults(run=_run_plan)
    explain = commands.add_parser("explain", help="why a setting has its value")
    explain.add_argument("setting", nargs="?", default="", help=SETTING)
    explain.set_defaults(run=_run_explain)
    pins = commands.add_parser("outdated", help="which hosts plan an engine version behind the catalogue's")
    pins.add_argument("--inventory", required=True, type=pathlib.Path, help="an inventory file or folder")
    pins.set_defaults(run=_run_outdated)
    discover.add_command(commands)
    imports.add_command(commands)
    cloudlab.add_command(commands)
    estimate.add_command(commands)
    models.add_command(commands)
    for command in (plan, explain):
        command.add_argument("--inventory", required=True, type=pathlib.Path, help="an inventory file or folder")
        command.add_argument("--host", required=True, help="the host's name in the inventory")
    return parser


def _run_plan(options: argparse.Namespace) -> str:
    plan = planned(options.inventory, options.host)
    if options.format == "json":
        return json.dumps(plan, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return table.render_plan(plan)


def _run_explain(options: argparse.Namespace) -> str:
    return explain.explained(planned(options.inventory, options.host), options.setting)


def _run_outdated(options: argparse.Namespace) -> str:
    return outdated.report(all_planned(options.inventory), catalogue.load())


def _events(inventory: pathlib.Path, host: str) -> list[dict[str, Any]]:
    """Every event of the plan playbook for one host."""
    import ansible_runner  # slow to import: the other commands do not wait for it

    with tempfile.TemporaryDirectory(prefix="inferhost-") as folder:
        run = ansible_runner.run(
            private_data_dir=folder,
            project_dir=str(ROOT),
            playbook=PLAYBOOK,
            inventory=str(inventory),
            limit=host,
            quiet=True,
            envvars={
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "PATH": _path(),
            },
        )
        return list(run.events)


def _path() -> str:
    """Where programs are looked for: beside this Python first, for a virtual environment need not be active."""
    return os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])


def _result(event: Mapping[str, Any]) -> Mapping[str, Any]:
    found = event.get("event_data", {}).get("res", {})
    return found if isinstance(found, Mapping) else {}


def _must_exist(inventory: pathlib.Path) -> None:
    if not inventory.exists():
        found = f'found "{inventory}", which does not exist'
        raise InputError([Problem("--inventory", found, _near_inventory(inventory))])


def _near_inventory(inventory: pathlib.Path) -> str:
    """A hint for an inventory that is not there: one of a name like it, else those of the checkout."""
    beside = [path for path in inventory.parent.glob("*") if path.is_dir()] if inventory.parent.is_dir() else []
    ours = sorted(path for path in (ROOT / "inventories").glob("*") if path.is_dir())
    shown = {path.name: os.path.relpath(path) for path in (*beside, *ours)}
    close = near(inventory.name, list(shown))
    if close:
        return f'did you mean "{shown[close.split(chr(34))[1]]}"?'
    return f"for example {', '.join(os.path.relpath(path) for path in ours)}; inferhost discover USER@HOST makes one"


def _near_host(inventory: pathlib.Path, host: str) -> str:
    """A hint for a host that the inventory does not have: one of a name like it, else the names that it has."""
    import ansible_runner

    os.environ["PATH"] = _path()  # the runner looks for ansible-inventory there
    found, _ = ansible_runner.get_inventory("list", [str(inventory.resolve())], response_format="json", quiet=True)
    names = sorted(found.get("_meta", {}).get("hostvars", {})) if isinstance(found, Mapping) else []
    return near(host, names) or (f"it has {', '.join(names[:8])}" if names else "it has no host with variables")


def _failure(events: Sequence[Mapping[str, Any]], host: str, inventory: pathlib.Path) -> list[str]:
    """What went wrong, as error and hint lines; the planner's own ones where it spoke."""
    said = [
        str(_result(e).get("msg", ""))
        for e in events
        if e.get("event") in ("runner_on_failed", "runner_on_unreachable")
    ]
    lines = list(dict.fromkeys(_problem_lines("\n".join(said))))
    if lines:
        return [line.replace("error: ", f"error: {host}: ", 1) for line in lines]
    output = COLOUR.sub("", "\n".join(str(e.get("stdout", "")) for e in events)).strip()
    if "no hosts to target" in output:
        found = f'error: --host: found "{host}", which the inventory does not have'
        return [found, f"hint: {_near_host(inventory, host)}"]
    details = [text for text in said if text] or output.splitlines()
    return [f"error: {host}: {PLAYBOOK} failed", *details]


def _problem_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        found = PROBLEM_LINE.match(line)
        if found:
            yield found[1]


if __name__ == "__main__":
    sys.exit(main())
