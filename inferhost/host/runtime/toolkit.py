"""NVIDIA's container toolkit as packages: the version that is held, and whether somebody moved it.

A toolkit that an upgrade moves while containers run writes its next specification by other rules than the one they
started with, so its version moves only when the plan does. Its packages depend on each other's very version, so all
that are there move, stay and go back together, whoever brought them. Ansible installs, holds and releases; this says
what.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Any

from inferhost.host.driver.packages import Installed, dropped, installed, matching, upstream
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import Report
from inferhost.schema.container import Runtime
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

SECTION = "runtime"
BEFORE = "containers:before"
HELD = "containers:held"
SITE = "ansible-playbook site.yml --tags runtime"
OPTION = "inferhost_runtime_toolkit_version"
FIRST_WITH_UUIDS = (1, 15)
"""Its specifications name each card by number and by UUID. Source: the toolkit's CHANGELOG, 1.15.0-rc.4."""


def toolkit_moves(runtime: Runtime, there: Installed, baseline: Baseline) -> dict[str, Any]:
    """What the role does to versions.

    `restore`: `NAME=VERSION` that somebody else moved or removed, and `accepts`: the wish that leaves it where it is.
    `replace`: packages that the wish gives another version.
    """
    kept, parts = _kept(runtime, there, baseline), matching(there.versions, runtime.toolkit_pinned)
    restore = [f"{name}={v}" for name, v in kept.items() if there.versions.get(name) != v]
    replace = [] if kept or all(_fits(runtime, there.versions[name]) for name in parts) else parts
    moved = [there.versions[name] for name, v in kept.items() if there.versions.get(name, v) != v]
    brought = moved[0] if moved and runtime.family == "apt" else ""
    return {"restore": restore, "accepts": f"{OPTION}: {brought}" if brought else "", "replace": replace}


def asked_for(runtime: Runtime, names: Iterable[str]) -> list[str]:
    """These packages as apt is asked for them: `NAME=VERSION` where the wish names one.

    A pin alone lets apt take the newest where no source has the version.
    """
    names, version = list(names), runtime.toolkit_version
    pinned = matching(names, runtime.toolkit_pinned) if version else []
    return [f"{name}={version}" if name in pinned else name for name in names]


def toolkit_problems(machine: Machine, runtime: Runtime, baseline: Baseline) -> list[Problem]:
    """Another version in the wish than the one that somebody else holds: such a hold is never ours to release."""
    there = installed(machine, runtime.family)
    before = baseline[BEFORE].found.get("held", []) if BEFORE in baseline else []
    ours = set(_recorded(baseline)) - set(before)
    found = {name: there.versions[name] for name in toolkit_moves(runtime, there, baseline)["replace"]}
    kept = {name: version for name, version in found.items() if name in there.held - ours}
    if not kept:
        return []
    names = ", ".join(f"{name} {version}" for name, version in kept.items())
    release = "dnf versionlock delete" if runtime.family == "dnf" else "apt-mark unhold"
    hint = f"{next(iter(kept.values()))}, or {release} {' '.join(kept)}"
    wanted = str(runtime.toolkit_version).removesuffix("-*")
    message = f'found "{wanted}", and {names} is held by somebody else'
    return [Problem(OPTION, message, hint, "held")]


def name_problems(machine: Machine, runtime: Runtime, cards: Iterable[str]) -> list[Problem]:
    """A toolkit that stays, or that the wish names, and that does not know a card by its UUID, as the plan does."""
    found = installed(machine, runtime.family).versions.get(_anchor(runtime))
    version = found if _fits(runtime, found) else runtime.toolkit_version
    is_old = version is not None and tuple(map(int, re.findall(r"\d+", upstream(version)))) < FIRST_WITH_UUIDS
    if not is_old or all(card.isdigit() for card in cards):
        return []
    wanted = str(runtime.toolkit_version or "newest").removesuffix("-*")
    there = f"{_anchor(runtime)} {found} is there, which" if version == found else "that"
    lists = f"apt-cache madison {_anchor(runtime)}" if runtime.family == "apt" else "dnf upgrade brings the newest"
    hint = f"one from {'.'.join(map(str, FIRST_WITH_UUIDS))}.0 on: {lists}"
    return [Problem(OPTION, f'found "{wanted}", and {there} names cards by number only', hint, "toolkit-names")]


def hold_toolkit(machine: Machine, runtime: Runtime, baseline: Baseline, report: Report) -> None:
    """Records the versions that are held from now on, and says which packages those are.

    What was recorded for an earlier wish is replaced; a version that somebody else brought never is.
    """
    there = installed(machine, runtime.family)
    names = matching(there.versions, runtime.toolkit_pinned)
    versions = {name: there.versions[name] for name in names}
    versions |= {name: v for name, v in _kept(runtime, there, baseline).items() if name in names}
    if versions != _recorded(baseline) and _fits(runtime, versions.get(_anchor(runtime))):
        baseline.drop([HELD], report.check)
        baseline.add({HELD: Record(SECTION, versions, {})}, report.check)
        report.note(f"held from now on: {', '.join(f'{n} {v}' for n, v in versions.items())}")
    report.facts["runtime"] = {"hold": sorted(set(names) - there.held)}


def verify_toolkit(machine: Machine, runtime: Runtime, baseline: Baseline, report: Report) -> None:
    """One verdict per package that we hold."""
    held = _recorded(baseline)
    if held:
        there = installed(machine, runtime.family)
        report.verdicts += [_verdict(runtime, there, name, version) for name, version in held.items()]


def toolkit_revert(machine: Machine, baseline: Baseline, there: Installed) -> dict[str, Any]:
    """Which of our holds go, and which packages of before us go back to their version, or cannot (`lost`)."""
    before, held = baseline[BEFORE].found, _recorded(baseline)
    were = {name: before["versions"][name] for name in held if name in before["versions"]}
    back = {name: version for name, version in were.items() if there.versions.get(name) != version}
    lost = dropped(machine, before["family"], back)
    return {
        "release": sorted(set(held) & there.held - set(before.get("held", []))),
        "restore": [f"{name}={version}" for name, version in back.items() if name not in lost],
        "lost": {name: back[name] for name in sorted(lost)},
    }


def _verdict(runtime: Runtime, there: Installed, name: str, wanted: str) -> Verdict:
    setting, found = f"runtime.package.{name}", there.versions.get(name)
    if found is None:
        said = f"not installed; {SITE} installs it"
    elif found != wanted:
        said = (
            f"held at {wanted} and changed by somebody else; {SITE} puts it back, {OPTION}: {found} takes the new one"
        )
    elif name in runtime.toolkit and not _fits(runtime, found):
        said = f"not as planned; {SITE} changes it"
    elif name not in there.held:
        said = f"not held, so the next upgrade moves it; {SITE} holds it again"
    else:
        return Verdict(setting, wanted, found, "held", "none", "the package database; held")
    return Verdict(setting, wanted, found, "overridden", "other_writer", said)


def _kept(runtime: Runtime, there: Installed, baseline: Baseline) -> dict[str, str]:
    """The version that each part has to stay at; nothing where none is held, or one that the wish left.

    A part that somebody added since is of the version of the others; one that was taken away from beside others that
    stayed as they are stays away.
    """
    held, anchor = _recorded(baseline), _anchor(runtime)
    if not _fits(runtime, held.get(anchor)):
        return {}
    parts = matching(there.versions, runtime.toolkit_pinned)
    kept = {name: held.get(name, held[anchor]) for name in sorted({*held, *parts})}
    stayed = anchor in parts and all(there.versions[name] == kept[name] for name in parts)
    return {name: kept[name] for name in parts} if stayed else kept


def _anchor(runtime: Runtime) -> str:
    """The package that writes the specification."""
    return runtime.toolkit[0] if runtime.toolkit else ""


def _recorded(baseline: Baseline) -> dict[str, str]:
    return dict(baseline[HELD].found) if HELD in baseline else {}


def _fits(runtime: Runtime, version: str | None) -> bool:
    """Whether a version of the toolkit is the planned one."""
    return version is not None and fnmatch.fnmatchcase(version, runtime.toolkit_version or "*")
