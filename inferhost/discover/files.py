"""Writes an inventory: what is new is written, what a person changed is shown as a difference and kept.

A file that says the same is left alone; one that says something else is replaced only when asked for.
"""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from inferhost.imports.report import commented

HOSTS_HEAD = (
    "---\n# Written by inferhost discover; each host's own variables stand in host_vars/HOST/.\nall:\n  hosts:\n"
)


def host_entry(name: str, variables: Mapping[str, Any]) -> str:
    """One host of hosts.yml."""
    text = yaml.safe_dump({name: dict(variables) or None}, sort_keys=False)
    return "".join(f"    {line}\n" for line in text.replace(" null", "").splitlines())


def written(
    folder: pathlib.Path, name: str, entry: str, documents: Mapping[str, tuple[str, Mapping[str, Any]]], force: bool
) -> list[str]:
    """Writes hosts.yml and `host_vars/NAME/*`, and says of each file what became of it."""
    lines = [_hosts(folder / "hosts.yml", name, entry)]
    for file, (comment, values) in documents.items():
        path = folder / "host_vars" / name / file
        text = (
            f"---\n{commented(comment)}{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110)}"
        )
        lines.append(_file(path, text, values, force))
    return lines


def _hosts(path: pathlib.Path, name: str, entry: str) -> str:
    """The host's entry: in a new file, at the end of one that we began, or as a text to put in by hand."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HOSTS_HEAD + entry, encoding="utf-8")
        return f"written: {path}"
    text = path.read_text(encoding="utf-8")
    if name in _names(yaml.safe_load(text)):
        return f"kept: {path} has the host already"
    if text.startswith(HOSTS_HEAD):
        path.write_text(text.rstrip("\n") + "\n" + entry, encoding="utf-8")
        return f"written: {path}"
    return f"kept: {path} is not ours; put this below one of its groups:\n{entry.rstrip()}"


def _file(path: pathlib.Path, text: str, values: Mapping[str, Any], force: bool) -> str:
    if path.exists():
        before = path.read_text(encoding="utf-8")
        if yaml.safe_load(before) == yaml.safe_load(yaml.safe_dump(dict(values))):
            return f"kept: {path} says the same"
        if not force:
            lines = difflib.unified_diff(
                before.splitlines(), text.splitlines(), f"{path} (kept)", "discovered now", lineterm=""
            )
            return f"kept: {path} says something else; --force replaces it\n" + "\n".join(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return f"written: {path}"


def _names(group: Any) -> set[str]:
    """Every host name in an inventory document."""
    found: set[str] = set()
    if isinstance(group, dict):
        for key, value in group.items():
            found |= set(value or ()) if key == "hosts" and isinstance(value, dict | type(None)) else _names(value)
    return found
