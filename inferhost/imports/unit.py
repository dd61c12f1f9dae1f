"""Reads a systemd unit with its drop-ins for the engine that it starts.

Files are read through a function that the caller gives, so that the same code reads this machine and a test's folder.
A script that ExecStart names is read as well; a variable file that cannot be read is said.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from inferhost.imports.card import card_settings, take_over
from inferhost.imports.launch import ASSIGNMENT, Launch, Mistake, Source, read_environment_file, recognised
from inferhost.imports.shell import CONTAINERS, read_script

Read = Callable[[str], str | None]
"""The text of a file by its path, None where there is none or it may not be read."""

UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system")
SHELLS = ("sh", "bash", "dash", "zsh")
SHEBANG = re.compile(r"#!\s*(?:/usr/bin/env\s+)?\S*\b(?:ba|da|z)?sh\b")


def read_unit(texts: Iterable[str], name: str, read: Read) -> Source:
    """The launches of a unit from its file and its drop-ins, in the order in which systemd reads them."""
    values = _values(texts)
    mistakes: list[Mistake] = []
    env = _environment(values, name, read, mistakes)
    directory = values.get("WorkingDirectory", [""])[-1].lstrip("-")
    launches: list[Launch] = []
    words: list[str] = []
    gpu: dict[str, Any] = {}
    for line in (one for key in ("ExecStartPre", "ExecStart", "ExecStartPost") for one in values.get(key, [])):
        settings, told = card_settings(_split(line.lstrip("@-:+!")), name)
        take_over(gpu, settings)
        mistakes += told
    for line in values.get("ExecStart", []):
        found = _started(line, name, env=env, directory=directory, read=read)
        launches += found.launches
        mistakes += found.mistakes
        words += found.words
        take_over(gpu, found.gpu)
    user = values.get("User", [""])[-1]
    started = tuple(dataclasses.replace(one, user=user) for one in launches)
    return Source(started, tuple(mistakes), env, tuple(words), gpu)


def _values(texts: Iterable[str]) -> dict[str, list[str]]:
    """The keys of [Service] over all files; an empty value clears what stood before it, as in systemd."""
    found: dict[str, list[str]] = {}
    for text in texts:
        section = ""
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            stripped = line.strip()
            if not stripped or stripped[0] in "#;":
                continue
            if stripped.startswith("["):
                section = stripped
            elif section == "[Service]" and "=" in stripped:
                key, _, value = (part.strip() for part in stripped.partition("="))
                if value:
                    found.setdefault(key, []).append(value)
                else:
                    found.pop(key, None)
    return found


def _environment(values: Mapping[str, list[str]], name: str, read: Read, mistakes: list[Mistake]) -> dict[str, str]:
    """Environment= first, then EnvironmentFile=, which wins."""
    found: dict[str, str] = {}
    for line in values.get("Environment", []):
        for word in _split(line):
            assigned = ASSIGNMENT.fullmatch(word)
            if assigned:
                found[assigned[1]] = assigned[2]
    for path in values.get("EnvironmentFile", []):
        text = read(path.lstrip("-"))
        if text is not None:
            found.update(read_environment_file(text))
            because = "was read, and wins over Environment=; its variables are judged with the others"
            mistakes.append(Mistake(name, "kept", f"EnvironmentFile={path}", because, ""))
        elif path.startswith("-"):
            because = "is not there, which the unit allows, so it adds no variables to the wish"
            mistakes.append(Mistake(name, "placebo", f"EnvironmentFile={path}", because, "run this on the host"))
        else:
            because = "cannot be read here, so its variables are not in the wish"
            mistakes.append(Mistake(name, "harmful", f"EnvironmentFile={path}", because, "run this on the host"))
    return found


def _started(line: str, name: str, *, env: dict[str, str], directory: str, read: Read) -> Source:
    """What one ExecStart runs: an engine, a container, a shell's text, or a script that is read in turn."""
    words = [_expanded(word, env) for word in _split(line.lstrip("@-:+!"))]
    if not words:
        return Source()
    base = words[0].rpartition("/")[2]
    if base in SHELLS:
        option = next((n for n, w in enumerate(words) if n and w.startswith("-") and "c" in w), None)
        if option is not None and option + 1 < len(words):
            return read_script(words[option + 1], name, env, directory)
        words = [w for w in words[1:] if not w.startswith("-")] or words
    if base in CONTAINERS:
        return read_script(shlex.join(words), name, env, directory)
    found = recognised(words, name, directory)
    if found is not None:
        return Source((dataclasses.replace(found, env={**env, **found.env}),))
    text = read(words[0])
    if text is not None and (SHEBANG.match(text) or base in SHELLS):
        return read_script(text, words[0], env, directory)
    return Source()


def _expanded(word: str, env: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?([A-Za-z_]\w*)\}?", lambda m: env.get(m[1], m[0]), word)


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()
