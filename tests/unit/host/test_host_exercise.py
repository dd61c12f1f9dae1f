"""`verify --under-load --load`: the plan's engines are at work while the cards are sampled, and only then."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import pytest

from inferhost.host.report import Report
from inferhost.host.service import exercise
from inferhost.schema.plan import Plan
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.simulated import UUID
from tests.unit.host.stand_ins import Engine, running

LOCK = "graphics_clock_lock_mhz"
WORDS = ("--section", "gpu", "--under-load", "--seconds", "4")
AT_ONCE = 3
MANY = 20_000
"""Answers that no look asks for: the engine fails then, so that requests without an end show as a failure."""


class Served(Engine):
    """An engine that computes on the simulated card once it has as many requests at once as it is planned for."""

    fails = False
    requests = 0

    def serve_on(self, host: FakeHost) -> None:
        self.host, self.full = host, threading.Barrier(AT_ONCE, self.begin)

    def begin(self) -> None:
        time.sleep(0.3)  # room for a look that comes too early
        self.began_s = self.host.passed_s
        self.host.sim("load", "on")
        self.host.sim("advance", 20)

    def answer(self, path: str, headers: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests += 1
        if self.fails or self.requests > MANY:
            return 500, {}
        if self.requests <= AT_ONCE:
            self.full.wait(timeout=20)
        return super().answer(path, headers, body)


@pytest.fixture
def served(host: FakeHost):
    engine = Served("llama.cpp", True, loading=0)
    engine.serve_on(host)
    with running(engine) as address:
        host.plan = with_engine(address)
        host.converge()
        host.sim("load", "off")
        yield engine


def with_engine(address: str) -> Plan:
    whole = plan()
    probe = dataclasses.replace(
        whole.service[0].probe,
        url=f"{address}/v1/completions",
        body={"model": "m", "prompt": "The", "max_tokens": 8},
    )
    service = dataclasses.replace(whole.service[0], probe=probe, max_sequences=AT_ONCE)
    card = dataclasses.replace(whole.gpus[0], graphics_clock_lock_mhz=(2100, 2100))
    return plan(service=(service,), gpus=(card,))


def test_the_engine_at_work_proves_a_lock_that_nothing_else_would(host: FakeHost, served: Served):
    assert host.run("verify", *WORDS).verdict(LOCK) == ("unverified", "needs_load")
    assert served.asked == []
    passed_s = host.passed_s
    answer = host.run("verify", *WORDS, "--load")
    assert served.began_s == passed_s  # no look before all of it stands
    assert (answer.code, answer.verdict(LOCK)) == (0, ("held", "none")), answer.prose
    assert len(served.asked) >= AT_ONCE
    (note,) = [note for note in answer.document["notes"] if note.startswith("service.main.load")]
    assert note.endswith(f"requests answered while the cards were sampled, {AT_ONCE} at once")
    assert note.split()[1] == str(len(served.asked))
    assert len(answer.document["facts"]["samples"][UUID]) == 20  # 5 per second


def test_a_load_that_breaks_off_is_told(host: FakeHost, served: Served):
    served.fails = True
    answer = host.run("verify", *WORDS, "--load")
    assert (answer.code, served.requests) == (3, AT_ONCE)
    (problem,) = answer.problems
    assert (problem["path"], problem["id"]) == ("service.main.load", "no-load")
    assert problem["message"].endswith("HTTP status 500")


def test_without_an_engine_in_the_plan_there_is_none_to_ask(host: FakeHost):
    host.plan = plan(manage=("gpu",), files=(), dropins=(), service=(), env={})
    assert host.run("install").code == 0
    answer = host.run("verify", "--under-load", "--load")
    assert (answer.code, answer.problems[0]["id"]) == (2, "no-engine")


@pytest.mark.parametrize("words", [["--load"], ["--load", "--challenge"], ["--load", "--challenge", "--under-load"]])
def test_load_goes_with_samples_alone(host: FakeHost, words: list[str]):
    answer = host.run("verify", *words)
    assert (answer.code, answer.problems[0]["path"]) == (2, "--load")


def test_a_load_that_cannot_even_ask_is_not_waited_for(
    host: FakeHost, served: Served, monkeypatch: pytest.MonkeyPatch
):
    def unreadable(*_: Any) -> str:
        raise PermissionError("the key")

    monkeypatch.setattr(exercise, "with_key", lambda *_: unreadable)
    report = Report(check=False)
    with pytest.raises(PermissionError), exercise.exercised(host.machine(str(host.root)), host.plan, report):
        pass


def test_the_requests_end_with_the_look_even_where_that_fails(host: FakeHost, served: Served):
    with pytest.raises(KeyError), exercise.exercised(host.machine(str(host.root)), host.plan, Report(False)):
        raise KeyError
    assert AT_ONCE <= served.requests < MANY


def test_an_engine_that_cannot_be_asked_at_all_ends_the_load_of_the_others(
    host: FakeHost, served: Served, monkeypatch: pytest.MonkeyPatch
):
    known = exercise.with_key

    def only_main(machine: Any, service: Any) -> Any:
        if service.instance != "main":
            raise RuntimeError("can't start new thread")
        return known(machine, service)

    monkeypatch.setattr(exercise, "with_key", only_main)
    main = host.plan.service[0]
    two = dataclasses.replace(host.plan, service=(main, dataclasses.replace(main, instance="other")))
    with pytest.raises(RuntimeError), exercise.exercised(host.machine(str(host.root)), two, Report(False)):
        pass
    assert served.requests < MANY
