"""A write that returns without an error and does not take: whoever says "changed" or "held" has looked before.

One row per writer of a success line that is no register of a card; the cards' are in test_host_gpu.py and
test_host_clock_lock.py, the engine's start in test_host_engine.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from inferhost.host.machine import Finished, Machine
from inferhost.host.report import WriteFailed
from tests.unit.host.fake_host import DROPIN, SYSCTL_FILE, Answer, FakeHost, plan, with_gpu
from tests.unit.host.simulated import UUID

BASELINE = "/var/lib/inferhost/baseline.json"
PROGRAM, PLAN = "/usr/local/bin/inferhost", "/etc/inferhost/plan.json"
CLOCKS = "/run/inferhost/clocks.json"
UNIT_FILE = "/etc/systemd/system/inferhost-serve@.service"
CACHE = "/var/cache/inferhost"
LOCK = f"gpu.{UUID}.graphics_clock_lock_mhz"


def bare(host: FakeHost) -> None:
    """Nothing of ours yet, and a file of somebody else where one of ours will be."""
    host.write(SYSCTL_FILE, "vm.swappiness = 33\n")
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))


def installed(host: FakeHost) -> None:
    bare(host)
    assert host.run("install").code == 0
    host.place()


def placed(host: FakeHost) -> None:
    installed(host)
    host.run("apply")
    host.start_engine()
    host.stop_engine()


def without_effect(monkeypatch: pytest.MonkeyPatch, module: Any, function: str, path: str) -> None:
    """The system call that returns as if it had worked, for this path alone."""
    real: Callable[..., Any] = getattr(module, function)

    def call(*arguments: Any, **named: Any) -> Any:
        if any(str(a).endswith(path) for a in arguments):
            return None
        return real(*arguments, **named)

    monkeypatch.setattr(module, function, call)


def assert_no_success(answer: Answer, setting: str) -> None:
    assert answer.code not in (0, 1), answer.prose
    assert setting not in [change["setting"] for change in answer.document["diff"]], answer.prose
    assert [v for v in answer.document["verdicts"] if v["setting"] == setting and v["verdict"] == "held"] == []


@pytest.mark.parametrize(
    "writer",
    [
        (bare, "install", "replace", BASELINE, BASELINE),
        (bare, "install", "replace", PROGRAM, PROGRAM),
        (bare, "install", "replace", PLAN, PLAN),
        (installed, "apply", "replace", CLOCKS, LOCK),
        (placed, "revert", "replace", SYSCTL_FILE, f"file:{SYSCTL_FILE}"),
        (placed, "revert", "unlink", UNIT_FILE, f"file:{UNIT_FILE}"),
        (placed, "revert", "unlink", DROPIN, f"file:{DROPIN}"),
        (placed, "revert", "unlink", PLAN, PLAN),
        (placed, "revert", "unlink", PROGRAM, PROGRAM),
        (placed, "revert", "unlink", BASELINE, BASELINE),
        (placed, "revert", "rmdir", os.path.dirname(DROPIN), f"dir:{os.path.dirname(DROPIN)}"),
    ],
    ids=lambda writer: f"{writer[1]} {writer[4].rpartition('/')[2]}",
)
def test_a_file_or_folder_that_stayed_as_it_was_is_not_called_changed(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, writer: tuple[Callable[[FakeHost], None], str, str, str, str]
):
    prepared, verb, call, path, setting = writer
    prepared(host)
    with monkeypatch.context() as patch:
        without_effect(patch, os, call, path)
        assert_no_success(host.run(verb), setting)
    assert host.run(verb).code == 0


def test_a_link_that_stayed_as_it_was_is_not_called_changed(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.at(SYSCTL_FILE).symlink_to("/somewhere/else.conf")
    assert host.run("install").code == 0
    host.at(SYSCTL_FILE).unlink()
    host.place()
    with monkeypatch.context() as patch:
        without_effect(patch, os, "replace", SYSCTL_FILE)
        answer = host.run("revert")
        assert_no_success(answer, f"file:{SYSCTL_FILE}")
        assert answer.problems[0]["message"] == "could not be written: the write was accepted and is not there"
    assert host.run("revert").code == 0
    assert os.readlink(host.at(SYSCTL_FILE)) == "/somewhere/else.conf"


def test_a_cache_that_stayed_is_not_called_removed(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    placed(host)
    with monkeypatch.context() as patch:
        without_effect(patch, shutil, "rmtree", CACHE)
        assert_no_success(host.run("revert"), f"tree:{CACHE}")
    assert host.run("revert").code == 0


def test_a_file_of_the_same_mode_that_kept_what_it_had_is_not_called_written(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    host.write(SYSCTL_FILE, "vm.swappiness = 33\n")
    without_effect(monkeypatch, os, "replace", SYSCTL_FILE)
    with pytest.raises(WriteFailed, match="the write was accepted and is not there"):
        host.machine(str(host.root)).replace_file(SYSCTL_FILE, b"vm.swappiness = 10\n", 0o644)


def test_a_mode_that_did_not_take_is_not_called_changed(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    assert_no_success(host.run("install"), PROGRAM)


def test_an_owner_that_did_not_come_back_is_not_called_restored(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.write(SYSCTL_FILE, "vm.swappiness = 33\n")
    os.chown(host.at(SYSCTL_FILE), 1234, 1234)
    assert host.run("install").code == 0
    host.at(SYSCTL_FILE).unlink()
    host.place()
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    assert_no_success(host.run("revert"), f"file:{SYSCTL_FILE}")


def test_a_user_that_stayed_is_not_called_removed(host: FakeHost):
    placed(host)
    own = host.command
    host.command = lambda argv: Finished(0, "", "") if argv[0] == "userdel" else own(argv)  # type: ignore[method-assign]
    assert_no_success(host.run("revert"), "user:inferhost")


@pytest.mark.parametrize("setting", ["sysctl.vm.swappiness", "cpu.governor", "cpu.energy_performance_preference"])
@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_a_kernel_value_that_stayed_is_neither_changed_nor_held(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, verb: str, setting: str
):
    (installed if verb == "apply" else placed)(host)
    monkeypatch.setattr(Machine, "write_kernel", lambda *_: None)
    answer = host.run(verb)
    assert_no_success(answer, setting)
    assert setting not in [change["setting"].partition(" ")[0] for change in answer.document["diff"]]
    assert answer.verdict(setting) == ("ignored", "unexplained")


@pytest.mark.parametrize("verb", ["apply", "revert"])
@pytest.mark.parametrize(
    ("fault", "setting"), [("power_limit", "power_limit_w"), ("persistence", "persistence_mode")]
)
def test_a_card_s_value_that_stayed_is_neither_changed_nor_held(host: FakeHost, verb: str, fault: str, setting: str):
    host.sim("set", "persistence", 0)
    host.sim("load", "on")
    (installed if verb == "apply" else placed)(host)
    host.sim("fault", fault, "accepted_ignored")
    answer = host.run(verb)
    assert_no_success(answer, f"gpu.{UUID}.{setting}")
    assert answer.verdict(setting) == ("ignored", "unexplained")


def test_a_retired_engine_that_runs_on_is_not_called_retired_and_keeps_its_files(host: FakeHost):
    placed(host)
    host.start_engine()
    running = host.systemctl
    own = host.command
    host.command = lambda argv: (  # type: ignore[method-assign]
        Finished(0, running if argv[1] == "show" else "", "") if argv[0] == "systemctl" else own(argv)
    )
    host.plan = plan(service=(), dropins=())
    answer = host.run("apply", "--section", "service")
    setting = "service.inferhost-serve@main.service"
    assert_no_success(answer, setting)
    assert answer.verdict(setting) == ("refused", "unexplained")
    assert host.at(DROPIN).exists()
    assert f"file:{DROPIN}" in host.baseline()


def test_a_unit_that_is_not_enabled_afterwards_is_not_called_enabled(host: FakeHost):
    installed(host)
    own = host.command
    host.command = lambda argv: Finished(0, "", "") if argv[1] == "enable" else own(argv)  # type: ignore[method-assign]
    assert_no_success(host.run("apply", "--section", "service"), "service.main.enabled")


def test_a_lock_that_nobody_can_read_back_is_told_as_a_request(host: FakeHost):
    installed(host)
    answer = host.run("apply", "--section", "gpu")
    assert f"changed {LOCK}: unknown -> asked for 2100" in answer.prose
    assert f"unverified (needs_load) {LOCK}" in answer.prose
