"""Reads a shell script for launches, defensively: nothing is run, nothing is expanded but plain variables.

Scripts are read as their author meant them, and every place where the shell reads them otherwise is a mistake with
its line: a backslash that does not end its line, an option on a line of its own, blanks around the `=` of `export`.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inferhost.imports.card import card_settings, take_over
from inferhost.imports.containers import read_docker_run
from inferhost.imports.launch import ASSIGNMENT, Launch, Mistake, Source, recognised, wrong_module

BROKEN_CONTINUATION = re.compile(r"\\[ \t]+$")
HEREDOC = re.compile(r"<<-?\s*([\"']?)([A-Za-z_][A-Za-z0-9_]*)\1")
VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)(?:\[@\])?(?::?-([^}]*))?\}?")
FOR = re.compile(r"(?:^|;)\s*for\s+(\w+)\s+in\s+([^;\n]+)")
COMPUTED = re.compile(r"[$`*?{]")
"""What a shell would make a word of a loop from."""
OWN_ARGUMENTS = re.compile(r"\$(?:[@*]|\{[@*][^}]*\})")
"""The arguments that a script itself was started with."""
KEYWORDS = frozenset(
    {"do", "then", "else", "if", "while", "until", "elif", "!", "{", "}", "done", "fi", "exec", "time"}
)
ENDS = frozenset({";", "&", "&&", "||", "|", ";;", "|&", "(", ")"})
CONTAINERS = ("docker", "podman", "nerdctl")
ARGV = "generate the argument list instead of shell text, as the plan does"


@dataclasses.dataclass(frozen=True)
class Line:
    """A logical line: continuations joined, comments gone."""

    number: int
    text: str


class _Reader:
    """Walks one script and keeps what the shell would keep: variables, exports, the activated environment."""

    def __init__(self, name: str, env: Mapping[str, str], directory: str) -> None:
        self.name = name
        self.variables: dict[str, str] = {}
        self.arrays: dict[str, list[str]] = {}
        self.exported: dict[str, str] = dict(env)
        self.all_exported = False
        self.venv = ""
        self.directory = directory
        self.launches: list[Launch] = []
        self.mistakes: list[Mistake] = []
        self.words: list[str] = []
        self.gpu: dict[str, Any] = {}
        self.open_launch = False  # the line before was a launch, and could have gone on here
        self.foreground: Launch | None = None
        self.told = False  # that what stands behind it never runs
        self.loop = ""  # the head of the loop of several rounds that is read

    def mistake(self, number: int, verdict: str, found: str, because: str, instead: str) -> None:
        self.mistakes.append(Mistake(f"{self.name}:{number}", verdict, found, because, instead))


def read_script(text: str, name: str, env: Mapping[str, str] | None = None, directory: str = "") -> Source:
    """The launches of a script, each with the variables exported before it."""
    reader = _Reader(name, env or {}, directory)
    for line in _logical_lines(text, reader):
        loop = FOR.search(line.text)
        if loop:
            rounds = loop[2].split()
            first = "" if COMPUTED.search(rounds[0]) else rounds[0]
            reader.loop = loop[0].strip("; \t") if rounds[1:] or not first else ""
            reader.variables.pop(loop[1], None)
            reader.variables.update({loop[1]: first} if first else {})
        for words, background in _commands(line.text):
            _command(words, background, line.number, reader)
    own = {key: value for key, value in reader.exported.items() if key not in (env or {})}
    return Source(tuple(reader.launches), tuple(reader.mistakes), own, tuple(reader.words), reader.gpu)


def _logical_lines(text: str, reader: _Reader) -> Iterator[Line]:
    """Lines with their continuations, as meant; quotations over several lines are kept together."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        start, joined = number + 1, ""
        while number < len(lines):
            raw = lines[number]
            number += 1
            bare = _without_comment(joined + raw)
            if joined and raw.lstrip().startswith("#"):
                reader.mistake(
                    number, "fatal", raw.strip(), "a comment line ends the continued command above it", ARGV
                )
                continue
            broken = BROKEN_CONTINUATION.search(bare)
            if broken:
                because = "blanks after the backslash end the command: the next line runs as a command of its own"
                reader.mistake(number, "fatal", raw.strip(), because, ARGV)
                joined = bare[: broken.start()] + " "
            elif bare.endswith("\\") and not bare.endswith("\\\\"):
                joined = bare[:-1] + " "
            else:
                joined = bare
                break
        heredoc = HEREDOC.search(joined)
        if heredoc:
            while number < len(lines) and lines[number].strip() != heredoc[2]:
                number += 1
            number += 1
            joined = joined[: heredoc.start()]
        end = _end_of_quotation(lines, number, joined)
        if end is None:
            reader.mistake(start, "fatal", lines[start - 1].strip(), "a quotation is opened and never closed", ARGV)
            continue
        joined = "\n".join([joined, *lines[number:end]])
        number = end
        if joined.strip():
            yield Line(start, joined)


def _end_of_quotation(lines: Sequence[str], number: int, joined: str) -> int | None:
    """Up to which line a quotation reaches; None where it is never closed."""
    for end in range(number, len(lines) + 1):
        try:
            shlex.split("\n".join([joined, *lines[number:end]]), comments=False)
        except ValueError:
            continue
        return end
    return None


def _without_comment(text: str) -> str:
    """The text up to a `#` that starts a word outside quotations."""
    quote = ""
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not (quote == '"' and text[place - 1] == "\\") else quote
        elif char in "\"'" and (place == 0 or text[place - 1] != "\\"):
            quote = char
        elif char == "#" and (place == 0 or text[place - 1] in " \t;"):
            return text[:place]
    return text


def _commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """The simple commands of a line, without redirections; True where one is sent to the background."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    skip = False
    array = 0
    for token in lexer:
        if token == "(" and words and words[-1].endswith("="):
            array = 1
            words.append(token)
        elif array and token == ")":
            array = 0
            words.append(token)
        elif token in ENDS and not array:
            yield words, token == "&"
            words = []
        elif token and set(token) <= set("<>&"):
            skip = True
            if words and words[-1] in ("1", "2") and f"{words[-1]}{token}" in text:
                words.pop()
        elif skip:
            skip = False
        else:
            words.append(token)
    yield words, False


def _command(words: list[str], background: bool, number: int, reader: _Reader) -> None:
    while words and words[0] in KEYWORDS:
        reader.loop = "" if words[0] == "done" else reader.loop
        words = words[1:]
    if not words or _assigns(words, number, reader):
        return
    if words[0] in ("source", ".") and len(words) > 1:
        place = words[1].partition("/bin/activate")
        if place[1]:
            reader.venv = _expanded([place[0]], reader)[0]
        return
    if words[:2] == ["set", "-a"] or words[:3] == ["set", "-o", "allexport"]:
        reader.all_exported = True
        return
    if words[0] == "cd" and len(words) > 1:
        reader.directory = _expanded([words[1]], reader)[0]
        return
    _run(_expanded(words, reader), background, number, reader)


def _run(expanded: list[str], background: bool, number: int, reader: _Reader) -> None:
    words = [word for word in expanded if not OWN_ARGUMENTS.fullmatch(word)]
    if not words:
        return
    if words[0].startswith("-"):
        _orphan(words, number, reader)
        return
    settings, told = card_settings(words, f"{reader.name}:{number}")
    if reader.foreground is None:
        take_over(reader.gpu, settings)
        reader.mistakes += told
    elif told or not reader.told:
        because = f"the engine of {reader.foreground.place} stays in the foreground: this runs after it has ended"
        instead = "; ".join(one.instead for one in told) or "a unit of its own, which the plan has"
        reader.mistake(number, "placebo", " ".join(words)[:60], because, instead)
        reader.told = True
    module = wrong_module(words)
    if module:
        because = f'there is no Python module "{module}" that quantises or serves'
        instead = "llama-quantize IN.gguf OUT.gguf Q4_K_M makes the file; llama-server serves it"
        reader.mistake(number, "fatal", " ".join(words[:3]), because, instead)
    launch = _launch(words, number, reader)
    reader.open_launch = launch is not None
    if launch is not None:
        reader.launches.append(launch)
        if len(words) < len(expanded):
            because = "what the script itself is started with is not known here, so it is not in the wish"
            reader.mistake(
                number, "harmful", '"$@"', because, "write those arguments into the wish, if there are any"
            )
        if reader.loop:
            because = "each round is a launch of its own: the wish has the first one"
            reader.mistake(number, "harmful", reader.loop, because, "one of inferhost_service_instances per round")
        reader.foreground = reader.foreground if background or _detaches(words) else launch
        reader.told = False


def _detaches(words: Sequence[str]) -> bool:
    """Whether a command returns while the engine starts: a detached container, or a unit of systemd-run's own."""
    names = [word.rpartition("/")[2] for word in words[:3]]
    if "systemd-run" in names:
        return not {"--scope", "--wait", "--pty", "-t", "--pipe", "-P"} & set(words)
    contained = any(name in CONTAINERS for name in names)
    return contained and any(re.fullmatch(r"--detach(=true)?|-[it]*d[it]*", word) for word in words)


def _orphan(words: list[str], number: int, reader: _Reader) -> None:
    """Options on a line of their own: the rest of the launch above, or a fragment without one."""
    if reader.open_launch and reader.launches:
        broken = any(m.place == f"{reader.name}:{number - 1}" for m in reader.mistakes)
        if not broken:
            because = "the line above ends the command, so the shell runs this line as a command of its own"
            reader.mistake(number, "fatal", " ".join(words)[:60], because, ARGV)
        last = reader.launches.pop()
        reader.launches.append(dataclasses.replace(last, words=(*last.words, *words)))
        reader.foreground = reader.launches[-1]
    else:
        reader.words += words


def _launch(words: list[str], number: int, reader: _Reader) -> Launch | None:
    place = f"{reader.name}:{number}"
    names = [w.rpartition("/")[2] for w in words[:3]]
    if any(n in CONTAINERS for n in names) and "run" in words:
        return read_docker_run(words[words.index("run") + 1 :], place, reader.directory)
    found = recognised(words, place, reader.directory)
    if found is None:
        return None
    program = found.program
    if reader.venv and "/" not in program:
        program = f"{reader.venv}/bin/{program}"
    return dataclasses.replace(found, program=program, env={**reader.exported, **found.env})


def _assigns(words: list[str], number: int, reader: _Reader) -> bool:
    """Whether the command only sets variables; remembers them."""
    export = words[0] in ("export", "declare", "typeset", "local", "readonly")
    rest = [w for w in words[1:] if not w.startswith("-")] if export else words
    if export and "=" in rest:
        name = rest[rest.index("=") - 1] if rest.index("=") else ""
        because = "blanks around = : the shell takes three words, and = is no name of a variable"
        reader.mistake(number, "fatal", " ".join(words), because, f"export {name}={''.join(rest[-1:])}, if at all")
        if name:
            reader.exported[name] = rest[-1]
        return True
    if len(rest) > 2 and re.fullmatch(r"[A-Za-z_]\w*\+?=", rest[0]) and rest[1] == "(":
        name = rest[0].rstrip("+=")
        kept = reader.arrays.get(name, []) if rest[0].endswith("+=") else []
        reader.arrays[name] = [*kept, *_expanded(rest[2:-1], reader)]
        return True
    if not export and not all(ASSIGNMENT.fullmatch(w) for w in rest):
        return False
    for word in rest:
        found = ASSIGNMENT.fullmatch(word)
        name = found[1] if found else word
        value = "".join(_expanded([found[2]], reader)) if found else reader.variables.get(name, "")
        reader.variables[name] = value
        if (
            (export and words[0] in ("export", "declare", "typeset"))
            or reader.all_exported
            or name in reader.exported
        ):
            reader.exported[name] = value
    return True


def _expanded(words: Sequence[str], reader: _Reader) -> list[str]:
    """Words with the script's own variables put in; unknown ones stay as they are written."""
    found: list[str] = []
    for word in words:
        whole = VARIABLE.fullmatch(word)
        if whole and whole[1] in reader.arrays:
            found += reader.arrays[whole[1]]
        elif whole and " " in reader.variables.get(whole[1], ""):
            found += shlex.split(reader.variables[whole[1]])
        else:
            found.append(VARIABLE.sub(lambda m: _value(m, reader), word))
    return found


def _value(match: re.Match[str], reader: _Reader) -> str:
    known = {**reader.exported, **reader.variables}
    return known.get(match[1], match[0] if match[2] is None else match[2])
