"""Who served before serves again when a new engine does not, and the message names the option at fault."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import pytest

from inferhost.host.machine import Finished
from inferhost.host.report import Report
from inferhost.host.service.diagnosis import DIAGNOSES, diagnosed
from inferhost.host.service.gate import prove_tokens
from inferhost.host.service.measure import measure
from inferhost.host.service.rollback import BEFORE, SERVED
from inferhost.schema.plan import UNIT_DIRECTORY, Dropin, Plan
from tests.unit.host.fake_host import DROPIN, ENGINE, FakeHost, plan

OTHER = "inferhost-serve@other.service"


def moved(instance: str = "main", port: str = "30001") -> Plan:
    """The plan with another port, or under another instance."""
    whole = plan()
    unit = f"inferhost-serve@{instance}.service"
    dropin = Dropin(unit, "service", (("Service", "ExecStart", f"/x --port {port}"),), "none")
    service = dataclasses.replace(whole.service[0], instance=instance, unit=unit, port=int(port))
    return plan(dropins=(dropin,), service=(service,), env={instance: {}})


def passed(host: FakeHost, answer: str = "") -> Report:
    """The gate that waits, with what the engine answers."""
    report = Report(check=False)
    machine = host.machine(str(host.root))
    prove_tokens(machine, host.plan, True, report, asked=lambda url, body: answer, pause=lambda _: None)
    return report


def serving(host: FakeHost) -> FakeHost:
    host.converge()
    assert passed(host).exit_code() == 0
    return host


def placed(host: FakeHost, new: Plan) -> None:
    """The new plan's files stand, as the roles place them before the engine is started."""
    host.plan = new
    assert host.run("install").code == 0
    host.place()


def commands(host: FakeHost) -> list[list[str]]:
    """What the host is told from now on."""
    said: list[list[str]] = []
    before = host.command

    def listen(argv: Sequence[str]) -> Finished:
        said.append(list(argv))
        return before(argv)

    host.command = listen  # type: ignore[method-assign]
    return said


def test_the_files_that_served_come_back_and_are_started(host: FakeHost):
    old = serving(host).read(DROPIN)
    placed(host, moved())
    assert host.read(DROPIN) != old
    said = commands(host)
    answer = host.run("rollback")
    assert (answer.code, host.read(DROPIN)) == (3, old)
    # One that died too often is started again only after its failures are forgotten.
    steps = ["daemon-reload", "reset-failed", "restart"]
    assert [words[1] for words in said if words[0] == "systemctl" and words[1] in steps] == steps
    assert answer.verdict("main.rolled_back") == ("held", "none")
    assert "the new plan does not serve" in answer.problems[0]["message"]


def test_an_instance_that_only_the_failed_plan_has_is_stopped_and_its_files_go(host: FakeHost):
    old = serving(host).read(DROPIN)
    placed(host, moved("other"))
    host.at(DROPIN).unlink()  # as apply retires what the plan no longer names
    said = commands(host)
    assert host.run("rollback").code == 3
    assert host.read(DROPIN) == old
    assert not host.at(f"{UNIT_DIRECTORY}/{OTHER}.d/10-inferhost.conf").exists()
    assert ["systemctl", "disable", "--quiet", "--now", "--", OTHER] in said


def test_a_revert_after_a_rollback_leaves_nothing(host: FakeHost):
    before = host.snapshot()
    serving(host)
    placed(host, moved("other"))
    host.run("rollback")
    host.stop_engine()
    assert host.run("revert").code == 0
    after = host.snapshot()
    assert {k for k in after if k.startswith("/etc")} == {k for k in before if k.startswith("/etc")}
    assert not host.at(SERVED).exists()


def test_a_revert_after_the_way_back_to_another_unit_leaves_nothing(host: FakeHost):
    before = host.snapshot()
    serving(host)
    placed(host, moved("other"))
    host.run("apply", "--section", "service")
    assert not host.at(DROPIN).exists()  # the old unit's files went with it
    host.run("rollback")
    assert host.at(DROPIN).exists()
    host.stop_engine()
    assert host.run("revert").code == 0
    assert {k for k in host.snapshot() if k.startswith("/etc")} == {k for k in before if k.startswith("/etc")}


def test_where_nothing_of_ours_served_the_adopted_unit_runs_again(host: FakeHost):
    host.others["old.service"] = {"active": True, "enabled": True}
    host.plan = plan(adopt=("old.service",))
    host.converge()
    assert host.others["old.service"] == {"active": False, "enabled": False}
    assert host.run("rollback").code == 3
    assert host.others["old.service"] == {"active": True, "enabled": True}


def test_a_gate_that_did_not_pass_keeps_what_served_before(host: FakeHost):
    kept = serving(host).read(SERVED)
    placed(host, moved())
    assert passed(host, "HTTP status 503").exit_code() == 3
    assert host.read(SERVED) == kept
    assert passed(host).exit_code() == 0
    assert host.read(SERVED) != kept


def test_what_served_is_for_root_alone(host: FakeHost):
    assert os.stat(serving(host).at(SERVED)).st_mode & 0o077 == 0


def test_check_mode_rolls_nothing_back(host: FakeHost):
    serving(host)
    placed(host, moved())
    before = host.snapshot()
    assert host.run("rollback", "--check").code == 0
    assert host.snapshot() == before


def test_a_kill_at_any_write_of_a_rollback_is_healed_by_the_next_one(host: FakeHost):
    old = serving(host).read(DROPIN)

    class Killed(BaseException):
        pass

    for number in range(1, 12):
        placed(host, moved())
        left = [number]

        def kill(_what: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        try:
            host.run("rollback", before_write=kill)
        except Killed:
            assert host.run("rollback").code == 3
        assert host.read(DROPIN) == old


def upgraded(host: FakeHost) -> tuple[str, str]:
    """A second plan serves; the drop-in as it was, and as it is."""
    old = serving(host).read(DROPIN)
    placed(host, moved())
    assert passed(host).exit_code() == 0
    return old, host.read(DROPIN)


def test_one_step_goes_back_to_what_served_before_and_another_one_forward(host: FakeHost):
    old, new = upgraded(host)
    said = commands(host)
    answer = host.run("rollback", "--before")
    assert (answer.code, host.read(DROPIN)) == (0, old)
    assert ["systemctl", "restart", "inferhost-serve@main.service"] in said
    assert "change it too" in answer.document["notes"][-1]
    assert passed(host).exit_code() == 0  # the gate after it keeps what there is to go back to
    assert host.run("rollback", "--before").code == 0
    assert host.read(DROPIN) == new


def test_an_engine_that_does_not_come_back_is_no_step_back(host: FakeHost):
    upgraded(host)
    own = host.command
    host.command = lambda argv: Finished(1, "", "Job failed.\n") if argv[1] == "restart" else own(argv)  # type: ignore[method-assign]
    assert host.run("rollback", "--before").code == 8


def test_after_going_back_a_failed_plan_falls_back_to_what_serves_then(host: FakeHost):
    old, _ = upgraded(host)
    host.run("rollback", "--before")
    assert passed(host).exit_code() == 0
    placed(host, moved(port="30002"))
    assert host.run("rollback").code == 3
    assert host.read(DROPIN) == old


def test_where_nothing_served_before_going_back_touches_nothing(host: FakeHost):
    serving(host)
    before = host.snapshot()
    answer = host.run("rollback", "--before")
    assert (answer.code, answer.problems[0]["path"]) == (2, "service")
    assert host.snapshot() | {"/run/inferhost": None} == before | {"/run/inferhost": None}


def test_a_kill_at_any_write_of_going_back_is_healed_by_the_next_one(host: FakeHost):
    class Killed(BaseException):
        pass

    old, _ = upgraded(host)
    for number in range(1, 12):
        placed(host, moved())
        passed(host)
        left = [number]

        def kill(_what: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        try:
            host.run("rollback", "--before", before_write=kill)
        except Killed:
            if host.read(DROPIN) != old:
                assert host.run("rollback", "--before").code == 0
        assert host.read(DROPIN) == old


def test_a_revert_forgets_what_served_before(host: FakeHost):
    upgraded(host)
    host.stop_engine()
    assert host.run("revert").code == 0
    assert not host.at(BEFORE).exists()


def test_the_middle_of_some_answers_is_measured(host: FakeHost):
    serving(host)
    machine, report = host.machine(str(host.root)), Report(check=False)
    took_s = iter([1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0, 1.0])

    def slow(_url: str, _body: dict) -> str:
        machine.clock.sleep(next(took_s))
        return ""

    measure(machine, host.plan, report, asked=slow)
    assert report.facts["answer_s"]["main"] == pytest.approx(1.0)


def test_an_engine_that_does_not_answer_is_not_measured(host: FakeHost):
    serving(host)
    report = Report(check=False)
    measure(host.machine(str(host.root)), host.plan, report, asked=lambda url, body: "HTTP status 503")
    assert report.facts["answer_s"] == {}
    assert "does not answer" in list(report.prose())[-1]


def test_an_engine_that_answers_now_and_then_is_not_measured(host: FakeHost):
    serving(host)
    report, said = Report(check=False), iter(["", "", "HTTP status 503"])
    measure(host.machine(str(host.root)), host.plan, report, asked=lambda url, body: next(said))
    assert report.facts["answer_s"] == {}


def test_an_engine_that_does_not_run_is_not_asked(host: FakeHost):
    serving(host).stop_engine()
    report, asked = Report(check=False), []
    measure(host.machine(str(host.root)), host.plan, report, asked=lambda url, body: asked.append(url) or "")
    assert (report.facts["answer_s"], asked) == ({}, [])
    assert "does not run" in list(report.prose())[-1]


def arguments(host: FakeHost, code: int, stderr: str) -> FakeHost:
    """A host whose engine says this of its arguments."""
    whole = plan()
    host.plan = plan(service=(dataclasses.replace(whole.service[0], check_argv=(*ENGINE, "--help")),))
    before = host.command

    def answer(argv: Sequence[str]) -> Finished:
        return Finished(code, "", stderr) if argv[0] == "setpriv" else before(argv)

    host.command = answer  # type: ignore[method-assign]
    return host


def test_arguments_that_the_engine_refuses_are_told_before_anything_is_written(host: FakeHost):
    before = host.snapshot()
    answer = arguments(host, 1, "usage: x\nerror: invalid argument: --bogus\n").run("install")
    assert (answer.code, answer.problems[0]["path"]) == (2, "inferhost_service_extra_args")
    assert "error: invalid argument: --bogus" in answer.problems[0]["message"]
    assert {k: v for k, v in host.snapshot().items() if k != "/run/inferhost"} == before


@pytest.mark.parametrize(("code", "stderr"), [(0, ""), (126, "setpriv: permission denied"), (127, "")])
def test_an_engine_that_nobody_may_start_is_not_refused_for_it(host: FakeHost, code: int, stderr: str):
    answer = arguments(host, code, stderr).run("install")
    assert answer.code == 0
    assert bool(code) is any("could not be tried here" in note for note in answer.document["notes"])


WORDS = {
    "error: invalid argument: --no-mmap": "extra_args",
    "vllm: error: unrecognized arguments: --swap-space": "extra_args",
    "ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use": "port",
    "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080": "port",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB": "context_tokens",
    "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory": "context_tokens",
    "RuntimeError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction": "context_tokens",
    "ValueError: Free memory on device (1/95 GiB) on startup is less than desired GPU memory": "context_tokens",
    "common_init_from_params: failed to load model '/srv/models/x.gguf'": "model_path",
    "OSError: /srv/x does not appear to have a file named config.json": "model_path",
}


@pytest.mark.parametrize(("words", "option"), WORDS.items())
def test_an_engines_last_words_name_the_option(host: FakeHost, words: str, option: str):
    host.converge()
    before = host.command
    host.command = lambda argv: Finished(0, words, "") if argv[0] == "journalctl" else before(argv)  # type: ignore[method-assign]
    (problem,) = passed(host, "HTTP status 503").problems
    assert problem.path == f"inferhost_service_{option}"
    assert words in problem.hint


def test_an_engine_that_ends_at_once_names_the_option_before_any_gate(host: FakeHost):
    """systemd has started it, and its own lines about three tries follow the engine's words."""
    host.converge()
    host.stop_engine()
    words = ["cudaMalloc failed: out of memory", *["Scheduled restart job"] * 40]
    before = host.command

    def command(argv: Sequence[str]) -> Finished:
        if argv[0] == "journalctl":
            return Finished(0, "\n".join(words[-int(argv[argv.index("-n") + 1]) :]), "")
        if list(argv[:2]) == ["systemctl", "restart"]:
            host.systemctl = host.systemctl.replace("ActiveState=inactive", "ActiveState=failed")
            return Finished(0, "", "")
        return before(argv)

    host.command = command  # type: ignore[method-assign]
    answer = host.run("apply", "--section", "service")
    assert answer.problems[0]["path"] == "inferhost_service_context_tokens"
    assert answer.problems[0]["message"] == "found failed, wanted active"


def test_words_that_nobody_knows_name_the_time_and_show_the_journal(host: FakeHost):
    host.converge()
    (problem,) = passed(host, "Connection refused").problems
    assert problem.path == "service.main.token"
    assert "inferhost_service_start_wait_s" in problem.hint


def test_each_diagnosis_is_met_by_a_test_and_names_its_source():
    assert {diagnosed(words) for words in WORDS} == set(DIAGNOSES)
    assert all(row.source and row.hint for row in DIAGNOSES)
