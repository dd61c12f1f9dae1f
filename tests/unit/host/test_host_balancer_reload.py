"""A changed configuration is a reload: waited for until HAProxy has told its end, and never a restart."""

from __future__ import annotations

import dataclasses
import time

import pytest

from inferhost.host.balancer import runtime
from inferhost.host.machine import Finished
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.test_host_balancer import PLAN

SECTION = ("apply", "--section", "balancer")


class Systemd:
    """The unit of a running HAProxy: after each reload it is still reloading for so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks, self.left = looks, 0
        self.loaded_s = int(time.time()) - 1000
        self.said: list[str] = []

    def __call__(self, argv):
        verb = argv[1]
        self.said.append(verb)
        if verb == "reload":
            self.left, self.loaded_s = self.looks, int(time.time()) + 1
        if verb == "show" and "StateChangeTimestamp" in argv:
            return Finished(0, f"@{self.loaded_s}\n", "")
        if verb == "show":
            state = "reloading" if self.left else "active"
            self.left = max(0, self.left - 1)
            shown = f"LoadState=loaded\nActiveState={state}\nMainPID=812\nNeedDaemonReload=no\n"
            return Finished(0, f"{shown}ExecMainStartTimestamp=@{int(time.time()) - 2000}\n", "")
        return Finished(0, "enabled\n" if verb == "is-enabled" else "", "")


@pytest.fixture
def served(host: FakeHost) -> FakeHost:
    """A host whose HAProxy runs, and whose configuration was written after its start."""
    balancer = dataclasses.replace(PLAN, socket=None)
    host.plan = plan(manage=("balancer",), balancer=balancer, gpus=(), files=(), dropins=(), service=(), env={})
    host.write(PLAN.config, "defaults\n")
    return host


@pytest.mark.parametrize("looks", [0, 3])
def test_a_reload_is_over_before_it_is_judged(served: FakeHost, looks: int):
    served.command = systemd = Systemd(looks)  # type: ignore[method-assign]
    answer = served.run(*SECTION)
    assert (answer.code, answer.verdict("balancer.active")) == (0, ("held", "none"))
    assert systemd.said.count("reload") == 1
    assert "restart" not in systemd.said


def test_who_is_drained_is_written_down_before_the_reload_forgets_it(served: FakeHost, monkeypatch):
    served.command = systemd = Systemd(0)  # type: ignore[method-assign]
    monkeypatch.setattr(runtime, "remember_drained", lambda _machine, _balancer: systemd.said.append("remember"))
    served.run(*SECTION)
    assert systemd.said.index("remember") < systemd.said.index("reload")


def test_one_that_is_met_in_its_reload_is_not_restarted(served: FakeHost):
    served.command = systemd = Systemd(3)  # type: ignore[method-assign]
    systemd.left, systemd.loaded_s = 3, int(time.time()) + 1
    assert not served.run(*SECTION).changed
    assert "restart" not in systemd.said


def test_a_reload_without_an_end_is_told(served: FakeHost):
    served.command = Systemd(10**6)  # type: ignore[method-assign]
    answer = served.run(*SECTION)
    assert (answer.code, answer.verdict("balancer.active")) == (8, ("refused", "unexplained"))
    assert "balancer.active: found reloading, wanted active" in answer.prose
