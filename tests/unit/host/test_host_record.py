"""Without a record that can be believed nothing is touched; and only one program writes at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os

import pytest

from inferhost.host.machine import PLAN, RUN_DIRECTORY, Machine
from inferhost.host.record import lock
from inferhost.host.record.baseline import BASELINE, Record, read_baseline
from inferhost.host.report import Locked, WriteFailed
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.simulated import UUID

WRITERS = ("install", "apply", "revert")


def changed(host: FakeHost, **values: object) -> str:
    return json.dumps({**json.loads(host.read(BASELINE)), **values})


@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            lambda host: "{",
            "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (lambda host: changed(host, schema=2), "schema: found 2, this program reads 1"),
        (lambda host: changed(host, records=[]), "records: found a list, wanted a mapping"),
    ],
)
def test_a_record_that_cannot_be_believed_stops_every_writer(host: FakeHost, verb: str, broken, message: str):
    host.converge()
    host.sim("set", "power_limit_mw", 500000)
    host.write(BASELINE, broken(host), mode=0o600)
    before = host.snapshot()
    answer = host.run(verb)
    assert answer.code == 5
    assert answer.prose.splitlines()[-2:] == [
        f"error: {BASELINE}: {message}",
        "hint: put the file back from a backup; without it, what inferhost set so far would count as the original",
    ]
    assert host.snapshot() == before


@pytest.mark.parametrize("verb", WRITERS)
def test_a_copy_of_a_managed_machine_is_told_what_makes_it_one_of_its_own(host: FakeHost, verb: str):
    host.converge()
    host.write("/etc/machine-id", "bbbb\n")
    before = host.snapshot()
    answer = host.run(verb)
    assert (answer.code, answer.problems[0]["message"]) == (5, "belongs to machine aaaa1111, this is bbbb")
    assert host.snapshot() == before
    for path in (word.rstrip(",") for word in answer.problems[0]["hint"].split() if word.startswith("/")):
        host.at(path).unlink()
    assert host.run("install").code == 0
    assert host.baseline()["sysctl:vm.swappiness"]["found"] == "10"  # as the hint says


def test_a_record_that_the_disk_does_not_give_stays_where_it_is(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.converge()
    read = Machine.read_bytes

    def failing(machine: Machine, path: str) -> bytes | None:
        if path == BASELINE:
            raise OSError(5, "Input/output error")
        return read(machine, path)

    monkeypatch.setattr(Machine, "read_bytes", failing)
    answer = host.run("revert")
    assert (answer.code, answer.problems[0]["message"]) == (5, "cannot be read: Input/output error")
    assert answer.problems[0]["hint"].startswith("repair what keeps it from being read, and leave it where it is")


@pytest.mark.parametrize("verb", WRITERS)
def test_a_record_that_was_lost_stops_every_writer(host: FakeHost, verb: str):
    host.converge()
    host.at(BASELINE).unlink()
    before = host.snapshot()
    answer = host.run(verb)
    assert (answer.code, answer.problems[0]["id"]) == (5, "record-lost")
    assert host.snapshot() == before


def test_whoever_removes_the_plan_of_a_lost_record_accepts_what_is_here_now(host: FakeHost):
    host.converge()
    host.at(BASELINE).unlink()
    host.at(PLAN).unlink()
    assert host.run("install").code == 0
    assert host.baseline()[f"gpu:{UUID}:power_limit_mw"]["found"] == 450000


def test_a_plan_alone_is_no_sign_of_a_lost_record(host: FakeHost):
    host.write(PLAN, "{}")
    assert host.run("install").code == 0


def test_a_record_of_nothing_is_a_record(host: FakeHost):
    """The mark of a lost one is still there."""
    host.plan = plan(manage=("gpu",), files=(), dropins=(), service=(), env={})
    assert host.run("install").code == 0
    for lost in (BASELINE, PLAN):
        host.at(lost).unlink()
    host.sim("fail", "nvmlInitWithFlags", 9)
    assert host.run("install").code == 0
    assert host.baseline() == {}


def test_what_is_on_record_is_not_recorded_again(host: FakeHost):
    host.run("install")
    host.sim("fail", "nvmlDeviceGetPowerManagementLimit", 999, 1)  # nobody has to read it again
    assert not [note for note in host.run("apply").document["notes"] if "record" in note]


@pytest.mark.parametrize("verb", WRITERS)
def test_a_record_that_cannot_be_written_stops_before_the_first_change(host: FakeHost, verb: str):
    if verb == "revert":
        host.converge()
    before = host.snapshot()

    def disk_full(step: str) -> None:
        if BASELINE in step and not step.startswith("remove"):
            raise OSError(errno.ENOSPC, "No space left on device")

    answer = host.run(verb, before_write=disk_full)
    assert answer.code == 5
    assert answer.problems[0]["message"] == "could not be written: No space left on device"
    if verb != "revert":  # a revert restores before it forgets
        assert host.card()["power_limit_mw"] == 480000
        left = set(host.snapshot()) - set(before)
        assert left <= {"/var/lib/inferhost", "/run/inferhost", "/run/inferhost/lock"}


def test_a_full_disk_while_placing_the_plan_is_told_with_what_was_written(host: FakeHost):
    def disk_full(step: str) -> None:
        if step == "fill /etc/inferhost/plan.json":
            raise OSError(errno.ENOSPC, "No space left on device")

    answer = host.run("install", before_write=disk_full)
    assert answer.code == 8
    assert answer.prose.splitlines()[-3:] == [
        "note: written before the failure: /var/lib/inferhost/baseline.json, /usr/local/bin/inferhost",
        "error: /etc/inferhost/plan.json: could not be written: No space left on device",
        "hint: make room or repair the cause, then run again",
    ]
    assert sorted(os.listdir(host.at("/etc/inferhost"))) == []


def test_the_record_is_for_root_alone(host: FakeHost):
    host.run("install")
    assert host.at(BASELINE).stat().st_mode & 0o777 == 0o600
    assert host.at("/var/lib/inferhost").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def held(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    """The lock in another hand, and nobody who waits for it."""
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    host.write("/run/inferhost/lock", "4711\n")
    descriptor = os.open(host.at("/run/inferhost/lock"), os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("verb", WRITERS)
def test_a_held_lock_stops_every_writer_and_names_the_holder(host: FakeHost, held: int, verb: str):
    before = host.snapshot()
    answer = host.run(verb)
    assert answer.code == 6
    assert answer.prose.splitlines()[-2:] == [
        "error: /run/inferhost/lock: held by process 4711, still after 0 s",
        "hint: wait for it to end, or look at it with: ps -fp 4711",
    ]
    assert host.snapshot() == before


def test_who_waits_gets_the_lock_as_soon_as_its_holder_ends(
    host: FakeHost, held: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "WAIT_S", 600.0)
    monkeypatch.setattr(lock.time, "sleep", lambda _: fcntl.flock(held, fcntl.LOCK_UN))
    assert host.run("install").code == 0


@pytest.mark.parametrize("arguments", [("facts",), ("verify",), ("status",), ("apply", "--check")])
def test_readers_do_not_need_the_lock(host: FakeHost, held: int, arguments: tuple[str, ...]):
    assert host.run(*arguments).code in (0, 3)


def test_a_lock_of_a_dead_process_is_free(host: FakeHost):
    host.write("/run/inferhost/lock", "4711\n")
    assert host.run("install").code == 0


def test_a_lock_removed_under_a_waiting_hand_is_not_taken_for_held(host: FakeHost):
    machine = host.machine(str(host.root))
    with lock.locked(machine):
        host.at(lock.LOCK).unlink()
        with lock.locked(machine, wait_s=0):
            assert host.read(lock.LOCK).strip() == str(os.getpid())


def test_a_lock_that_was_removed_between_opening_and_taking_it_is_opened_again(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    machine, taken = host.machine(str(host.root)), []
    real = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        if not taken:
            host.at(lock.LOCK).unlink()  # its holder ended, and took it along
        taken.append(descriptor)
        real(descriptor, how)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with lock.locked(machine):
        assert len(taken) == 2
        assert host.read(lock.LOCK).strip() == str(os.getpid())


def test_the_folder_of_the_lock_may_go_before_the_lock_is_opened(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    taken: list[str] = []
    real = lock._taken

    def late(machine: Machine, path: str) -> int | None:
        if not taken:
            host.at(RUN_DIRECTORY).rmdir()  # its holder ended, and took it along
        taken.append(path)
        return real(machine, path)

    monkeypatch.setattr(lock, "_taken", late)
    with lock.locked(host.machine(str(host.root)), wait_s=1):
        assert taken == [lock.LOCK] * 2


def test_the_lock_names_its_holder_alone_and_whoever_waits_keeps_nothing_open(host: FakeHost):
    host.write(lock.LOCK, "123456789\n")
    machine = host.machine(str(host.root))
    with lock.locked(machine):
        assert host.read(lock.LOCK) == f"{os.getpid()}\n"
        before = os.listdir("/proc/self/fd")
        with pytest.raises(Locked), lock.locked(machine, wait_s=0):
            pass
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_lock_that_is_a_link_is_not_followed(host: FakeHost):
    host.write("/etc/passwd-", "keep")
    host.at(RUN_DIRECTORY).mkdir()
    host.at(lock.LOCK).symlink_to(host.at("/etc/passwd-"))
    with pytest.raises(WriteFailed, match="symbolic links"), lock.locked(host.machine(str(host.root))):
        pass
    assert host.read("/etc/passwd-") == "keep"


@pytest.mark.parametrize("comes", [True, False], ids=["somebody waits", "nobody"])
def test_the_folder_of_the_lock_stays_for_who_waits_and_else_has_to_go(host: FakeHost, comes: bool):
    def last(step: str) -> None:
        if step == f"remove {RUN_DIRECTORY}":
            if not comes:
                raise OSError(errno.EIO, "Input/output error")
            host.write(lock.LOCK, "")

    told = contextlib.nullcontext() if comes else pytest.raises(WriteFailed)
    with told, lock.locked(host.machine(str(host.root), last)):
        pass
    assert host.at(lock.LOCK).exists() == comes


def test_what_stands_where_a_file_is_written_aside_is_never_followed(host: FakeHost):
    """Somebody who may write there must not make root write elsewhere."""
    host.write("/etc/passwd-", "keep")
    host.at("/etc/.x.conf.inferhost-new").symlink_to(host.at("/etc/passwd-"))
    with pytest.raises(WriteFailed):
        host.machine(str(host.root)).replace_file("/etc/x.conf", b"ours", 0o644)
    assert host.read("/etc/passwd-") == "keep"


def test_a_refused_first_run_leaves_no_lock_behind(host: FakeHost):
    before = host.snapshot()
    host.write("/run/keep", "")
    host.at("/run/keep").unlink()
    host.sim("lost", 0)
    assert host.run("apply", "--section", "gpu").code == 2
    assert set(host.snapshot()) == set(before)


def test_an_original_is_never_overwritten_by_what_is_found_later(host: FakeHost):
    host.converge()
    baseline = read_baseline(host.machine(str(host.root)))
    key = f"gpu:{UUID}:power_limit_mw"
    assert baseline.add({key: Record("gpu", 450000, {})}, check=False) == []
    assert host.baseline()[key]["found"] == 480000


def test_a_write_that_failed_leaves_no_half_file_beside(host: FakeHost):
    def full(step: str) -> None:
        if step.startswith("rename"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteFailed):
        host.machine(str(host.root), full).replace_file("/etc/x.conf", b"half", 0o644)
    assert [path.name for path in host.at("/etc").iterdir() if "x.conf" in path.name] == []


def test_what_a_crash_left_beside_a_file_goes_with_it(host: FakeHost):
    host.write("/etc/.x.conf.inferhost-new", "half")
    host.machine(str(host.root)).remove_file("/etc/x.conf")
    assert [path.name for path in host.at("/etc").iterdir() if "x.conf" in path.name] == []


def test_a_write_is_on_disk_before_it_takes_its_place_and_a_removal_before_it_returns(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    """What a power cut would show, without one: the order of what is synced and renamed."""
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def replaced(new: str, old: str) -> None:
        order.append("renamed")
        replace(new, old)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    machine = host.machine(str(host.root))
    machine.replace_file("/etc/x.conf", b"whole", 0o644)
    machine.remove_file("/etc/x.conf")
    assert order == [".x.conf.inferhost-new", "renamed", "etc", "etc"]
