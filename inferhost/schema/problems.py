"""What is wrong with an input, in one shape for people and for programs.

A `Problem` says where, what was found and what is wanted; the hint says what would work. Code that checks
collects problems and raises them together as `InputError`, so that a person repairs an inventory once.
"""

from __future__ import annotations

import dataclasses
import re
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


PORT_TAKEN = "port-taken"
"""Told first: engines on one port cannot run together, whatever else of them is repaired."""


class InputError(Exception):
    """Bad input: nothing was touched. Carries every problem of the pass, sorted by path; a clash of ports first."""

    def __init__(self, problems: Iterable[Problem], prefix: str = "") -> None:
        self.problems = sorted(set(problems), key=lambda problem: (problem.id != PORT_TAKEN, problem))
        self.prefix = prefix
        super().__init__("\n".join(line for p in self.problems for line in p.lines(prefix)))


def near(word: str, known: Sequence[str]) -> str:
    """A `did you mean` hint for a misspelt word, or the empty string.

    A wrong hint is worse than none, so names are compared by what differs: parts that both share at either end say
    nothing. What is left begins alike and may differ by few letters, the fewer the shorter it is; or it is one part
    more or less of a name that is otherwise the same.
    """
    found = [(distance, name) for name in known if (distance := _distance(word, name)) is not None]
    return f'did you mean "{min(found)[1]}"?' if found else ""


PARTS = re.compile(r"[-_.\s\[\]]+")
SAME_SHARE = 0.7
"""How much of the longer name has to be shared where a whole part is missing."""


def _distance(word: str, name: str) -> float | None:
    """How far a name is from what was written, nothing where it is no likely misspelling."""
    if word.startswith("--") != name.startswith("--"):
        return None
    written, meant = ([part for part in PARTS.split(text.lower()) if part] for text in (word, name))
    if sorted(written) == sorted(meant):
        return 0.0 if written == meant else 0.5
    while written and meant and written[0] == meant[0]:
        written, meant = written[1:], meant[1:]
    while written and meant and written[-1] == meant[-1]:
        written, meant = written[:-1], meant[:-1]
    left, right = "".join(written), "".join(meant)
    if left and right:
        if left[0] != right[0]:
            return None
        letters = max(len(left), len(right))
        most = 1 if letters <= 4 else 2 if letters <= 9 else 3
        edits = _edits(left, right, most)
        return None if edits > most else float(edits)
    shared = 1 - len(left or right) / max(1, len("".join(PARTS.split(max(word, name, key=len)))))
    return 4 - shared if len(written) + len(meant) == 1 and shared >= SAME_SHARE else None


def _edits(left: str, right: str, most: int) -> int:
    """Letters to change, add, drop or swap with their neighbour; beyond `most` any larger number."""
    if abs(len(left) - len(right)) > most:
        return most + 1
    before, row = [0] * (len(right) + 1), list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(right, 1):
            swapped = i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            row.append(min(best, older[j - 2] + 1) if swapped else best)
    return row[-1]
