"""HAProxy at run time, over its own socket: who is up, what is in flight on it, and taking it out of rotation.

A member that is drained keeps its streams and gets no new request; that is the balancer's own state and no file, so
a reload would lose it. `remember_drained` writes it down for that moment.
"""

from __future__ import annotations

import csv
import dataclasses
import socket
from collections.abc import Mapping

from inferhost.host.machine import Machine
from inferhost.host.report import HostError, NothingTouched, Report
from inferhost.schema.plan import Balancer
from inferhost.schema.problems import Problem, near

ANSWER_S = 10
IDLE_S = 1.0
"""A single zero comes before the last requests (measured: 4 of 169 lost); a whole second of zeros does not."""
LOOK_S = 0.1
DRAINED = 0x08 | 0x20  # Source: HAProxy 2.6 management guide, srv_admin_state: forced and inherited drain
STATES = ("drain", "ready", "show")


@dataclasses.dataclass(frozen=True)
class Seen:
    """One member as the balancer sees it: its state in HAProxy's words, requests in flight and waiting for it."""

    state: str
    in_flight: int
    waiting: int

    @property
    def up(self) -> bool:
        return self.state.startswith("UP") or self.state == "no check"


def seen_members(machine: Machine, balancer: Balancer) -> dict[str, Seen]:
    """Every member by name, or `HostError` where the balancer does not answer."""
    rows = csv.DictReader(ask(machine, balancer, "show stat").lstrip("# ").splitlines())
    return {
        row["svname"]: Seen(row["status"], int(row["scur"] or 0), int(row["qcur"] or 0))
        for row in rows
        if row["pxname"] == balancer.pool and row["svname"] not in ("FRONTEND", "BACKEND")
    }


def set_member(machine: Machine, balancer: Balancer, report: Report, *, name: str, state: str, wait_s: float) -> None:
    """Takes a member out of rotation or back into it, and says what is in flight on it.

    `facts` hold its state, whether it had nothing in flight for a whole second within `wait_s`, and whether it is up.
    A member is not drained when no other is up: requests would have nowhere to go.
    """
    before = seen_members(machine, balancer)
    if name not in before:
        hint = near(name, list(before)) or f"members: {', '.join(sorted(before))}"
        raise NothingTouched(Problem("--server", f'found "{name}", which is no member here', hint, "no-member"))
    others = [other for other, found in before.items() if other != name and found.up]
    if state == "drain" and not others:
        hint = "repair another member first: requests would have nowhere to go"
        raise NothingTouched(Problem(f"balancer.{name}", "is the only member that is up", hint, "last-member"))
    wanted = {"drain": before[name].state.startswith("DRAIN"), "ready": not _drained(before[name])}.get(state, True)
    if not wanted:
        if not report.check:
            machine.before_write(f"set server {name} {state}")
            said = ask(machine, balancer, f"set server {balancer.pool}/{name} state {state}").strip()
            if said:
                raise HostError(Problem(f"balancer.{name}", f"HAProxy said: {said}", "", "haproxy"))
        report.change(f"balancer.{name}", before[name].state, state)
    found, quiet = _watched(machine, balancer, name, state, 0 if report.check else wait_s)
    report.facts["member"] = {**dataclasses.asdict(found), "name": name, "up": found.up, "idle": quiet}
    report.note(f"{name}: {found.state}, {found.in_flight} in flight, {found.waiting} waiting")


def remember_drained(machine: Machine, balancer: Balancer) -> None:
    """Writes down who is drained, for the process that a reload starts; the others start from their configuration."""
    if balancer.socket is None:
        return
    version, header, *rows = ask(machine, balancer, "show servers state").strip().splitlines()
    column = header.lstrip("# ").split().index("srv_admin_state")
    kept = [row for row in rows if int(row.split()[column]) & DRAINED]
    text = "\n".join([version, header, *kept]) + "\n"
    machine.replace_file(f"{balancer.socket}.state", text.encode(), 0o600)


def ask(machine: Machine, balancer: Balancer, command: str) -> str:
    """HAProxy's answer to one command."""
    where = balancer.socket or ""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(machine.at(where))
            connection.sendall(command.encode() + b"\n")
            found = b""
            while part := connection.recv(65536):
                found += part
    except OSError as error:
        message = f"does not answer: {error.strerror or error}"
        raise HostError(Problem(where, message, f"see: systemctl status {balancer.unit}", "haproxy")) from error
    return found.decode("utf-8", "replace")


def _drained(found: Seen) -> bool:
    return found.state.startswith(("DRAIN", "MAINT"))


def _watched(machine: Machine, balancer: Balancer, name: str, state: str, wait_s: float) -> tuple[Seen, bool]:
    """The member at the end of the wait, and whether it was still for a whole second; waiting ends as soon as it was,
    or for one that is taken back, once it is up."""
    clock, quiet_since = machine.clock, None
    end = clock.now_s() + wait_s
    while True:
        found: Mapping[str, Seen] = seen_members(machine, balancer)
        now, one = clock.now_s(), found[name]
        still = one.in_flight == one.waiting == 0
        quiet_since = (now if quiet_since is None else quiet_since) if still else None
        quiet = quiet_since is not None and now - quiet_since >= IDLE_S
        if now >= end or (one.up if state == "ready" else quiet):
            return one, quiet
        clock.sleep(LOOK_S)
