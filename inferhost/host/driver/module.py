"""The kernel's side of the driver: the module for the kernel that runs and the one that boots next, what is loaded,
and the library that programs find. Each is compared with the packages, and nothing is changed here.
"""

from __future__ import annotations

import os
import re
from typing import Any

from inferhost.host.driver.packages import Installed, upstream
from inferhost.host.machine import Machine
from inferhost.schema.plan import DriverPackages
from inferhost.schema.result import Verdict

LOADED = "/proc/driver/nvidia/version"
NOUVEAU = "/sys/module/nouveau"
NOUVEAU_OFF = "/etc/modprobe.d/inferhost-nouveau.conf"
MODULES = ("nvidia", "nvidia-current", "nvidia-current-open")
"""Debian's packages call the module after their alternative; everybody else's after itself."""
IMAGE = "linux-image-"
"""A kernel's package on Debian and Ubuntu; without a version behind it, one that follows a flavour of kernels."""
LIBRARY = "libcuda.so.1"
"""What every engine loads; its file is named after its version."""
SITE = "ansible-playbook site.yml --tags driver"


def kernels(machine: Machine) -> list[str]:
    """The running kernel and the one that boots next, where they are this host's own; a container has none."""
    newest = sorted(_bootable(machine), key=_numbers)[-1:]
    running = machine.read_text("/proc/sys/kernel/osrelease")
    own = [running] if running and machine.exists(f"/lib/modules/{running}") else []
    return list(dict.fromkeys([*own, *newest]))


def _bootable(machine: Machine) -> list[str]:
    return [name[len("vmlinuz-") :] for name in machine.entries("/boot") if name.startswith("vmlinuz-")]


def headers(machine: Machine, install: DriverPackages, there: Installed) -> list[str]:
    """The packages with the headers of the running and the next kernel, and those that follow later kernels."""
    if not kernels(machine):
        return []
    follow = [install.headers_for_kernel.replace("{kernel}", name) for name in flavours(machine, install, there)]
    return [*kernel_headers(machine, install), *(follow or [install.headers])]


def kernel_headers(machine: Machine, install: DriverPackages) -> list[str]:
    """The packages with the headers of the running and the next kernel, and of no other."""
    return [install.headers_for_kernel.replace("{kernel}", name) for name in kernels(machine)]


def flavours(machine: Machine, install: DriverPackages, there: Installed) -> list[str]:
    """The kernels that this host follows: of each installed package that always needs the newest of a flavour.

    Not always the distribution's first: linux-image-generic-hwe-22.04, linux-image-aws. The RHEL 9 family has one.
    """
    if install.family != "apt":
        return []
    kinds = {f"{image}{kernel}" for kernel in _bootable(machine) for image in (IMAGE, f"{IMAGE}unsigned-")}
    found = [name for name, needed in there.needs.items() if name.startswith(IMAGE) and needed & kinds]
    return sorted(name[len(IMAGE) :] for name in found)


def followers_note(machine: Machine, install: DriverPackages, there: Installed) -> str:
    """What a person has to know where later kernels come without their headers; empty where they do not."""
    if install.family != "apt" or not kernels(machine) or flavours(machine, install, there):
        return ""
    wanted = install.headers_for_kernel.replace("{kernel}", "VERSION")
    return (
        f"driver: no package of this host follows later kernels, so none brings their headers: install {wanted} "
        "with a new kernel, or it boots without a GPU"
    )


def module_verdicts(machine: Machine, install: DriverPackages, there: Installed) -> list[Verdict]:
    """A module of the installed version for the kernel that runs and the one that boots next."""
    version = version_of(install, there)
    return [_built(machine, kernel, version) for kernel in kernels(machine)]


def running_verdict(machine: Machine, install: DriverPackages, there: Installed) -> Verdict:
    """The loaded module against the packages.

    A restart is asked for only while it can help: once the host has been restarted since the module was built, what
    is wrong has another cause, and restarting again and again would not find it.
    """
    setting, version = "driver.running", version_of(install, there)
    wanted = f"{version} {install.kernel_module}"
    loaded = _loaded(machine)
    shown = " ".join(loaded) if loaded else None
    if machine.exists(NOUVEAU):
        shown, what = "nouveau", "nouveau holds the card"
    elif loaded is None:
        what = "no module is loaded"
    elif loaded[0] != version:
        what = "module and library disagree, so no new program finds a card"
    elif loaded[1] != install.kernel_module:
        what = "the other kernel module is loaded"
    else:
        return Verdict(setting, wanted, shown, "held", "none", LOADED)
    if _changed_since_boot(machine):
        return Verdict(setting, wanted, shown, "pending", "needs_reboot", f"{what}: restart the host")
    evidence = f"{what}, and the host was restarted since: journalctl --boot --grep 'NVRM|nvidia|nouveau' says why"
    return Verdict(setting, wanted, shown, "ignored", "unexplained", evidence)


def needs_reboot(machine: Machine, install: DriverPackages, there: Installed) -> bool:
    """Whether a restart would bring the installed module; never for a host without a kernel of its own."""
    return bool(kernels(machine)) and running_verdict(machine, install, there).cause == "needs_reboot"


def library_verdicts(machine: Machine, install: DriverPackages, there: Installed) -> list[Verdict]:
    """The library that programs load, where there is one: another version than the packages' is somebody else's."""
    version = version_of(install, there)
    found = re.search(rf"^\s*{re.escape(LIBRARY)} .*=> (\S+)$", machine.command(["ldconfig", "-p"]).stdout, re.M)
    if version is None or found is None:
        return []
    path = os.path.realpath(machine.at(found[1]))
    numbers = re.search(r"\.so\.(\d{3}\.\d+(\.\d+)?)$", path)
    if numbers is None or numbers[1] == version:
        verdict = ("held", "none", path) if numbers else ("unverified", "no_interface", f"{path} names no version")
        return [Verdict("driver.library", version, numbers[1] if numbers else None, *verdict)]
    evidence = (
        f"programs load {path}, which is not of the module's version, so they find no card: remove it "
        f"(nvidia-installer --uninstall where NVIDIA's .run file brought it), then {SITE}"
    )
    return [Verdict("driver.library", version, numbers[1], "overridden", "other_writer", evidence)]


def version_of(install: DriverPackages, there: Installed) -> str | None:
    """The driver version of the package with the kernel module."""
    found = there.versions.get(install.packages[0])
    return upstream(found) if found else None


def _built(machine: Machine, kernel: str, version: str | None) -> Verdict:
    setting, found = f"driver.module.{kernel}", _modinfo(machine, kernel, "version")
    if found == version and version is not None:
        return Verdict(setting, version, found, "held", "none", "modinfo")
    if not machine.exists(f"/lib/modules/{kernel}/build"):
        evidence = f"the headers of {kernel} are missing, so nothing can be built: {SITE} installs them"
        return Verdict(setting, version, found, "ignored", "no_interface", evidence)
    evidence = f"no such module: run dkms autoinstall -k {kernel}, and read its make.log in /var/lib/dkms"
    return Verdict(setting, version, found, "ignored", "unexplained", evidence)


def _modinfo(machine: Machine, kernel: str, field: str) -> str | None:
    for module in MODULES:
        done = machine.command(["modinfo", "-k", kernel, "-F", field, module])
        if done.code == 0 and done.stdout.strip():
            return done.stdout.strip()
    return None


def _loaded(machine: Machine) -> tuple[str, str] | None:
    """Version and kind of the loaded module. Source: NVIDIA open-gpu-kernel-modules, nv_procfs.c."""
    first = (machine.read_text(LOADED) or "").partition("\n")[0]
    found = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", first)
    return (found[1], "open" if "Open Kernel Module" in first else "proprietary") if found else None


def _changed_since_boot(machine: Machine) -> bool:
    """Whether the module of a kernel or the file against nouveau came after this boot.

    The change time of the inode, because packages keep older modification times. A host that cannot say when it
    booted may be restarted.
    """
    booted = re.search(r"^btime (\d+)$", machine.read_text("/proc/stat") or "", re.M)
    if booted is None:
        return True
    paths = [NOUVEAU_OFF, *(_modinfo(machine, kernel, "filename") or "" for kernel in kernels(machine))]
    changed = (os.lstat(machine.at(path)).st_ctime for path in paths if path and machine.exists(path))
    return any(when > int(booted[1]) for when in changed)


def _numbers(kernel: str) -> list[tuple[int, Any]]:
    """A kernel's version in its order: numbers by value, words by letter."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|[a-z]+", kernel)]
