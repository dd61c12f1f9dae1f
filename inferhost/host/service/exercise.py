"""Load for a look under load: the plan's engines are asked for tokens without a pause while the cards are sampled.

Only where it was asked for by name: on an endpoint in use, these requests stand beside those of its clients.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.service.gate import Asked, with_key
from inferhost.schema.plan import Plan, Service
from inferhost.schema.problems import InputError, Problem


@contextlib.contextmanager
def exercised(machine: Machine, plan: Plan, report: Report) -> Iterator[None]:
    """Every engine of the plan at work for the block, with as many requests at once as it is planned for.

    The block begins when each has answered once, or failed to. Raises `InputError` where the plan has no engine.
    """
    if not plan.service:
        raise InputError([Problem("--load", "this plan has no engine to ask", "run a load of your own", "no-engine")])
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        try:
            engines = [_Exercise(machine, service, over, stack) for service in plan.service]
            for engine in engines:
                engine.begun.wait()
            yield
        finally:
            over.set()  # before the workers are waited for
    for engine in engines:
        engine.tell(report)


class _Exercise:
    """Requests to one engine, one after the other in each of its workers."""

    def __init__(
        self, machine: Machine, service: Service, over: threading.Event, stack: contextlib.ExitStack
    ) -> None:
        self.service, self.over, self.begun = service, over, threading.Event()
        self.at_once = service.max_sequences
        workers = stack.enter_context(ThreadPoolExecutor(self.at_once))
        ask = with_key(machine, service)
        self.ends: list[Future[tuple[int, str]]] = [
            workers.submit(self._keep_asking, ask) for _ in range(self.at_once)
        ]

    def _keep_asking(self, ask: Asked) -> tuple[int, str]:
        """How many answers came, and why no further one did where that was not the end of the block."""
        answers, failure = 0, ""
        try:
            while not failure and not self.over.is_set():
                failure = ask(self.service.probe.url, self.service.probe.body)
                answers += not failure
                self.begun.set()
        finally:
            self.begun.set()
        return answers, failure

    def tell(self, report: Report) -> None:
        """The load that there was; one that broke off is a problem."""
        found = [end.result() for end in self.ends]
        name = f"service.{self.service.instance}.load"
        count = sum(answers for answers, _ in found)
        report.note(f"{name}: {count} requests answered while the cards were sampled, {self.at_once} at once")
        for failure in dict.fromkeys(failure for _, failure in found if failure):
            message = f"{self.service.probe.url}: {failure}"
            report.problems.append(Problem(name, message, "see whether it serves: inferhost gate", "no-load"))
