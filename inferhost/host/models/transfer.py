"""One file brought to its place: into a part beside it, resumed where it stopped, proven, then renamed.

Nothing stands at the file's own name that is not whole and proven. A part outlives a kill, a cut connection and a
full disk, and the next run goes on from it; one whose checksum is wrong in the end is thrown away and asked for
once more from the start, because it may have been the part of something else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import os
import time
from collections.abc import Callable
from typing import IO, Any

from inferhost.host.machine import Machine
from inferhost.host.models.remote import Remote, TransientError, opened, opened_in_store
from inferhost.host.report import HostError, reason
from inferhost.schema.plan import Model
from inferhost.schema.problems import Problem

CHUNK_BYTES = 1 << 20
TRIES = 5
"""Failures in a row without a new byte until a fetch gives up."""
PAUSE_S = 2.0
EVERY_S = 5.0
GIB = 2**30
MODE = 0o644


class Progress:
    """Says how far a fetch is, at most every `EVERY_S` seconds."""

    def __init__(self, name: str, total_bytes: int | None, say: Callable[[str], None]) -> None:
        self._name, self._total, self._say = name, total_bytes, say
        self._done = self._new = 0
        self._began_s = self._said_s = time.monotonic()

    def add(self, count: int, *, fetched: bool = True) -> None:
        """So many bytes more are there, fetched now or found; a negative count takes back what has to come again."""
        self._done += count
        self._new += count if fetched else 0
        now_s = time.monotonic()
        if now_s - self._said_s >= EVERY_S:
            self._said_s = now_s
            rate = self._new / (now_s - self._began_s)
            left = f", about {(self._total - self._done) / rate / 60:.0f} min left" if self._total and rate else ""
            whole = f" of {self._total / GIB:.2f}" if self._total else ""
            self.tell(f"{self._done / GIB:.2f}{whole} GiB, {rate / 1e6:.0f} MB/s{left}")

    def tell(self, text: str) -> None:
        """Something that a person wants to know now."""
        self._say(f"models.{self._name}: {text}")


@dataclasses.dataclass(frozen=True)
class Job:
    """What stays the same for all files of one model."""

    machine: Machine
    model: Model
    token: str | None
    progress: Progress


@dataclasses.dataclass
class _Hash:
    """The checksum of a file as it grows: SHA-256, or git's where the hub knows only that."""

    remote: Remote

    def __post_init__(self) -> None:
        self._sha256: Any = hashlib.sha256()
        self._git: Any = None
        if self.remote.git_sha1 is not None:
            self._git = hashlib.sha1(f"blob {self.remote.size_bytes}\0".encode())

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self._git is not None:
            self._git.update(block)

    @property
    def sha256(self) -> str:
        return str(self._sha256.hexdigest())

    def wrong(self) -> str:
        """How the content differs from what was promised; empty where it does not."""
        if self.remote.sha256 not in (None, self.sha256):
            return f"sha256 is {self.sha256}, wanted {self.remote.sha256}"
        if self._git is not None and self._git.hexdigest() != self.remote.git_sha1:
            return f"git hash is {self._git.hexdigest()}, wanted {self.remote.git_sha1}"
        return ""


def part_of(path: str) -> str:
    """Where a file grows: one fixed name, so that a crash leaves at most one."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.inferhost-part")


def part_bytes(machine: Machine, path: str) -> int:
    """How much of a file is there from an earlier run."""
    try:
        return os.lstat(machine.at(part_of(path))).st_size
    except OSError:
        return 0


def hashed(machine: Machine, path: str, remote: Remote, progress: Progress) -> tuple[str, str]:
    """The SHA-256 of a file on disk, and how it differs from what was promised."""
    found = _Hash(remote)
    _hash_file(machine, path, found, progress)
    return found.sha256, found.wrong()


def bring(job: Job, remote: Remote, path: str) -> str:
    """The file at `path`, whole and proven; its SHA-256. `HostError` with what is wrong else."""
    machine, progress = job.machine, job.progress
    machine.make_directories(os.path.dirname(path))
    machine.before_write(f"fetch {path}")
    for attempt in (1, 2):
        resumed = part_bytes(machine, path) > 0
        found = _fill(job, remote, path)
        wrong = found.wrong()
        if not wrong:
            _finish(machine, path)
            return found.sha256
        _discard(machine, path)
        if not resumed or attempt == 2:
            break
        progress.tell(f"{path}: what was there from before does not belong to it; fetched again from the start")
    option = "sha256" if job.model.sha256 else "source"
    hint = "it was fetched whole and is not what was promised: nothing of it is kept"
    raise HostError(Problem(f"inferhost_models_{option}", f"{path}: {wrong}", hint, "checksum"))


def _fill(job: Job, remote: Remote, path: str) -> _Hash:
    """The part, filled to its end; its checksum."""
    machine, model, progress = job.machine, job.model, job.progress
    failures = 0
    while True:
        found = _Hash(remote)
        part = machine.at(part_of(path))
        size = part_bytes(machine, path)
        if remote.size_bytes is None or size > remote.size_bytes:  # of an unknown size nobody knows where it ends
            _discard(machine, path)
            size = 0
        with _written(path, size):
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        # Unbuffered: a write that fails must not be tried again by close.
        with os.fdopen(descriptor, "wb", 0) as file:
            before = size
            try:
                if size:
                    _hash_file(machine, part_of(path), found, progress)
                if remote.size_bytes is None or size < remote.size_bytes:
                    size = _receive(job, remote, path, file, found=found, size=size)
                with _written(path, size):
                    os.fsync(file.fileno())
                return found
            except TransientError as error:
                failures = 1 if os.fstat(file.fileno()).st_size > before else failures + 1
                if failures >= TRIES:
                    hint = "what came so far is kept; run again to go on from there"
                    where = f"inferhost_models_{'address' if model.source == 'address' else 'source'}"
                    raise HostError(Problem(where, f"{path}: {error}, {TRIES} times", hint, "fetch")) from error
                progress.tell(f"{error}; asked again ({failures} of {TRIES - 1})")
        progress.add(-part_bytes(machine, path), fetched=False)
        machine.clock.sleep(PAUSE_S)


def _receive(job: Job, remote: Remote, path: str, file: IO[bytes], *, found: _Hash, size: int) -> int:
    """Everything from byte `size` on, written and hashed; the size then."""
    if job.model.source == "store":
        source = opened_in_store(job.machine, remote.url, size)
    else:
        source = opened(remote.url, job.token, job.model, size)
        if size and getattr(source, "status", 206) != 206:  # the far side starts from the beginning
            job.progress.add(-size, fetched=False)
            size = 0
            found.__post_init__()
            os.ftruncate(file.fileno(), 0)
    with source:
        file.seek(size)
        while True:
            try:
                block = source.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise TransientError(str(error) or type(error).__name__) from error
            if not block:
                break
            with _written(path, size):
                _write(file, block)
            found.update(block)
            size += len(block)
            job.progress.add(len(block))
    if remote.size_bytes is not None and size < remote.size_bytes:
        raise TransientError(f"the transfer ended at {size} of {remote.size_bytes} bytes")
    return size


def _write(file: IO[bytes], block: bytes) -> None:
    """All of a block; one call may take less."""
    left = memoryview(block)
    while left:
        left = left[file.write(left) :]


@contextlib.contextmanager
def _written(path: str, size: int) -> Any:
    """A failed write in the words of its option; the part stays for the next run."""
    try:
        yield
    except OSError as error:
        hint = f"make room or repair the cause, then run again: {size / GIB:.2f} GiB are there and are kept"
        message = f"{path}: could not be written: {reason(error)}"
        raise HostError(Problem("inferhost_models_path", message, hint, "write-failed")) from error


def _hash_file(machine: Machine, path: str, found: _Hash, progress: Progress) -> None:
    """Feeds a file on disk to the checksum."""
    with open(machine.at(path), "rb") as file:
        while True:
            block = file.read(CHUNK_BYTES)
            if not block:
                return
            found.update(block)
            progress.add(len(block), fetched=False)


def _finish(machine: Machine, path: str) -> None:
    """The whole part gets its name: owned by root, readable by all, writable by nobody else."""
    with _written(path, part_bytes(machine, path)):
        machine.before_write(f"rename {path}")
        part = machine.at(part_of(path))
        os.chmod(part, MODE)
        os.replace(part, machine.at(path))
        folder = os.open(os.path.dirname(machine.at(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _discard(machine: Machine, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(machine.at(part_of(path)))
