"""Secure Boot: whether the firmware would let the kernel load a module that dkms builds on this host.

Asked before anything is installed, because only a person enrols a key: on the console, during a restart.
"""

from __future__ import annotations

import re

from inferhost.host.driver.module import flavours
from inferhost.host.driver.packages import installed
from inferhost.host.facts import os_name
from inferhost.host.machine import Machine
from inferhost.schema.plan import DriverPackages
from inferhost.schema.problems import Problem

MOKUTIL = "/usr/bin/mokutil"
EFI = "/sys/firmware/efi/efivars"
SECURE_BOOT = f"{EFI}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
VALIDATION_OFF = f"{EFI}/MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"
"""What shim leaves where `mokutil --disable-validation` was confirmed: the kernel then checks no module."""
DKMS_KEY, UBUNTUS_KEY = "/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der"
FRAMEWORK = "/etc/dkms/framework.conf"
"""Where a person may have named another one; files of the folder beside it come after it."""
AS_DKMS_DOES = (
    "openssl req -new -x509 -nodes -days 36500 -subj '/CN=DKMS module signing key' -newkey rsa:2048 "
    f"-keyout /var/lib/dkms/mok.key -outform DER -out {DKMS_KEY}"
)
OWN_KEYS = (
    ("ubuntu-", UBUNTUS_KEY, "apt-get install dkms shim-signed mokutil, run update-secureboot-policy --new-key"),
    ("debian-12", DKMS_KEY, f"apt-get install dkms mokutil openssl, run {AS_DKMS_DOES}"),
    ("debian-", DKMS_KEY, "apt-get install dkms mokutil, run dkms generate_mok"),
    ("", DKMS_KEY, "dnf install dkms mokutil (dkms is of EPEL), run dkms generate_mok"),
)
"""By the beginning of the distribution's name: the key that its dkms signs with, and how to have one before a build.

Source: dkms-project/dkms, prepare_signing and prepare_mok (3.0.10, 3.0.11, 3.2.2, 3.4.3; generate_mok is of 3.1.0 and
later) and its README, Secure Boot; Debian's dkms 3.0.10-8+deb12u1.
"""
TRUSTED = ("is already enrolled", "is already in db")
REQUESTED = "is already in the enrollment request"
OFF = "or turn Secure Boot off in the firmware"
ENROL = "choose Enroll MOK on the console"


def secure_boot_problems(machine: Machine, install: DriverPackages) -> list[Problem]:
    """Secure Boot without a key that the firmware trusts, which would refuse every module that dkms builds.

    mokutil's exit status says nothing (1 for an enrolled key), so its words count.
    """
    if not _is_one(machine, SECURE_BOOT) or _is_one(machine, VALIDATION_OFF):
        return []
    key, new = own_key(machine)
    said = machine.command(["mokutil", "--test-key", key]).stdout if machine.exists(key) else ""
    if any(words in said for words in TRUSTED):
        return []
    message = (
        "Secure Boot is on and the key of this host's own is not enrolled, so the kernel would refuse the module"
    )
    imported = f"run mokutil --import {key} (the console asks for its password again), restart, and {ENROL}"
    if REQUESTED in said:
        steps = f"{key} waits for its enrolment: restart, and {ENROL}"
    elif machine.exists(key):
        steps = imported if machine.exists(MOKUTIL) else f"install mokutil, {imported}"
    else:
        steps = f"{new}, {imported}"
    return [Problem("secure boot", message, f"{steps}; {_signed(machine, install)}{OFF}", "secure-boot")]


def own_key(machine: Machine) -> tuple[str, str]:
    """The certificate of the key that dkms signs with on this host, and how to make one where there is none."""
    system = os_name(machine) or ""
    key, new = next((key, new) for name, key, new in OWN_KEYS if system.startswith(name))
    folder = f"{FRAMEWORK}.d"
    files = [FRAMEWORK, *(f"{folder}/{name}" for name in sorted(machine.entries(folder)) if name.endswith(".conf"))]
    for line in (line for file in files for line in (machine.read_text(file) or "").splitlines()):
        named = re.fullmatch(r"\s*mok_certificate=[\"']?(/[^\"'$]+)[\"']?\s*", line)
        key = named[1] if named else key
    return key, new if key in (DKMS_KEY, UBUNTUS_KEY) else f"make the key that {FRAMEWORK} names"


def firmware_knows(machine: Machine, key: str) -> bool:
    """Whether a key is enrolled, or asked to be: only a person on the console could do that again for another one."""
    said = machine.command(["mokutil", "--test-key", key]).stdout if machine.exists(key) else ""
    return any(words in said for words in (*TRUSTED, REQUESTED))


def _signed(machine: Machine, install: DriverPackages) -> str:
    """The distribution's own modules, whose signature every firmware with its shim trusts: for the running kernel,
    and what brings them for each later kernel of the flavours that are installed."""
    kernel = machine.read_text("/proc/sys/kernel/osrelease")
    if not install.signed or kernel is None:
        return ""
    names: list[str] = []
    followed = flavours(machine, install, installed(machine, install.family))
    # The one for virtual machines is the generic kernel.
    later = sorted({flavour.replace("virtual", "generic") for flavour in followed})
    for name in install.signed:
        wanted = later if "{flavour}" in name else [""]
        names += [name.replace("{kernel}", kernel).replace("{flavour}", flavour) for flavour in wanted]
    listed = " ".join(names)
    return f"or take the signed modules: leave driver out of inferhost_manage, apt-get install {listed}, restart; "


def _is_one(machine: Machine, variable: str) -> bool:
    """A variable of the firmware: four bytes of attributes, then the value."""
    try:
        return (machine.read_bytes(variable) or b"")[4:5] == b"\1"
    except OSError:
        return False
