"""Two real llama-servers behind HAProxy: restarted, changed and killed under streaming load, every request counted.

`make test` takes a short load, `make test-slow` the whole one. Nobody tries a request again: 0 failed means 0.
"""

import json
import os
import time

import pytest

from tests.bed.fleet import BALANCER, ENGINE_PORT, ENGINES, FRONT_PORT, NEVER_READY, Fleet
from tests.bed.playbook import ROOT

WHOLE = bool(os.environ.get("INFERHOST_SLOW"))
LEAST = 1000 if WHOLE else 120
STREAMS = 6
UNIT = "inferhost-serve@main.service"
WARMED = (ROOT / "tests/bed/warmed.sh").read_text()
LONG = 1024
"""Tokens of an answer that is still on its way when its engine is told to stop."""


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
def stopped_with_a_stream(fleet):
    """An engine alone: its unit is restarted while it sends an answer to somebody who came past the balancer."""
    engine = ENGINES[0]
    before = fleet.starts()[engine]
    with fleet.when_busy(engine, "systemctl", "restart", UNIT), fleet.load(1, 1, tokens=LONG, to=engine) as load:
        pass
    return before, fleet.starts()[engine], load.result


@pytest.fixture(scope="module")
def rolled(fleet, stopped_with_a_stream):
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
    print(f"rolling restart: {load['requests']} requests, {len(load['failures'])} failed")


def test_every_engine_was_really_restarted_once_and_the_balancer_not(rolled):
    before, after, _, _ = rolled
    for engine in ENGINES:
        assert not set(before[engine]) & set(after[engine])
    assert before[BALANCER] == after[BALANCER]


def test_both_engines_served_while_the_other_was_away(fleet, rolled):
    served = {name: int(fleet.members()[name]["stot"]) for name in ENGINES}
    assert all(count > 10 for count in served.values()), served


def test_a_stop_waits_for_a_stream_that_came_past_the_balancer(stopped_with_a_stream):
    before, after, load = stopped_with_a_stream
    assert load["failures"] == []
    assert not set(before) & set(after)


def test_the_engine_s_unit_is_hardened_and_serves(fleet, rolled):
    said = fleet.on(ENGINES[0], "systemd-analyze", "security", "--no-pager", UNIT)
    assert float(said.split("Overall exposure level")[1].split()[2]) <= 2.0, said


def test_what_people_ask_is_in_no_journal(fleet, rolled):
    for host in fleet.hosts:
        assert "inferhost" in fleet.on(host, "journalctl", "--no-pager")
        assert "tell me about the weather" not in fleet.on(host, "journalctl", "--no-pager")


@pytest.fixture(scope="module")
def killed(fleet, rolled):
    """One engine is killed with its streams on it, comes back and is warmed up by its unit; HAProxy counts what each
    engine broke off."""
    victim, before, started = ENGINES[0], broken_off(fleet), fleet.starts()
    with fleet.load(LEAST // 10, STREAMS, tokens=4 * LONG) as load:
        with fleet.when_busy(victim, "systemctl", "kill", "--signal=KILL", UNIT):
            pass
        while set(fleet.starts()[victim]) & set(started[victim]):
            time.sleep(0.2)
        fleet.until_up(victim)
    fleet.on(victim, "timeout", "300", "sh", "-c", WARMED)
    again = [name for name, start in fleet.starts().items() if not set(start) & set(started[name])]
    return load.result, {name: count - before[name] for name, count in broken_off(fleet).items()}, again


def broken_off(fleet):
    return {name: int(fleet.members()[name]["srv_abrt"]) for name in ENGINES}


def test_a_killed_engine_loses_the_streams_that_it_was_sending_and_nothing_else(killed):
    load, broken, again = killed
    cut = [failure for failure in load["failures"] if failure["kind"].startswith("cut")]
    print(f"{load['requests']} requests, {len(cut)} cut, broken off as HAProxy counts: {broken}")
    assert load["failures"] == cut
    assert broken == {ENGINES[0]: len(cut), ENGINES[1]: 0}
    assert 1 <= len(cut) <= STREAMS
    assert again == [ENGINES[0]]


@pytest.mark.skipif(not WHOLE, reason="make test-slow")
def test_a_changed_wish_reaches_both_engines_and_the_balancer_under_load_without_a_failure(fleet, killed):
    before = fleet.starts()
    with fleet.load(LEAST, STREAMS) as load:
        fleet.write_inventory(inferhost_balancer_timeout_s=900)
        front = fleet.play("site.yml", "-l", BALANCER)
        engines = fleet.play("playbooks/rolling.yml", "-e", "inferhost_service_context_tokens=4096")
    after = fleet.starts()
    assert (front.code, engines.code) == (0, 0), front.told() + engines.told()
    assert load.result["failures"] == []
    assert load.result["requests"] >= LEAST
    print(f"changed wish: {load.result['requests']} requests, {len(load.result['failures'])} failed")
    assert all(not set(before[engine]) & set(after[engine]) for engine in ENGINES)
    assert before[BALANCER] == after[BALANCER]
    assert "timeout server 900s" in fleet.on(BALANCER, "cat", "/etc/inferhost/haproxy.cfg")
    # llama-server counts the tokens of all eight sequences together.
    assert f"--ctx-size {8 * 4096} " in fleet.on(ENGINES[1], "systemctl", "cat", UNIT)


@pytest.fixture(scope="module")
def stopped_at_the_first(fleet, killed):
    """A wish with which the first engine never gets ready, under load; and what the members were then."""
    path = "/usr/local/bin/stand-in-never-ready"
    fleet.put_program(ENGINES[0], path, NEVER_READY)
    fleet.put_program(ENGINES[1], path, NEVER_READY)
    wish = {"inferhost_service_engine_path": path, "inferhost_service_start_wait_s": 12}
    before = fleet.starts()
    with fleet.load(1, STREAMS) as load:
        ran = fleet.play("playbooks/rolling.yml", "-e", json.dumps(wish))
        states = {name: fleet.members()[name]["status"] for name in ENGINES}
    return before, fleet.starts(), ran, load.result, states


@pytest.mark.skipif(not WHOLE, reason="make test-slow")
def test_a_rolling_restart_stops_at_the_first_host_that_fails_and_leaves_it_out_of_rotation(stopped_at_the_first):
    before, after, ran, load, states = stopped_at_the_first
    assert ran.code != 0
    assert "inferhost_service_start_wait_s" in ran.told()
    assert load["failures"] == []
    # The first is the first of the inventory, unless a check of the balancer had just failed with the other.
    assert sorted(states.values()) == ["DRAIN", "UP"]
    (untouched,) = (name for name, state in states.items() if state == "UP")
    assert before[untouched] == after[untouched]


@pytest.mark.skipif(not WHOLE, reason="make test-slow")
def test_with_a_wish_that_works_the_next_run_brings_it_back(fleet, stopped_at_the_first):
    with fleet.load(1, STREAMS) as load:
        ran = fleet.play("playbooks/rolling.yml")
    assert ran.code == 0, ran.told()
    assert load.result["failures"] == []
    assert {name: fleet.members()[name]["status"] for name in ENGINES} == dict.fromkeys(ENGINES, "UP")


@pytest.mark.skipif(not WHOLE, reason="make test-slow")
def test_check_mode_of_a_rolling_restart_passes_and_touches_nobody(fleet, stopped_at_the_first):
    before = fleet.starts()
    ran = fleet.play("playbooks/rolling.yml", "--check")
    assert ran.code == 0, ran.told()
    assert fleet.starts() == before
    assert {name: fleet.members()[name]["status"] for name in ENGINES} == dict.fromkeys(ENGINES, "UP")
