"""The MPS daemon: refused where its program is not, running while the plan has it, ended before a card goes back."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.gpu.nvml import Nvml
from inferhost.schema.plan import BASE, File
from tests.unit.host.fake_host import FakeHost, own_units, plan

UNIT, PROGRAM = "inferhost-mps.service", "/usr/bin/nvidia-cuda-mps-control"
PATH = f"/etc/systemd/system/{UNIT}"


@pytest.fixture
def booted(host: FakeHost) -> FakeHost:
    """A host that systemd runs, with the program, and a plan that brings the daemon."""
    host.at("/run/systemd/system").mkdir(parents=True)
    host.write(PROGRAM, "", 0o755)
    host.plan = plan(files=(*plan().files, *own_units(), File(PATH, BASE, "0644", None, UNIT, "none")))
    return host


def test_the_daemon_runs_with_the_plan_and_is_proven(booted: FakeHost):
    foretold = booted.run("install", "--check")
    answer = booted.run("install")
    assert (answer.code, answer.said) == (0, foretold.said)
    assert booted.own_units[UNIT] == {"enabled": True, "active": True}
    assert booted.run("install").said == (False, [])
    booted.place()
    assert booted.run("verify").verdict(f"unit.{UNIT}") == ("held", "none")
    booted.own_units[UNIT]["active"] = False
    answer = booted.run("verify")
    assert answer.verdict(f"unit.{UNIT}") == ("overridden", "other_writer")


def test_its_pipes_are_where_engines_look_for_them_and_go_with_it(booted: FakeHost):
    booted.run("install")
    lines = booted.read(PATH).splitlines()
    assert f"ExecStart={PROGRAM} -f" in lines
    assert any(line.startswith("Environment=CUDA_MPS_PIPE_DIRECTORY=/run/inferhost/mps ") for line in lines)
    assert "RuntimeDirectory=inferhost/mps inferhost/mps-log" in lines


def test_without_its_program_nothing_is_placed(booted: FakeHost):
    booted.at(PROGRAM).unlink()
    before = booted.snapshot()
    answer = booted.run("install")
    assert (answer.code, answer.problems[0]["path"]) == (2, "inferhost_gpu_mps")
    assert answer.problems[0]["message"] == f"{PROGRAM} is not on this host"
    assert booted.snapshot() == before


def process(host: FakeHost, pid: int, words: str, unit: str) -> None:
    host.write(f"/proc/{pid}/cmdline", words.replace(" ", "\0") + "\0")
    host.write(f"/proc/{pid}/comm", f"{words.split(maxsplit=1)[0]:.15}\n")
    host.write(f"/proc/{pid}/cgroup", f"0::/system.slice/{unit}\n")


def test_a_daemon_of_somebody_else_is_named_and_ours_is_not(booted: FakeHost):
    process(booted, 900, "/usr/bin/nvidia-cuda-mps-control -d", "nvidia-mps.service")
    process(booted, 901, f"{PROGRAM} -f", UNIT)
    process(booted, 902, "nvidia-cuda-mps-server", "nvidia-mps.service")
    (note,) = [note for note in booted.run("install").document["notes"] if "MPS daemon" in note]
    assert "nvidia-cuda-mps-control (process 900, nvidia-mps.service) is another MPS daemon" in note
    assert note.endswith("stop it: systemctl disable --now nvidia-mps.service")
    booted.plan = plan(files=(*plan().files, *own_units()))
    assert "MPS daemon" not in booted.run("install").prose


def test_a_card_that_its_server_holds_says_which_unit_to_stop(booted: FakeHost, monkeypatch: pytest.MonkeyPatch):
    process(booted, 4711, "nvidia-cuda-mps-server", UNIT)
    monkeypatch.setattr(Nvml, "compute_process_ids", lambda *_: [4711])
    whole = booted.plan
    card = dataclasses.replace(whole.gpus[0], compute_mode="exclusive_process")
    booted.plan = dataclasses.replace(whole, gpus=(card,))
    assert booted.run("install").code == 0
    evidence = booted.run("apply").evidence("compute_mode")
    assert f"process 4711 (nvidia-cuda-mps, {UNIT})" in evidence
    assert evidence.endswith(f"stop them (systemctl stop {UNIT}) and run again")


def test_a_revert_of_the_cards_ends_it_first_because_its_server_holds_them(booted: FakeHost):
    booted.run("install")
    order: list[str] = []
    assert booted.run("revert", "--section", "gpu", "--check").code == 0
    assert booted.own_units[UNIT]["active"]
    assert booted.run("apply").code == 0
    assert booted.run("revert", "--section", "gpu", before_write=order.append).code == 0
    assert not booted.own_units[UNIT]["active"]
    stopped = order.index(f"systemctl stop -- {UNIT}")
    assert all(order.index(step) > stopped for step in order if step.startswith("nvml "))


def test_a_plan_without_it_takes_it_back_and_so_does_a_revert(booted: FakeHost):
    bare = booted.snapshot()
    booted.run("install")
    with_daemon, booted.plan = booted.plan, plan(files=(*plan().files, *own_units()))
    assert booted.run("install").code == 0
    assert booted.own_units[UNIT] == {"enabled": False, "active": False}
    assert not booted.at(PATH).exists()
    booted.plan = with_daemon
    assert booted.run("install").code == 0
    assert booted.run("revert").code == 0
    assert booted.own_units[UNIT] == {"enabled": False, "active": False}
    assert {p: v for p, v in booted.snapshot().items() if "lock" not in p} == {
        p: v for p, v in bare.items() if "lock" not in p
    }
