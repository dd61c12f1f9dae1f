"""The gate on what each engine documents of itself, with the request that the planner writes for it.

Stand-ins on loopback: no engine is run here, so this says that we speak as they document, not that they serve.
"""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from inferhost.host.machine import Clock, Machine
from inferhost.host.report import Report
from inferhost.host.service import drain
from inferhost.host.service.gate import ask, prove_tokens
from inferhost.schema.plan import Service
from tests.golden import golden_plan
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.stand_ins import ENGINES, Engine, passes_time, running

PLANS = {"llama.cpp": "c220g5", "sfllm": "rtx4090", "sglang": "gb200", "tabbyapi": "tabbyapi", "vllm": "rtx5090"}
"""A golden plan with each engine."""
TOKENS = "/var/cache/inferhost/main/api_tokens.yml"


def service(engine: str, address: str) -> Service:
    """What the planner asks of this engine, at the address of the stand-in; its memory is another test's."""
    (found,) = golden_plan(PLANS[engine]).service
    assert found.engine == engine
    path = "/" + found.probe.url.split("/", 3)[3]
    probe = dataclasses.replace(found.probe, url=address + path, gpu_memory_mib=None, wait_s=20)
    return dataclasses.replace(plan().service[0], engine=engine, probe=probe)


def gate(host: FakeHost, engine: Engine) -> tuple[Report, dict[str, str]]:
    with running(engine) as address:
        host.plan = plan(service=(service(engine.name, address),))
        host.converge()
        if engine.key is not None:
            host.write(TOKENS, f"api_key: {engine.key}\nadmin_key: other\n", 0o600)
        report = Report(check=False)
        pause = lambda _seconds: passes_time(engine)  # noqa: E731
        prove_tokens(host.machine(str(host.root)), host.plan, True, report, pause=pause)
    return report, {v.setting.rpartition(".")[2]: v.verdict for v in report.verdicts}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_loads_first_passes_the_gate_and_is_warmed_up(host: FakeHost, name: str):
    engine = Engine(name, **ENGINES[name])
    report, found = gate(host, engine)
    assert found == {"token": "held", "gpu_memory": "not_applicable", "warm_up": "held"}, list(report.prose())
    words = [len(body["prompt"].split()) for body in engine.asked]
    assert words == [1, *host.plan.service[0].probe.warm_up_words]
    assert len(words) >= 4


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_never_ready_fails_the_gate(host: FakeHost, name: str):
    report, found = gate(host, Engine(name, **{**ENGINES[name], "loading": 10**6}))
    assert found == {"token": "refused"}
    assert report.exit_code() == 3


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_fails_at_a_long_prompt_fails_the_gate(host: FakeHost, name: str):
    report, found = gate(host, Engine(name, **ENGINES[name], longest=100))
    assert (found["token"], found["warm_up"]) == ("held", "refused")
    assert "a prompt of 256 words: HTTP status 500" in report.problems[0].message


def test_an_engine_without_the_key_that_it_made_is_not_answered(host: FakeHost):
    engine = Engine("tabbyapi", **{**ENGINES["tabbyapi"], "loading": 0})
    with running(engine) as address:
        host.plan = plan(service=(service("tabbyapi", address),))
        host.converge()
        report = Report(check=False)
        prove_tokens(host.machine(str(host.root)), host.plan, False, report)
    assert "HTTP status 401" in report.problems[0].message


CUT_THEIR_STREAMS = [name for name in ENGINES if golden_plan(PLANS[name]).service[0].drain]


def test_who_ends_its_streams_by_itself_is_not_waited_for():
    assert CUT_THEIR_STREAMS == ["llama.cpp", "sfllm"]


@pytest.mark.parametrize("looks", [3, None], ids=["it ends", "it goes on"])
@pytest.mark.parametrize("name", CUT_THEIR_STREAMS)
def test_a_stream_is_waited_for_before_the_signal(name: str, looks: int | None):
    """llama-server says it on its page; SFLLM has none, so its connections are counted, in this kernel's table."""
    engine = Engine(name, **{**ENGINES[name], "loading": 0}, held=threading.Event())
    seconds = [0.0]
    with running(engine) as address:
        passes_time(dataclasses.replace(engine, loading=1))
        one = service(name, address)
        wanted = dataclasses.replace(golden_plan(PLANS[name]).service[0].drain, url=f"{address}/metrics")
        one = dataclasses.replace(one, port=int(address.rpartition(":")[2]), drain=wanted)
        client = threading.Thread(target=ask, args=(one.probe.url, one.probe.body))
        client.start()
        while not engine.running:
            time.sleep(0.01)

        def look(after_s: float) -> None:
            seconds[0] += after_s
            if looks is not None and seconds[0] >= looks * drain.LOOK_S and not engine.held.is_set():
                engine.held.set()
                client.join()

        report = Report(check=False)
        machine = Machine(clock=Clock(lambda: seconds[0], look))
        drain.drain(machine, plan(service=(one,)), None, report, lambda _line: None)
        engine.held.set()
        client.join()
    assert report.facts["in_flight"] == {"main": 0 if looks else 1}
    assert seconds[0] >= (looks * drain.LOOK_S + drain.STILL_S if looks else wanted.limit_s)
