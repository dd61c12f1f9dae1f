"""Two real llama-servers behind HAProxy: restarted, changed and killed under streaming load, every request counted.

`make test` takes a short load, `make test-slow` the whole one. Nobody tries a request again: 0 failed means 0.
"""

import os

import pytest

from tests.bed.fleet import BALANCER, ENGINE_PORT, ENGINES, FRONT_PORT, Fleet

WHOLE = bool(os.environ.get("INFERHOST_SLOW"))
LEAST = 1000 if WHOLE else 120
STREAMS = 6


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    hosts = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        hosts.up()
        hosts.found_listening = {host: hosts.listening(host) for host in hosts.hosts}
        hosts.placed = hosts.play("site.yml")
        yield hosts
    finally:
        hosts.down()


@pytest.fixture(scope="module")
def rolled(fleet):
    """A rolling restart under load: the runs before and after, what the playbook said, what the load counted."""
    before = fleet.starts()
    with fleet.load(LEAST, STREAMS) as load:
        ran = fleet.play("playbooks/rolling.yml")
    return before, fleet.starts(), ran, load.result


def test_the_ports_were_free_before_anything_was_placed(fleet):
    for host, port in [*((engine, ENGINE_PORT) for engine in ENGINES), (BALANCER, FRONT_PORT)]:
        assert port not in fleet.found_listening[host]


def test_engines_and_balancer_are_placed_and_listen(fleet):
    assert fleet.placed.code == 0, fleet.placed.told()
    assert all(ENGINE_PORT in fleet.listening(engine) for engine in ENGINES)
    assert FRONT_PORT in fleet.listening(BALANCER)
    assert {name: fleet.members()[name]["status"] for name in ENGINES} == dict.fromkeys(ENGINES, "UP")


def test_a_rolling_restart_fails_no_request(rolled):
    _, _, ran, load = rolled
    assert ran.code == 0, ran.told()
    assert load["failures"] == []
    assert load["requests"] >= LEAST


def test_every_engine_was_really_restarted_once_and_the_balancer_not(rolled):
    before, after, _, _ = rolled
    for engine in ENGINES:
        assert not set(before[engine]) & set(after[engine])
    assert before[BALANCER] == after[BALANCER]


def test_both_engines_served_while_the_other_was_away(fleet, rolled):
    served = {name: int(fleet.members()[name]["stot"]) for name in ENGINES}
    assert all(count > 10 for count in served.values()), served
