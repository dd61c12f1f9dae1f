"""Who was here before us is found and named before anything is written, taken over when asked for, and given back."""

from __future__ import annotations

import contextlib

import pytest

from inferhost.host.gpu.nvml import Nvml
from inferhost.host.gpu.occupants import without_secrets
from inferhost.host.service import adopt
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.simulated import UUID

OLD = "sglang.service"
WORDS = ("/opt/venv/bin/python", "-m", "sglang.launch_server")
PORT = 30000
ADOPT = "inferhost_service_adopt: [sglang.service] takes it over and gives it back on revert"


@pytest.fixture
def occupied(host: FakeHost) -> FakeHost:
    """A host whose own service runs, starts at boot, and listens on the plan's port."""
    host.others[OLD] = {"active": True, "enabled": True}
    host.process(812, WORDS, OLD)
    host.listen(PORT, 812)
    return host


def adopting(host: FakeHost) -> FakeHost:
    host.plan = plan(adopt=(OLD,))
    return host


def test_a_taken_port_is_refused_and_its_owner_named_before_anything_is_written(occupied: FakeHost):
    before = occupied.snapshot()
    answer = occupied.run("install")
    assert answer.code == 2
    assert [(p["path"], p["message"], p["hint"]) for p in answer.problems] == [
        (
            "inferhost_service_port",
            f"port {PORT} is taken by python (process 812, {OLD})",
            f"{ADOPT}; or use another port",
        )
    ]
    after = occupied.snapshot()
    assert {name: after[name] for name in before if name != "/run/inferhost"} == before


def test_a_card_that_somebody_computes_on_is_refused_and_the_process_named(host: FakeHost):
    host.process(812, WORDS, OLD)
    host.sim("load", "on", "--pid", 812)
    answer = host.run("install")
    (problem,) = answer.problems
    assert (answer.code, problem["path"]) == (2, "inferhost_hardware.gpus[0]")
    assert problem["message"].endswith(f"MiB of {UUID} are held by python (process 812, {OLD})")
    assert problem["hint"] == f"{ADOPT}; or use another card"


@pytest.mark.parametrize(("held_mib", "refused"), [(adopt.TOLERATED_MIB, False), (adopt.TOLERATED_MIB + 1, True)])
def test_a_monitor_s_bare_context_is_in_nobodys_way(host: FakeHost, monkeypatch, held_mib: int, refused: bool):
    host.process(812, WORDS, OLD)
    monkeypatch.setattr(Nvml, "compute_processes", lambda _self, _card: [(812, held_mib << 20)])
    assert (host.run("install").code == 2) is refused


def test_a_process_that_cannot_be_seen_is_told_and_not_refused(host: FakeHost):
    host.sim("load", "on", "--pid", 9999)
    answer = host.run("install")
    assert answer.code == 0
    assert any("process 9999 holds" in note for note in answer.document["notes"])


@pytest.mark.parametrize(
    ("unit", "hint"),
    [
        ("docker-0123.scope", "it runs in a container: stop it there, or use another port"),
        ("session-4.scope", "it runs in a login session: stop it there, or use another port"),
        ("user@1000.service/app.slice/mine.service", "stop it first, or use another port"),
    ],
)
def test_what_cannot_be_given_back_is_not_offered_for_adoption(occupied: FakeHost, unit: str, hint: str):
    occupied.process(812, WORDS, unit)
    assert [p["hint"] for p in occupied.run("install").problems] == [hint]


@pytest.mark.parametrize(("address", "meets"), [("00000000", True), ("0100007F", True), ("0B01A8C0", False)])
def test_a_port_is_taken_where_the_addresses_meet(host: FakeHost, address: str, meets: bool):
    host.process(812, WORDS, OLD)
    host.listen(PORT, 812, address)
    assert (host.run("install").code == 2) is meets


def test_our_own_engine_stands_in_nobodys_way(host: FakeHost):
    host.process(4242, WORDS, "system-inferhost.slice/inferhost-serve@main.service")
    host.listen(PORT, 4242)
    host.sim("load", "on", "--pid", 4242)
    assert host.run("install").code == 0


def test_a_unit_to_adopt_that_is_not_there_is_refused(host: FakeHost):
    host.systemctl = "LoadState=not-found\nActiveState=inactive\n"
    answer = adopting(host).run("install")
    assert (answer.code, [p["path"] for p in answer.problems]) == (2, ["inferhost_service_adopt"])


def test_an_adopted_unit_is_stopped_and_disabled_and_given_back(occupied: FakeHost):
    adopting(occupied).converge()
    assert occupied.others[OLD] == {"active": False, "enabled": False}
    assert occupied.run("verify", "--section", "service").verdict(f"adopt.{OLD}") == ("held", "none")
    assert not occupied.run("apply", "--section", "service").changed
    occupied.stop_engine()
    assert occupied.run("revert").verdict(f"adopt.{OLD}") == ("held", "none")
    assert occupied.others[OLD] == {"active": True, "enabled": True}


@pytest.mark.parametrize(("active", "enabled"), [(True, False), (False, True), (False, False)])
def test_a_unit_is_given_back_as_it_was_found(occupied: FakeHost, active: bool, enabled: bool):
    occupied.others[OLD] = {"active": active, "enabled": enabled}
    adopting(occupied).converge()
    occupied.stop_engine()
    occupied.run("revert")
    assert occupied.others[OLD] == {"active": active, "enabled": enabled}


def test_installing_alone_leaves_the_old_service_running(occupied: FakeHost):
    assert adopting(occupied).run("install").code == 0
    assert occupied.others[OLD] == {"active": True, "enabled": True}


def test_check_mode_foretells_the_adoption_and_touches_nothing(occupied: FakeHost):
    adopting(occupied).run("install")
    occupied.place()
    answer = occupied.run("apply", "--section", "service", "--check")
    assert (f"adopt.{OLD}", "running, enabled", "stopped, disabled") in [
        (c["setting"], c["before"], c["after"]) for c in answer.document["diff"]
    ]
    assert occupied.others[OLD] == {"active": True, "enabled": True}


def test_an_adopted_unit_that_comes_back_is_drift(occupied: FakeHost):
    adopting(occupied).converge()
    occupied.others[OLD]["active"] = True
    answer = occupied.run("verify", "--section", "service")
    assert (answer.code, answer.verdict(f"adopt.{OLD}")) == (3, ("overridden", "other_writer"))


def test_a_plan_that_no_longer_adopts_gives_back(occupied: FakeHost):
    adopting(occupied).converge()
    occupied.plan = plan()
    occupied.at("/proc/net/tcp").unlink()
    occupied.run("apply", "--section", "service")
    assert occupied.others[OLD] == {"active": True, "enabled": True}


def test_a_secret_in_a_command_line_is_hidden():
    words = ["vllm", "--api-key", "sk-1", "--api-key=sk-1", "--api-key-file", "/etc/key", "--port", "1"]
    shown = ["vllm", "--api-key", "(hidden)", "--api-key=(hidden)", "--api-key-file", "/etc/key", "--port", "1"]
    assert without_secrets(words) == tuple(shown)


def test_the_stop_of_a_service_that_may_drain_for_minutes_is_told_of(occupied: FakeHost, monkeypatch):
    told = []
    monkeypatch.setattr(adopt, "told", lambda _say, what: told.append(what) or contextlib.nullcontext())
    adopting(occupied).converge()
    assert told == [f"adopt.{OLD}: systemctl disable --now -- {OLD}"]
