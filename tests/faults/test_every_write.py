"""Fail or kill the host program at its n-th write, n = 1, 2, ... until a run has no such write left.

A verb that a person asks for, and what runs while nobody is there: the boot and the drift timer.

N is counted in a dry run, never listed. However a verb ends, the record is intact, nothing is called held that is
not, the same verb run again ends where an undisturbed one ends, and a revert brings back the host as it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inferhost.host.gpu.nvml import NvmlError
from inferhost.schema.plan import Cpu
from tests.unit.host.fake_host import SYSCTL_FILE, Answer, FakeHost, own_units, p4_plan, plan, with_gpu
from tests.unit.host.simulated import P4, P4_UUID, UUID, simulator_state
from tests.unit.host.test_host_guard import RULE
from tests.unit.host.test_host_metrics import FOLDER
from tests.unit.host.test_host_mig import H100, HALVES, MADE, by_hand, card_plan, shared_in_three

KILLED = 9
H100_UUID = "GPU-5a1b6000-2330-4000-8000-000000000001"
SHARED = "1g.10gb@0:1(), 3g.40gb@4:4(1c.3g.40gb@0:1,1c.3g.40gb@1:1,1c.3g.40gb@2:1)"
LAYOUTS = {
    tuple(MADE): "3g.40gb@0:4, 3g.40gb@4:4",
    ("1g.10gb@0()", "3g.40gb@4(0:1,1:1,2:1)"): SHARED,
}
"""What the simulator shows of a divided card, and what we say of it: ours, and what was there before us."""
BOOT_ID, RUN_DIRECTORY = "/proc/sys/kernel/random/boot_id", "/run/inferhost"
METRICS = f"{FOLDER}/inferhost.prom"
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


def unattended(host: FakeHost) -> None:
    """A card with a lock and a guard, a processor, a node exporter; no engine, which would have to run."""
    guarded = with_gpu(graphics_clock_lock_mhz=(2100, 2400), guard=RULE).gpus
    files = tuple(file for file in plan().files if file.section == "cpu")
    host.plan = plan(gpus=guarded, manage=("gpu", "cpu"), files=files, dropins=(), service=(), env={})
    host.at(FOLDER).mkdir(parents=True)
    host.sim("set", "power_limit_mw", 480000)
    host.sim("set", "persistence", 1)


def installed(host: FakeHost) -> None:
    assert host.run("install").code == 0
    host.place()


def applied(host: FakeHost) -> None:
    installed(host)
    assert host.run("apply").code == 0
    if host.plan.service:
        host.start_engine()
        host.stop_engine()


def rebooted(host: FakeHost) -> None:
    """Another boot: the driver is new, and so is /run."""
    host.sim("reload")
    shutil.rmtree(host.at(RUN_DIRECTORY))
    host.write(BOOT_ID, "boot-2\n")


def restarted(host: FakeHost) -> None:
    """The host was restarted: the kernel and the driver forgot."""
    applied(host)
    rebooted(host)
    host.write("/proc/sys/vm/swappiness", "60\n")
    for cpu in range(2):
        host.write(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "powersave\n")


def reloaded(host: FakeHost) -> None:
    """The driver was loaded again after a look that saw it."""
    applied(host)
    host.wait(60)
    assert host.run("watch").code == 0
    host.sim("reload")


BEFORE = {"apply": installed, "revert": applied, "boot": restarted, "watch": reloaded, "guard": applied}
"""What was done on a host before a verb; nothing for the others."""
HOSTS = {"locks": with_locks, "modes": with_modes, "instances": with_instances, "units": with_units}
RUNS = [(make, verb) for make in HOSTS.values() for verb in ("install", "record", "apply", "revert")]
RUNS += [(unattended, verb) for verb in ("boot", "watch")]
Make = Callable[[str], FakeHost]


@contextlib.contextmanager
def hosts(
    prepare: Callable[[FakeHost], None], folder: pathlib.Path, build: pathlib.Path, program: pathlib.Path
) -> Iterator[Make]:
    """Makes hosts that are all alike: a card that somebody set by hand, and one file that was there before us."""
    numbers = iter(range(10000))

    def make(before: str) -> FakeHost:
        own = folder / str(next(numbers))
        own.mkdir()
        os.environ["INFERHOST_SIM_DIR"] = str(own / "sim")
        host = FakeHost(own, build, program)
        prepare(host)
        host.write(SYSCTL_FILE, "vm.swappiness = 33\n", mode=0o600)
        BEFORE.get(before, lambda _: None)(host)
        return host

    with simulator_state(folder):
        yield make


@pytest.fixture(params=RUNS, ids=[f"{make.__name__}-{verb}" for make, verb in RUNS])
def run(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path
) -> Iterator[tuple[Make, str]]:
    """What makes the hosts, and the verb that is run on them."""
    prepare, verb = request.param
    with hosts(prepare, tmp_path, simulator_build, program) as make:
        yield make, verb


def steps(host: FakeHost, verb: str) -> list[str]:
    """The writes of an undisturbed run."""
    found: list[str] = []
    assert host.run(verb, before_write=found.append).code in DONE
    return found


def comparable(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without the process id in the lock, and without the time in the metrics."""
    found = {path: value for path, value in snapshot.items() if path != "/run/inferhost/lock"}
    if METRICS in found:
        *status, content = found[METRICS]
        found[METRICS] = (*status, [line for line in content.splitlines() if b"timestamp_seconds" not in line])
    return found


def same(snapshot: dict[str, Any]) -> dict[str, Any]:
    """What a boot alone does not change."""
    return {path: value for path, value in comparable(snapshot).items() if path != BOOT_ID}


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


def end_states(fresh: Make, verb: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The host before anything, the host after an undisturbed run, and the number of its writes."""
    bare = same(fresh("").snapshot())
    host = fresh(verb)
    count = len(steps(host, verb))
    assert count > 1
    return bare, comparable(host.snapshot()), count


def assert_ends_right(host: FakeHost, verb: str, wanted: dict[str, Any], bare: dict[str, Any], where: str) -> None:
    assert_record_intact(host, where)
    answer = host.run(verb)
    if verb == "watch" and answer.code == 3:  # a card that was left without persistence is not woken by a timer
        assert answer.verdict("persistence_mode")[0] == "overridden", where
        assert host.run("apply").code == 0, where
        answer = host.run(verb)
    assert answer.code in (DONE if verb in ("apply", "revert") else (0,)), where
    assert comparable(host.snapshot()) == wanted, where
    assert_goes_back(host, bare, where)


def assert_goes_back(host: FakeHost, bare: dict[str, Any], where: str) -> None:
    assert host.run("revert").code in DONE, where
    assert same(host.snapshot()) == bare, where


def every(numbers: int) -> Iterator[int]:
    return iter(range(1, numbers + 1))


def test_a_kill_at_any_write_is_healed_by_a_second_run_and_by_a_revert(run: tuple[Make, str]):
    fresh, verb = run
    bare, wanted, count = end_states(fresh, verb)
    for number in every(count):
        host = fresh(verb)
        assert killed_at(host, verb, number)
        assert_ends_right(host, verb, wanted, bare, f"{verb} killed at write {number} of {count}")
    assert not killed_at(fresh(verb), verb, count + 1)


def test_a_kill_at_any_write_followed_by_revert_alone_leaves_the_host_as_it_was(run: tuple[Make, str]):
    fresh, verb = run
    bare, _, count = end_states(fresh, verb)
    for number in every(count):
        host = fresh(verb)
        assert killed_at(host, verb, number)
        assert_goes_back(host, bare, f"{verb} killed at write {number} of {count}, then reverted")


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_a_failure_at_any_write_is_told_and_healed(run: tuple[Make, str], for_good: bool):
    fresh, verb = run
    bare, wanted, count = end_states(fresh, verb)
    for number in every(count):
        host, where = fresh(verb), f"{verb} failed at write {number} of {count}"
        answer = host.run(verb, before_write=failing(number, for_good))
        assert answer.code != BUG, where
        assert "Traceback" not in answer.prose, where
        assert_nothing_held_that_is_not(host, answer, where)
        assert_ends_right(host, verb, wanted, bare, where)


def assert_nothing_held_that_is_not(host: FakeHost, answer: Answer, where: str) -> None:
    """Promise 3: what is called held is so on the host."""
    card = json.loads(host.sim("dump", "--all"))["gpus"][0]
    stays = card["driver_loaded"]  # else the limit went with the driver when the program ended
    found = {
        f"gpu.{UUID}.power_limit_w": card["power_limit_mw"] // 1000 if stays else None,
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
