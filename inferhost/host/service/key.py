"""The key that an engine's clients have to send: read from its file on this host, and shown nowhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from inferhost.host.machine import CACHE_DIRECTORY, Machine
from inferhost.schema.plan import Plan
from inferhost.schema.problems import Problem

NAMED = "api_key:"
OPTION = "inferhost_service_api_key_file"


def read_key(machine: Machine, path: str | None) -> str | None:
    """The first key of a file: alone on its line, or behind `api_key:` as tabbyapi writes it; None where none is."""
    lines = [line.strip() for line in (machine.read_text(path) or "").splitlines()] if path else []
    named = [line[len(NAMED) :].strip().strip("\"'") for line in lines if line.startswith(NAMED)]
    plain = [line for line in lines if line and not line.startswith("#") and ": " not in line]
    return next(iter([*named, *plain]), None)


def key_problems(machine: Machine, plan: Plan) -> Iterator[Problem]:
    """A key file that is missing, empty or readable by others, before anything is placed."""
    for service in plan.service:
        path = service.probe.key_file
        if path is None or path.startswith(f"{CACHE_DIRECTORY}/"):  # the engine makes it itself
            continue
        if not machine.exists(path):
            yield Problem(OPTION, f"{path} is not on this host", "place it, readable by root alone", "key")
            continue
        mode = stat.S_IMODE(os.stat(machine.at(path)).st_mode)
        if mode & 0o077:
            message = f"{path} can be read by others (mode {mode:04o})"
            yield Problem(OPTION, message, f"chmod 0600 {path}", "key")
        elif read_key(machine, path) is None:
            yield Problem(OPTION, f"{path} holds no key, wanted one line", "write the key into it", "key")
