"""The host's package manager, asked and never told: versions, holds, what belongs together, what a removal takes.

Ansible installs and removes; this says what was there before, which packages came with ours, and what would go.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Sequence

from inferhost.host.machine import Machine
from inferhost.host.report import HostError
from inferhost.schema.problems import Problem

VERSIONLOCK = "/etc/dnf/plugins/versionlock.list"
LIST = {
    "apt": ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${db:Status-Abbrev}\n"],
    "dnf": ["rpm", "--query", "--all", "--queryformat", "%{NAME}\t%{VERSION}-%{RELEASE}\tii\n"],
}
NEEDS = {
    "apt": [
        "apt-cache", "depends", "--recurse", "--installed", "--no-recommends", "--no-suggests", "--no-conflicts",
        "--no-breaks", "--no-replaces", "--no-enhances",
    ],
    "dnf": [
        "dnf", "--cacheonly", "repoquery", "--installed", "--requires", "--resolve", "--recursive",
        "--queryformat", "%{name}",
    ],
}  # fmt: skip
REMOVAL = {
    "apt": ["apt-get", "--simulate", "--allow-change-held-packages", "purge"],
    "dnf": ["dnf", "--assumeno", "remove"],
}


@dataclasses.dataclass(frozen=True)
class Installed:
    """Every installed package with its version, and which are held."""

    versions: dict[str, str]
    held: frozenset[str]


def installed(machine: Machine, family: str) -> Installed:
    """What the package database says now; a host without one is an error."""
    versions: dict[str, str] = {}
    held: set[str] = set()
    for line in _asked(machine, LIST[family]).splitlines():
        name, version, status = line.split("\t")
        if status[1:2] == "i":
            versions[name] = version
            held.update({name} if status[:1] == "h" else ())
    if family == "dnf":
        locks = (machine.read_text(VERSIONLOCK) or "").splitlines()
        held.update(name for name in versions if any(re.match(rf"(\d+:)?{re.escape(name)}-\d", x) for x in locks))
    return Installed(versions, frozenset(held))


def with_needs(machine: Machine, family: str, names: Sequence[str], there: Installed) -> set[str]:
    """The installed ones of these packages, and every installed package that they depend on."""
    found = {name for name in names if name in there.versions}
    if not found:
        return set()
    lines = _asked(machine, [*NEEDS[family], *sorted(found)]).splitlines()
    return found | {line for line in lines if line in there.versions}


def removed_with(machine: Machine, family: str, names: Sequence[str]) -> set[str]:
    """Every package that would go with these, themselves included, as the package manager says."""
    if not names or family != "apt":
        return set(names)
    lines = _asked(machine, [*REMOVAL[family], *names]).splitlines()
    return {line.split()[1] for line in lines if line.startswith(("Purg ", "Remv "))}


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that one of the patterns means, sorted."""
    return sorted(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def upstream(version: str) -> str:
    """A package version without epoch and packaging: `1:535.261.03-1` is driver 535.261.03."""
    return re.split(r"[-+~]", version.rpartition(":")[2])[0]


def _asked(machine: Machine, argv: Sequence[str]) -> str:
    done = machine.command(argv)
    if done.code != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.code}"])[-1]
        hint = "repair the package database first: dpkg --configure -a, then apt-get --fix-broken install"
        raise HostError(Problem(argv[0], said, hint, "packages"))
    return done.stdout
