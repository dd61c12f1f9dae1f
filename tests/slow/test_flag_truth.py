"""Every command line that the planner renders, read by the engine's own parser: one case per engine and class of
card, and the golden plans. A table of flags can be wrong in the same way as the plan; the parser cannot.

llama-server reads its own for real. Of the others only the parser runs, in an environment that `make_parsers ENGINE`
makes; without it the engine is skipped, and the table of its flags is all that its command lines were held against.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.unit.planner_wishes import CATALOGUE, planned
from tests.unit.test_units_of_engines import classes, runs, values

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("INFERHOST_CACHE", pathlib.Path.home() / ".cache/inferhost"))
READER = pathlib.Path(__file__).with_name("engine_parsers.py")
ENGINES = {row.engine: row for row in CATALOGUE.engines.values()}
SOURCE = {"tabbyapi": "source", "sfllm": "source/python/sfllm"}
WRONG = {
    "vllm": ["--max-model-len", "many"],
    "sglang": ["--context-length", "many"],
    "llama.cpp": ["--ctx-size", "many"],
    "tabbyapi": ["--max-seq-len", "many"],
    "sfllm": ["--model-path", "/x", "--max-context-length", "many"],
}


def command_lines(engine: str) -> dict[str, list[str]]:
    """What is rendered for this engine, without the program, by class of card and golden plan."""
    found = {}
    for name, card in classes():
        if name == engine and runs(engine, card):
            found[card] = list(planned(values(engine, card)).service[0].argv)
    for path in sorted((ROOT / "tests/golden").glob("*/plan.json")):
        for service in json.loads(path.read_text())["service"]:
            if service["engine"] == engine:
                found[f"{path.parent.name} {service['instance']}"] = service["argv"]
    skipped = 1 + len(ENGINES[engine].arguments)
    return {name: argv[skipped:] for name, argv in found.items()}


@functools.cache
def llama_server() -> pathlib.Path:
    sys.path.insert(0, str(ROOT / "tests/bed"))
    from bedlib.engine import engine_root

    return engine_root() / "bin/llama-server"


def of_llama_server(lines: list[list[str]]) -> list[dict]:
    """llama-server reads the line up to a last `--help`, and ends."""
    answers = []
    for words in lines:
        done = subprocess.run([llama_server(), *words, "--help"], capture_output=True, text=True, check=False)
        answers.append({} if done.returncode == 0 else {"error": done.stderr.strip().splitlines()[-1]})
    return answers


def parsed(engine: str, lines: list[list[str]]) -> list[dict]:
    """What the engine's parser says of each line."""
    if engine == "llama.cpp":
        return of_llama_server(lines)
    home = CACHE / "engine-parsers" / f"{engine}-{ENGINES[engine].version}"
    if not (home / "bin/python").exists():
        pytest.skip(f"SKIPPED: {home} is not there: tests/slow/make_parsers {engine} makes it")
    argv = [home / "bin/python", READER, engine, *([home / SOURCE[engine]] if engine in SOURCE else [])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        argv, input=json.dumps(lines), capture_output=True, text=True, check=False, env=environment, cwd=home
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_reads_each_command_line_as_it_was_meant(engine: str):
    lines = command_lines(engine)
    assert len(lines) >= 6
    for name, words, answer in zip(lines, lines.values(), parsed(engine, list(lines.values())), strict=True):
        assert "error" not in answer, f"{name}: {answer['error']}"
        for flag, value in answer.get("values", {}).items():
            given = words[words.index(flag) + 1 :][:1]
            switch = not given or given[0].startswith("--")
            meant = value in (True, False) if switch else same(value, given[0])
            assert meant, f"{name}: {flag} {given} was read as {value!r}"
    print(f"{engine} {ENGINES[engine].version}: {len(lines)} command lines read by its own parser")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_parser_refuses_a_flag_that_it_does_not_know_and_a_value_that_is_none(engine: str):
    """Without this a parser that takes everything would prove nothing."""
    known = next(iter(command_lines(engine).values()))
    unknown, wrong = parsed(engine, [[*known, "--no-such-flag", "1"], WRONG[engine]])
    assert "error" in unknown
    assert "error" in wrong


def same(value, given: str) -> bool:
    """Whether a parsed value is what was written; a list of one is its member."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value) == given or (isinstance(value, (int, float)) and float(value) == float(given))
