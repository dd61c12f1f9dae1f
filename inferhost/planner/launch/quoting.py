"""Words as systemd reads them back: one function per context, because the rules differ.

Source: formula `unit.quoting`.
"""

from __future__ import annotations

from collections.abc import Iterable

SPECIAL = set(" \t\"'\\;")


def exec_start(argv: Iterable[str]) -> str:
    """A command line for `ExecStart=`: `%` and `$` doubled, anything with blanks or quotes in double quotes."""
    return " ".join(_exec_word(word) for word in argv)


def environment_assignment(name: str, value: str) -> str:
    """One assignment for `Environment=`, in double quotes; `$` means nothing there, `%` does."""
    return f'"{name}={_escaped(value).replace("%", "%%")}"'


def _exec_word(word: str) -> str:
    doubled = word.replace("%", "%%").replace("$", "$$")
    if doubled and not SPECIAL & set(doubled):
        return doubled
    return f'"{_escaped(doubled)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
