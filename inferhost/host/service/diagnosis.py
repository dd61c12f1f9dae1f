"""Which option of the wish an engine's last words speak of: a table of what the engines print when they cannot go on.

A line that nobody knows names no option; the journal's end is shown in any case.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from inferhost.host.machine import Machine
from inferhost.schema.problems import Problem

READ_LINES, SHOWN_LINES = 60, 15
"""Of the journal. systemd writes some lines of its own about each try, and the engine's words stand before them."""


class Diagnosis(NamedTuple):
    """A pattern of an engine's words, the option it speaks of, and what helps. Source: where the words stand."""

    pattern: str
    option: str
    hint: str
    source: str


DIAGNOSES = (
    Diagnosis(
        r"error: invalid argument|error while handling argument|unrecognized arguments|argument -\S+: ",
        "extra_args",
        "look at the engine's --help at this version",
        "llama.cpp common/arg.cpp; argparse of Python",
    ),
    Diagnosis(
        r"address already in use|couldn't bind|error while attempting to bind",
        "port",
        "name a free port, or stop who holds it",
        "llama.cpp tools/server/server.cpp; uvicorn, from asyncio",
    ),
    Diagnosis(
        r"out of memory|OutOfMemoryError|cudaMalloc failed|failed to allocate|Loaded weights leave no GPU memory"
        r"|Free memory on device .* is less than desired|No available memory for the cache blocks",
        "context_tokens",
        "a smaller model, fewer bits, a shorter context or fewer requests; or free the card",
        "PyTorch; ggml-cuda; SGLang kv_cache_configurator.py; vLLM worker/utils.py",
    ),
    Diagnosis(
        r"failed to load model|error loading model|failed to open GGUF|is not a valid (JSON|model)|"
        r"No such file or directory.*(gguf|safetensors|config\.json)|does not appear to have a file named|"
        r"HFValidationError|Can't load the configuration",
        "model_path",
        "is it whole, and of a format that the engine reads?",
        "llama.cpp src/llama.cpp; transformers",
    ),
)


def diagnosed(words: str) -> Diagnosis | None:
    """The first row whose pattern stands in these words."""
    return next((row for row in DIAGNOSES if re.search(row.pattern, words, re.IGNORECASE)), None)


def engine_problem(machine: Machine, unit: str, setting: str, message: str, *, otherwise: str, name: str) -> Problem:
    """The problem under the option that the engine's last words speak of; under `setting` where they name none.

    Engines do not log requests unless told to, and the plan never tells them, so their words can be shown.
    """
    said = machine.command(["journalctl", "-u", unit, "-n", str(READ_LINES), "-o", "cat", "--no-pager"])
    lines = said.stdout.strip().splitlines()
    shown = f"its journal ends: {' | '.join(lines[-SHOWN_LINES:])}" if lines else f"see: journalctl -u {unit}"
    found = diagnosed("\n".join(lines))
    if found is None:
        return Problem(setting, message, f"{otherwise}{shown}", name)
    return Problem(f"inferhost_service_{found.option}", message, f"{found.hint}; {shown}", name)
