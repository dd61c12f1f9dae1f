"""Whether the engine looks for CDI specifications where ours lies; a person may have named other folders.

Without a word of anybody docker and podman look into /etc/cdi and /var/run/cdi, which is /run/cdi.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from inferhost.host.machine import Machine
from inferhost.host.runtime import daemon_json
from inferhost.schema.container import Runtime
from inferhost.schema.problems import InputError, Problem

DOCKERS_KEY, PODMANS_KEY = "cdi-spec-dirs", "cdi_spec_dirs"
"""Of daemon.json, and of the table `engine` in containers.conf."""
PODMAN_FILES = ("/usr/share/containers/containers.conf", "/etc/containers/containers.conf")
PODMAN_FOLDER = "/etc/containers/containers.conf.d"
LISTED = re.compile(rf"^\s*{PODMANS_KEY}\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)


def folder_problems(machine: Machine, runtime: Runtime) -> list[Problem]:
    """Folders that somebody named, of which none is the specification's: no container would get a card."""
    wanted = os.path.dirname(runtime.cdi_spec)
    file, key, folders = ASKED[runtime.engine](machine)
    if not folders or wanted in map(_plain, folders):
        return []
    message = f"{key} names {', '.join(folders)}, and the specification of the cards lies in {wanted}"
    return [Problem(file, message, f'add "{wanted}" to {key}, or leave it out', "cdi-folders")]


def _dockers(machine: Machine) -> tuple[str, str, list[str]]:
    try:
        found = daemon_json.parsed(machine.read_bytes(daemon_json.PATH) or b"").get(DOCKERS_KEY)
    except InputError:  # the refusal of it is on its way
        found = None
    return daemon_json.PATH, DOCKERS_KEY, [str(one) for one in found] if isinstance(found, list) else []


def _podmans(machine: Machine) -> tuple[str, str, list[str]]:
    """The last file that says anything counts."""
    names = [name for name in machine.entries(PODMAN_FOLDER) if name.endswith(".conf")]
    file, folders = PODMAN_FILES[-1], ""
    for path in (*PODMAN_FILES, *(f"{PODMAN_FOLDER}/{name}" for name in names)):
        said = LISTED.search(machine.read_text(path) or "")
        file, folders = (path, said[1]) if said else (file, folders)
    return file, PODMANS_KEY, re.findall(r"[\"']([^\"']*)[\"']", folders)


ASKED: dict[str, Callable[[Machine], tuple[str, str, list[str]]]] = {"docker": _dockers, "podman": _podmans}


def _plain(folder: str) -> str:
    """A folder as it is written once: /var/run is /run."""
    return re.sub("^/var/run/", "/run/", os.path.normpath(folder))
