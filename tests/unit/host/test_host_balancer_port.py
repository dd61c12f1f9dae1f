"""Whose the balancer's port may be: nobody's, or a balancer's of ours that gives its place to the other program; and
what else keeps a balancer from standing here, or its packages from going.
"""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.balancer import placed_unit
from inferhost.host.balancer.placed_unit import balancer_problems
from inferhost.host.record.baseline import Record, read_baseline
from inferhost.host.report import Report
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


CHAIN = "/etc/ssl/front.pem"


@pytest.mark.parametrize(
    ("key_mode", "says"),
    [
        (0o600, []),
        (0o640, []),
        (0o644, [f"{CHAIN}.key can be read by everybody (mode 0644)"]),
        (None, [f"{CHAIN}.key is not on this host"]),
    ],
)
def test_a_key_that_everybody_can_read_or_that_is_not_there_is_refused(host: FakeHost, key_mode, says):
    tls = dataclasses.replace(PLAN, tls_certificate=CHAIN)
    host.plan = plan(manage=("balancer",), balancer=tls, gpus=(), files=(), dropins=(), service=(), env={})
    host.write(CHAIN, "chain")
    if key_mode is not None:
        host.write(f"{CHAIN}.key", "key", key_mode)
    assert found(host) == says


@pytest.mark.parametrize(
    ("with_it", "removed"), [((), ["haproxy"]), (("mine",), [])], ids=["ours alone", "somebody's"]
)
def test_packages_that_somebody_needs_by_now_stay(host: FakeHost, monkeypatch, with_it, removed):
    monkeypatch.setattr(placed_unit, "installed", lambda *_: None)
    monkeypatch.setattr(placed_unit, "with_needs", lambda *_: {"haproxy", "libc6"})
    monkeypatch.setattr(placed_unit, "removed_with", lambda _machine, _family, names: {*names, *with_it})
    machine, report = host.machine(str(host.root)), Report(check=False)
    baseline = read_baseline(machine)
    baseline.add({placed_unit.BEFORE: Record("balancer", ["libc6"], {})}, True)
    assert placed_unit.balancer_revert(machine, baseline, report)["remove"] == removed
    assert any("removing them would remove mine" in note for note in report.notes) is bool(with_it)
