"""`inferhost model PATH`: what a checkpoint is, as a row ready for the catalogue's `models.json`."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from inferhost.models.bounds import WANTED, UnreadableModel
from inferhost.models.checkpoint import read_model
from inferhost.schema import document
from inferhost.schema.problems import InputError, Problem


def add_command(commands: Any) -> None:
    command = commands.add_parser("model", help="read a checkpoint's headers and print its catalogue row")
    command.add_argument("path", type=pathlib.Path, help=WANTED)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> str:
    if not options.path.exists():
        raise InputError([Problem(str(options.path), "is not there", WANTED, "unreadable-model")])
    try:
        row = read_model(options.path)
    except UnreadableModel as error:
        text = str(error).removeprefix(f"{options.path.name}: ")
        raise InputError([Problem(str(options.path), text, error.hint, "unreadable-model")]) from None
    except OSError as error:
        raise InputError([Problem(str(options.path), f"cannot be read: {error.strerror}")]) from None
    return json.dumps(document.plain(row), indent=1, ensure_ascii=False) + "\n"
