"""site.yml and revert.yml on a host with a kernel of its own: what a container can only show as files is live here.

One host goes through its life in the order of the fixtures: found, placed, placed again, meddled with, repaired,
taken back; then placed, booted and taken back once more. What is asserted was read by observe.py, never by the roles.
"""

import dataclasses
import json
import os
import pathlib
import subprocess

import pytest
import yaml

from tests.bed.playbook import ROOT, Ran, run_playbook
from tests.bed.snapshot import differences

NAME = os.environ.get("INFERHOST_VM_NAME", "inferhost-vm")
PORT = os.environ.get("INFERHOST_VM_PORT", "22422")
HERE = pathlib.Path(__file__).parent
INVENTORY = ("-i", "tests/vm/inventory", "-l", "gb200")

# Somebody was here before us, and left each CPU and each parameter in a state that is nobody's default.
FOUND = """
echo powersave > /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
sysctl --quiet vm.swappiness=37 kernel.numa_balancing=1
inferhost-sim set persistence 1
inferhost-sim set power_limit_mw 480000
"""
MEDDLING = """
echo powersave > /sys/devices/system/cpu/cpu1/cpufreq/scaling_governor
sysctl --quiet vm.swappiness=55
"""
# What no call reads back must go as well, and has to be said: the twin's wish asks for no lock of its own.
LOCK = ("-e", "inferhost_gpu_graphics_clock_lock=2100")
NO_GETTER = "what was set before inferhost has no getter; it is reset to unlocked"
READ_ONLY = ("/etc", "/usr", "/opt", "/srv/models", "/home", "/root", "/var/lib/inferhost", "/proc/sys", "/sys",
             "/sys/fs/cgroup")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Seen:
    """The host at one moment: what its kernel and card say and, where it matters, every file and what was told."""

    kernel: dict
    card: dict
    files: dict | None = None
    told: str = ""

    def governors(self) -> dict[str, str]:
        return {cpu: policy["scaling_governor"] for cpu, policy in self.kernel["governors"].items()}


@dataclasses.dataclass(frozen=True)
class Verified:
    """The host program's own verdicts, by setting, and its exit status."""

    code: int
    verdicts: dict[str, dict]


def vm(*arguments: str, script: str = "") -> str:
    ran = subprocess.run([HERE / "vm", *arguments], input=script, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def seen() -> Seen:
    (card,) = json.loads(vm("exec", NAME, "inferhost-sim", "dump"))["gpus"]
    return Seen(told_by(HERE / "observe.py"), card)


def seen_with_files() -> Seen:
    return dataclasses.replace(seen(), files=told_by(ROOT / "tests/bed/snapshot.py"))


def told_by(script: pathlib.Path) -> dict:
    return json.loads(vm("exec", NAME, "python3", "-", script=script.read_text()))


def verified() -> Verified:
    argv = [HERE / "vm", "exec", NAME, "inferhost", "verify"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    return Verified(ran.returncode, {v["setting"]: v for v in json.loads(ran.stdout)["verdicts"]})


def placed_again() -> Ran:
    ran = run_playbook("site.yml", *INVENTORY, *LOCK)
    assert ran.code == 0, ran.output
    return ran


def taken_back() -> Seen:
    ran = run_playbook("playbooks/revert.yml", *INVENTORY)
    assert ran.code == 0, ran.output
    return dataclasses.replace(seen_with_files(), told=ran.output)


@pytest.fixture(scope="module")
def found():
    vm("up", NAME, PORT)
    vm("exec", NAME, "sh", "-euc", FOUND)
    yield seen_with_files()
    vm("down", NAME)


@pytest.fixture(scope="module")
def placed(found):
    placed_again()
    return seen(), verified(), vm("ssh", NAME, "ulimit -Sn; ulimit -Hn; ulimit -Hl").split()


@pytest.fixture(scope="module")
def second_run(placed):
    return placed_again()


@pytest.fixture(scope="module")
def meddled(second_run):
    vm("exec", NAME, "sh", "-euc", MEDDLING)
    return seen(), verified()


@pytest.fixture(scope="module")
def repaired(meddled):
    placed_again()
    return seen()


@pytest.fixture(scope="module")
def reverted(repaired):
    return taken_back()


@pytest.fixture(scope="module")
def booted(reverted):
    placed_again()
    vm("reboot", NAME)
    vm("exec", NAME, "sh", "-c", "systemctl is-system-running --wait || true")  # degraded is no answer yet: look
    return seen(), verified()


@pytest.fixture(scope="module")
def reverted_after_boot(booted):
    return taken_back()


def test_the_machine_is_what_its_inventory_says(found):
    hardware = yaml.safe_load((HERE / "inventory/host_vars/vm-gb200/hardware.yml").read_text())["inferhost_hardware"]
    assert len(found.kernel["nodes"]) == hardware["cpu"]["numa_nodes"] == hardware["cpu"]["sockets"] == 2
    assert len(found.kernel["governors"]) == hardware["cpu"]["cores"]
    assert {policy["scaling_driver"] for policy in found.kernel["governors"].values()} == {"acpi-cpufreq"}


def test_the_host_starts_with_values_that_are_nobody_s_default(found):
    assert found.governors() == {"cpu0": "powersave", "cpu1": "schedutil"}
    assert found.kernel["sysctl"]["vm.swappiness"] == "37"
    assert found.kernel["sysctl"]["kernel.numa_balancing"] == "1"


def test_every_cpu_has_the_performance_governor_and_its_top_frequency(placed):
    host, _, _ = placed
    assert host.governors() == {"cpu0": "performance", "cpu1": "performance"}
    top = {cpu: int(policy["scaling_max_freq"]) for cpu, policy in host.kernel["governors"].items()}
    assert host.kernel["frequencies_khz"] == top


def test_kernel_parameters_are_live_and_nothing_else_moved(found, placed):
    host, _, _ = placed
    before, after = found.kernel["sysctl"], host.kernel["sysctl"]
    changed = {name: after.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"kernel.numa_balancing": "0", "vm.swappiness": "10"}


@pytest.mark.parametrize("setting", ["cpu.governor", "sysctl.kernel.numa_balancing", "sysctl.vm.swappiness"])
def test_what_the_kernel_shows_is_verified_as_held(placed, setting):
    _, answer, _ = placed
    assert answer.verdicts[setting]["verdict"] == "held"


def test_the_card_is_asked_for_the_clock_lock_and_nobody_calls_it_held(found, placed):
    host, answer, _ = placed
    assert (found.card["graphics_clock_lock_mhz"], host.card["graphics_clock_lock_mhz"]) == (None, [2100, 2100])
    (lock,) = [v for name, v in answer.verdicts.items() if name.endswith("graphics_clock_lock_mhz")]
    assert (lock["verdict"], lock["cause"]) == ("unverified", "needs_load")


def test_new_login_sessions_have_the_planned_limits(placed):
    _, _, session = placed
    assert session == ["65536", "65536", "unlimited"]


def test_the_running_engine_has_the_planned_limits(placed):
    limits = placed[0].kernel["engine"]["limits"]
    assert limits["Max open files"] == ["65536", "65536"]
    assert limits["Max locked memory"] == ["unlimited", "unlimited"]


def test_the_running_engine_can_gain_no_privilege(placed):
    status = placed[0].kernel["engine"]["status"]
    assert "0" not in status["Uid"].split()
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    sets = {name: int(bits, 16) for name, bits in status.items() if name.startswith("Cap")}
    assert set(sets) == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    assert not any(sets.values())


@pytest.mark.parametrize("path", READ_ONLY)
def test_the_running_engine_sees_it_read_only(placed, path):
    assert "ro" in mount_of(placed[0], path)["options"]


@pytest.mark.parametrize("path", ["/tmp", "/var/tmp"])
def test_the_running_engine_has_a_temporary_folder_of_its_own(placed, path):
    mount = mount_of(placed[0], path)
    assert mount["at"] == path
    assert "inferhost-serve@main.service" in mount["root"]


def test_the_running_engine_sees_no_process_of_others_and_no_kernel_module(placed):
    assert "hidepid=invisible" in mount_of(placed[0], "/proc")["file_system"]
    assert mount_of(placed[0], "/usr/lib/modules")["at"] == "/usr/lib/modules"


def test_no_device_but_the_cards_and_no_address_but_its_own_host_s_can_be_reached_beside_the_engine(placed):
    refused = placed[0].kernel["engine"]["beside_it"]
    assert refused == {"null": "none", "disk": "PermissionError", "loopback": "none", "outside": "PermissionError"}


def test_the_running_engine_can_write_its_cache(placed):
    assert "rw" in mount_of(placed[0], "/var/cache/inferhost/main")["options"]


def test_the_running_engine_stays_on_the_node_of_its_card(placed):
    host, _, _ = placed
    assert host.kernel["engine"]["status"]["Cpus_allowed_list"] == host.kernel["nodes"]["1"]
    assert host.kernel["engine"]["memory_policies"] == ["prefer:1"]


def test_a_second_run_changes_nothing(second_run):
    assert [name for name, changed, _ in second_run.changes() if changed] == []


@pytest.mark.parametrize(
    ("setting", "value"), [("cpu.governor", "powersave"), ("sysctl.vm.swappiness", "55")], ids=["governor", "sysctl"]
)
def test_a_value_changed_behind_our_back_is_drift(meddled, setting, value):
    _, answer = meddled
    assert answer.code == 3
    assert (answer.verdicts[setting]["verdict"], answer.verdicts[setting]["found"]) == ("overridden", value)


def test_verifying_repairs_nothing(meddled):
    host, _ = meddled
    assert host.governors() == {"cpu0": "performance", "cpu1": "powersave"}
    assert host.kernel["sysctl"]["vm.swappiness"] == "55"


def test_the_next_run_repairs_the_drift(repaired):
    assert repaired.governors() == {"cpu0": "performance", "cpu1": "performance"}
    assert repaired.kernel["sysctl"]["vm.swappiness"] == "10"


def test_revert_restores_each_cpu_s_own_governor(found, reverted):
    assert reverted.kernel["governors"] == found.kernel["governors"]


def test_revert_restores_every_kernel_parameter(found, reverted):
    assert reverted.kernel["sysctl"] == found.kernel["sysctl"]


def test_revert_stops_the_engine(reverted):
    assert reverted.kernel["engine"] == {}


def test_revert_leaves_every_file_and_the_card_as_they_were(found, reverted):
    assert differences(found.files, reverted.files) == []


def test_revert_leaves_the_card_s_settings_as_they_were_clock_lock_included(found, reverted):
    assert reverted.card == found.card


def test_revert_says_that_what_had_no_getter_was_reset(reverted):
    assert NO_GETTER in reverted.told


def test_the_boot_brings_back_what_the_card_forgot(booted):
    host, answer = booted
    assert (host.card["graphics_clock_lock_mhz"], host.card["persistence"]) == ([2100, 2100], 1)
    assert host.card["power_limit_mw"] == 600_000
    assert answer.code == 0


def test_the_boot_brings_back_the_governor(booted):
    host, answer = booted
    assert host.governors() == {"cpu0": "performance", "cpu1": "performance"}
    assert answer.verdicts["cpu.governor"]["verdict"] == "held"


def test_kernel_parameters_hold_over_a_boot(repaired, booted):
    host, answer = booted
    assert host.kernel["boot_id"] != repaired.kernel["boot_id"]
    assert host.kernel["sysctl"]["vm.swappiness"] == "10"
    assert host.kernel["sysctl"]["kernel.numa_balancing"] == "0"
    assert answer.verdicts["sysctl.vm.swappiness"]["verdict"] == "held"


def test_the_engine_comes_back_at_boot_with_its_limits(booted):
    engine = booted[0].kernel["engine"]
    assert engine["limits"]["Max open files"] == ["65536", "65536"]
    assert engine["status"]["NoNewPrivs"] == "1"


def test_the_engine_is_warmed_up_at_boot(booted):
    vm("exec", NAME, "timeout", "300", "sh", "-c", (ROOT / "tests/bed/warmed.sh").read_text())


def test_revert_after_a_boot_restores_what_was_found_before_it(found, reverted_after_boot):
    assert reverted_after_boot.governors() == found.governors()
    for name in ("vm.swappiness", "kernel.numa_balancing"):
        assert reverted_after_boot.kernel["sysctl"][name] == found.kernel["sysctl"][name]
    # /run is empty at each boot, and udev fills it with the clock of that boot.
    changed = differences(found.files, reverted_after_boot.files)
    assert [line for line in changed if not line.startswith("/run/")] == []


def mount_of(host: Seen, path: str) -> dict:
    """The mount that `path` lies on, as the engine's process sees it: the longest prefix, the last of equals."""
    covering = [m for m in host.kernel["engine"]["mounts"] if pathlib.PurePosixPath(path).is_relative_to(m["at"])]
    return max(reversed(covering), key=lambda mount: len(mount["at"]))
