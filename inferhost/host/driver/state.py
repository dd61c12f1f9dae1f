"""The NVIDIA driver as packages: what was there before, what came with us, and whether all of it still agrees.

Ansible installs, holds and removes. This records every package before the first one is touched, and compares versions
with those recorded when they were held; `module.py` compares the kernel's side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from inferhost.host.driver import module, options
from inferhost.host.driver.candidates import brings_source, not_offered
from inferhost.host.driver.changed_plan import BEFORE, HELD, accepts, came_with_us, fits, left_over, moves, recorded
from inferhost.host.driver.displaced import displaced, noted, settle
from inferhost.host.driver.module import SITE, headers, kernel_headers, version_of
from inferhost.host.driver.packages import (
    Installed,
    automatic,
    dropped,
    installed,
    lost_note,
    matching,
    missing,
    removed_with,
    upstream,
    with_dependents,
    with_needs,
)
from inferhost.host.driver.persistence import persistence_verdicts
from inferhost.host.driver.secure_boot import DKMS_KEY, firmware_knows, secure_boot_problems
from inferhost.host.driver.sources import source_problems
from inferhost.host.driver.streams import stream_as_now, stream_file, stream_problems
from inferhost.host.driver.units import is_disabled, starts_at_boot, unit_verdict
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import BOOT_ID, Baseline, Record
from inferhost.host.report import Report
from inferhost.host.service.account import restore_trees, uid_of
from inferhost.schema.plan import DriverPackages, Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

SECTION = "driver"
URL = "inferhost_driver_repository_url"
INITRAMFS = {
    "/usr/sbin/update-initramfs": ["update-initramfs", "-u", "-k", "all"],
    "/usr/bin/dracut": ["dracut", "--force", "--regenerate-all"],
}
DAEMON_USERS = ("nvpd", "nvidia-persistenced")
"""Whom Debian's and Ubuntu's packages of the persistence daemon make, and leave behind when they are purged.

Source: the units in Debian's nvidia-persistenced 535.171.04-1~deb12u1 and Ubuntu's nvidia-compute-utils.
"""
ARCHITECTURE = "x86_64"
"""That of every row of `drivers.json`: its folders and headers are of no other."""
DKMS = "/var/lib/dkms"
"""Where dkms makes a key when it first builds a module, to sign with. Its package leaves the key behind."""
INSTALLER_LOG = "/var/lib/nvidia/log"
"""What NVIDIA's .run installer has placed; nvidia-uninstall takes the log away too. Source: its backup.c."""
FABRIC_MANAGER = "fabricmanager"
"""In the name of its package everywhere; it refuses a driver of any other version than its own."""


def driver_files(plan: Plan) -> list[str]:
    """Files that are placed without a content in the plan: the repository's key, and dnf's choice of stream."""
    install = plan.driver.install
    if SECTION not in plan.manage or install is None:
        return []
    stream = stream_file(install.module_stream) if install.module_stream else None
    return [path for path in (install.key, stream) if path]


def driver_records(machine: Machine, plan: Plan, baseline: Baseline) -> dict[str, Record]:
    """Every package of the host as it is now, the names that the plan installs, and what that may displace."""
    install = plan.driver.install
    if SECTION not in plan.manage or install is None:
        return {}
    there = installed(machine, install.family)
    drivers = matching(there.versions, [*install.pinned, *install.packages])
    before = {
        "versions": there.versions,
        "held": sorted(there.held),
        "family": install.family,
        "automatic": sorted(automatic(machine, install.family) & with_dependents(drivers, there)),
        "stream": stream_as_now(machine, install),
        "disabled": [unit for unit in install.units if not starts_at_boot(machine, unit)],
    }
    found = {BEFORE: Record(SECTION, before, {})}
    if to_move(machine, plan, baseline):
        found.update(noted(install, there, baseline))
    if not machine.exists(DKMS):
        found[f"tree:{DKMS}"] = Record(SECTION, None, {})
    for user in DAEMON_USERS:
        found[f"user:{user}"] = Record(SECTION, None if uid_of(machine, user) is None else "present", {})
    for name in (*install.packages, *install.tools, *headers(machine, install, there)):
        found[f"package:{name}"] = Record(SECTION, there.versions.get(there.full.get(name, name)), {})
    return found


def driver_facts(machine: Machine, plan: Plan, baseline: Baseline) -> dict[str, Any]:
    """What the role has to know of this host: which headers, and what stands at another version than it should."""
    install = plan.driver.install
    if SECTION not in plan.manage or install is None:
        return {}
    there = installed(machine, install.family)
    wanted = headers(machine, install, there)
    absent = missing([*install.tools, *wanted, *install.packages], there)
    return {
        "headers": wanted,
        "missing": absent,
        # These alone: the package that follows later kernels is nobody's dependency.
        "of_a_kernel": [name for name in kernel_headers(machine, install) if name in absent],
        "initramfs": _initramfs(machine),
        **moves(machine, install, there, baseline),
    }


def to_move(machine: Machine, plan: Plan, baseline: Baseline) -> list[str]:
    """The packages that the role would install or give another version, by name."""
    found = driver_facts(machine, plan, baseline)
    if not found:
        return []
    return sorted({*found["missing"], *found["replace"], *(one.partition("=")[0] for one in found["restore"])})


def driver_problems(machine: Machine, plan: Plan, baseline: Baseline) -> list[Problem]:
    """What would be refused before anything is installed."""
    install = plan.driver.install
    if SECTION not in plan.manage or install is None:
        return []
    return [
        *_architecture_problems(machine),
        *_installer_problems(machine, install),
        *secure_boot_problems(machine, install),
        *_source_problems(machine, plan, install),
        *source_problems(machine, plan, SECTION, URL, _way_out(install)),
        *stream_problems(machine, install, installed(machine, install.family), baseline),
    ]


def apply_driver(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Records the versions that are held from now on, and says which packages those are."""
    install = plan.driver.install
    if install is None:
        return
    there = installed(machine, install.family)
    settle(baseline, there, report.check)
    names, held = _driver_packages(machine, install, there), recorded(baseline)
    # What was recorded for an earlier plan is replaced; a version that somebody else brought never is.
    versions = {name: there.versions[name] for name in names}
    if fits(install, held.get(install.packages[0])):
        versions |= {name: version for name, version in held.items() if name in names}
    gone = left_over(machine, install, there, baseline, wanted=versions, report=report)
    if versions != held and fits(install, versions.get(install.packages[0])):
        baseline.drop([HELD], report.check)
        baseline.add({HELD: Record(SECTION, versions, {})}, report.check)
        report.note(f"held from now on: {', '.join(f'{n} {v}' for n, v in versions.items())}")
    report.facts["driver"] = {
        "hold": sorted(set(names) - there.held),
        **gone,
        "enable": [unit for unit in install.units if is_disabled(machine, unit)],
        "disable": [
            unit
            for unit in (baseline[BEFORE].found.get("disabled", ()) if BEFORE in baseline else ())
            if unit not in install.units and starts_at_boot(machine, unit)
        ],
        "reboot_required": module.needs_reboot(machine, install, there)
        or options.waits_for_restart(machine, install),
        "boot_id": machine.read_text(BOOT_ID),
    }
    _verify_modules(machine, install, there, report)


def verify_driver(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Packages, holds, the module for the next boot, and the running one."""
    install = plan.driver.install
    if install is None:
        return
    there = installed(machine, install.family)
    held = recorded(baseline)
    for name in sorted({*install.packages, *held}):
        report.verdicts.append(_package(install, there, name, held))
    _verify_modules(machine, install, there, report)
    report.verdicts += module.library_verdicts(machine, install, there)
    running = module.running_verdict(machine, install, there)
    report.verdicts += [running, *(unit_verdict(machine, unit, running) for unit in install.units)]
    report.verdicts += persistence_verdicts(machine, plan, install)
    report.verdicts += options.option_verdicts(machine, install)


def driver_revert(baseline: Baseline, machine: Machine, report: Report) -> dict[str, Any]:
    """What the role has to do to the packages so that they are as recorded; nothing of another's is in it."""
    if BEFORE not in baseline:
        return {}
    before = baseline[BEFORE].found
    family = before["family"]
    there = installed(machine, family)
    ours = came_with_us(machine, baseline, there)
    foreign = sorted(removed_with(machine, family, ours) - set(ours))
    if foreign:
        message = f"removing what came with the driver would remove {', '.join(foreign)} too"
        hint = f"remove {foreign[0]} first if it is not needed, or keep the driver"
        report.problems.append(Problem(SECTION, message, hint, "foreign-packages"))
    made_room = displaced(baseline, there)
    back = {name: version for name, version in made_room.items() if there.versions.get(name) != version}
    lost = dropped(machine, family, back)
    restore = {name: version for name, version in back.items() if name not in lost}
    touched = {*recorded(baseline), *made_room} & {*there.versions, *restore}
    return {
        "family": family,
        "remove": [] if foreign else ours,
        "restore": [f"{name}={version}" for name, version in restore.items()],
        "stream": before.get("stream", []),
        # apt takes what it is told by name for wanted by name.
        "automatic": sorted(set(before.get("automatic", [])) & touched - (automatic(machine, family) - set(restore))),
        "lost": {name: back[name] for name in sorted(lost)},
        "release": sorted((there.held - set(before["held"])) & {*ours, *touched}),
        "hold": sorted((set(before["held"]) & touched) - there.held),
        "disable": [unit for unit in before.get("disabled", []) if starts_at_boot(machine, unit)],
        "initramfs": _initramfs(machine),
    }


def restore_driver(machine: Machine, sections: Sequence[str], baseline: Baseline, report: Report) -> None:
    """Compares the packages with the record, and forgets it once they are back; it removes none itself."""
    if SECTION not in sections or BEFORE not in baseline:
        return
    left = driver_revert(baseline, machine, report)
    todo = [*left["remove"], *left["restore"], *left["release"], *left["hold"], *left["automatic"], *left["disable"]]
    if todo or report.problems:
        evidence = "packages go and come back by playbooks/revert.yml, never by this program"
        verdict = ("pending", "needs_driver") if report.check else ("ignored", "unexplained")
        report.verdicts.append(Verdict("driver.packages", "as before", ", ".join(todo), *verdict, evidence))
        return
    report.verdicts.append(
        Verdict("driver.packages", "as before", "as before", "held", "none", "compared with the record")
    )
    for name, version in left["lost"].items():
        report.note(lost_note(name, version))
    trees = baseline.of("tree", [SECTION])
    if firmware_knows(machine, DKMS_KEY):
        report.note(
            f"{DKMS}: its key is enrolled in the firmware, or asked to be, and a new one wants the console; left"
        )
    elif "dkms" in installed(machine, baseline[BEFORE].found["family"]).versions:
        report.note(f"{DKMS}: dkms stays for a module of somebody else; left")
    else:
        restore_trees(machine, trees, baseline, report)
    baseline.drop([f"tree:{path}" for path in trees], report.check)
    keys = [key for key in baseline if key.startswith(("package:", "packages:"))]
    baseline.drop(keys, report.check)


def _architecture_problems(machine: Machine) -> list[Problem]:
    """A machine whose packages and repositories the catalogue does not name, as Grace's is; unknown passes."""
    found = machine.command(["uname", "-m"]).stdout.strip()
    if found in ("", ARCHITECTURE):
        return []
    message = f"found driver on {found}, and the driver section knows the packages of {ARCHITECTURE} only"
    hint = "leave driver out of inferhost_manage and install the driver by hand"
    return [Problem("inferhost_manage", message, hint, "architecture")]


def _installer_problems(machine: Machine, install: DriverPackages) -> list[Problem]:
    """A driver that no package database knows, where packages are to come: a revert could not give it back."""
    log = machine.read_text(INSTALLER_LOG)
    if log is None or not missing(install.packages, installed(machine, install.family)):
        return []
    version = re.search(r"\((\S+)\)", log.partition("\n")[0])
    found = f"driver {version[1]}" if version else "a driver"
    message = f"found driver, and NVIDIA's .run installer has brought {found}, which packages would write over"
    hint = (
        "nvidia-uninstall takes it away, and a revert does not bring it back; then run this again. "
        "Or leave driver out of inferhost_manage"
    )
    return [Problem("inferhost_manage", message, hint, "another-driver")]


def _source_problems(machine: Machine, plan: Plan, install: DriverPackages) -> list[Problem]:
    """Packages that are not there and that the host's own sources do not offer, where the plan brings no source."""
    if brings_source(plan.files, SECTION):
        return []
    there = installed(machine, install.family)
    kernels = headers(machine, install, there)
    gone = not_offered(machine, install.family, missing([*install.packages, *kernels], there))
    driver, old = ([name for name in gone if (name in kernels) is of_kernel] for of_kernel in (False, True))
    problems = []
    if driver:
        where = f"the components {', '.join(install.components)}" if install.components else "what has them"
        hint = f"add {where} to those sources, then apt-get update; or name an archive here"
        message = f"is empty, and no package source of this host offers {', '.join(driver)}"
        problems.append(Problem(URL, message, hint, "no-package"))
    if old:
        hint = (
            "apt-get update and upgrade the kernel, restart the host into it, remove the old one, and run this again"
        )
        message = f"found driver, and no package source of this host offers {', '.join(old)}"
        problems.append(Problem("inferhost_manage", message, hint, "no-package"))
    return problems


def _way_out(install: DriverPackages) -> str:
    """What lets the archive be used where `{path}` of the host has it already."""
    if install.components:
        return f"leave it empty, and add the components {', '.join(install.components)} to {{path}}"
    return "take it out of {path}, or remove the package that brought that (cuda-keyring): ours stands for it"


def _initramfs(machine: Machine) -> list[str]:
    """How this host makes its initramfs again; nothing where it has none."""
    return next((argv for path, argv in INITRAMFS.items() if machine.exists(path)), [])


def _driver_packages(machine: Machine, install: DriverPackages, there: Installed) -> list[str]:
    """The packages of which every one must move with the others: ours by name, and what they need of the driver."""
    needed = with_needs(machine, install.family, install.packages, there)
    return matching(needed, [*install.pinned, *install.packages])


def _package(install: DriverPackages, there: Installed, name: str, held: dict[str, str]) -> Verdict:
    found, held_at = there.versions.get(name), held.get(name)
    wanted = held_at or (install.version if name == install.packages[0] else None) or f"branch {install.branch}"
    setting = f"driver.package.{name}"
    if found is None:
        return Verdict(setting, wanted, None, "overridden", "other_writer", f"not installed; {SITE} installs it")
    if held_at is not None and found != held_at:
        taken = accepts(install, held, there)
        takes = f"{taken} takes the new one" if taken else "revert gives it up"
        evidence = f"held at {held_at} and changed by somebody else; {SITE} puts it back, {takes}"
        return Verdict(setting, wanted, found, "overridden", "other_writer", evidence)
    if name == install.packages[0] and not fits(install, found):
        return Verdict(setting, wanted, found, "overridden", "other_writer", f"not as planned; {SITE} changes it")
    if name not in there.held and held_at is not None:
        evidence = f"not held, so the next upgrade moves it; {SITE} holds it again"
        return Verdict(setting, wanted, found, "overridden", "other_writer", evidence)
    if FABRIC_MANAGER in name and upstream(found) != version_of(install, there):
        evidence = f"it refuses a driver of another version; {SITE} with inferhost_driver_version names one for both"
        return Verdict(setting, version_of(install, there), found, "ignored", "unexplained", evidence)
    return Verdict(setting, wanted, found, "held", "none", "the package database; held")


def _verify_modules(machine: Machine, install: DriverPackages, there: Installed, report: Report) -> None:
    found = module.module_verdicts(machine, install, there)
    report.verdicts += found
    if note := module.followers_note(machine, install, there):
        report.note(note)
    if not found:
        report.note("driver: this host has no kernel of its own, so no module is built or looked for")
