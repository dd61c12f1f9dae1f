"""Which Debian packages the bed and `make` need on this machine, and why; installs the missing ones as root.

The list depends on the machine: the container runtime is the one that works here.
"""

import os
import subprocess

from .machine import Machine
from .podman import runtime_for
from .tools import REFUSED, BedError, say

ALWAYS = {
    "podman": "runs the sandbox hosts",
    "conmon": "podman's monitor of a running container",
    "netavark": "gives a container its network and its published port",
    "iptables": "netavark's rules for the published port",
    "iproute2": "removes the bridge of the sandbox hosts",
    "mmdebstrap": "builds the image's root from the machine's own package sources",
    "debian-archive-keyring": "checks the signatures of what it downloads",
    "gpg": "signs the stand-in archive of driver packages",
    "openssh-client": "reaches the sandbox host",
    "gcc": "compiles the NVML simulator",
    "libc6-dev": "compiles the NVML simulator",
    "make": "runs the project's targets",
    "python3-venv": "makes .venv",
    "nix-bin": "evaluates the NixOS module",
    "shellcheck": "make lint",
}
# Without root, podman maps users itself and publishes the port through a user-mode network.
ROOTLESS = {
    "uidmap": "user ids of a container without root",
    "slirp4netns": "network of a container without root",
}


def wanted_packages(machine: Machine) -> dict[str, str]:
    """Package to reason, for this machine."""
    wanted = {**ALWAYS, runtime_for(machine): "the container runtime that works on this machine"}
    return wanted if machine.root else {**wanted, **ROOTLESS}


def missing_packages(wanted: dict[str, str]) -> list[str]:
    """Those of `wanted` that dpkg does not have installed, sorted."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *wanted]
    said = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    installed = {line.split()[0] for line in said.splitlines() if line.endswith(" installed")}
    return sorted(set(wanted) - installed)


def install(machine: Machine, wanted: dict[str, str] | None = None) -> None:
    """Install what is missing of `wanted`, by default what the bed needs: refused in one line without root."""
    wanted = wanted_packages(machine) if wanted is None else wanted
    missing = missing_packages(wanted)
    if not missing:
        return
    if not machine.root:
        raise BedError(f"missing Debian packages, and installing them takes root: {' '.join(missing)}", code=REFUSED)
    say("installs these Debian packages:")
    for name in missing:
        say(f"  {name:<24} {wanted[name]}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    subprocess.run([*apt, "update"], env=env, check=True, stdout=2)
    subprocess.run([*apt, "install", "-y", "--no-install-recommends", *missing], env=env, check=True, stdout=2)
