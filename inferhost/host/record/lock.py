"""One host program at a time: `/run/inferhost/lock`, held with flock, which the kernel releases when a holder dies.

A fetch may take hours and has a lock of its own, so that nobody else waits for it; so has a warm-up. Only verbs that
write take it. It lives as long as the record does: a run that leaves no record (refused, or the whole revert) removes
it. The wait is short and bounded, because the caller is a play or a timer that can come again; whoever waits in vain
is told which process holds the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from inferhost.host.machine import RUN_DIRECTORY, STATE_DIRECTORY, Machine
from inferhost.host.report import Locked, Report, WriteFailed
from inferhost.schema.problems import Problem

LOCK = f"{RUN_DIRECTORY}/lock"
FETCH_LOCK = f"{RUN_DIRECTORY}/fetch.lock"
WARM_LOCK = f"{RUN_DIRECTORY}/warm.lock"
WAIT_S = 10.0
POLL_S = 0.1


@contextlib.contextmanager
def locked(machine: Machine, wait_s: float | None = None, lock: str = LOCK) -> Iterator[None]:
    """Holds the lock for the block, or raises `Locked` after `wait_s` seconds (`WAIT_S` when None).

    Raises `WriteFailed` where it cannot be opened: a link is not followed.
    """
    wait_s = WAIT_S if wait_s is None else wait_s
    deadline_s = time.monotonic() + wait_s
    while True:
        machine.make_directories(RUN_DIRECTORY)
        descriptor = _taken(machine, lock)
        if descriptor is not None:
            break
        if time.monotonic() >= deadline_s:
            raise Locked(_problem(machine, wait_s, lock))
        time.sleep(POLL_S)
    try:
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # no room for the name of the holder; the kernel knows it
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        try:
            if lock != LOCK or not machine.exists(STATE_DIRECTORY):
                _remove_lock(machine, lock)
        finally:
            os.close(descriptor)


def lock_unless_check(
    machine: Machine, report: Report, wait_s: float | None = None
) -> contextlib.AbstractContextManager[None]:
    """The lock for a run that writes; check mode neither needs nor leaves one."""
    return contextlib.nullcontext() if report.check else locked(machine, wait_s)


def is_held(machine: Machine) -> bool:
    """Whether somebody holds the lock at this moment, this process included."""
    try:
        descriptor = os.open(machine.at(LOCK), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove_lock(machine: Machine, lock: str) -> None:
    """The lock file and its folder, removed by their holder; who waits notices that the file is another one."""
    machine.remove_file(lock)
    try:
        machine.remove_directory(RUN_DIRECTORY)
    except WriteFailed:
        if not machine.entries(RUN_DIRECTORY):  # else it has other files, or somebody came to wait meanwhile
            raise


def _taken(machine: Machine, lock: str) -> int | None:
    """The descriptor of the held lock, or None when it is somebody else's or was removed under our hands."""
    path = machine.at(lock)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:  # its folder went between our mkdir and here
        return None
    except OSError as error:
        raise WriteFailed(lock, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _problem(machine: Machine, wait_s: float, lock: str) -> Problem:
    holder = (machine.read_text(lock) or "").strip()
    return Problem(
        lock,
        f"held by {f'process {holder}' if holder else 'an unknown process'}, still after {wait_s:g} s",
        f"wait for it to end, or look at it with: ps -fp {holder}" if holder.isdigit() else "",
        "locked",
    )
