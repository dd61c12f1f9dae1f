"""What a program asks its account for and an engine's account does not have: a home, and the name of a number.

One rule for a process of the host and for a container. A variable that the wish sets stays the wish's.
"""

from __future__ import annotations

from inferhost.planner.launch.environment import CACHE_ROOT
from inferhost.planner.reasons import reason
from inferhost.planner.request import Instance
from inferhost.planner.service.surroundings import ON_HOST, RESTART
from inferhost.schema.plan import Reason

GAIN = "none: it starts at all"


def own_environment(instance: Instance, env: dict[str, str]) -> tuple[dict[str, str], list[Reason]]:
    """What is added to an engine's variables, with the reasons.

    Source: formula `unit.home`.
    """
    cache = f"{CACHE_ROOT}/{instance.name}"
    kept = "engines make folders in it when loaded, and the account's own is closed or not there; this one is kept"
    rows = [("HOME", cache, kept, "unit.home"), ("XDG_CACHE_HOME", cache, kept, "unit.home")]
    if instance.text("mode") != ON_HOST:
        rows.append(("USER", "inferhost", "the container's user has no account to say it", "container.user"))
    added = [row for row in rows if row[0] not in env]
    return {name: value for name, value, _, _ in added}, [
        reason(f"env.{instance.name}.{name}", value, because, f"formula:{key}", gain=GAIN, disruption=RESTART)
        for name, value, because, key in added
    ]
