"""An engine runs with the files on disk, or it is restarted; a run killed half way leaves nothing for ever."""

from __future__ import annotations

import os
import time

import pytest

from inferhost.host.machine import Finished
from tests.unit.host.fake_host import DROPIN, FakeHost, plan

SERVICE = ("apply", "--section", "service")


@pytest.fixture
def placed(host: FakeHost) -> FakeHost:
    """A host whose files are placed and whose engine was never started."""
    assert host.run("install").code == 0
    host.place()
    return host


def show(host: FakeHost, **properties: str) -> None:
    """systemd's answer for a running engine, with some properties changed."""
    known = dict(line.split("=", 1) for line in host.systemctl.splitlines())
    host.systemctl = "".join(f"{key}={value}\n" for key, value in {**known, **properties}.items())


def test_an_engine_that_does_not_run_is_started_and_enabled(placed: FakeHost):
    answer = placed.run(*SERVICE)
    assert answer.code == 0
    assert [(c["setting"], c["before"], c["after"]) for c in answer.document["diff"]] == [
        ("service.main.enabled", "disabled", "enabled"),
        ("service.main.active", "not running", "active"),
    ]
    assert answer.verdict("main.active") == ("held", "none")


def test_an_engine_that_runs_with_these_files_is_left_alone(placed: FakeHost):
    placed.run(*SERVICE)
    assert not placed.run(*SERVICE).changed


@pytest.mark.parametrize(
    ("age_s", "restarted"), [(-100, False), (0, False), (100, True)], ids=["older", "of that second", "newer"]
)
def test_an_engine_older_than_its_files_is_restarted(placed: FakeHost, age_s: int, restarted: bool):
    placed.run(*SERVICE)
    started = int(time.time()) - 1000
    show(placed, DropInPaths=DROPIN, ExecMainStartTimestamp=f"@{started}")
    os.utime(placed.at(DROPIN), (started + age_s, started + age_s))
    assert placed.run(*SERVICE).changed is restarted


def test_a_file_from_the_future_does_not_restart_for_ever(placed: FakeHost):
    placed.run(*SERVICE)
    show(placed, DropInPaths=DROPIN)
    os.utime(placed.at(DROPIN), (time.time() + 9999, time.time() + 9999))
    assert not placed.run(*SERVICE).changed


def test_a_unit_that_systemd_wants_to_read_again_is_restarted(placed: FakeHost):
    placed.run(*SERVICE)
    show(placed, NeedDaemonReload="yes")
    assert placed.run(*SERVICE).changed


def test_check_mode_foretells_the_restart_from_files_that_are_not_there_yet(host: FakeHost):
    assert host.run("install").code == 0
    foretold = host.run(*SERVICE, "--check")
    host.place()
    assert foretold.said == host.run(*SERVICE).said


def test_an_instance_that_the_plan_no_longer_names_is_retired(placed: FakeHost):
    placed.run(*SERVICE)
    placed.plan = plan(service=(), dropins=())
    answer = placed.run(*SERVICE)
    assert ("service.inferhost-serve@main.service", "active", "retired") in [
        (c["setting"], c["before"], c["after"]) for c in answer.document["diff"]
    ]
    assert not placed.at(DROPIN).parent.exists()
    assert not placed.run(*SERVICE).changed


def test_a_restart_that_did_not_take_is_never_called_held(placed: FakeHost):
    stopped = placed.systemctl
    placed.command = lambda argv: Finished(0, stopped if argv[1] == "show" else "", "")  # type: ignore[method-assign]
    answer = placed.run(*SERVICE)
    assert (answer.code, answer.verdict("main.active")) == (8, ("refused", "unexplained"))
    assert not answer.changed
    assert answer.prose.splitlines()[-3:] == [
        "error: service.main.enabled: found disabled, wanted enabled",
        "error: service.main.active: found not running, wanted active",
        "hint: see: journalctl -u inferhost-serve@main.service",
    ]


def test_what_drifts_before_it_does_not_make_an_engine_that_runs_a_failure(placed: FakeHost):
    placed.sim("fault", "power_limit", "accepted_ignored")
    answer = placed.run("apply")
    assert (answer.code, answer.verdict("main.active")) == (3, ("held", "none"))


def test_an_engine_that_does_not_start_is_a_failure_whatever_else_is_held(placed: FakeHost):
    stopped = placed.systemctl
    placed.command = lambda argv: Finished(0, stopped if argv[1] == "show" else "", "")  # type: ignore[method-assign]
    assert placed.run("apply").code == 8
    assert placed.run("verify").code == 3  # a look finds drift, whatever it is of


@pytest.mark.parametrize(("words", "verb"), [(SERVICE, "restart"), (["stop"], "stop")])
def test_a_systemctl_that_fails_is_told_in_its_own_words(placed: FakeHost, words: list[str], verb: str):
    own = placed.command
    if verb == "stop":
        placed.start_engine()

    def command(argv):
        return Finished(1, "", "Job failed.\n") if argv[1] == verb else own(argv)

    placed.command = command  # type: ignore[method-assign]
    answer = placed.run(*words)
    assert answer.code == 8
    assert f"error: service.main.active: systemctl {verb} inferhost-serve@main.service: Job failed." in answer.prose


def test_a_stop_ends_what_runs_and_nothing_else(placed: FakeHost):
    said: list[list[str]] = []
    own = placed.command

    def command(argv):
        said.append(list(argv))
        return own(argv)

    placed.command = command  # type: ignore[method-assign]
    placed.start_engine()
    assert placed.run("stop", "--check").said[1] != []
    assert not any(words[:2] == ["systemctl", "stop"] for words in said)
    assert placed.run("stop").code == 0
    assert said.count(["systemctl", "stop", "inferhost-serve@main.service"]) == 1
    placed.stop_engine()
    assert placed.run("stop").said == (False, [])
    assert said.count(["systemctl", "stop", "inferhost-serve@main.service"]) == 1
