"""Runs the host program's `discover` once: over ssh, or on this machine, from a temporary folder that goes again."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

from inferhost.host.zipapp_build import zipapp_bytes
from inferhost.schema.problems import InputError, Problem

LOCAL = ("localhost", "127.0.0.1", "::1")
TARGET = re.compile(r"(?:(?P<user>[A-Za-z_][\w.-]*)@)?(?P<host>[A-Za-z0-9][\w.:-]*)")
NO_PYTHON = 127
SSH_FAILED = 255

# One connection: the program comes on standard input. With sudo without a password it also sees what others run.
SCRIPT = """
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
cat > "$folder/inferhost" || exit 1
command -v python3 > /dev/null || exit 127
if [ "$(id -u)" != 0 ] && sudo -n true 2> /dev/null; then as_root='sudo -n'; fi
$as_root python3 -B "$folder/inferhost" discover
"""


def observed(target: str, ssh_options: Sequence[str] = ()) -> dict[str, Any]:
    """The answer of one host: its result document, or `InputError` that says what to repair."""
    if not TARGET.fullmatch(target):
        raise InputError([Problem("target", f'found "{target}", wanted USER@HOST, HOST or localhost')])
    command = ["sh", "-c", SCRIPT] if is_local(target) else ["ssh", *ssh_options, target, remote_command()]
    try:
        done = subprocess.run(command, input=zipapp_bytes(), capture_output=True, check=False)
    except FileNotFoundError as error:
        raise InputError([Problem("ssh", "is not installed here", "install an OpenSSH client")]) from error
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == SSH_FAILED and not is_local(target):
        hint = f"try: ssh {target} true"
        raise InputError([Problem("target", f"{target} cannot be reached: {said or 'ssh failed'}", hint, "ssh")])
    if done.returncode == NO_PYTHON:
        hint = "install python3, 3.9 or newer: nothing else is needed there"
        raise InputError([Problem("target", f"{target} has no python3", hint, "python")])
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise InputError([Problem("target", f"{target} gave no answer: {said or done.returncode}")]) from error
    if done.returncode != 0:
        raise InputError([Problem("target", f"{target}: {said}")])
    return answer


def remote_command() -> str:
    """The script as one word, whatever shell the user has there."""
    return f"sh -c {shlex.quote(SCRIPT)}"


def is_local(target: str) -> bool:
    return target in LOCAL
