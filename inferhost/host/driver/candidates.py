"""What apt would do with the host's own package sources, asked before anything is placed: what lacks, what would go.

Without that, apt says it after the files are in place, and names neither the component nor an option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from inferhost.host.machine import Machine
from inferhost.schema.plan import File

LISTS = "/var/lib/apt/lists"
SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d")
OWN_SOURCES = ("/etc/apt/sources.list.d/", "/etc/yum.repos.d/")
UNWRITTEN = ("-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache=")
"""Without apt's cache files, which it would write. Source: apt.conf(5), Dir::Cache."""


def brings_source(files: Iterable[File], section: str) -> bool:
    """Whether a section places a package source of its own; what that offers is not known before it is there."""
    return any(file.section == section and file.path.startswith(OWN_SOURCES) for file in files)


def not_offered(machine: Machine, family: str, names: Sequence[str]) -> list[str]:
    """The packages that apt has no candidate for; none where that cannot be known without reading its lists again.

    Not of dnf, which is asked for tools and headers before anything is placed, and names what no source has.
    """
    if family != "apt" or not names or not _lists_are_fresh(machine):
        return []
    done = machine.command(["apt-cache", *UNWRITTEN, "policy", *names])
    if done.code != 0:
        return []
    found = dict(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", done.stdout, re.M))
    return [name for name in names if found.get(name, "(none)") == "(none)"]


def making_room(machine: Machine, family: str, names: Sequence[str]) -> list[str]:
    """What apt would remove to install these packages; none where it cannot tell. dnf removes nothing unasked."""
    if family != "apt" or not names:
        return []
    # Where apt is configured to tidy up by itself, what nobody needs any more would be named too.
    simulate = ["apt-get", *UNWRITTEN, "--simulate", "--no-auto-remove", "--no-install-recommends", "install"]
    done = machine.command([*simulate, *names])
    return re.findall(r"^Remv (\S+)", done.stdout, re.M)


def _lists_are_fresh(machine: Machine) -> bool:
    """Whether apt has lists, and no source changed since: the run itself reads them again, this may not."""
    if not any("_Packages" in name for name in machine.entries(LISTS)):
        return False
    inside = [f"{SOURCES[1]}/{name}" for name in machine.entries(SOURCES[1])]
    changed = [os.stat(machine.at(path)).st_mtime for path in (*SOURCES, *inside) if os.path.exists(machine.at(path))]
    return os.stat(machine.at(LISTS)).st_mtime >= max(changed, default=0)
