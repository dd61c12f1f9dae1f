"""What a changed plan does to the packages of an earlier one: which holds go, what moves by name, what is left over.

A hold binds apt's resolver as well: a package that we hold ourselves would stop the driver that takes its place.
Only what is on our record is ever released; a hold of somebody else is named to the role, which stops at it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inferhost.host.driver.packages import Installed, matching, removed_with, upstream, with_needs
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline
from inferhost.host.report import Report
from inferhost.schema.plan import DriverPackages

BEFORE = "packages:before"
HELD = "packages:held"
OPTION = "inferhost_driver_version"


def recorded(baseline: Baseline) -> dict[str, str]:
    """The versions that we hold, by package."""
    return dict(baseline[HELD].found) if HELD in baseline else {}


def held_before(baseline: Baseline) -> frozenset[str]:
    """What somebody else held before us; such a hold is never ours to release."""
    return frozenset(baseline[BEFORE].found["held"]) if BEFORE in baseline else frozenset()


def fits(install: DriverPackages, version: str | None) -> bool:
    """Whether a version of the package with the kernel module is the planned one."""
    return version is not None and version.startswith(_beginning(install))


def _beginning(install: DriverPackages) -> str:
    return install.version or f"{install.branch}."


def came_with_us(machine: Machine, baseline: Baseline, there: Installed) -> list[str]:
    """The packages that were not there before any plan of ours and that only ours need, themselves included."""
    if BEFORE not in baseline:
        return []
    before = baseline[BEFORE].found
    names = {key.partition(":")[2]: baseline[key].found for key in baseline if key.startswith("package:")}
    ours = with_needs(machine, before["family"], list(names), there) - set(before["versions"])
    # Beside one of before us of the same name, as the headers of another kernel: no reason to refuse a revert.
    beside = {name for name, found in names.items() if found is None and there.full.get(name) in before["versions"]}
    gone = removed_with(machine, before["family"], sorted(beside))
    return sorted(ours | (beside if gone <= ours | beside else set()))


def moves(machine: Machine, install: DriverPackages, there: Installed, baseline: Baseline) -> dict[str, Any]:
    """What the role does before it installs, and what it may not touch.

    `restore`: `NAME=VERSION` that somebody else moved. `replace`: packages that get another version, by name,
    because apt moves a held package only where it is named. `release`: our holds of packages that this plan does not
    name, and dnf's of those that it replaces. `accepts`: the wish that leaves `restore` where it is. `ask`: all else
    that apt is asked for. `ours`: what may go unasked. `held_by_others`: foreign holds, with versions.
    """
    held, anchor = recorded(baseline), install.packages[0]
    present = {name for name in install.packages if name in there.versions}
    ours = set(held) - held_before(baseline)
    restore: list[str] = []
    replace: set[str] = set()
    release: set[str] = set()
    if fits(install, held.get(anchor)):
        restore = [
            f"{name}={version}" for name, version in held.items() if there.versions.get(name, version) != version
        ]
    elif anchor in present:
        replace = set() if fits(install, there.versions[anchor]) else present | (set(held) & set(there.versions))
    elif held:
        needed = with_needs(machine, install.family, sorted(present), there)
        replace = present | (set(held) & needed)
        release = ours & there.held - replace
    if install.family == "dnf":  # which looks past no lock, whatever is named
        release |= ours & there.held & replace
    ask = {*install.packages, *replace} if replace else set(install.packages) - present
    # By version: a pin alone lets apt take the newest, which fits neither the plan nor what else is held.
    versions = {anchor: f"={_beginning(install)}*"}
    if fits(install, held.get(anchor)):
        versions = {name: f"={version}" for name, version in held.items()}
    return {
        "restore": restore,
        "accepts": accepts(install, held, there) if restore else "",
        "replace": sorted(replace),
        "release": sorted(release),
        "ask": sorted(f"{name}{versions.get(name, '')}" for name in ask),
        "ours": sorted(ours),
        "held_by_others": {name: there.versions[name] for name in sorted(there.held - ours)},
    }


def accepts(install: DriverPackages, held: Mapping[str, str], there: Installed) -> str:
    """The wish of a version that takes what somebody else brought for all packages; empty where none does.

    Only packages that have the driver's own version tell it, and dnf installs what its stream holds.
    """
    ours = upstream(held.get(install.packages[0], ""))
    moved = [there.versions[n] for n, v in held.items() if upstream(v) == ours and there.versions.get(n, v) != v]
    branch = [version for version in moved if upstream(version).startswith(f"{install.branch}.")]
    if not branch or install.family == "dnf":
        return ""
    newest = max(branch, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])
    # Another packaging of the same driver is told from the held one by the whole version only.
    return f"{OPTION}: {upstream(newest) if upstream(newest) != ours else newest.rpartition(':')[2]}"


def left_over(
    machine: Machine,
    install: DriverPackages,
    there: Installed,
    baseline: Baseline,
    *,
    wanted: Mapping[str, str],
    report: Report,
) -> dict[str, list[str]]:
    """Once the planned driver is there (`wanted`): our holds of what it does not need, and what of that can go.

    Nothing goes that a package of somebody else needs.
    """
    if not fits(install, there.versions.get(install.packages[0])):
        return {"release": [], "remove": []}
    came = set(came_with_us(machine, baseline, there))
    gone = matching(came - set(wanted), [*install.pinned, *install.packages])
    others = sorted(removed_with(machine, install.family, gone) - set(gone))
    if others:
        report.note(f"{', '.join(gone)}: only an earlier plan wanted it, and {', '.join(others)} needs it; left")
    ours = ({*recorded(baseline), *gone} - set(wanted)) - held_before(baseline)
    return {"release": sorted(ours & there.held), "remove": [] if others else gone}
