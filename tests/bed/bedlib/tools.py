"""What every part of the bed uses: the shape of an error, a checked subprocess, a digest of inputs, a lock.

Nothing here knows about containers or packages.
"""

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REFUSED = 2
FAILED = 1


class BedError(Exception):
    """A failure to be shown in one line, with an optional hint on a second one; `code` is the exit status."""

    def __init__(self, message: str, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        lines = [f"error: {self.args[0]}"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


def say(text: str) -> None:
    """Progress goes to stderr: stdout carries results only."""
    print(f"bed: {text}", file=sys.stderr, flush=True)


def output_of(argv: Sequence[str], env: Mapping[str, str] | None = None, what: str = "") -> str:
    """The command's stdout; a failure becomes one error that carries the last lines the command said."""
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise BedError(f"{what or argv[0]}: exit status {done.returncode}, wanted 0", "\n      ".join(said[-8:]))
    return done.stdout


def digest(*inputs: str | bytes | Path) -> str:
    """Twelve hex digits over texts, bytes, files and folders (names, execute bits and contents).

    Each part is framed by its length, so that moving a byte from one input to the next changes the digest.
    """
    sha = hashlib.sha256()

    def add(part: bytes) -> None:
        sha.update(f"{len(part)}:".encode() + part)

    for item in inputs:
        if isinstance(item, Path):
            files = [item] if item.is_file() else sorted(p for p in item.rglob("*") if p.is_file())
            for file in files:
                mode = "x" if file.stat().st_mode & 0o100 else "-"
                add(f"{file.relative_to(item.parent).as_posix()} {mode}".encode())
                add(file.read_bytes())
        else:
            add(item.encode() if isinstance(item, str) else item)
    return sha.hexdigest()[:12]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold `file` exclusively; a second bed waits here, so that nothing is built twice."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_if_different(file: Path, text: str) -> None:
    """Replace the file in one step, and only when its text differs."""
    if file.is_file() and file.read_text() == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(text)
    fresh.replace(file)


def exit_status(perform: Callable[[], int], program: str) -> int:
    """What `perform` returns, or the status of its failure, told on stderr; `program` is who installs what lacks."""
    try:
        return perform()
    except BedError as problem:
        print(problem, file=sys.stderr)
        return problem.code
    except FileNotFoundError as problem:
        if "/" in str(problem.filename):
            raise  # a file of ours, not a program: a bug, which keeps its traceback
        print(f"error: {problem.filename}: not found, wanted installed", file=sys.stderr)
        print(f"hint: {program} install, as root", file=sys.stderr)
        return REFUSED
    except subprocess.CalledProcessError as problem:
        print(f"error: {problem.cmd[0]}: exit status {problem.returncode}, wanted 0", file=sys.stderr)
        return FAILED
