"""The members of a balancer: read from the wish, or derived from the plans of an inventory's group.

A derived member has the form of a written one (`inferhost_balancer_members`), so that the balancer's plan stays a
function of its wish alone, and NixOS or a test can write down what the inventory would give.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.schema.document import shown
from inferhost.schema.plan import Member, Plan, Service
from inferhost.schema.problems import InputError, Problem, near

OPTION = "inferhost_balancer_"
MEMBERS = OPTION + "members"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
PATH = re.compile(r"/[A-Za-z0-9._/-]*")
EVERYWHERE = ("0.0.0.0", "::")
LOOPBACK = ("127.", "::1", "localhost")
KEYS = ("address", "port", "model", "max_requests", "longest_s", "context_tokens", "health_path")
HEALTH_PATH = "/health"
NO_HEALTH_PAGE = ("tabbyapi",)
"""Engines whose health page cannot decide: TabbyAPI's (e632af4, common/health.py) says 503 for ever after one."""


def derived_members(
    plans: Mapping[str, Plan], addresses: Mapping[str, str], instance: str, here: str, catalogue: Catalogue
) -> dict[str, dict[str, Any]]:
    """The members that a group's plans make, by host; `addresses` say how each is reached, `here` is the balancer.

    `InputError` names every engine that the balancer could not reach.
    """
    problems: list[Problem] = []
    found: dict[str, dict[str, Any]] = {}
    for host, plan in sorted(plans.items()):
        entry = next((service for service in plan.service if service.instance == instance), None)
        if entry is None:
            continue
        address = addresses[host] if entry.host in EVERYWHERE else entry.host
        if host == here and entry.host in EVERYWHERE:
            address = "127.0.0.1"
        if address.startswith(LOOPBACK) and host != here:
            problems.append(_unreachable(host, entry, address))
        health = next(row.health_path for row in catalogue.engines.values() if row.engine == entry.engine)
        found[host] = {
            "address": address,
            "port": entry.port,
            "model": str(entry.probe.body.get("model", entry.model)),
            "max_requests": entry.max_sequences,
            "longest_s": longest_request_s(plan, entry),
            "context_tokens": entry.context_tokens,
            "health_path": "" if entry.engine in NO_HEALTH_PAGE else health,
        }
    if problems:
        raise InputError(problems)
    return found


def longest_request_s(plan: Plan, entry: Service) -> int:
    """Seconds until an answer of the greatest length is complete with every place taken; 0 where no speed is known.

    A client that does not stream hears nothing until then. Source: formula `balancer.timeout`.
    """
    speed = plan.roofline.get(entry.instance, {})
    each = [batch.get("each_tok_s") for batch in speed.get("batches") or ()]
    expected, band = speed.get("expected_tok_s"), speed.get("expected_band_tok_s")
    if not each or not each[-1] or not expected or not band or not band[0]:
        return 0
    slowest_tok_s = float(each[-1] * band[0] / expected)
    return math.ceil(entry.context_tokens / slowest_tok_s)


def read_members(values: Mapping[str, Any]) -> tuple[Member, ...]:
    """The members by name, or `InputError` with every problem."""
    problems: list[Problem] = []
    members: list[Member] = []
    for name, value in sorted(values.items()):
        path = f"{MEMBERS}.{name}"
        if not NAME.fullmatch(str(name)) or not isinstance(value, Mapping):
            hint = "a name of letters, digits, dots and dashes, with a mapping of address and port"
            problems.append(Problem(path, f"found {shown(value)}, wanted a member", hint, "member"))
            continue
        found = list(_member_problems(path, value))
        problems += found
        if not found:
            members.append(
                Member(
                    name=str(name),
                    address=str(value["address"]),
                    port=int(value["port"]),
                    model=str(value.get("model", "")),
                    max_requests=int(value.get("max_requests", 0)),
                    longest_s=int(value.get("longest_s", 0)),
                    context_tokens=int(value.get("context_tokens", 0)),
                    health_path=str(value.get("health_path", HEALTH_PATH)),
                )
            )
    problems += _mixed_models(members)
    if problems:
        raise InputError(problems)
    return tuple(members)


def _member_problems(path: str, value: Mapping[str, Any]) -> Iterable[Problem]:
    for key in value:
        if key not in KEYS:
            hint = near(str(key), KEYS) or f"a member has {', '.join(KEYS)}"
            yield Problem(f"{path}.{key}", "is nothing that a member has", hint, "unknown-name")
    address, health = value.get("address"), value.get("health_path", HEALTH_PATH)
    if not isinstance(address, str) or not ADDRESS.fullmatch(address) or address in EVERYWHERE:
        yield Problem(f"{path}.address", f"found {shown(address)}, wanted a host name or address", "", "address")
    if not _whole(value.get("port"), 1, 65535):
        yield Problem(f"{path}.port", f"found {shown(value.get('port'))}, wanted 1 to 65535", "", "port")
    for key in ("max_requests", "longest_s", "context_tokens"):
        if not _whole(value.get(key, 0), 0, 1_000_000):
            yield Problem(
                f"{path}.{key}", f"found {shown(value[key])}, wanted a number from 0", "0: unknown", "number"
            )
    if health and not PATH.fullmatch(str(health)):
        yield Problem(f"{path}.health_path", f"found {shown(health)}, wanted a path", "for example /health", "path")


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _mixed_models(members: Iterable[Member]) -> Iterable[Problem]:
    """Engines that serve under different names: half of the requests would be refused."""
    named = {member.model: member.name for member in members if member.model}
    if len(named) > 1:
        told = ", ".join(f'{name} serves "{model}"' for model, name in sorted(named.items()))
        hint = "give them one inferhost_service_served_model_name, or a balancer each"
        yield Problem(MEMBERS, f"found engines with different names: {told}", hint, "mixed-models")


def _unreachable(host: str, entry: Service, address: str) -> Problem:
    what = f"{host} is reached at {address}" if entry.host in EVERYWHERE else f"{host} listens on {address}"
    hint = f"inferhost_service_host of {host}: an address that the balancer's host can reach"
    return Problem(f"{MEMBERS}.{host}", f"{what}, where the balancer finds only itself", hint, "unreachable")
