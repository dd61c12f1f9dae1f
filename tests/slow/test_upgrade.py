"""`playbooks/upgrade.yml` on two real llama-servers behind HAProxy, under streaming load: forward, back, and refused.

The other version is the same llama-server under another path, behind a script that becomes it: what is proven is the
way from one version to another, not that two versions differ.
"""

import json

import pytest

from tests.bed.fleet import BALANCER, ENGINES, NEVER_READY, Fleet

OLD, NEW, NEVER = (f"/usr/local/bin/{name}" for name in ("llama-server", "llama-server-next", "stand-in-never-ready"))
PROGRAMS = {
    NEW: f'#!/bin/sh\nexec {OLD} "$@"\n',
    NEVER: NEVER_READY,
}
STREAMS = 4


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    hosts = Fleet(tmp_path_factory.mktemp("upgraded"))
    try:
        hosts.up()
        for engine in ENGINES:
            for path, text in PROGRAMS.items():
                hosts.put_program(engine, path, text)
        placed = hosts.play("site.yml")
        assert placed.code == 0, placed.told()
        yield hosts
    finally:
        hosts.down()


def upgrade(fleet, path, *arguments, **own):
    """The playbook with that program in the wish, under load; what it and the load said."""
    wish = {f"inferhost_service_{name}": value for name, value in {"engine_path": path, **own}.items()}
    with fleet.load(1, STREAMS) as load:
        ran = fleet.play("playbooks/upgrade.yml", "-e", json.dumps(wish), *arguments)
    print(f"{arguments or 'forward'}: {load.result['requests']} requests, {len(load.result['failures'])} failed")
    return ran, load.result


def programs(fleet):
    """The program that each engine's unit starts."""
    shown = {e: fleet.on(e, "systemctl", "show", "-p", "ExecStart", "inferhost-serve@main.service") for e in ENGINES}
    return {engine: text.partition("path=")[2].split()[0] for engine, text in shown.items()}


def rotation(fleet):
    members = fleet.members()
    return {engine: members[engine]["status"] for engine in ENGINES}


IN_ROTATION = dict.fromkeys(ENGINES, "UP")


@pytest.fixture(scope="module")
def upgraded(fleet):
    before = fleet.starts()
    ran, load = upgrade(fleet, NEW, upgrade_least_percent=0)
    return before, fleet.starts(), ran, load, programs(fleet)


@pytest.fixture(scope="module")
def back(fleet, upgraded):
    ran, load = upgrade(fleet, NEW, "-e", "upgrade=rollback")
    return ran, load, programs(fleet)


@pytest.fixture(scope="module")
def refused(fleet, back):
    """A version that never gets ready: its gate fails on the first host."""
    before = fleet.starts()
    ran, load = upgrade(fleet, NEVER, start_wait_s=12)
    return before, fleet.starts(), ran, load, programs(fleet), rotation(fleet)


@pytest.fixture(scope="module")
def slower(fleet, refused):
    """No version is a hundred times as fast as the one before."""
    ran, load = upgrade(fleet, NEW, upgrade_least_percent=10_000)
    return ran, load, programs(fleet), rotation(fleet)


def test_a_new_version_takes_the_place_of_the_old_one_without_a_failed_request(upgraded):
    before, after, ran, load, found = upgraded
    assert ran.code == 0, ran.told()
    assert load["failures"] == []
    assert found == dict.fromkeys(ENGINES, NEW)
    assert all(not set(before[engine]) & set(after[engine]) for engine in ENGINES)
    assert before[BALANCER] == after[BALANCER]


def test_the_old_and_the_new_one_are_measured_and_told(upgraded):
    assert upgraded[2].output.count("s before and takes") >= len(ENGINES)


def test_one_step_back_starts_what_served_before_without_a_failed_request(back):
    ran, load, found = back
    assert ran.code == 0, ran.told()
    assert load["failures"] == []
    assert found == dict.fromkeys(ENGINES, OLD)


def test_a_version_that_does_not_pass_its_gate_leaves_the_old_one_serving_and_in_rotation(refused):
    before, after, ran, load, found, states = refused
    assert ran.code != 0
    assert "more time with inferhost_service_start_wait_s" in ran.told()
    assert load["failures"] == []
    assert found == dict.fromkeys(ENGINES, OLD)
    assert states == IN_ROTATION
    assert before[ENGINES[1]] == after[ENGINES[1]]


def test_the_wait_for_it_is_told_of(refused):
    told = [line for line in refused[2].output.splitlines() if line.startswith(f"[{ENGINES[0]}] service.main.token:")]
    assert len(told) >= 2


def test_a_version_that_is_much_slower_gives_its_place_back(slower):
    ran, load, found, states = slower
    assert ran.code != 0
    assert "no answer, or slower than inferhost_service_upgrade_least_percent 10000 allows" in ran.told()
    assert load["failures"] == []
    assert found == dict.fromkeys(ENGINES, OLD)
    assert states == IN_ROTATION
