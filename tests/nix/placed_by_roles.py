"""What the Ansible roles place for a plan: every copy task of the roles' own files, with its templates rendered.

A role that places something in another way is named by `unknown_tasks`, so that no comparison misses it in silence.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar

from inferhost.schema.plan import BASE

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNITS = ROOT / "inferhost/host/units"
COPY = "ansible.builtin.copy"
COMPARED = {COPY, "inferhost_host", "ansible.builtin.user", "ansible.builtin.file"}
"""Modules whose effect is compared: files, the host program's sections, users; a folder comes with its file."""
HARMLESS = {
    "ansible.builtin.import_role", "ansible.builtin.import_tasks", "ansible.builtin.assert", "ansible.builtin.debug",
    "ansible.builtin.set_fact", "ansible.builtin.group_by",
}  # fmt: skip
PACKAGES = ("inferhost_driver", "inferhost_runtime", "inferhost_balancer")
"""Roles of a distribution's packages, with the files that go with them; NixOS has these on its own."""
OMIT = "as if it were not written"
NOT_ON_NIXOS = (
    "revert.yml",  # NixOS goes back by generation, and by the stop of inferhost-apply
    "package_*.yml",  # imported by the roles of packages alone
)


@dataclasses.dataclass(frozen=True)
class File:
    """One file as it ends up on a host."""

    path: str
    mode: str
    text: str


def files(plan: dict[str, Any]) -> list[File]:
    """Every file that the roles copy for this plan, sorted by path."""
    found = []
    for role, task in tasks():
        if COPY in task:
            found += list(_copies(role, task, plan))
    found += _installed(plan)
    return sorted(found, key=lambda file: file.path)


def _installed(plan: dict[str, Any]) -> Iterator[File]:
    """What the host program's own `install` places beside the plan: the units of Inferhost itself."""
    for file in plan["files"]:
        if file["section"] == BASE:
            yield File(file["path"], file["mode"], (UNITS / file["package_file"]).read_text())


def applied_sections() -> set[str]:
    """The sections that the roles hand to `inferhost apply`."""
    return {
        section
        for _, task in tasks()
        if task.get("inferhost_host", {}).get("verb") == "apply"
        for section in task["inferhost_host"]["sections"]
    }


def unknown_tasks() -> list[str]:
    """Names of tasks whose effect on NixOS nobody has thought of yet."""
    keywords = COMPARED | HARMLESS
    return [task["name"] for _, task in tasks() if not keywords & set(task)]


def tasks() -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
    """Every task that places something, with its role's folder, blocks opened."""
    for path in sorted((ROOT / "roles").glob("*/tasks/*.yml")):
        if not any(path.match(name) for name in NOT_ON_NIXOS) and path.parents[1].name not in PACKAGES:
            for task in _opened(DataLoader().load_from_file(str(path), trusted_as_template=True)):
                yield path.parents[1], task


def _opened(listed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in listed:
        if "block" in task:
            yield from _opened(task["block"])
        else:
            yield task


def _copies(role: pathlib.Path, task: dict[str, Any], plan: dict[str, Any]) -> Iterator[File]:
    filter_loader.add_directory(str(ROOT / "filter_plugins"))
    variables: dict[str, Any] = {"__inferhost_plan": plan, "role_path": str(role), "omit": OMIT}
    for item in _rendered(task["loop"], variables):
        own = {**variables, task["loop_control"]["loop_var"]: item}
        whole = {key: _rendered(value, own) for key, value in task[COPY].items()}
        given = {key: value for key, value in whole.items() if value != OMIT}
        text = given["content"] if "content" in given else pathlib.Path(given["src"]).read_text()
        yield File(given["dest"], given["mode"], text)


def _rendered(value: Any, variables: dict[str, Any]) -> Any:
    return Templar(loader=DataLoader(), variables=variables).template(value)
