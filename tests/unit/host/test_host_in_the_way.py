"""A link or a folder stands where a file of ours belongs: nothing is followed, and the answer says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from inferhost.host.gpu.clock_record import CLOCKS
from inferhost.host.machine import RUN_DIRECTORY
from inferhost.host.record import lock
from inferhost.host.record.baseline import BASELINE
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.test_host_watch import WATCHED

LOCK = "graphics_clock_lock_mhz"


def folder(host: FakeHost, path: str) -> None:
    host.at(path).mkdir(parents=True)
    host.write(f"{path}/x", "somebody's")


def link(host: FakeHost, path: str) -> None:
    host.write("/etc/passwd-", "keep")
    host.at(path).parent.mkdir(parents=True, exist_ok=True)
    host.at(path).symlink_to(host.at("/etc/passwd-"))


def gone(host: FakeHost, path: str) -> None:
    """What stood there before, if anything."""
    if host.at(path).is_file():
        host.at(path).unlink()


@pytest.mark.parametrize("verb", ["install", "record", "apply", "boot", "revert"])
@pytest.mark.parametrize("put", [folder, link])
def test_a_lock_that_is_no_file_stops_every_writer_and_is_named(
    host: FakeHost, put: Callable[[FakeHost, str], None], verb: str
):
    put(host, lock.LOCK)
    before = host.snapshot()
    answer = host.run(verb)
    assert (answer.code, answer.problems[0]["path"]) == (8, lock.LOCK)
    assert f"{host.at(lock.LOCK)} is in the way: see what it is and move it, then run again" in answer.prose
    assert {path: what for path, what in host.snapshot().items() if path != WATCHED} == before
    assert host.at(WATCHED).exists() == (verb == "boot")  # for the drift timer, which needs no lock to look


@pytest.mark.parametrize(
    ("path", "verb", "code"), [(WATCHED, "watch", 8), (CLOCKS, "apply", 3), (BASELINE, "apply", 5)]
)
def test_a_record_that_is_a_folder_is_named(placed: FakeHost, path: str, verb: str, code: int):
    placed.sim("set", LOCK, "none")
    gone(placed, path)
    folder(placed, path)
    answer = placed.run(verb)
    assert answer.code == code
    assert path in answer.prose
    said = "in the way: see what it is and move it" if path != BASELINE else "repair what keeps it from being read"
    assert said in answer.prose


def test_a_folder_of_records_that_is_a_file_is_named(host: FakeHost):
    host.write(RUN_DIRECTORY, "somebody's")
    answer = host.run("install")
    assert (answer.code, answer.problems[0]["path"]) == (8, RUN_DIRECTORY)
    assert f"{host.at(RUN_DIRECTORY)} is in the way" in answer.prose


def test_a_lock_whose_holder_cannot_be_written_down_is_held_all_the_same(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    """The file system is full: the kernel knows who holds it, and only the number for the others is missing."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    host.plan = plan(manage=("cpu",), gpus=(), files=(), dropins=(), service=(), env={})
    monkeypatch.setattr(os, "pwrite", full)
    with lock.locked(host.machine(str(host.root))):
        assert lock.is_held(host.machine(str(host.root)))
        monkeypatch.setattr(lock, "WAIT_S", 0.0)
        answer = host.run("install")
    assert (answer.code, "held by an unknown process" in answer.prose) == (6, True)
