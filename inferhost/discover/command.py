"""`inferhost discover`: looks at one host, writes its inventory here, and changes nothing there."""

from __future__ import annotations

import argparse
import pathlib
import shlex
from typing import Any

from inferhost import catalogue
from inferhost.discover import inventory
from inferhost.discover.files import host_entry, written
from inferhost.discover.remote import TARGET, is_local, observed
from inferhost.discover.report import NOTHING, render_found, render_plan
from inferhost.imports.report import render_findings
from inferhost.schema.problems import InputError, Problem

FOLDER = pathlib.Path("inventories/mine")
HARDWARE_COMMENT = """What this host is made of, as inferhost discover saw it; null is unknown and stays unknown.
memory_mib of a card is what a program of ours can have: CUDA's view, less what a desktop held at that moment."""
WISH_COMMENT = """What this host does now, as a wish: docs/options.md has every option. Change it step by step.
inferhost_service_adopt names your own service, which is stopped when ours starts and given back by a revert."""


def add_command(commands: Any) -> None:
    """The command's grammar."""
    command = commands.add_parser("discover", help="look at a host and write its inventory; changes nothing there")
    command.add_argument("target", help="USER@HOST as for ssh, or localhost")
    command.add_argument("--inventory", type=pathlib.Path, default=FOLDER, help=f"where to write (default: {FOLDER})")
    command.add_argument("--name", help="the host's name in the inventory (default: what it calls itself)")
    command.add_argument("--ssh-config", metavar="FILE", help="a configuration for ssh -F, used by Ansible later too")
    command.add_argument("--force", action="store_true", help="replace files that say something else")
    command.set_defaults(run=run_discover)


def run_discover(options: argparse.Namespace) -> str:
    """Everything found, what a plan would give, and the files that were written."""
    config = ["-F", options.ssh_config] if options.ssh_config else []
    facts = observed(options.target, config)["facts"]
    name = options.name or facts["hostname"] or options.target.rpartition("@")[2]
    if not TARGET.fullmatch(name) or "@" in name:
        raise InputError([Problem("--name", f'found "{name}", wanted the name of a host')])
    known = catalogue.load()
    hardware = inventory.hardware(facts, known)
    wish, findings = inventory.wish(facts, known)
    parts = [render_found(name, facts, known)]
    parts += [
        render_findings(f"RUNS NOW: {launch.engine} in {launch.place}", found, ()) for launch, found in findings
    ]
    parts.append(render_plan(name, wish, hardware, known))
    documents = {
        "hardware.yml": (HARDWARE_COMMENT, {"inferhost_hardware": hardware}),
        "wish.yml": (WISH_COMMENT, wish),
    }
    entry = host_entry(name, _connection(options, config))
    lines = written(options.inventory, name, entry, documents, options.force)
    parts.append("FILES\n" + "\n".join(f"  {line}" for line in lines) + "\n")
    parts.append(
        NOTHING.format(host=name) + f"\nnext: inferhost plan --inventory {options.inventory} --host {name}\n"
    )
    return "\n".join(parts)


def _connection(options: argparse.Namespace, config: list[str]) -> dict[str, str]:
    """How Ansible reaches the host later: as this command did."""
    if is_local(options.target):
        return {"ansible_connection": "local"}
    user, _, host = options.target.rpartition("@")
    found = {"ansible_host": host}
    if user:
        found["ansible_user"] = user
    if config:
        place = str(pathlib.Path(options.ssh_config).resolve())
        found["ansible_ssh_common_args"] = shlex.join(["-F", place])
    return found
