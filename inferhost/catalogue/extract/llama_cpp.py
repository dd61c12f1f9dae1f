"""llama-server: its own `--help` text, and the `getenv` calls of llama.cpp's sources.

An option stands at the line's beginning: spellings parted by commas, then the value's placeholder, then text from
column 40. The variable that says the same stands in `(env: NAME)`; of a switch with a negative form, the parser also
reads `LLAMA_ARG_NO_NAME` (common/arg.cpp, `get_value_from_env`).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator

from inferhost.catalogue.extract.entries import Flag, Interface, replacement_in
from inferhost.catalogue.extract.environment import merged, read_in_native

TEXT_COLUMN = 40
SPELLING = re.compile(r"(-{1,2}[A-Za-z][A-Za-z0-9.-]*)(?:,\s+(?=-)|\s*$|\s+)")
VARIABLE = re.compile(r"\(env: ([A-Z0-9_]+)\)")
CHOICES = re.compile(r"[{<\[]([\w.+-]+(?:[|,][\w.+-]+)+)[}>\]]")
WHOLE_DEFAULT = re.compile(r"default: -?\d+(?![\d.])")
ITEM = re.compile(r"- ([\w+-]+): ")
LISTED = re.compile(r"allowed values: ([\w, +-]+)")
FOLDERS = ("common", "src", "tools/server", "tools/mtmd", "ggml")


def interface(sources: list[pathlib.Path]) -> Interface:
    """What llama-server reads: a file with its `--help`, then a source tree for the environment, if any."""
    help_text, trees = sources[0], sources[1:]
    if not help_text.is_file():
        raise FileNotFoundError(f"{help_text} is no file: the first source is what llama-server --help printed")
    variables = merged(*(read_in_native(tree, FOLDERS, "LLAMA_", "GGML_") for tree in trees))
    return Interface(tuple(flags(help_text.read_text(encoding="utf-8"))), tuple(variables))


def flags(text: str) -> Iterator[Flag]:
    """The options of a help text in its order."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("-") and not line.startswith("-----")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield _option(lines[start:end], start + 1)


def _option(lines: list[str], number: int) -> Flag:
    head, body = _parted(lines[0])
    names, placeholder = _spellings(head)
    body = " ".join([body, *(line.strip() for line in lines[1:] if line.startswith(" " * TEXT_COLUMN))]).strip()
    flag = Flag(names, f"--help line {number}")
    if placeholder:
        whole = placeholder in ("N", "PORT", "INDEX", "SECONDS") and WHOLE_DEFAULT.search(body) is not None
        flag = dataclasses.replace(flag, type="int" if whole else None, choices=_choices(placeholder, lines, body))
        if " " in placeholder and re.fullmatch(r"[A-Z]+ [A-Z]+", placeholder):
            flag = dataclasses.replace(flag, takes="several")
    else:
        flag = dataclasses.replace(flag, takes="no")
    variable = VARIABLE.search(body)
    if variable:
        own = variable.group(1)
        negative = any(name.startswith("--no-") for name in names) and own.startswith("LLAMA_ARG_")
        also = (own.replace("LLAMA_ARG_", "LLAMA_ARG_NO_"),) if negative else ()
        flag = dataclasses.replace(flag, variables=(own, *also))
    if "argument has been removed" in body:
        return dataclasses.replace(flag, status="removed", replacement=replacement_in(body, names))
    if "DEPRECATED" in body:
        return dataclasses.replace(flag, status="deprecated", replacement=replacement_in(body, names))
    return flag


def _parted(line: str) -> tuple[str, str]:
    """Option and text of a line; a long option leaves no text on its line."""
    if len(line) > TEXT_COLUMN and line[TEXT_COLUMN - 1] == " " and line[TEXT_COLUMN] != " ":
        return line[:TEXT_COLUMN].rstrip(), line[TEXT_COLUMN:]
    return line.rstrip(), ""


def _spellings(head: str) -> tuple[tuple[str, ...], str]:
    """The spellings and the placeholder of the value, empty for a switch."""
    names, place = [], 0
    while match := SPELLING.match(head, place):
        names.append(match.group(1))
        place = match.end()
    return tuple(names), head[place:].strip()


def _choices(placeholder: str, lines: list[str], body: str) -> tuple[str, ...] | None:
    """The values that a placeholder like `{none,layer}`, the text or its list of `- value: ` lists."""
    match = CHOICES.fullmatch(placeholder)
    if match and ".." not in match.group(1):  # dots say that there are more, and that these are examples
        return tuple(re.split(r"[|,]", match.group(1)))
    items = tuple(found.group(1) for line in lines[1:] if (found := ITEM.match(line.strip())))
    if len(items) > 1 and placeholder in ("MODE", "TYPE"):
        return items
    listed = LISTED.search(body)
    return tuple(word.strip() for word in listed.group(1).split("(")[0].split(",")) if listed else None
