"""The host's package manager, asked and never told: versions, holds, what belongs together, what a removal takes.

Ansible installs and removes; this says what was there before, which packages came with ours, and what would go.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from inferhost.host.machine import Finished, Machine
from inferhost.host.report import HostError
from inferhost.schema.problems import Problem

VERSIONLOCK = "/etc/dnf/plugins/versionlock.list"
LIST = {
    "apt": [
        "dpkg-query", "--show", "--showformat",
        "${Package}\t${Version}\t${db:Status-Abbrev}\t${Pre-Depends}, ${Depends}\t${Provides}\n",
    ],
    "dnf": ["rpm", "--query", "--all", "--queryformat", "%{NAME}\t%{VERSION}-%{RELEASE}\tii\t\t%{NVRA}\n"],
}  # fmt: skip
RPM_NEEDS = [
    "dnf", "--cacheonly", "repoquery", "--installed", "--requires", "--resolve", "--recursive",
    "--queryformat", "%{name}",
]  # fmt: skip
REMOVAL = {
    "apt": (["apt-get", "--simulate", "--allow-change-held-packages", "purge"], r"^(?:Purg|Remv) (\S+)"),
    # dnf takes along what rpm would complain of, and asks nobody. rpm names what needs these packages, each by its
    # full name, and fails where there is any; and where a name means several packages, as kernel-devel does.
    "dnf": (["rpm", "--erase", "--test", "--allmatches"], r" is needed by \(installed\) (\S+)-[^-\s]+-[^-\s]+$"),
}
"""How to ask what a removal takes along, without removing, and how the answer names it."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """Every installed package with its version, which are held, and for Debian's what each depends on directly.

    `full`: rpm's full names with the bare ones, since the headers of several kernels are one package to it.
    """

    versions: dict[str, str]
    held: frozenset[str]
    needs: dict[str, set[str]]
    full: dict[str, str] = dataclasses.field(default_factory=dict)


def installed(machine: Machine, family: str) -> Installed:
    """What the package database says now; a host without one is an error."""
    versions: dict[str, str] = {}
    held: set[str] = set()
    depends: dict[str, str] = {}
    providers: dict[str, set[str]] = {}
    full: dict[str, str] = {}
    for line in _asked(machine, LIST[family]).splitlines():
        name, version, status, needed, provided = line.split("\t")
        if status[1:2] == "i":
            versions[name], depends[name] = version, needed
            held.update({name} if status[:1] == "h" else ())
            for one in (name, *_names(provided)):
                providers.setdefault(one, set()).add(name)
            full.update({provided: name} if family == "dnf" else {})
    if family == "dnf":
        locks = (machine.read_text(VERSIONLOCK) or "").splitlines()
        held.update(name for name in versions if any(re.match(rf"(\d+:)?{re.escape(name)}-\d", x) for x in locks))
    needs = {name: _providers(field, providers) for name, field in depends.items()}
    return Installed(versions, frozenset(held), needs, full)


def with_needs(machine: Machine, family: str, names: Sequence[str], there: Installed) -> set[str]:
    """The installed ones of these packages, and every installed package that they depend on."""
    found = {name for name in names if name in there.versions}
    if found and family == "dnf":
        lines = _asked(machine, [*RPM_NEEDS, *sorted(found)]).splitlines()
        return found | {line for line in lines if line in there.versions}
    # Not apt-cache: for a virtual package it does not say which installed one provides it.
    fresh = set(found)
    while fresh:
        fresh = set().union(*(there.needs[name] for name in fresh)) - found
        found |= fresh
    return found


def with_dependents(names: Iterable[str], there: Installed) -> set[str]:
    """These packages, and every installed one that could not stay without them; Debian's alone."""
    found = set(names)
    while fresh := {name for name, needed in there.needs.items() if name not in found and needed & found}:
        found |= fresh
    return found


def _providers(field: str, providers: dict[str, set[str]]) -> set[str]:
    """The installed packages that meet a `Depends` field: of alternatives, the first that is there."""
    found: set[str] = set()
    for group in field.split(","):
        met = (providers[name] for name in _names(group.replace("|", ",")) if name in providers)
        found |= next(met, set())
    return found


def _names(field: str) -> list[str]:
    """The package names of a relation field, bare: `python3:any (>= 3.9)` is python3."""
    return [part.split()[0].partition(":")[0] for part in field.split(",") if part.strip()]


def removed_with(machine: Machine, family: str, names: Sequence[str]) -> set[str]:
    """Every package that would go with these, themselves included, as the package manager says."""
    if not names:
        return set()
    argv, answer = REMOVAL[family]
    done = machine.command([*argv, *names])
    found = re.findall(answer, f"{done.stdout}\n{done.stderr}", re.MULTILINE)
    if done.code != 0 and not (family == "dnf" and found):
        raise _failed(argv, done)
    return {*names, *found}


def lost_note(name: str, version: str) -> str:
    """What is told of a version that was here before us and was `dropped`."""
    said = f"{version} was here before us, and no package source of this host has it any more"
    return f"{name}: {said}; apt-get install {name} brings what they have now"


def automatic(machine: Machine, family: str) -> set[str]:
    """What goes again once nothing needs it: it came for another package, and nobody asked for it by name."""
    return set(_asked(machine, ["apt-mark", "showauto"]).split()) if family == "apt" else set()


def missing(names: Iterable[str], there: Installed) -> list[str]:
    """Which of these packages have to be installed, in their order."""
    return [name for name in names if name not in there.versions and name not in there.full]


def dropped(machine: Machine, family: str, wanted: Mapping[str, str]) -> set[str]:
    """Those that no package source has in that version any more; none where nobody can tell.

    That apt itself is in its lists tells that there are any.
    """
    if not wanted or family != "apt":
        return set()
    lines = [line.split("|") for line in _asked(machine, ["apt-cache", "madison", "apt", *wanted]).splitlines()]
    offered = {(line[0].strip(), line[1].strip()) for line in lines if len(line) > 1}
    if "apt" not in {name for name, _ in offered}:
        return set()
    return {name for name, version in wanted.items() if (name, version) not in offered}


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that one of the patterns means, sorted."""
    return sorted(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def upstream(version: str) -> str:
    """A package version without epoch and packaging: `1:535.261.03-1` is driver 535.261.03."""
    return re.split(r"[-+~]", version.rpartition(":")[2])[0]


def _asked(machine: Machine, argv: Sequence[str]) -> str:
    done = machine.command(argv)
    if done.code != 0:
        raise _failed(argv, done)
    return done.stdout


def _failed(argv: Sequence[str], done: Finished) -> HostError:
    lines = done.stderr.strip().splitlines() or [f"exit status {done.code}"]
    # What follows an error is its details, what precedes it a warning.
    said = next((line for line in lines if re.match(r"E:|error:", line, re.IGNORECASE)), lines[-1])
    dpkg = "dpkg --configure -a, then apt-get --fix-broken install"
    hint = f"repair the package database first: {'rpm --rebuilddb' if argv[0] in ('rpm', 'dnf') else dpkg}"
    return HostError(Problem(argv[0], said, hint, "packages"))
