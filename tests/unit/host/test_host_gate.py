"""Only a token from an engine whose unit lives is serving; waiting ends when the unit does."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from inferhost.host.gpu.nvml import Nvml
from inferhost.host.report import Report
from inferhost.host.service.gate import WARM, ask, prove_tokens
from inferhost.host.service.rollback import SERVED
from inferhost.host.waiting import EVERY_S, told
from tests.unit.host.fake_host import ENGINE, UNIT, FakeHost, plan
from tests.unit.host.stand_ins import no_http

DEAD = "LoadState=loaded\nActiveState=failed\nSubState=failed\nMainPID=0\nResult=exit-code\n"


def proven(host: FakeHost, answers: Iterable[str], wait: bool = True) -> tuple[str, int, list[float], Report]:
    """The verdict, how often the engine was asked, the pauses, and the report."""
    report, pauses, left = Report(check=False), [], list(answers)
    count = len(left)
    machine = host.machine(str(host.root))
    prove_tokens(machine, host.plan, wait, report, asked=lambda url, body: left.pop(0), pause=pauses.append)
    return report.verdicts[0].verdict, count - len(left), pauses, report


def test_a_token_is_held(host: FakeHost):
    host.converge()
    assert proven(host, [""])[:3] == ("held", 1, [])


def test_a_loading_engine_is_asked_again_until_it_answers(host: FakeHost):
    host.converge()
    assert proven(host, ["HTTP status 503", "HTTP status 503", ""])[:3] == ("held", 3, [2, 2])


def test_the_wait_is_the_plans(host: FakeHost):
    host.converge()
    verdict, asked, _, report = proven(host, ["connection refused"] * 99)
    assert (verdict, asked) == ("refused", 1 + host.plan.service[0].probe.wait_s // 2)
    assert report.exit_code() == 3


def test_a_port_that_speaks_no_http_is_no_token_and_no_bug():
    with no_http() as port:
        assert "SSH-2.0-somebody" in ask(f"http://127.0.0.1:{port}/v1/completions", {})


def test_without_waiting_one_question_decides(host: FakeHost):
    host.converge()
    assert proven(host, ["HTTP status 503", ""], wait=False)[:2] == ("refused", 1)


def test_a_dead_unit_ends_the_wait_and_somebody_elses_token_does_not_count(host: FakeHost):
    host.converge()
    host.systemctl = DEAD
    verdict, asked, pauses, report = proven(host, ["", "", ""])
    assert (verdict, asked, pauses) == ("refused", 0, [])
    assert "the unit is failed (failed), result exit-code" in report.problems[0].message


@pytest.mark.parametrize("check", [True, False])
def test_check_mode_asks_nobody(host: FakeHost, check: bool):
    host.converge()
    host.systemctl = DEAD
    answer = host.run("gate", *(["--check"] if check else []))
    assert answer.code == (0 if check else 8)


def test_one_engine_is_asked_alone_and_one_that_the_plan_does_not_name_is_none_to_wait_for(host: FakeHost):
    host.converge()
    host.systemctl = DEAD
    assert host.run("gate", "--wait", "--instance", host.plan.service[0].instance).code == 8
    assert host.run("gate", "--wait", "--instance", "nobody").code == 0


NEEDS_MIB = 1000


def real(host: FakeHost, least: int | None = NEEDS_MIB, words: tuple[int, ...] = ()) -> FakeHost:
    """A converged host whose plan wants so much of the cards' memory, and prompts of these lengths."""
    whole = plan()
    probe = dataclasses.replace(whole.service[0].probe, gpu_memory_mib=least, warm_up_words=words)
    host.plan = plan(service=(dataclasses.replace(whole.service[0], probe=probe),))
    host.converge()
    return host


def gate(host: FakeHost, asked: Callable[[str, dict[str, Any]], str] = lambda url, body: "", wait: bool = False):
    report = Report(check=False)
    prove_tokens(host.machine(str(host.root)), host.plan, wait, report, asked=asked, pause=lambda _: None)
    return report, {v.setting.rpartition(".")[2]: (v.verdict, v.cause) for v in report.verdicts}


def test_memory_that_the_units_own_processes_hold_proves_the_card(host: FakeHost):
    real(host).process(812, ENGINE, UNIT)
    host.sim("load", "on", "--pid", 812)
    report, found = gate(host)
    assert found == {"token": ("held", "none"), "gpu_memory": ("held", "none")}
    assert report.exit_code() == 0


def test_a_token_from_the_cpu_does_not_pass(host: FakeHost):
    report, found = gate(real(host))
    assert found == {"token": ("held", "none"), "gpu_memory": ("refused", "unexplained")}
    assert report.exit_code() == 3
    assert report.problems[0].message == f"the processes of {UNIT} hold 0 MiB of the cards, wanted at least 1000"
    assert "it computes on the CPU" in report.problems[0].hint


def test_memory_of_somebody_else_proves_nothing(host: FakeHost):
    real(host).process(812, ENGINE, "other.service")
    host.sim("load", "on", "--pid", 812)
    assert gate(host)[1]["gpu_memory"] == ("refused", "unexplained")


def test_memory_of_a_process_that_cannot_be_seen_is_no_proof_and_no_refusal(host: FakeHost):
    host.sim("load", "on", "--pid", 9999)
    report, found = gate(real(host))
    assert found["gpu_memory"] == ("unverified", "no_interface")
    assert report.exit_code() == 0


def test_memory_of_which_nvml_does_not_say_how_much_is_no_proof_and_no_refusal(host: FakeHost, monkeypatch):
    real(host).process(812, ENGINE, UNIT)
    monkeypatch.setattr(Nvml, "compute_processes", lambda _self, _card: [(812, None)])
    report, found = gate(host)
    assert found["gpu_memory"] == ("unverified", "no_interface")
    assert report.verdicts[-1].evidence == "NVML does not say how much"


def test_the_gate_of_one_engine_does_not_say_that_the_plan_serves(host: FakeHost):
    host.converge()
    machine, own = host.machine(str(host.root)), host.plan.service[0].instance
    for only, kept in ((own, False), (None, True)):
        prove_tokens(machine, host.plan, True, Report(check=False), only=only, asked=lambda url, body: "")
        assert host.at(SERVED).exists() is kept


def test_where_there_is_no_real_card_it_is_waived_and_said(host: FakeHost):
    report, found = gate(real(host, None))
    assert found["gpu_memory"] == ("not_applicable", "none")
    assert "waived: the cards are simulated" in str(report.verdicts[-1].evidence)


def test_each_start_is_warmed_up_once_with_every_length(host: FakeHost):
    real(host, None, (16, 64))
    asked: list[int] = []

    def answer(_url: str, body: dict[str, Any]) -> str:
        asked.append(len(str(body.get("prompt", "")).split()))
        return ""

    assert gate(host, answer, wait=True)[1]["warm_up"] == ("held", "none")
    assert asked == [0, 16, 64]
    assert "warm_up" not in gate(host, answer, wait=True)[1]
    host.systemctl = host.systemctl.replace("Timestamp=@", "Timestamp=@1")
    assert "warm_up" in gate(host, answer, wait=True)[1]
    assert "warm_up" not in gate(host, answer)[1], "only who waits for a start warms it up"


def test_two_who_warm_up_one_start_send_its_prompts_once(host: FakeHost):
    """The unit that goes with the engine, and a playbook; the second has its token while the first still sends."""
    real(host, None, (16, 64))
    asked: list[int] = []
    second_has_its_token = threading.Event()

    def second_answer(_url: str, body: dict[str, Any]) -> str:
        second_has_its_token.set()
        asked.append(len(str(body.get("prompt", "")).split()))
        return ""

    second = threading.Thread(target=gate, args=(host, second_answer), kwargs={"wait": True})

    def first_answer(_url: str, body: dict[str, Any]) -> str:
        asked.append(len(str(body.get("prompt", "")).split()))
        if asked[-1] == 16:
            second.start()
            assert second_has_its_token.wait(60)
        return ""

    gate(host, first_answer, wait=True)
    second.join(60)
    assert sorted(asked) == [0, 0, 16, 64]


def test_a_prompt_of_the_warm_up_has_the_time_of_a_start(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    """Kernels are compiled at the first prompt of a length, which can take minutes."""
    waits: list[tuple[int, float]] = []

    def asked(_url: str, body: dict[str, Any], _key: str | None, timeout_s: float) -> str:
        waits.append((len(str(body.get("prompt", "")).split()), timeout_s))
        return ""

    monkeypatch.setattr("inferhost.host.service.gate.ask", asked)
    real(host, None, (16,))
    prove_tokens(host.machine(str(host.root)), host.plan, True, Report(check=False))
    assert waits == [(0, 60), (16, host.plan.service[0].probe.wait_s)]


def test_a_long_prompt_that_fails_fails_the_gate_and_is_tried_again(host: FakeHost):
    real(host, None, (16, 64))

    def answer(_url: str, body: dict[str, Any]) -> str:
        return "HTTP status 500" if len(str(body.get("prompt", ""))) > 100 else ""

    for _ in range(2):
        report, found = gate(host, answer, wait=True)
        assert found["warm_up"] == ("refused", "unexplained")
        assert report.problems[0].message == "a prompt of 64 words: HTTP status 500"


def test_a_revert_leaves_no_trace_of_the_warm_up(host: FakeHost):
    before = host.snapshot()
    gate(real(host, None, (16,)), wait=True)
    assert host.at(WARM).exists()
    host.stop_engine()
    host.enabled = "disabled"
    assert host.run("revert").code == 0
    assert {k for k in host.snapshot() if "/run/" in k} == {k for k in before if "/run/" in k}


def test_who_waits_is_told_what_for():
    said: list[str] = []
    with told(said.append, "x: waits", every_s=0.01):
        while len(said) < 2:
            time.sleep(0.01)
    assert said[0] == "x: waits, 0 s by now"
    count = len(said)
    time.sleep(0.05)
    assert len(said) == count, "it is quiet once the block has ended"
    assert EVERY_S <= 10
