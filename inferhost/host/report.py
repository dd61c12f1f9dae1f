"""What a verb has to say, gathered while it works: changes, verdicts, notes, problems.

A verb never prints and never exits. `cli.py` turns one report into JSON on stdout and prose on stderr, so the two
cannot disagree, and a failure half way still shows what was done before it. Each error class owns its exit code.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import Any

from inferhost.schema import result
from inferhost.schema.problems import Problem
from inferhost.schema.result import Change, Result, Verdict

IN_THE_WAY = (errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENOTDIR)
"""What a write fails with where a link, a folder or a file stands that is none of ours."""


class HostError(Exception):
    """The verb stops here. `problem` says where, what was found and what would work."""

    exit_code = result.EXIT_NOT_DONE

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.message)


class WriteFailed(HostError):
    """A file could not be written; the file itself is as it was."""

    def __init__(self, path: str, error: OSError) -> None:
        hint = "make room or repair the cause, then run again"
        if isinstance(error, PermissionError):
            hint = "run as root"
        elif error.errno in IN_THE_WAY:
            there = error.filename2 or error.filename or path
            hint = f"{there} is in the way: see what it is and move it, then run again"
        super().__init__(Problem(path, f"could not be written: {reason(error)}", hint, "write-failed"))


class NothingTouched(HostError):
    """Refused before the first write."""

    exit_code = result.EXIT_BAD_INPUT


class NoDriver(HostError):
    """A command about NVML alone, and no driver answers."""

    exit_code = result.EXIT_NO_DRIVER


class DriverFailed(HostError):
    """A driver answers, and not as it should: nothing can be said of any card."""


class RecordUnusable(HostError):
    """The baseline cannot be read, believed or written; without it nothing may be changed."""

    exit_code = result.EXIT_RECORD_UNUSABLE


class Locked(HostError):
    """Another host program is at work."""

    exit_code = result.EXIT_LOCKED


def reason(error: OSError) -> str:
    """The system's own words for a failed call, without the path that the message names anyway."""
    return error.strerror or type(error).__name__


def _unheard(_line: str) -> None:
    """Progress that nobody listens to."""


class Report:
    """Everything one run found and did, in order. `progress` is told at once what takes long; it is no result."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.progress: Callable[[str], None] = _unheard
        self.changes: list[Change] = []
        self.verdicts: list[Verdict] = []
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self.facts: dict[str, Any] = {}
        self.not_done = False

    def change(self, setting: str, before: object, after: object) -> None:
        """One difference made, or in check mode: that would be made."""
        self.changes.append(Change(setting, str(before), str(after)))

    def note(self, text: str) -> None:
        """A remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextlib.contextmanager
    def wholly(self) -> Iterator[None]:
        """A problem or a drift in here means that this was not done: what comes after needs the whole of it."""
        verdicts, problems = len(self.verdicts), len(self.problems)
        yield
        if self.problems[problems:] or result.exit_code(tuple(self.verdicts[verdicts:])) == result.EXIT_DRIFT:
            self.not_done = True

    def stopped(self, problems: list[Problem]) -> None:
        """The verb ended early: its problems, and what it had already done."""
        self.problems.extend(problems)
        self.not_done = True
        if self.changes and not self.check:
            self.note("written before the failure: " + ", ".join(c.setting for c in self.changes))

    def result(self) -> Result:
        """The report as the document on stdout; problems travel in `facts.problems`."""
        facts = dict(self.facts)
        if self.problems:
            facts["problems"] = [
                {"id": p.id, "path": p.path, "message": p.message, "hint": p.hint} for p in self.problems
            ]
        return Result(bool(self.changes), tuple(self.changes), tuple(self.verdicts), tuple(self.notes), facts)

    def exit_code(self) -> int:
        """The code of a run that came to its end: a problem on the way counts as drift, unless it stopped a part."""
        if self.not_done:
            return result.EXIT_NOT_DONE
        return result.EXIT_DRIFT if self.problems else result.exit_code(tuple(self.verdicts))

    def prose(self) -> Iterator[str]:
        """The report for a person, one line per change, verdict and note; problems last."""
        verb = "would change" if self.check else "changed"
        for change in self.changes:
            yield f"{verb} {change.setting}: {_short(change.before)} -> {_short(change.after)}"
        for v in self.verdicts:
            cause = "" if v.cause == "none" else f" ({v.cause})"
            yield f"{v.verdict}{cause} {v.setting}: wanted {v.wanted}, found {v.found}; {v.evidence}"
        for note in self.notes:
            yield f"note: {note}"
        for problem in self.problems:
            yield from problem.lines()


def _short(text: str) -> str:
    """A value on one line; a document by its size."""
    if "\n" in text:
        return f"{len(text.splitlines())} lines"
    return text if len(text) <= 80 else text[:77] + "..."
