"""`daemon.json`: parsed, merged and taken apart again, never written over.

Ansible writes it, once and with a diff. Here stands what it has to hold: everything that others put there, in their
order, and our keys. Taking back removes our keys from whatever stands there by then.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Record
from inferhost.host.record.placed import observe_file
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError, Problem

PATH = "/etc/docker/daemon.json"
KEY = f"daemon:{PATH}"
PASSWORD = re.compile(rb"://[^/\s\"]*:[^/\s\"]*@")
"""A proxy's address may carry one; such a file is not shown in a diff."""


def daemon_record(machine: Machine, plan: Plan) -> dict[str, Record]:
    """The file as it is before us, and which keys become ours."""
    if plan.runtime is None or not plan.runtime.daemon:
        return {}
    found = observe_file(machine, PATH)
    return {KEY: Record("runtime", found, {"ours": json.dumps(plan.runtime.daemon, sort_keys=True)})}


def daemon_problems(machine: Machine, plan: Plan) -> list[Problem]:
    """Why our keys cannot be put into the file that stands there."""
    if plan.runtime is None or not plan.runtime.daemon:
        return []
    try:
        wanted_file(machine, plan.runtime.daemon)
    except InputError as error:
        return error.problems
    return []


def wanted_file(machine: Machine, ours: Mapping[str, Any]) -> dict[str, Any]:
    """What the file has to be: content, mode and owner; theirs stay as they are. `InputError` where it is broken.

    `folder`: the one to make, empty where there is one, whose mode is somebody's choice as well.
    """
    found = observe_file(machine, PATH)
    if found is not None and "symlink" in found:
        message = f"is a link to {found['symlink']}, so somebody else's tool writes it"
        raise InputError([Problem(PATH, message, f"set {json.dumps(dict(ours))} there", "daemon-json")])
    before = b"" if found is None else base64.b64decode(found["content_base64"])
    document = parsed(before)
    merged = with_ours(document, ours)
    content = before if found is not None and merged == document else text(merged)
    return {
        "path": PATH,
        "folder": "" if machine.exists(os.path.dirname(PATH)) else os.path.dirname(PATH),
        "content": content.decode(),
        "mode": "0644" if found is None else found["mode"],
        "owner": str(0 if found is None else found["uid"]),
        "group": str(0 if found is None else found["gid"]),
        "showable": not PASSWORD.search(content),
    }


def parsed(content: bytes) -> dict[str, Any]:
    """The document; an empty file is an empty one, as for docker. A broken one is an error with its position."""
    if not content.strip():
        return {}
    hint = "repair it first: dockerd --validate --config-file /etc/docker/daemon.json says the same"
    try:
        found = json.loads(content.decode("utf-8-sig"))  # docker takes that mark since 23.0: moby/moby#44777
    except json.JSONDecodeError as error:
        message = f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputError([Problem(PATH, message, hint, "daemon-json")]) from error
    except UnicodeDecodeError as error:
        raise InputError([Problem(PATH, f"is not UTF-8: byte {error.start}", hint, "daemon-json")]) from error
    if not isinstance(found, dict):
        raise InputError([Problem(PATH, "is JSON, but no mapping of options", hint, "daemon-json")])
    return found


def with_ours(found: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Their document with our values in it; a mapping of ours joins theirs."""
    merged = copy.deepcopy(dict(found))
    for key, value in ours.items():
        there = {} if merged.get(key) is None else merged[key]  # docker reads null as nothing said
        if isinstance(value, dict) and not isinstance(there, dict):
            message = f'found "{key}": {json.dumps(there)}, wanted a mapping'
            raise InputError([Problem(PATH, message, "docker refuses it too: repair it first", "daemon-json")])
        merged[key] = with_ours(there, value) if isinstance(value, dict) else value
    return merged


def without_ours(found: Mapping[str, Any], ours: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The document with our values as they were before us, and everything else as it is now."""
    left = copy.deepcopy(dict(found))
    for key, value in ours.items():
        if key not in left:
            continue
        earlier = before.get(key)
        if isinstance(value, dict) and isinstance(left[key], dict):
            left[key] = without_ours(left[key], value, earlier if isinstance(earlier, dict) else {})
            if not left[key] and earlier is None:
                left[key] = None
                if key not in before:
                    del left[key]
        elif key in before:
            left[key] = earlier
        else:
            del left[key]
    return left


def held(found: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether every value of ours stands in the document."""
    return with_ours(found, ours) == dict(found)


def text(document: Mapping[str, Any]) -> bytes:
    """The document as it is written: their order of keys, two blanks, one line end."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def original(record: Record, now: bytes | None) -> dict[str, Any] | None:
    """What goes back: the recorded file where nobody wrote to it since, else theirs of today without our keys.

    None where the file was not there before us and nobody else has put anything into it.
    """
    found = record.found
    before = b"" if found is None else base64.b64decode(found["content_base64"])
    if now is None:
        return None
    ours, earlier = json.loads(record.context["ours"]), parsed(before)
    left = without_ours(parsed(now), ours, earlier)
    if left == earlier:
        return dict(found) if found is not None else None
    return {"content_base64": base64.b64encode(text(left)).decode()}
