"""The machine that a verb works on: paths below a root, writes that survive a crash, commands by argument list.

Every change passes through here (NVML's through `nvml.py`) and announces itself to `before_write` first, so that a
test can stop the program at any of them; and each looks at what stands there afterwards, so that returning means
done. With a root other than "/" the same code works on a copy of a host:
/etc, /proc, /sys, /var, /run and /usr are looked up below it. Nothing here decides what is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Sequence

from inferhost.host.report import WriteFailed

STATE_DIRECTORY = "/var/lib/inferhost"
RUN_DIRECTORY = "/run/inferhost"
CONFIG_DIRECTORY = "/etc/inferhost"
PLAN = f"{CONFIG_DIRECTORY}/plan.json"
PROGRAM = "/usr/local/bin/inferhost"
CACHE_DIRECTORY = "/var/cache/inferhost"  # systemd makes it: CacheDirectory= of inferhost-serve@.service

COMMAND_TIMEOUT_S = 60
UNBOUNDED = (
    ("systemctl", "start"), ("systemctl", "restart"), ("systemctl", "reload"), ("systemctl", "stop"),
    ("systemctl", "disable"), ("podman", "pull"), ("docker", "pull"),
    ("dpkg-query", "--show"), ("apt-get", "--simulate"), ("apt-mark", "showauto"), ("apt-cache", "madison"),
    ("rpm", "--query"), ("rpm", "--erase"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finished:
    """A command that ended; 127 means that it does not exist, as in a shell."""

    code: int
    stdout: str
    stderr: str


def run_command(argv: Sequence[str]) -> Finished:
    """`argv` run without a shell, in the C locale, with no input."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            # How long a unit may start or stop is systemd's to bound: it may wait for another engine, or for streams.
            # An image of an engine has many gigabytes. A package database is read whole, which a busy host takes
            # minutes for, and these questions wait for nobody's lock.
            timeout=None if tuple(argv[:2]) in UNBOUNDED else COMMAND_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        return Finished(127, "", f"{argv[0]}: not found")
    except subprocess.TimeoutExpired:
        return Finished(124, "", f"{argv[0]}: no answer in {COMMAND_TIMEOUT_S} s")
    return Finished(done.returncode, done.stdout, done.stderr)


def machine_at(root: str) -> Machine:
    """The machine itself, or a copy of one below `root`, where the commands of the machine around it are not run."""
    return Machine(root) if root == "/" else Machine(root, command=_not_run)


def _not_run(argv: Sequence[str]) -> Finished:
    return Finished(127, "", f"{argv[0]}: not run for a copy of a host")


def _nothing(_what: str) -> None:
    """The announcement nobody listens to."""


def _slept_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


@dataclasses.dataclass(frozen=True)
class Clock:
    """Time that passes: seconds since some moment of this boot, alike for all processes; and waiting.

    `slept_s` is for how long of this boot the machine was suspended: `now_s` stands still then. Source: time(7),
    CLOCK_BOOTTIME in clock_gettime(2).
    """

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    slept_s: Callable[[], float] = _slept_s


@dataclasses.dataclass(frozen=True)
class Machine:
    """Reads and writes below `root`. Reading what is absent gives None.

    A write that failed, or that cannot be seen afterwards, raises `WriteFailed`.
    """

    root: str = "/"
    command: Callable[[Sequence[str]], Finished] = run_command
    before_write: Callable[[str], None] = _nothing
    clock: Clock = dataclasses.field(default_factory=Clock)
    cards: tuple[str, ...] | None = None
    """The bus ids of the cards that may be opened, where it is not every card: to look at one wakes no other."""

    def at(self, path: str) -> str:
        """The real place of an absolute path."""
        return path if self.root == "/" else os.path.join(self.root, path.lstrip("/"))

    def exists(self, path: str) -> bool:
        """Whether anything is there, a dangling link included."""
        return os.path.lexists(self.at(path))

    def read_bytes(self, path: str) -> bytes | None:
        """The content of a file, or None where there is no such file."""
        try:
            with open(self.at(path), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_text(self, path: str) -> str | None:
        """The content of a file as text without the final newline, or None; unreadable counts as absent."""
        try:
            found = self.read_bytes(path)
        except OSError:  # sysfs answers EINVAL or EIO for attributes that the device lacks
            return None
        return None if found is None else found.decode("utf-8", "replace").rstrip("\n")

    def entries(self, path: str) -> list[str]:
        """The names in a directory, sorted; none where it is absent."""
        try:
            return sorted(os.listdir(self.at(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def replace_file(self, path: str, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
        """The file with exactly this content, whole or not at all: written aside, synced, renamed, folder synced."""
        aside = self.at(_aside(path))
        try:
            self.before_write(f"create {path}")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                self.before_write(f"fill {path}")
                file.write(content)
                if owner is not None:
                    os.fchown(file.fileno(), *owner)
                os.fchmod(file.fileno(), mode)  # after chown, which clears set-id bits
                file.flush()
                os.fsync(file.fileno())
            self.before_write(f"rename {path}")
            os.replace(aside, self.at(path))
            self._sync_parent(path)
            status = os.lstat(self.at(path))
            is_right = self.read_bytes(path) == content and stat.S_IMODE(status.st_mode) == mode
            _seen(is_right and owner in (None, (status.st_uid, status.st_gid)))
        except OSError as error:
            _discard(aside)
            raise WriteFailed(path, error) from error

    def replace_link(self, path: str, target: str) -> None:
        """The symbolic link to `target`, whole or not at all."""
        aside = self.at(_aside(path))
        try:
            _discard(aside)
            self.before_write(f"create {path}")
            os.symlink(target, aside)
            self.before_write(f"rename {path}")
            os.replace(aside, self.at(path))
            self._sync_parent(path)
            _seen(os.path.islink(self.at(path)) and os.readlink(self.at(path)) == target)
        except OSError as error:
            _discard(aside)
            raise WriteFailed(path, error) from error

    def remove_file(self, path: str) -> None:
        """No such file, nor what a crash while writing it may have left beside it."""
        self.remove_leftover(path)
        self._remove(path)

    def remove_leftover(self, path: str) -> None:
        """No half-written copy beside the file, as a crash may have left it."""
        self._remove(_aside(path))

    def _remove(self, path: str) -> None:
        try:
            if self.exists(path):
                self.before_write(f"remove {path}")
                os.unlink(self.at(path))
                self._sync_parent(path)
                _seen(not self.exists(path))
        except OSError as error:
            raise WriteFailed(path, error) from error

    def make_directories(self, path: str, mode: int = 0o755) -> None:
        """The directory, made with `mode` where absent, and its missing parents with 0755."""
        if os.path.isdir(self.at(path)):
            return
        self.make_directories(os.path.dirname(path))
        try:
            self.before_write(f"create {path}")
            os.mkdir(self.at(path))
            os.chmod(self.at(path), mode)
            self._sync_parent(path)
        except OSError as error:
            raise WriteFailed(path, error) from error

    def remove_directory(self, path: str) -> None:
        """No such directory; it must be empty."""
        if not self.exists(path):
            return
        try:
            self.before_write(f"remove {path}")
            os.rmdir(self.at(path))
            self._sync_parent(path)
            _seen(not self.exists(path))
        except OSError as error:
            raise WriteFailed(path, error) from error

    def remove_tree(self, path: str) -> None:
        """No such directory, nor anything below it; links are removed, not followed."""
        try:
            self.before_write(f"remove {path}")
            if os.path.islink(self.at(path)) or not os.path.isdir(self.at(path)):
                os.unlink(self.at(path))
            else:
                shutil.rmtree(self.at(path))
            self._sync_parent(path)
            _seen(not self.exists(path))
        except OSError as error:
            raise WriteFailed(path, error) from error

    def write_kernel(self, path: str, value: str) -> None:
        """One value into procfs or sysfs: in place, in one call, and never creating a file. Raises OSError."""
        self.before_write(f"set {path}")
        descriptor = os.open(self.at(path), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{value}\n".encode())
        finally:
            os.close(descriptor)

    def writable(self, path: str) -> bool:
        """Whether the kernel would let us write there; root sees a read-only mount as not writable too."""
        return os.access(self.at(path), os.W_OK)

    def mode(self, path: str) -> int | None:
        """The permission bits of what is there, links not followed; None where absent."""
        try:
            return stat.S_IMODE(os.lstat(self.at(path)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _sync_parent(self, path: str) -> None:
        descriptor = os.open(os.path.dirname(self.at(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _seen(is_right: bool) -> None:
    """Raises where a write that returned without an error did not take."""
    if not is_right:
        raise OSError(errno.EIO, "the write was accepted and is not there")


def _aside(path: str) -> str:
    """Where a file is written before it is renamed: one fixed name, so that a crash leaves at most one."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.inferhost-new")


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
