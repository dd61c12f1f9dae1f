"""One launch of an engine as somebody wrote it: which engine, its arguments, its environment, and what is broken.

Recognises the engine by its program, never by a guess: a wrapper in front (`sudo`, `numactl`, `nohup`) is passed
over, and a mere mention (`pkill -f llama-server`) is no launch.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
LOADER = re.compile(r"ld(-linux[a-z0-9_-]*)?\.so")
PYTHON = re.compile(r"(?:\S*/)?python[0-9.]*")

WRAPPERS = frozenset(
    {
        *("sudo", "doas", "env", "exec", "command", "nohup", "setsid", "nice", "ionice", "chrt", "taskset"),
        *("numactl", "stdbuf", "time", "timeout", "nvprof", "nsys", "ncu", "catchsegv"),
        *("systemd-run", "systemd-inhibit", "uv", "conda", "mamba", "poetry"),
    }
)
"""Programs that run the program behind them."""

MODULES = {
    "sglang.launch_server": "sglang",
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.cli.main": "vllm",
    "sfllm.serving.app": "sfllm",
}
"""Python modules that serve. Source: catalogue engines, field `source`."""

SERVES = {"sglang": "sglang", "vllm": "vllm"}
"""Programs that serve with the word `serve`."""

IMAGES = (
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("tabby", "tabbyapi"),
    ("sfllm", "sfllm"),
    ("llama.cpp", "llama.cpp"),
    ("llama-cpp", "llama.cpp"),
    ("llama", "llama.cpp"),
)
"""What the name of an image or a container service says of the engine in it, most telling first."""


@dataclasses.dataclass(frozen=True)
class Mistake:
    """Something that does not do what its author meant, whatever the engine."""

    place: str
    verdict: str  # one of judge.VERDICTS
    found: str
    because: str
    instead: str


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch. `program` is empty where only arguments or variables were found."""

    place: str
    engine: str
    program: str = ""
    words: tuple[str, ...] = ()
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    user: str = ""
    directory: str = ""
    port: str = ""  # as clients see it, where a container publishes another one than the engine's
    volumes: dict[str, str] = dataclasses.field(default_factory=dict)  # path in the container -> path on the host
    published_on: str = ""  # the address at which a container's port is published
    contained: bool = False
    devices: str = ""  # the cards that a container is given, as numbers or UUIDs with commas, or `all`
    container: dict[str, str] = dataclasses.field(default_factory=dict)  # settings of the container alone


@dataclasses.dataclass(frozen=True)
class Source:
    """What one file or running process holds."""

    launches: tuple[Launch, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    env: dict[str, str] = dataclasses.field(default_factory=dict)  # variables that no launch was found for
    words: tuple[str, ...] = ()  # arguments that no launch was found for
    gpu: dict[str, Any] = dataclasses.field(default_factory=dict)  # what nvidia-smi sets


def recognised(words: Sequence[str], place: str, directory: str = "") -> Launch | None:
    """The launch that a command line is, or nothing."""
    env: dict[str, str] = {}
    loaded = False
    for number, word in enumerate(words):
        found = _program_at(words, number, directory)
        if found is not None:
            engine, arguments, program = found
            # What a loader was given is no program that starts by itself.
            program = "" if loaded else program
            return Launch(place, engine, program, tuple(arguments), env, directory=directory)
        assigned = ASSIGNMENT.fullmatch(word)
        if assigned:
            env[assigned[1]] = assigned[2]
        elif number == 0 and LOADER.match(_name(word)):
            loaded = True
        elif number == 0 and _name(word) not in WRAPPERS:
            return None
    return None


def engine_of_name(name: str) -> str | None:
    """The engine that an image's or a container's name speaks of."""
    return next((engine for part, engine in IMAGES if part in name.lower()), None)


def read_environment_file(text: str) -> dict[str, str]:
    """`NAME=value` lines; comments and quotation marks as systemd and Compose take them."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        assigned = ASSIGNMENT.fullmatch(line.strip().removeprefix("export "))
        if assigned and not line.lstrip().startswith(("#", ";")):
            value = assigned[2].strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            found[assigned[1]] = value[1:-1] if quoted else value
    return found


def wrong_module(words: Sequence[str]) -> str | None:
    """`llama.cpp` where somebody runs it as a Python module, which does not exist."""
    for before, after in itertools.pairwise(words):
        if before == "-m" and after in ("llama.cpp", "llama_cpp"):
            return after
    return None


def _program_at(words: Sequence[str], number: int, directory: str) -> tuple[str, Sequence[str], str] | None:
    """Engine, arguments and program where the word at `number` starts one."""
    word, rest = words[number], words[number + 1 :]
    name = _name(word)
    if name in ("llama-server", "llama-server.bin"):
        return "llama.cpp", rest, word
    if name in SERVES and rest[:1] == ["serve"]:
        return SERVES[name], _model_first(rest[1:], SERVES[name]), word
    if not PYTHON.fullmatch(word):
        return None
    options = [n for n, w in enumerate(rest) if not w.startswith("-")]
    first = options[0] if options else len(rest)
    if "-m" in rest[:first] and first < len(rest) and rest[first] in MODULES:
        return MODULES[rest[first]], rest[first + 1 :], word
    if first < len(rest):
        script, after = rest[first], rest[first + 1 :]
        if _name(script) in SERVES and after[:1] == ["serve"]:
            return SERVES[_name(script)], _model_first(after[1:], SERVES[_name(script)]), script
        if script.endswith("sfllm/serving/app.py"):
            return "sfllm", after, word
        if _name(script) in ("main.py", "start.py") and "tabby" in f"{directory}/{script}".lower():
            return "tabbyapi", after, word
    return None


def _model_first(words: Sequence[str], engine: str) -> Sequence[str]:
    """vLLM and SGLang take the model as a bare first word too: it gets the flag that says the same."""
    if words and not words[0].startswith("-"):
        return ["--model" if engine == "vllm" else "--model-path", *words]
    return words


def _name(word: str) -> str:
    return word.rpartition("/")[2]
