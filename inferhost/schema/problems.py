"""What is wrong with an input, in one shape for people and for programs.

A `Problem` says where, what was found and what is wanted; the hint says what would work. Code that checks
collects problems and raises them together as `InputError`, so that a person repairs an inventory once.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True, order=True)
class Problem:
    """One error: `path` is the setting at fault, `id` stays stable while the text may improve."""

    path: str
    message: str
    hint: str = ""
    id: str = "input"

    def lines(self, prefix: str = "") -> list[str]:
        """The problem as `error:` and `hint:` lines; `prefix` names the document, e.g. the host."""
        where = f"{prefix}: {self.path}" if prefix else self.path
        shown = [f"error: {where}: {self.message}"]
        if self.hint:
            shown.append(f"hint: {self.hint}")
        return shown


class InputError(Exception):
    """Bad input: nothing was touched. Carries every problem of the pass, sorted by path."""

    def __init__(self, problems: Iterable[Problem], prefix: str = "") -> None:
        self.problems = sorted(set(problems))
        self.prefix = prefix
        super().__init__("\n".join(line for p in self.problems for line in p.lines(prefix)))


def near(word: str, known: Sequence[str]) -> str:
    """A `did you mean` hint for a misspelt word, or the empty string."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""
