"""How long an engine takes for an answer: the same request before and after an upgrade, so that two can be compared.

It is the gate's own request, asked some times one after the other, and the middle one counts. That says whether a new
version is much slower than the old one on this host; what a host can do under load it does not say. An engine has to
be drained: whoever else asks makes it slower.
"""

from __future__ import annotations

import statistics

from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.service.gate import Asked, with_key
from inferhost.host.service.processes import unit_state
from inferhost.host.waiting import told
from inferhost.schema.plan import Plan

TIMES = 9


def measure(machine: Machine, plan: Plan, report: Report, *, asked: Asked | None = None) -> None:
    """`facts.answer_s`: by instance, the middle of some answers in seconds; none where one does not answer."""
    found: dict[str, float] = {}
    for service in plan.service:
        setting, took_s = f"service.{service.instance}.answer_s", []
        question = asked or with_key(machine, service)
        if unit_state(machine, service.unit).get("ActiveState") != "active":
            report.note(f"{setting}: {service.unit} does not run, so it is not measured")
            continue
        with told(report.progress, f"{setting}: {service.unit} is asked {TIMES} times"):
            for _ in range(TIMES):
                began_s = machine.clock.now_s()
                if question(service.probe.url, service.probe.body):
                    break
                took_s.append(machine.clock.now_s() - began_s)
        if len(took_s) == TIMES:
            found[service.instance] = round(statistics.median(took_s), 4)
        else:
            report.note(f"{setting}: {service.unit} does not answer, so it is not measured")
    report.facts["answer_s"] = found
