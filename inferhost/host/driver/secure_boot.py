"""Secure Boot: whether the firmware would let the kernel load a module that dkms builds on this host.

Asked before anything is installed, because only a person enrols a key: on the console, during a restart.
"""

from __future__ import annotations

from inferhost.host.machine import Machine
from inferhost.schema.plan import DriverPackages
from inferhost.schema.problems import Problem

EFI = "/sys/firmware/efi/efivars"
SECURE_BOOT = f"{EFI}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
VALIDATION_OFF = f"{EFI}/MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"
"""What shim leaves where `mokutil --disable-validation` was confirmed: the kernel then checks no module."""
DKMS_KEY = "/var/lib/dkms/mok.pub"
MACHINE_OWNER_KEYS = ("/var/lib/shim-signed/mok/MOK.der", DKMS_KEY)
"""Where Ubuntu's and Debian's dkms keep the key that they sign modules with."""
TRUSTED = ("is already enrolled", "is already in db")
REQUESTED = "is already in the enrollment request"
OFF = "or turn Secure Boot off in the firmware"
NEW_KEY = (
    "install dkms and mokutil, make a key (Ubuntu: update-secureboot-policy --new-key; Debian 13: dkms generate_mok; "
    "Debian 12: dkms makes /var/lib/dkms/mok.pub when it first builds a module), run mokutil --import KEY, restart, "
    "and choose Enroll MOK on the console"
)


def secure_boot_problems(machine: Machine, install: DriverPackages) -> list[Problem]:
    """Secure Boot without a key that the firmware trusts, which would refuse every module that dkms builds.

    mokutil's exit status says nothing (1 for an enrolled key), so its words count.
    """
    if not _is_one(machine, SECURE_BOOT) or _is_one(machine, VALIDATION_OFF):
        return []
    keys = [key for key in MACHINE_OWNER_KEYS if machine.exists(key)]
    said = {key: machine.command(["mokutil", "--test-key", key]).stdout for key in keys}
    if any(words in answer for words in TRUSTED for answer in said.values()):
        return []
    message = "Secure Boot is on and no key of this host's own is enrolled, so the kernel would refuse the module"
    requested = next((key for key, answer in said.items() if REQUESTED in answer), None)
    if requested:
        steps = f"{requested} waits for its enrolment: restart, and choose Enroll MOK on the console"
    elif keys:
        steps = f"run mokutil --import {keys[0]}, restart, and choose Enroll MOK on the console"
    else:
        steps = NEW_KEY
    return [Problem("secure boot", message, f"{steps}; {_signed(machine, install)}{OFF}", "secure-boot")]


def firmware_knows(machine: Machine, key: str) -> bool:
    """Whether a key is enrolled, or asked to be: only a person on the console could do that again for another one."""
    said = machine.command(["mokutil", "--test-key", key]).stdout if machine.exists(key) else ""
    return any(words in said for words in (*TRUSTED, REQUESTED))


def _signed(machine: Machine, install: DriverPackages) -> str:
    """The distribution's own modules for the running kernel, whose signature every firmware with its shim trusts."""
    kernel = machine.read_text("/proc/sys/kernel/osrelease")
    if not install.signed or kernel is None:
        return ""
    names = " ".join(install.signed).replace("{kernel}", kernel)
    return f"or take the signed modules: leave driver out of inferhost_manage, apt-get install {names}, restart; "


def _is_one(machine: Machine, variable: str) -> bool:
    """A variable of the firmware: four bytes of attributes, then the value."""
    try:
        return (machine.read_bytes(variable) or b"")[4:5] == b"\1"
    except OSError:
        return False
