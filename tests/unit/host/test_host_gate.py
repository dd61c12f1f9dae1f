"""Only a token from an engine whose unit lives is serving; waiting ends when the unit does."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from inferhost.host.report import Report
from inferhost.host.service.gate import prove_tokens
from tests.unit.host.fake_host import FakeHost

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
    assert answer.code == (0 if check else 3)


def test_one_engine_is_asked_alone_and_one_that_the_plan_does_not_name_is_none_to_wait_for(host: FakeHost):
    host.converge()
    host.systemctl = DEAD
    assert host.run("gate", "--wait", "--instance", host.plan.service[0].instance).code == 3
    assert host.run("gate", "--wait", "--instance", "nobody").code == 0
