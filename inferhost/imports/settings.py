"""Reads TabbyAPI's config.yml, whose keys are its command line options in groups."""

from __future__ import annotations

from typing import Any

import yaml

from inferhost.imports.launch import Launch, Mistake, Source
from inferhost.schema.problems import InputError, Problem

REMOVED_BACKENDS = ("exllamav2", "exllama")
"""Source: tabbyAPI c8b9a8f (2026-07-14), catalogue engines tabbyapi, field `notes`."""


def read_settings(text: str, name: str) -> Source:
    """TabbyAPI's launch from its config.yml."""
    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError([Problem(name, f"is not YAML: {error}", "", "import")]) from error
    if not isinstance(document, dict):
        raise InputError([Problem(name, "is no configuration of TabbyAPI", "name its config.yml", "import")])
    words: list[str] = []
    mistakes: list[Mistake] = []
    for group in document.values():
        for key, value in group.items() if isinstance(group, dict) else ():
            if value is None:
                continue
            if key == "backend" and str(value).lower() in REMOVED_BACKENDS:
                because = "tabbyapi dropped ExLlamaV2, EXL2 and GPTQ on 2026-07-14"
                mistakes.append(Mistake(name, "fatal", f"backend: {value}", because, "an EXL3 model on exllamav3"))
                continue
            words += [f"--{str(key).replace('_', '-')}", *_values(value)]
    return Source((Launch(name, "tabbyapi", "", tuple(words)),), tuple(mistakes))


def _values(value: Any) -> list[str]:
    """A value as words of a command line."""
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
