"""Whether an engine's user can get at what it is to read: looked at from outside, before anything is placed."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat

from inferhost.host.machine import Machine

ACCESS_LIST = "system.posix_acl_access"  # Source: acl(5); linux include/uapi/linux/xattr.h


@dataclasses.dataclass(frozen=True)
class Reader:
    """A user by name and by what files know of it; one that is not there yet is a stranger."""

    name: str
    number: int | None = None
    groups: frozenset[int] = frozenset()


def reader(machine: Machine, user: str) -> Reader:
    """The user of a service; a container's is a number that is in no group."""
    if user.isdigit():
        return Reader(user, int(user))
    number, groups = (machine.command(["id", word, user]) for word in ("--user", "--groups"))
    if number.code or groups.code:
        return Reader(user)
    return Reader(user, int(number.stdout), frozenset(int(group) for group in groups.stdout.split()))


def closed(machine: Machine, path: str, who: Reader) -> str:
    """The first on the way up from a file that the user cannot read or pass, links followed; else empty."""
    for file in dict.fromkeys((path, resolved(machine, path))):
        for way in (file, *map(str, pathlib.PurePosixPath(file).parents)):
            if way != "/" and machine.exists(way) and not _open_to(machine.at(way), who):
                return way
    return ""


def resolved(machine: Machine, path: str) -> str:
    """Where a path leads once every link is followed."""
    root = os.path.realpath(machine.at("/")).rstrip("/")
    return os.path.realpath(machine.at(path)).removeprefix(root)


def _open_to(path: str, who: Reader) -> bool:
    found = os.stat(path)
    needed = stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH
    if found.st_uid == who.number:
        needed <<= 6
    elif found.st_gid in who.groups:
        needed <<= 3
    return bool(found.st_mode & needed) or _has_access_list(path)


def _has_access_list(path: str) -> bool:
    """Whether a list says more of who may read than the mode does, which is then believed to be enough."""
    try:
        return ACCESS_LIST in os.listxattr(path)
    except OSError:  # a file system without any
        return False
