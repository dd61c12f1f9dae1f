"""From a group of the inventory to members: plans each host of it, and adds what it serves to the balancer's wish.

The wish then holds all that the plan depends on, hash included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.planner.balancer.members import MEMBERS, OPTION, derived_members
from inferhost.planner.request import read_request
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.wish import options

GROUP = OPTION + "group"
INSTANCE = OPTION + "instance"
MANAGE = "inferhost_manage"


def named(wish: Mapping[str, Any]) -> str:
    """The group that a balancer serves; empty where this host is none, or names its members itself."""
    managed = wish.get(MANAGE) or ()
    return str(wish.get(GROUP) or "") if "balancer" in managed else ""


def with_group(
    wish: Mapping[str, Any], here: str, others: Mapping[str, Mapping[str, Any]], catalogue: Catalogue
) -> dict[str, Any]:
    """The wish with the engines of its group as members; `others` has the `address` and the `wish` of each host.

    `InputError` where the group is empty, or where a host of it cannot be planned.
    """
    from inferhost.planner import planned  # the planner's front door imports this room's other files

    group = named(wish)
    if not group:
        return dict(wish)
    problems: list[Problem] = []
    plans: dict[str, Plan] = {}
    for host, other in others.items():
        values = {key: value for key, value in other["wish"].items() if not key.startswith(OPTION)}
        values[MANAGE] = [
            section for section in values.get(MANAGE) or options()[MANAGE]["default"] if section != "balancer"
        ]
        try:
            plans[host] = planned(read_request(values), host, catalogue)
        except InputError as error:
            problems += [dataclasses.replace(p, path=f"{host}: {p.path}") for p in error.problems]
    if problems:
        raise InputError(problems)
    addresses = {host: str(other["address"]) for host, other in others.items()}
    instance = str(wish.get(INSTANCE) or options()[INSTANCE]["default"])
    found = derived_members(plans, addresses, instance, here, catalogue)
    if not found:
        hint = f"name a group whose hosts manage service and have an instance {instance}"
        raise InputError([Problem(GROUP, f'found "{group}", which has no engine to serve', hint, "no-members")])
    own = wish.get(MEMBERS) or {}
    return {**wish, MEMBERS: {**found, **own}} if isinstance(own, Mapping) else dict(wish)
