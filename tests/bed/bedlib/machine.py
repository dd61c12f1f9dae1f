"""What this machine is and lacks: Debian suite, package mirror, capabilities, cgroup layout.

Read from the machine each time, never written into the project. Decides nothing.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .tools import REFUSED, BedError

SUITES = ("bookworm", "trixie")
CGROUP = Path("/sys/fs/cgroup")
# linux/capability.h: CAP_SYS_RESOURCE. Without it a process cannot raise its hard limits.
CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Machine:
    """The facts on which the container workarounds depend."""

    unified_cgroup: bool
    pids_controller: bool
    may_raise_limits: bool
    systemd: bool
    root: bool


def observe_machine() -> Machine:
    """This machine's facts."""
    unified = filesystem_of(CGROUP) == "cgroup2"
    controllers = (CGROUP / "cgroup.controllers").read_text().split() if unified else []
    return Machine(
        unified_cgroup=unified,
        pids_controller="pids" in controllers,
        may_raise_limits=bool(effective_capabilities() >> CAP_SYS_RESOURCE & 1),
        systemd=Path("/run/systemd/system").is_dir(),
        root=os.geteuid() == 0,
    )


def effective_capabilities() -> int:
    """The bit set of this process's effective capabilities."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)


def filesystem_of(path: Path) -> str:
    """The type of the filesystem on which `path` (or its nearest existing parent) lies, as mountinfo names it."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    wanted, best, kind = path.resolve(), "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        where = mount.split()[4].replace("\\040", " ")
        # A later line covers an earlier one at the same place, hence >=.
        if wanted.is_relative_to(where) and len(where) >= len(best):
            best, kind = where, source.split()[0]
    return kind


def suite() -> str:
    """The machine's own Debian suite, which the image repeats."""
    release: dict[str, str] = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip('"')
    found = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or found not in SUITES:
        raise BedError(
            f"/etc/os-release: this is {release.get('PRETTY_NAME', 'unknown')}, wanted Debian {' or '.join(SUITES)}",
            "the image is made from the machine's own package sources",
            REFUSED,
        )
    return found


def mirror(codename: str) -> str:
    """The address of the archive that apt already uses for `codename`'s main component."""
    # indextargets lists downloaded indexes only, so a machine whose lists were cleaned has to update first.
    for attempt in range(2):
        found = sorted(set(apt_targets(codename)))
        if found:
            return found[0].rstrip("/")
        if attempt == 0 and os.geteuid() == 0:
            subprocess.run(["apt-get", "-qq", "update"], check=False)
    raise BedError(f"apt: no downloaded index of {codename} main, wanted one", "run apt-get update as root", REFUSED)


def apt_targets(codename: str) -> list[str]:
    """Addresses that apt has an index of `codename` main from."""
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    query += ["Created-By: Packages", f"Codename: {codename}", "Component: main"]
    return subprocess.run(query, stdout=subprocess.PIPE, text=True, check=False).stdout.split()


def apt_proxy_options() -> list[str]:
    """The machine's own proxy settings as apt.conf lines; apt run on a foreign root would not see them."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], stdout=subprocess.PIPE, text=True, check=False).stdout
    lines = [line for line in dump.splitlines() if "::Proxy" in line.split(" ")[0]]
    return [line for line in lines if '""' not in line]
