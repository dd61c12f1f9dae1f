"""Fail or kill the host program at its n-th write, n = 1, 2, ... until a run has no such write left.

N is counted in a dry run, never listed. However a verb ends, the record is intact, nothing is called held that is
not, the same verb run again ends where an undisturbed one ends, and a revert brings back the host as it was.
"""

from __future__ import annotations

import errno
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inferhost.host.gpu.nvml import NvmlError
from inferhost.schema.plan import Cpu
from tests.unit.host.fake_host import (
    P4,
    P4_UUID,
    SYSCTL_FILE,
    UUID,
    Answer,
    FakeHost,
    own_units,
    p4_plan,
    plan,
    simulator_state,
    with_gpu,
)
from tests.unit.host.test_host_mig import H100, HALVES, MADE, by_hand, card_plan, shared_in_three

KILLED = 9
H100_UUID = "GPU-5a1b6000-2330-4000-8000-000000000001"
SHARED = "1g.10gb@0:1(), 3g.40gb@4:4(1c.3g.40gb@0:1,1c.3g.40gb@1:1,1c.3g.40gb@2:1)"
LAYOUTS = {
    tuple(MADE): "3g.40gb@0:4, 3g.40gb@4:4",
    ("1g.10gb@0()", "3g.40gb@4(0:1,1:1,2:1)"): SHARED,
}
"""What the simulator shows of a divided card, and what we say of it: ours, and what was there before us."""
VERBS = ("install", "record", "apply", "revert")
BUG = 1
DONE = (0, 7)
"""7: error correction is back as it was asked for, and the card takes that up when it starts next."""


def with_locks(host: FakeHost) -> None:
    """A card with locked clocks; its limit and persistence were set by hand."""
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400), memory_clock_lock_mhz=(7001, 7001))
    host.sim("set", "power_limit_mw", 480000)
    host.sim("set", "persistence", 0)
    host.sim("load", "on")  # keeps the driver loaded, so that limits last without persistence


def with_modes(host: FakeHost) -> None:
    """A card with application clocks; they, its compute mode and its ECC were set by hand; nothing runs on it."""
    host.sim("init", P4)
    host.plan = p4_plan(application_clocks_mhz=(3003, 999), compute_mode="exclusive_process", ecc=True)
    host.sim("set", "persistence", 1)
    host.sim("set", "application_clocks_mhz", "3003,936")
    host.sim("set", "compute_mode", 2)
    host.sim("set", "ecc_pending", 0)


def with_instances(host: FakeHost) -> None:
    """A card that somebody divided otherwise."""
    host.sim("init", H100)
    host.sim("set", "persistence", 1)
    by_hand(shared_in_three)
    host.plan = card_plan("2330", mig=HALVES)


def with_units(host: FakeHost) -> None:
    """A host that systemd runs, with idle states, and a plan that brings units of its own."""
    host.at("/run/systemd/system").mkdir(parents=True)
    host.plan = plan(files=(*plan().files, *own_units()), cpu=Cpu("performance", "performance", 10))
    for cpu, state, latency in ((0, 0, 2), (0, 1, 133), (1, 0, 2), (1, 1, 133)):
        folder = f"/sys/devices/system/cpu/cpu{cpu}/cpuidle/state{state}"
        host.write(f"{folder}/latency", f"{latency}\n")
        host.write(f"{folder}/disable", "0\n")
    host.sim("set", "power_limit_mw", 480000)
    host.sim("set", "persistence", 1)


HOSTS = {"locks": with_locks, "modes": with_modes, "instances": with_instances, "units": with_units}


@pytest.fixture(params=HOSTS.values(), ids=HOSTS)
def fresh(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path
):
    """Makes hosts that are all alike: a card that somebody set by hand, and one file that was there before us."""
    numbers = iter(range(10000))

    def make(before: str) -> FakeHost:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        os.environ["INFERHOST_SIM_DIR"] = str(folder / "sim")
        host = FakeHost(folder, simulator_build, program)
        request.param(host)
        host.write(SYSCTL_FILE, "vm.swappiness = 33\n", mode=0o600)
        if before in ("apply", "revert"):
            assert host.run("install").code == 0
            host.place()
        if before == "revert":
            assert host.run("apply").code == 0
            if host.plan.service:
                host.start_engine()
                host.stop_engine()
        return host

    with simulator_state(tmp_path):
        yield make


def steps(host: FakeHost, verb: str) -> list[str]:
    """The writes of an undisturbed run."""
    found: list[str] = []
    assert host.run(verb, before_write=found.append).code in DONE
    return found


def comparable(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without the process id in the lock."""
    return {path: value for path, value in snapshot.items() if path != "/run/inferhost/lock"}


def killed_at(host: FakeHost, verb: str, number: int) -> bool:
    """Runs the verb in a process that dies before its n-th write; whether it came that far."""
    count = iter(range(1, 10000))

    def die(_: str) -> None:
        if next(count) == number:
            os._exit(KILLED)

    child = os.fork()
    if child == 0:
        code = host.run(verb, before_write=die).code
        os._exit(0 if code in DONE else BUG)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def failing(number: int, for_good: bool) -> Callable[[str], None]:
    """A disk that is full, and a card that fails, at the n-th write; once or from then on."""
    count = iter(range(1, 10000))

    def fail(step: str) -> None:
        now = next(count)
        if not (now == number or (for_good and now > number)) or step.startswith(("userdel", "systemctl")):
            return
        if step.startswith("nvml"):
            raise NvmlError("nvmlDeviceSet", 999)
        raise OSError(errno.ENOSPC, "No space left on device")

    return fail


def end_states(fresh: Callable[[str], FakeHost], verb: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The host before anything, the host after an undisturbed run, and the number of its writes."""
    bare = comparable(fresh("install").snapshot())
    host = fresh(verb)
    count = len(steps(host, verb))
    assert count > 1
    return bare, comparable(host.snapshot()), count


def assert_ends_right(host: FakeHost, verb: str, wanted: dict[str, Any], bare: dict[str, Any], where: str) -> None:
    assert host.run(verb).code in DONE, where
    assert comparable(host.snapshot()) == wanted, where
    assert host.run("revert").code in DONE, where
    assert comparable(host.snapshot()) == bare, where


def every(numbers: int) -> Iterator[int]:
    return iter(range(1, numbers + 1))


@pytest.mark.parametrize("verb", VERBS)
def test_a_kill_at_any_write_is_healed_by_a_second_run_and_by_a_revert(fresh, verb: str):
    bare, wanted, count = end_states(fresh, verb)
    for number in every(count):
        host = fresh(verb)
        assert killed_at(host, verb, number)
        assert_ends_right(host, verb, wanted, bare, f"{verb} killed at write {number} of {count}")
    assert not killed_at(fresh(verb), verb, count + 1)


@pytest.mark.parametrize("verb", VERBS)
def test_a_kill_at_any_write_followed_by_revert_alone_leaves_the_host_as_it_was(fresh, verb: str):
    bare, _, count = end_states(fresh, verb)
    for number in every(count):
        host = fresh(verb)
        assert killed_at(host, verb, number)
        assert host.run("revert").code in DONE, number
        assert comparable(host.snapshot()) == bare, f"{verb} killed at write {number} of {count}, then reverted"


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_failure_at_any_write_is_told_and_healed(fresh, verb: str, for_good: bool):
    bare, wanted, count = end_states(fresh, verb)
    for number in every(count):
        host, where = fresh(verb), f"{verb} failed at write {number} of {count}"
        answer = host.run(verb, before_write=failing(number, for_good))
        assert answer.code != BUG, where
        assert "Traceback" not in answer.prose, where
        assert_nothing_held_that_is_not(host, answer, where)
        assert_record_intact(host, where)
        assert_ends_right(host, verb, wanted, bare, where)


def assert_nothing_held_that_is_not(host: FakeHost, answer: Answer, where: str) -> None:
    """Promise 3: what is called held is so on the host."""
    card = host.card()
    found = {
        f"gpu.{UUID}.power_limit_w": card["power_limit_mw"] // 1000,
        f"gpu.{UUID}.persistence_mode": bool(card["persistence"]),
        f"gpu.{P4_UUID}.ecc": {(1, 1): "on", (0, 0): "off"}.get(tuple(card["ecc_mode"]), "waits"),
        f"gpu.{H100_UUID}.mig": LAYOUTS.get(tuple(card["mig_instances"]), "otherwise"),
        f"gpu.{P4_UUID}.compute_mode": {0: "default", 2: "prohibited", 3: "exclusive_process"}[card["compute_mode"]],
        "sysctl.vm.swappiness": host.read("/proc/sys/vm/swappiness").strip(),
        f"file:{SYSCTL_FILE}": None,
    }
    for verdict in answer.document["verdicts"]:
        if verdict["setting"].endswith(("_clock_lock_mhz", "application_clocks_mhz")):
            assert verdict["verdict"] != "held", f"{where}: nobody sampled it"
        if verdict["verdict"] == "held" and found.get(verdict["setting"]) is not None:
            assert found[verdict["setting"]] == verdict["wanted"], where


def assert_record_intact(host: FakeHost, where: str) -> None:
    """Promise 4: what is on record is what was there before us, never a value of ours."""
    if host.at("/var/lib/inferhost/baseline.json").exists():
        records = host.baseline()
        limit = records.get(f"gpu:{UUID}:power_limit_mw", {"found": 480000})
        swappiness = records.get("sysctl:vm.swappiness", {"found": "60"})
        assert (limit["found"], swappiness["found"]) == (480000, "60"), where
        clocks = records.get(f"gpu:{P4_UUID}:application_clocks_mhz", {"found": [3003, 936]})
        mode = records.get(f"gpu:{P4_UUID}:compute_mode", {"found": "prohibited"})
        ecc = records.get(f"gpu:{P4_UUID}:ecc", {"found": False})
        assert (clocks["found"], mode["found"], ecc["found"]) == ([3003, 936], "prohibited", False), where
