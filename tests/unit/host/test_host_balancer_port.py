"""Whose the balancer's port may be: nobody's, or a balancer's of ours that gives its place to the other program."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.balancer.placed_unit import balancer_problems
from inferhost.host.record.baseline import Record, read_baseline
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.test_host_balancer import PLAN

HAPROXY, NGINX = "inferhost-haproxy.service", "inferhost-nginx.service"
PORT = PLAN.port


@pytest.fixture
def changing(host: FakeHost) -> FakeHost:
    """A host whose HAProxy of ours serves, and whose plan says nginx by now."""
    nginx = dataclasses.replace(PLAN, program="nginx", unit=NGINX, config="/etc/inferhost/nginx.cfg", socket=None)
    host.plan = plan(manage=("balancer",), balancer=nginx, gpus=(), files=(), dropins=(), service=(), env={})
    host.others |= {HAPROXY: {"active": True, "enabled": True}, NGINX: {"active": False, "enabled": False}}
    return host


def found(host: FakeHost, *recorded: str) -> list[str]:
    """What is said against the plan on a host whose record has these units."""
    machine = host.machine(str(host.root))
    baseline = read_baseline(machine)
    paths = [f"file:/etc/systemd/system/{unit}" for unit in recorded]
    baseline.add({path: Record("balancer", None, {}) for path in paths}, True)
    return [problem.message for problem in balancer_problems(machine, host.plan, baseline)]


def seen(host: FakeHost, unit: str) -> None:
    host.process(812, ["haproxy", "-Ws"], unit)
    host.listen(PORT, 812, "00000000")


def unseen(host: FakeHost) -> None:
    """HAProxy lets nobody look into its process in a container."""
    host.listen(PORT, 812, "00000000")
    host.at("/proc/812/fd/3").unlink()


def test_a_port_that_our_other_program_holds_is_free_for_the_one_that_takes_its_place(changing: FakeHost):
    seen(changing, HAPROXY)
    assert found(changing, HAPROXY, NGINX) == []


def test_so_is_one_whose_holder_cannot_be_seen_while_ours_runs(changing: FakeHost):
    unseen(changing)
    assert found(changing, HAPROXY, NGINX) == []


def test_one_that_cannot_be_seen_while_none_of_ours_runs_is_taken(changing: FakeHost):
    unseen(changing)
    changing.others[HAPROXY]["active"] = False
    assert found(changing, HAPROXY, NGINX) == ["port 8000 is taken by a program that cannot be seen from here"]


def test_somebody_else_s_is_named(changing: FakeHost):
    seen(changing, "haproxy.service")
    assert found(changing, HAPROXY, NGINX) == ["port 8000 is taken by haproxy (process 812, haproxy.service)"]
