"""Whether the engine looks for CDI specifications where ours lies, and takes ours; a person may have named folders.

Without a word of anybody docker and podman look into /etc/cdi and /var/run/cdi, which is /run/cdi. Of a device that
files of two folders describe the later folder's counts; two files of one folder take it from each other. Source:
container-device-interface, pkg/cdi/cache.go.
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
FOLDERS = ["/etc/cdi", "/run/cdi"]
KIND = re.compile(r"\bkind[\"']?\s*:\s*[\"']?nvidia\.com/gpu(?![\w./-])")
NAMED = re.compile(r"\bname[\"']?\s*:\s*[\"']?([^\"'\s,}]+)")
LISTED = re.compile(rf"^\s*{PODMANS_KEY}\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)


def folder_problems(machine: Machine, runtime: Runtime) -> list[Problem]:
    """Folders that somebody named, of which none is the specification's: no container would get a card."""
    wanted = os.path.dirname(runtime.cdi_spec)
    file, key, folders = ASKED[runtime.engine](machine)
    if not folders or wanted in map(_plain, folders):
        return rivals(machine, runtime)
    message = f"{key} names {', '.join(folders)}, and the specification of the cards lies in {wanted}"
    return [Problem(file, message, f'add "{wanted}" to {key}, or leave it out', "cdi-folders")]


def rivals(machine: Machine, runtime: Runtime) -> list[Problem]:
    """Files that describe devices of ours, each of which keeps an engine from taking ours."""
    own, (file, key, named) = os.path.dirname(runtime.cdi_spec), ASKED[runtime.engine](machine)
    folders = [_plain(folder) for folder in named] or FOLDERS
    # nvidia-ctk always writes this one.
    mine = device_names(machine.read_text(runtime.cdi_spec) or "name: all")
    problems = []
    for folder in folders[folders.index(own) :] if own in folders else []:
        for path in (f"{folder}/{name}" for name in machine.entries(folder) if name.endswith((".json", ".yaml"))):
            text = machine.read_text(path) or ""
            if path == runtime.cdi_spec or not KIND.search(text) or not mine & device_names(text):
                continue
            if folder == own:
                why = "of two files in one folder an engine takes neither"
                hint = "take that file away, and what writes it"
            else:
                why = f"it counts instead: {key} in {file} names {folder} later"
                hint = f'name "{own}" last in {key}, or take that file away'
            message = f"describes devices of {runtime.cdi_spec} too, and {why}"
            problems.append(Problem(path, message, hint, "cdi-rival"))
    return problems


def device_names(specification: str) -> set[str]:
    """The names by which engines are asked for its devices, as `all` and a UUID."""
    return set(NAMED.findall(specification))


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
