"""Waits until an engine has nothing in flight, so that its stop cuts no stream. What the unit's ExecStop runs.

llama-server neither ends nor closes a stream on SIGTERM, and SFLLM ends its worker: both get the signal only once
they are still. Still means a whole second of nothing: a single zero comes before the last requests. Engines with
numbers of their own are asked; where no such page answers, or it wants a key, open connections are counted instead.
"""

from __future__ import annotations

import http.client
import re
import urllib.error
from collections.abc import Callable

from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.service.key import read_key
from inferhost.host.service.request import opened
from inferhost.schema.plan import Drain, Plan, Service

STILL_S = 1.0
LOOK_S = 0.2
SAY_S = 5.0
ANSWER_S = 2
ESTABLISHED = "01"  # Source: linux include/net/tcp_states.h (TCP_ESTABLISHED)
GONE = -1


def drain(
    machine: Machine,
    plan: Plan,
    instance: str | None,
    report: Report,
    say: Callable[[str], None],
    *,
    limit_s: float | None = None,
) -> None:
    """Waits for each engine with a drain of the plan; says every few seconds what is still in flight.

    `facts.in_flight` holds what was left by instance; an engine that is gone has nothing.
    """
    left: dict[str, int] = {}
    for service in plan.service:
        if service.drain is None or instance not in (None, service.instance):
            continue
        wait_s = service.drain.limit_s if limit_s is None else limit_s
        left[service.instance] = _left(machine, service, service.drain, wait_s, say)
        if left[service.instance]:
            report.note(f"service.{service.instance}: {left[service.instance]} in flight after {wait_s:g} s; cut")
    report.facts["in_flight"] = left


def in_flight(machine: Machine, service: Service, wanted: Drain) -> int:
    """How many requests an engine has, running and waiting; `GONE` where nobody listens."""
    if wanted.metrics:
        try:
            key = read_key(machine, service.probe.key_file)
            with opened(wanted.url, key, ANSWER_S) as answer:
                return _sum(answer.read().decode("utf-8", "replace"), wanted.metrics)
        except urllib.error.HTTPError:
            pass
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return GONE
        except (OSError, ValueError, http.client.HTTPException):
            pass
    return _connections(machine, service.port)


def _left(machine: Machine, service: Service, wanted: Drain, wait_s: float, say: Callable[[str], None]) -> int:
    clock = machine.clock
    began = told = clock.now_s()
    still_since: float | None = None
    while True:
        found, now = in_flight(machine, service, wanted), clock.now_s()
        if found == GONE:
            return 0
        still_since = (now if still_since is None else still_since) if found == 0 else None
        if still_since is not None and now - still_since >= STILL_S:
            return 0
        if now - began >= wait_s:
            return max(found, 0)
        if now - told >= SAY_S:
            say(f"service.{service.instance}: {found} in flight, {now - began:.0f} of at most {wait_s:g} s")
            told = now
        clock.sleep(LOOK_S)


def _sum(text: str, names: tuple[str, ...]) -> int:
    """The values of these metrics together; `ValueError` where one is missing, for then the page is another one."""
    total = 0.0
    for name in names:
        values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})?\s+([0-9.eE+-]+)", text, re.MULTILINE)
        if not values:
            raise ValueError(name)
        total += sum(float(value) for value in values)
    return round(total)


def _connections(machine: Machine, port: int) -> int:
    """Open connections of clients to a port of this host."""
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (machine.read_text(table) or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 3 and fields[3] == ESTABLISHED:
                count += int(fields[1].rpartition(":")[2], 16) == port
    return count
