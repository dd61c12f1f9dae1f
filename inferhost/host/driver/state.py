"""The NVIDIA driver as packages: what was there before, what came with us, and whether module and library agree.

Ansible installs, holds and removes. This records every package before the first one is touched, refuses a Secure Boot
that would refuse the module, and compares: versions with those recorded when they were held, the module for the next
boot with the packages, and the running module with both.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from typing import Any

from inferhost.host.driver.packages import Installed, installed, matching, removed_with, upstream, with_needs
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import Report
from inferhost.schema.plan import DriverPackages, Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

SECTION = "driver"
BEFORE = "packages:before"
HELD = "packages:held"
LOADED = "/proc/driver/nvidia/version"
NOUVEAU = "/sys/module/nouveau"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
MACHINE_OWNER_KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub")
"""Where Ubuntu's and Debian's dkms keep the key that they sign modules with."""
MODULES = ("nvidia", "nvidia-current", "nvidia-current-open")
"""Debian's packages call the module after their alternative; everybody else's after itself."""
INITRAMFS = {
    "/usr/sbin/update-initramfs": ["update-initramfs", "-u", "-k", "all"],
    "/usr/bin/dracut": ["dracut", "--force", "--regenerate-all"],
}
SITE = "ansible-playbook site.yml --tags driver"


def driver_records(machine: Machine, plan: Plan) -> dict[str, Record]:
    """Every package of the host as it is now, and the names that the plan installs."""
    install = plan.driver.install
    if SECTION not in plan.manage or install is None:
        return {}
    there = installed(machine, install.family)
    before = {"versions": there.versions, "held": sorted(there.held), "family": install.family}
    found = {BEFORE: Record(SECTION, before, {})}
    for name in (*install.packages, *headers(machine, install)):
        found[f"package:{name}"] = Record(SECTION, there.versions.get(name), {})
    return found


def driver_facts(machine: Machine, plan: Plan, baseline: Baseline) -> dict[str, Any]:
    """What the role has to know of this host: which headers, and what stands at another version than it should."""
    install = plan.driver.install
    if SECTION not in plan.manage or install is None:
        return {}
    there, held = installed(machine, install.family), _recorded(baseline)
    anchor = install.packages[0]
    moved = (
        [f"{n}={v}" for n, v in held.items() if there.versions.get(n, v) != v]
        if _fits(install, held.get(anchor))
        else []
    )
    wrong = anchor in there.versions and not moved and not _fits(install, there.versions[anchor])
    return {
        "headers": headers(machine, install),
        # By name, what we hold as well: apt moves a held package only where it is named.
        "replace": sorted({*install.packages, *held} & set(there.versions)) if wrong else [],
        "restore": moved,
        "initramfs": _initramfs(machine),
    }


def secure_boot_problems(machine: Machine, plan: Plan) -> list[Problem]:
    """Secure Boot without a key that the firmware trusts, which would refuse every module that dkms builds."""
    if SECTION not in plan.manage or plan.driver.install is None or not _secure_boot(machine):
        return []
    keys = [key for key in MACHINE_OWNER_KEYS if machine.exists(key)]
    if any("already enrolled" in machine.command(["mokutil", "--test-key", key]).stdout for key in keys):
        return []
    if keys:
        steps = f"run mokutil --import {keys[0]}, restart, and choose Enroll MOK on the console"
    else:
        steps = (
            "install dkms and mokutil, make a key (Ubuntu: update-secureboot-policy --new-key; Debian 13: "
            "dkms generate_mok), run mokutil --import KEY, restart, and choose Enroll MOK on the console"
        )
    message = "Secure Boot is on and no key of this host's own is enrolled, so the kernel would refuse the module"
    return [Problem("secure boot", message, f"{steps}; or turn Secure Boot off in the firmware", "secure-boot")]


def kernels(machine: Machine) -> list[str]:
    """The running kernel and the one that boots next, where they are this host's own; a container has none."""
    bootable = [name[len("vmlinuz-") :] for name in machine.entries("/boot") if name.startswith("vmlinuz-")]
    newest = sorted(bootable, key=_numbers)[-1:]
    running = platform.release()
    return list(dict.fromkeys([*([running] if machine.exists(f"/lib/modules/{running}") else []), *newest]))


def headers(machine: Machine, install: DriverPackages) -> list[str]:
    """The packages with the headers of the running and the next kernel, and the one that follows later kernels."""
    found = [install.headers_for_kernel.replace("{kernel}", kernel) for kernel in kernels(machine)]
    return [*found, install.headers] if found else []


def apply_driver(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Records the versions that are held from now on, and says which packages those are."""
    install = plan.driver.install
    if install is None:
        return
    there = installed(machine, install.family)
    names, held = _driver_packages(machine, install, there), _recorded(baseline)
    # What was recorded for an earlier plan is replaced; a version that somebody else brought never is.
    versions = {name: there.versions[name] for name in names}
    if _fits(install, held.get(install.packages[0])):
        versions |= {name: version for name, version in held.items() if name in names}
    if versions != held and _fits(install, versions.get(install.packages[0])):
        baseline.drop([HELD], report.check)
        baseline.add({HELD: Record(SECTION, versions, {})}, report.check)
        report.note(f"held from now on: {', '.join(f'{n} {v}' for n, v in versions.items())}")
    report.facts["driver"] = {"hold": names, "reboot_required": _needs_reboot(machine, install, there)}
    _verify_modules(machine, install, there, report)


def verify_driver(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """Packages, holds, the module for the next boot, and the running one."""
    install = plan.driver.install
    if install is None:
        return
    there = installed(machine, install.family)
    recorded = _recorded(baseline)
    for name in sorted({*install.packages, *recorded}):
        report.verdicts.append(_package(install, there, name, recorded.get(name)))
    _verify_modules(machine, install, there, report)
    report.verdicts.append(_running(machine, install, there))


def driver_revert(baseline: Baseline, machine: Machine, report: Report) -> dict[str, Any]:
    """What the role has to do to the packages so that they are as recorded; nothing of another's is in it."""
    if BEFORE not in baseline:
        return {}
    before = baseline[BEFORE].found
    family, versions = before["family"], before["versions"]
    there = installed(machine, family)
    ours = _ours(machine, baseline, there)
    foreign = sorted(removed_with(machine, family, ours) - set(ours))
    if foreign:
        message = f"removing what came with the driver would remove {', '.join(foreign)} too"
        hint = f"remove {foreign[0]} first if it is not needed, or keep the driver"
        report.problems.append(Problem(SECTION, message, hint, "foreign-packages"))
    moved = [
        f"{n}={v}"
        for n, v in versions.items()
        if n in there.versions and there.versions[n] != v and _named(n, baseline)
    ]
    return {
        "family": family,
        "remove": [] if foreign else ours,
        "restore": moved,
        "release": sorted((there.held - set(before["held"])) & {*ours, *(m.partition("=")[0] for m in moved)}),
        "hold": sorted(set(before["held"]) - there.held),
        "initramfs": _initramfs(machine),
    }


def restore_driver(machine: Machine, sections: Sequence[str], baseline: Baseline, report: Report) -> None:
    """Compares the packages with the record, and forgets it once they are back; it removes none itself."""
    if SECTION not in sections or BEFORE not in baseline:
        return
    left = driver_revert(baseline, machine, report)
    todo = [*left["remove"], *left["restore"], *left["hold"]]
    if todo or report.problems:
        evidence = "packages are removed by playbooks/revert.yml, never by this program"
        verdict = ("pending", "needs_driver") if report.check else ("ignored", "unexplained")
        report.verdicts.append(Verdict("driver.packages", "as before", ", ".join(todo), *verdict, evidence))
        return
    report.verdicts.append(
        Verdict("driver.packages", "as before", "as before", "held", "none", "compared with the record")
    )
    keys = [key for key in baseline if key.startswith(("package:", "packages:"))]
    baseline.drop(keys, report.check)


def _initramfs(machine: Machine) -> list[str]:
    """How this host makes its initramfs again; nothing where it has none."""
    return next((argv for path, argv in INITRAMFS.items() if machine.exists(path)), [])


def _ours(machine: Machine, baseline: Baseline, there: Installed) -> list[str]:
    """The packages that were not there before and that only ours need, themselves included."""
    before = baseline[BEFORE].found
    names = [key.partition(":")[2] for key in baseline if key.startswith("package:")]
    return sorted(with_needs(machine, before["family"], names, there) - set(before["versions"]))


def _recorded(baseline: Baseline) -> dict[str, str]:
    """The versions that we hold, by package."""
    return dict(baseline[HELD].found) if HELD in baseline else {}


def _named(name: str, baseline: Baseline) -> bool:
    return f"package:{name}" in baseline or (HELD in baseline and name in baseline[HELD].found)


def _driver_packages(machine: Machine, install: DriverPackages, there: Installed) -> list[str]:
    """The packages of which every one must move with the others: ours by name, and what they need of the driver."""
    needed = with_needs(machine, install.family, install.packages, there)
    return matching(needed, [*install.pinned, *install.packages])


def _fits(install: DriverPackages, version: str | None) -> bool:
    """Whether a version of the package with the kernel module is the planned one."""
    return version is not None and version.startswith(install.version or f"{install.branch}.")


def _package(install: DriverPackages, there: Installed, name: str, recorded: str | None) -> Verdict:
    found = there.versions.get(name)
    wanted = recorded or (install.version if name == install.packages[0] else None) or f"branch {install.branch}"
    setting = f"driver.package.{name}"
    if found is None:
        return Verdict(setting, wanted, None, "overridden", "other_writer", f"not installed; {SITE} installs it")
    if recorded is not None and found != recorded:
        evidence = f"held at {recorded} and changed by somebody else; {SITE} puts it back, revert gives it up"
        return Verdict(setting, wanted, found, "overridden", "other_writer", evidence)
    if name == install.packages[0] and not _fits(install, found):
        return Verdict(setting, wanted, found, "overridden", "other_writer", f"not as planned; {SITE} changes it")
    if name not in there.held and recorded is not None:
        evidence = f"not held, so the next upgrade moves it; {SITE} holds it again"
        return Verdict(setting, wanted, found, "overridden", "other_writer", evidence)
    return Verdict(setting, wanted, found, "held", "none", "the package database; held")


def _verify_modules(machine: Machine, install: DriverPackages, there: Installed, report: Report) -> None:
    """A module of the installed version for the kernel that runs and the one that boots next."""
    version = _version(install, there)
    for kernel in kernels(machine):
        setting, found = f"driver.module.{kernel}", _built(machine, kernel)
        if found == version and version is not None:
            verdict = Verdict(setting, version, found, "held", "none", "modinfo")
        elif not machine.exists(f"/lib/modules/{kernel}/build"):
            evidence = f"the headers of {kernel} are missing, so nothing can be built: {SITE} installs them"
            verdict = Verdict(setting, version, found, "ignored", "no_interface", evidence)
        else:
            evidence = f"no such module: run dkms autoinstall -k {kernel}, and read its make.log in /var/lib/dkms"
            verdict = Verdict(setting, version, found, "ignored", "unexplained", evidence)
        report.verdicts.append(verdict)
    if not kernels(machine):
        report.note("driver: this host has no kernel of its own, so no module is built or looked for")


def _running(machine: Machine, install: DriverPackages, there: Installed) -> Verdict:
    """The loaded module against the packages."""
    setting, version = "driver.running", _version(install, there)
    wanted = f"{version} {install.kernel_module}"
    loaded = _loaded(machine)
    shown = " ".join(loaded) if loaded else None
    if machine.exists(NOUVEAU):
        evidence = "nouveau holds the card until the next restart, which keeps it out"
        return Verdict(setting, wanted, "nouveau", "pending", "needs_reboot", evidence)
    if loaded is None:
        return Verdict(setting, wanted, None, "pending", "needs_reboot", "no module is loaded: restart the host")
    if loaded[0] != version:
        evidence = "module and library disagree, so no new program finds a card: restart the host"
        return Verdict(setting, wanted, shown, "pending", "needs_reboot", evidence)
    if loaded[1] != install.kernel_module:
        return Verdict(setting, wanted, shown, "pending", "needs_reboot", "the other kernel module: restart the host")
    return Verdict(setting, wanted, shown, "held", "none", LOADED)


def _needs_reboot(machine: Machine, install: DriverPackages, there: Installed) -> bool:
    return bool(kernels(machine)) and _running(machine, install, there).verdict == "pending"


def _version(install: DriverPackages, there: Installed) -> str | None:
    found = there.versions.get(install.packages[0])
    return upstream(found) if found else None


def _loaded(machine: Machine) -> tuple[str, str] | None:
    """Version and kind of the loaded module. Source: NVIDIA open-gpu-kernel-modules, nv_procfs.c."""
    first = (machine.read_text(LOADED) or "").partition("\n")[0]
    found = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", first)
    return (found[1], "open" if "Open Kernel Module" in first else "proprietary") if found else None


def _built(machine: Machine, kernel: str) -> str | None:
    for module in MODULES:
        done = machine.command(["modinfo", "-k", kernel, "-F", "version", module])
        if done.code == 0 and done.stdout.strip():
            return done.stdout.strip()
    return None


def _secure_boot(machine: Machine) -> bool:
    """The firmware's own variable: four bytes of attributes, then one that is 1 where Secure Boot is on."""
    try:
        return (machine.read_bytes(SECURE_BOOT) or b"")[4:5] == b"\1"
    except OSError:
        return False


def _numbers(kernel: str) -> list[tuple[int, Any]]:
    """A kernel's version in its order: numbers by value, words by letter."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|[a-z]+", kernel)]
