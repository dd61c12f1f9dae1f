"""HAProxy at run time, from a stand-in that speaks its socket: drained, still for a whole second, taken back."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import socket
import tempfile
import threading
from collections.abc import Iterator

import pytest

from inferhost.host.balancer import runtime
from inferhost.host.machine import Clock, Machine
from inferhost.host.report import HostError, NothingTouched, Report
from inferhost.schema.plan import Balancer, Member

PLAN = Balancer(
    program="haproxy", package="haproxy", unit="inferhost-haproxy.service", config="/etc/inferhost/haproxy.cfg",
    pool="inferhost", host="0.0.0.0", port=8000, tls_certificate=None, socket="/admin.sock", timeout_s=600,
    members=tuple(Member(name, "10.0.0.1", 1, "m", 8, 0, 0, "/health") for name in ("one", "two")),
)  # fmt: skip


class StandIn:
    """HAProxy's socket: two members, and for each look at the numbers how many requests are in flight on `one`."""

    def __init__(self) -> None:
        self.states = {"one": "UP", "two": "UP"}
        self.in_flight: list[int] = [0]
        self.waiting = 0
        self.refuses = ""
        self.said: list[str] = []

    def answer(self, command: str) -> str:
        self.said.append(command)
        if command.startswith("set server inferhost/"):
            name, _, state = command.partition("/")[2].partition(" state ")
            self.states[name] = {"drain": "DRAIN", "ready": "UP"}[state]
            return f"{self.refuses}\n"
        if command == "show servers state":
            rows = [f"3 inferhost {n} {n} 10.0.0.1 2 {8 if s == 'DRAIN' else 0} 1" for n, s in self.states.items()]
            return "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state x\n" + "\n".join(rows)
        now = self.in_flight.pop(0) if len(self.in_flight) > 1 else self.in_flight[0]
        lines = [f"inferhost,{n},{self.waiting},0,{now if n == 'one' else 0},{s}" for n, s in self.states.items()]
        return "# pxname,svname,qcur,qmax,scur,status\n" + "\n".join([*lines, "inferhost,BACKEND,0,0,0,UP"]) + "\n"


@pytest.fixture
def haproxy() -> Iterator[tuple[StandIn, Machine]]:
    """The stand-in and the machine that it runs on, whose clock moves by itself."""
    stand_in = StandIn()
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(pathlib.Path(folder) / "admin.sock"))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(stand_in.answer(connection.recv(4096).decode().strip()).encode())

        threading.Thread(target=serve, daemon=True).start()
        seconds = [0.0]
        clock = Clock(lambda: seconds[0], lambda s: seconds.__setitem__(0, seconds[0] + s))
        yield stand_in, Machine(folder, clock=clock)
        listener.shutdown(socket.SHUT_RDWR)


def told(machine: Machine, state: str, *, name: str = "one", wait_s: float = 8, check: bool = False) -> Report:
    report = Report(check)
    runtime.set_member(machine, PLAN, report, name=name, state=state, wait_s=wait_s)
    return report


def test_a_drained_member_is_idle_after_a_whole_second_of_nothing(haproxy):
    stand_in, machine = haproxy
    member = told(machine, "drain").facts["member"]
    assert stand_in.states["one"] == "DRAIN"
    assert (member["idle"], member["in_flight"]) == (True, 0)
    assert machine.clock.now_s() >= runtime.IDLE_S


def test_one_zero_is_not_idle(haproxy):
    """The last requests can still be on their way when the numbers are read for the first time."""
    stand_in, machine = haproxy
    stand_in.in_flight = [0, 0, 0, 3]
    assert told(machine, "drain", wait_s=5).facts["member"]["idle"] is False


def test_what_waits_for_a_member_counts_as_well(haproxy):
    stand_in, machine = haproxy
    stand_in.waiting = 1
    assert told(machine, "drain", wait_s=5).facts["member"]["idle"] is False


def test_a_command_that_haproxy_refuses_is_told_in_its_words(haproxy):
    stand_in, machine = haproxy
    stand_in.refuses = "No such server."
    with pytest.raises(HostError) as refused:
        told(machine, "drain")
    assert refused.value.problem.message == "HAProxy said: No such server."


def test_the_wait_ends_when_it_is_over(haproxy):
    stand_in, machine = haproxy
    stand_in.in_flight = [2]
    assert told(machine, "drain", wait_s=5).facts["member"]["in_flight"] == 2
    assert machine.clock.now_s() < 6


def test_a_second_look_at_a_drained_member_changes_nothing(haproxy):
    _, machine = haproxy
    assert told(machine, "drain").changes
    assert told(machine, "drain").changes == []


def test_check_mode_tells_and_sets_nothing(haproxy):
    stand_in, machine = haproxy
    assert told(machine, "drain", check=True).changes
    assert stand_in.states["one"] == "UP"


def test_the_last_member_that_is_up_is_not_drained(haproxy):
    stand_in, machine = haproxy
    stand_in.states["two"] = "DOWN"
    with pytest.raises(NothingTouched) as refused:
        told(machine, "drain")
    assert refused.value.problem.id == "last-member"
    assert stand_in.states["one"] == "UP"


def test_a_name_that_is_no_member_is_refused_with_one_that_is(haproxy):
    _, machine = haproxy
    with pytest.raises(NothingTouched) as refused:
        told(machine, "drain", name="on")
    assert "one" in refused.value.problem.hint


def test_a_member_comes_back_and_is_up(haproxy):
    stand_in, machine = haproxy
    told(machine, "drain")
    assert told(machine, "ready").facts["member"]["up"] is True
    assert stand_in.states["one"] == "UP"


def test_a_reload_keeps_who_is_drained_and_nobody_else(haproxy):
    _, machine = haproxy
    told(machine, "drain")
    runtime.remember_drained(machine, PLAN)
    kept = (machine.read_text("/admin.sock.state") or "").splitlines()
    assert [line.split()[3] for line in kept[2:]] == ["one"]


def test_a_balancer_that_does_not_answer_is_an_error_with_a_way_on(tmp_path):
    gone = dataclasses.replace(PLAN, socket="/nothing.sock")
    with pytest.raises(HostError) as refused:
        runtime.seen_members(Machine(str(tmp_path)), gone)
    assert "systemctl status inferhost-haproxy.service" in refused.value.problem.hint
