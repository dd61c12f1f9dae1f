"""What a program asks its account for and an engine's does not have: a home, its programs, the name of a number.

One rule for a process of the host and for a container. A variable that the wish sets stays the wish's.
"""

from __future__ import annotations

import posixpath

from inferhost.planner.launch.environment import CACHE_ROOT
from inferhost.planner.reasons import reason
from inferhost.planner.request import Instance, Request
from inferhost.planner.service.surroundings import ON_HOST, RESTART
from inferhost.schema.plan import Reason

GAIN = "none: it starts at all"
FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
"""Where systemd looks for programs. Source: systemd.exec(5), PATH."""


def own_environment(
    request: Request, instance: Instance, executable: str, env: dict[str, str]
) -> tuple[dict[str, str], list[Reason]]:
    """What is added to an engine's variables, with the reasons.

    Source: formulas `unit.home` and `unit.path`.
    """
    cache = f"{CACHE_ROOT}/{instance.name}"
    kept = "engines make folders in it when loaded, and the account's own is closed or not there; this one is kept"
    rows = [("HOME", cache, kept, "unit.home"), ("XDG_CACHE_HOME", cache, kept, "unit.home")]
    if instance.text("mode") != ON_HOST:
        rows.append(("USER", "inferhost", "the container's user has no account to say it", "container.user"))
    elif posixpath.dirname(executable) not in FOLDERS.split(":") and not request.hardware.os.startswith("nixos"):
        programs = "what was installed with the engine is found by its name, before the host's own"
        rows.append(("PATH", f"{posixpath.dirname(executable)}:{FOLDERS}", programs, "unit.path"))
    added = [row for row in rows if row[0] not in env]
    return {name: value for name, value, _, _ in added}, [
        reason(f"env.{instance.name}.{name}", value, because, f"formula:{key}", gain=GAIN, disruption=RESTART)
        for name, value, because, key in added
    ]
