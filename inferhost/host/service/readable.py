"""Whether an engine's user can get at what it is to read: looked at from outside, before anything is placed."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator

from inferhost.host.machine import Machine
from inferhost.schema.parts import gguf_parts
from inferhost.schema.plan import Plan, Service
from inferhost.schema.problems import Problem

MODEL, ENGINE = "inferhost_service_model_path", "inferhost_service_engine_path"
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


def reading_problems(machine: Machine, plan: Plan) -> Iterator[Problem]:
    """What an engine could not read, once per engine and option."""
    for service in plan.service if "service" in plan.manage else ():
        who, files = reader(machine, service.user), _model_files(machine, service.model_path)
        what = "engine" if service.container is None else "container"
        found = next(filter(None, (closed(machine, file, who) for file in files)), "")
        if found:
            message = f"{found} is closed to user {who.name}, which runs the {what}"
            yield Problem(MODEL, message, f"chmod o+rX {found}: weights are no secret; or a place for all", "closed")
        elif service.container is not None:
            yield from _links_out(machine, service, files)
        program = service.argv[0] if service.install is None else os.path.dirname(service.install.prefix)
        found = closed(machine, program, who) if service.container is None else ""
        if found:
            message = f"{found} is closed to user {who.name}, which runs the engine"
            yield Problem(ENGINE, message, f"chmod o+rX {found}; or an engine in a place for all", "closed")


def _model_files(machine: Machine, path: str) -> list[str]:
    """The weights with all their parts, or what lies beside each other in their folder."""
    if not os.path.isdir(machine.at(path)):
        return gguf_parts(path)
    return [path, *(f"{path}/{name}" for name in sorted(os.listdir(machine.at(path))) if not name.startswith("."))]


def _links_out(machine: Machine, service: Service, files: list[str]) -> Iterator[Problem]:
    """A link to what a container is not given ends nowhere in it: so do the snapshots of Hugging Face's cache."""
    mounts = [resolved(machine, mount[0]) for mount in service.container.mounts] if service.container else []
    for file in files:
        target = resolved(machine, file)
        if not any(target == mount or target.startswith(f"{mount}/") for mount in mounts):
            message = f"{file} leads to {target}, which the container does not see"
            hint = f"a folder with the files themselves: cp -rL {service.model_path} THERE"
            yield Problem(MODEL, message, f"{hint}; or inferhost_service_mode: unit", "link")
            return


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
