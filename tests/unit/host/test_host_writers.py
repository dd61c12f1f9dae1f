"""Other programs that write our settings: found, named where a setting drifted, warned of, and not fought beside."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from inferhost.host.machine import Finished
from inferhost.schema.plan import Cpu
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import UUID

UNITS = "/etc/systemd/system"
GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def runs(host: FakeHost, unit: str, active: bool = True) -> None:
    """A packaged daemon, running or not."""
    host.write(f"/usr/lib/systemd/system/{unit}", "[Service]\n")
    host.others[unit] = {"active": active, "enabled": active}


def writers(host: FakeHost) -> dict[str, list[str]]:
    found = host.run("facts").document["facts"]["other_writers"]
    return {writer["where"]: list(writer["settings"]) for writer in found}


def test_a_host_of_its_own_has_none_and_our_own_units_are_none(host: FakeHost):
    host.write(f"{UNITS}/inferhost-x.service", "ExecStart=nvidia-smi -pl 300\n")
    assert writers(host) == {}


@pytest.mark.parametrize(
    ("path", "text", "settings"),
    [
        (f"{UNITS}/limit.service", "[Service]\nExecStart=/usr/bin/nvidia-smi -i 0 -pl 300\n", ["power_limit_w"]),
        (f"{UNITS}/x.service", "ExecStart=-nvidia-smi --lock-gpu-clocks=2100,2400\n", ["graphics_clock_lock_mhz"]),
        ("/etc/rc.local", "#!/bin/sh\nnvidia-smi -pm 1\nnvidia-smi -lmc 7001\n",
         ["memory_clock_lock_mhz", "persistence_mode"]),
        ("/etc/slurm/prolog.d/10-gpu.sh", "cpupower -c all frequency-set -g performance\n", ["cpu.governor"]),
        ("/etc/cron.d/gpu", "@reboot root nvidia-smi -ac 3003,1531\n", ["application_clocks_mhz"]),
        ("/etc/rc.local", "echo performance > /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor\n",
         ["cpu.governor"]),
        (f"{UNITS}/nvidia-persistenced.service.d/tune.conf", "[Service]\nExecStartPost=/usr/bin/nvidia-smi -pl 300\n",
         ["power_limit_w"]),
        ("/etc/udev/rules.d/99-gpu.rules", 'ACTION=="add", RUN+="/usr/bin/nvidia-smi -rgc", TAG="x"\n',
         ["graphics_clock_lock_mhz"]),
        ("/var/spool/cron/crontabs/root", "@reboot nvidia-smi -pl 300\n", ["power_limit_w"]),
        ("/var/spool/cron/root", "@reboot nvidia-smi -pl 300 2>&1 | logger\n", ["power_limit_w"]),
        ("/etc/cron.d/quiet", "@reboot root nvidia-smi >/dev/null 2>&1 -pl 300\n", ["power_limit_w"]),
        ("/etc/init.d/cpufrequtils", "#!/bin/sh\ncpufreq-set --cpu 0 -g $GOVERNOR\n", ["cpu.governor"]),
        ("/usr/lib/systemd/system-sleep/gpu", "#!/bin/sh\n[ $1 = post ] && nvidia-smi -pl 300\n", ["power_limit_w"]),
        (f"{UNITS}/inferhost-serve@main.service.d/50-local.conf", "ExecStartPre=/usr/bin/nvidia-smi -pl 300\n",
         ["power_limit_w"]),
        ("/etc/sysctl.conf", "#vm.x = 1\nkernel.numa_balancing = 1\n-net/ipv4/conf/eth0.1/forwarding=0\n",
         ["sysctl.kernel.numa_balancing", "sysctl.net.ipv4.conf.eth0/1.forwarding"]),
        ("/etc/sysctl.d/99-x.conf", "vm.swappiness=60\n", ["sysctl.vm.swappiness"]),
        ("/etc/rc.local", "sysctl -qw vm.swappiness=60 vm.x=1\n", ["sysctl.vm.swappiness", "sysctl.vm.x"]),
        (f"{UNITS}/n.service", "ExecStart=/bin/sh -c 'echo 1 | tee /proc/sys/kernel/numa_balancing'\n",
         ["sysctl.kernel.numa_balancing"]),
        ("/etc/rc.local", "echo 0 >/proc/sys/kernel/numa_balancing\n", ["sysctl.kernel.numa_balancing"]),
        ("/etc/cron.daily/py", 'subprocess.run(["nvidia-smi","-pl","300"])\n', ["power_limit_w"]),
        ("/etc/cron.daily/py2", "run([\n  'sudo',\n  '/usr/bin/nvidia-smi',\n  '-pm', '0'\n])\nx = ['-pl']\n",
         ["persistence_mode"]),
        ("/etc/cron.daily/py3", 'run(["dcgmi","config","--set","--powerlimit","300"])\n', ["power_limit_w"]),
        ("/etc/modprobe.d/g.conf", "install nvidia modprobe -i nvidia && nvidia-smi -pl 300\n", ["power_limit_w"]),
        ("/etc/cron.weekly/gpu", "nvidia-smi -rac\n", ["application_clocks_mhz"]),
        ("/etc/anacrontab", "1 5 gpu nvidia-smi -pl 300\n", ["power_limit_w"]),
        ("/etc/rc.local", "nvidia-smi --lock-memory-clocks-deferred=1593\n", ["memory_clock_lock_mhz"]),
        ("/etc/slurm/slurm.conf", "ClusterName=x\ngpufreqdef=high,memory=high\n#GpuFreqDef=low\n",
         ["application_clocks_mhz"]),
        (f"{UNITS}/dcgm-limit.service", "ExecStart=/usr/bin/dcgmi config -g 2 --set -P 275 -a 3003,1531\n",
         ["power_limit_w", "application_clocks_mhz"]),
        ("/etc/cron.d/dcgm", "@hourly root dcgmi  config --set --compmode=2 --eccmode 0\n", ["compute_mode", "ecc"]),
        ("/etc/slurm/prolog.d/20-dcgm", "dcgmi config --enforce -g $GROUP\n",
         ["power_limit_w", "application_clocks_mhz", "compute_mode", "ecc"]),
        ("/run/systemd/system/limit.service", "[Service]\nExecStart=nvidia-smi -pl 300\n", ["power_limit_w"]),
        ("/etc/tmpfiles.d/cpu.conf", "w /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor - - - - powersave\n",
         ["cpu.governor"]),
        ("/etc/tmpfiles.d/vm.conf", "w+! /proc/sys/vm/swappiness - - - - 60\n", ["sysctl.vm.swappiness"]),
        ("/etc/NetworkManager/dispatcher.d/90-gpu", "nvidia-smi -pl 300\n", ["power_limit_w"]),
        ("/etc/network/if-up.d/gpu", "nvidia-smi -pl 300\n", ["power_limit_w"]),
        ("/etc/cron.d/smi", "@reboot root SMI=/usr/bin/nvidia-smi; $SMI -pl 300; \"${SMI}\" -rgc\n",
         ["power_limit_w", "graphics_clock_lock_mhz"]),
        (f"{UNITS}/d.service", "[Service]\nEnvironment='D=dcgmi'\nExecStart=/bin/sh -c '$D config --set -P 275'\n",
         ["power_limit_w"]),
        ("/etc/cron.daily/nvml", "from pynvml import *\nnvmlDeviceSetPowerManagementLimit_v2(h, 300000)\n"
         "nvmlDeviceResetGpuLockedClocks(h); nvmlDeviceSetMemoryLockedClocks(h, 1, 2)\nnvmlDeviceSetMigMode(h, 0)\n"
         "nvmlDeviceSetApplicationsClocks(h, 1, 2); nvmlDeviceSetPersistenceMode(h, 1)\n"
         "nvmlDeviceSetComputeMode(h, 0); nvmlDeviceSetEccMode(h, 0); nvmlDeviceSetPowerManagementLimit(h, 3)\n",
         ["power_limit_w", "graphics_clock_lock_mhz", "memory_clock_lock_mhz", "persistence_mode", "compute_mode",
          "ecc", "mig", "application_clocks_mhz"]),
        ("/etc/cron.daily/both", "nvidia-smi -pl 300\npython3 -c 'nvmlDeviceSetPowerManagementLimit(h, 3)'\n",
         ["power_limit_w"]),
        ("/etc/cron.daily/q", "nvidia-smi \\\n  -q; nvidia-smi \\\n  -c EXCLUSIVE_PROCESS\n", ["compute_mode"]),
    ],
)  # fmt: skip
def test_a_command_is_found_where_it_stands(host: FakeHost, path: str, text: str, settings: list[str]):
    host.write(path, text)
    assert writers(host) == {path: settings}


@pytest.mark.parametrize(
    "text",
    [
        "# nvidia-smi -pl 300\n",
        "nvidia-smi -q -d CLOCK\n",
        "nvidia-smi -q 2>&1 | grep -c Active\n",
        "nvidia-smi -q && set -e\n",
        "other-tool -pl 300\n",
        "cat /proc/sys/vm/swappiness; sysctl vm.swappiness; sysctl -n vm.swappiness | grep x=1\n",
        "# GpuFreqDef=low\nMyGpuFreqDef=low\n",
        "dcgmi config --get -g 1 -v; dcgmi health -g 1 -c; dcgmi stats -e\n",
        "nvidia-smi -pl 300\n\0",
        "import pynvml\npynvml.nvmlDeviceGetPowerManagementLimit(h)\n",
        "GPUS=$(nvidia-smi -L | wc -l)\n[ $GPUS -e 4 ]; SMIX=nvidia-smi-wrapper; $SMIX -pl 3; $SMI -pl 3\n",
        "wc -l /proc/sys/vm/swappiness\nwatch /proc/sys/kernel/numa_balancing\n",
    ],
    ids=[
        "comment",
        "query",
        "a filter of it",
        "the next command",
        "another tool",
        "a look",
        "slurm",
        "dcgm",
        "binary",
        "nvml that reads",
        "another variable",
        "not of tmpfiles",
    ],
)
def test_what_only_looks_like_a_writer_is_none(host: FakeHost, text: str):
    host.write("/etc/rc.local", text)
    assert writers(host) == {}


@pytest.mark.parametrize("folder", ["/usr/lib/systemd/system", "/lib/systemd/system"])
@pytest.mark.parametrize("name", ["gpu-power.service", "gpu-power.service.d/limit.conf"])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_unit_of_a_package_counts_where_it_is_wanted(host: FakeHost, folder: str, name: str, enabled: bool):
    host.write(f"{folder}/{name}", "[Service]\nExecStart=/usr/bin/nvidia-smi -pl 300\n")
    host.others["gpu-power.service"] = {"active": False, "enabled": enabled}
    assert writers(host) == ({f"{folder}/{name}": ["power_limit_w"]} if enabled else {})


def test_of_units_with_one_name_the_first_folder_counts(host: FakeHost):
    """As systemd takes them: somebody's own instead of the package's."""
    host.write("/usr/lib/systemd/system/gpu.service", "[Service]\nExecStart=/usr/bin/nvidia-smi -pl 300\n")
    host.others["gpu.service"] = {"active": True, "enabled": True}
    host.write(f"{UNITS}/gpu.service", "[Service]\nExecStart=/bin/true\n")
    assert writers(host) == {}


def test_a_packaged_daemon_of_the_table_is_asked_for_its_state_alone(host: FakeHost):
    runs(host, "cpupower.service", active=False)
    host.write(
        "/usr/lib/systemd/system/cpupower.service", "ExecStart=/usr/bin/cpupower frequency-set -g performance\n"
    )
    host.others["cpupower.service"] = {"active": False, "enabled": False}
    assert writers(host) == {}
    runs(host, "cpupower.service")
    host.write(
        "/usr/lib/systemd/system/cpupower.service", "ExecStart=/usr/bin/cpupower frequency-set -g performance\n"
    )
    assert writers(host) == {"cpupower.service": ["cpu.governor"]}


def test_a_parameter_that_ours_overrules_at_boot_is_written_by_nobody_else(host: FakeHost):
    for name in ("10-before.conf", "90-inferhost.conf", "99-sysctl.conf"):
        host.write(f"/etc/sysctl.d/{name}", "vm.swappiness = 60\n")
    assert writers(host) == {}


def test_a_parameter_that_drifted_names_the_file_that_sets_it(host: FakeHost):
    host.converge()
    host.write("/etc/sysctl.conf", "vm.swappiness = 60\n")
    host.write("/proc/sys/vm/swappiness", "60\n")
    assert host.run("verify").evidence("vm.swappiness").endswith("it is written by /etc/sysctl.conf")
    notes = host.run("install").document["notes"]
    assert any("/etc/sysctl.conf writes sysctl.vm.swappiness too" in note for note in notes)


def test_a_unit_that_wrote_at_boot_is_told_and_no_reason_to_write_nothing(host: FakeHost):
    runs(host, "cpupower.service")
    host.converge()
    assert host.read(GOVERNOR).strip() == "performance"
    assert writers(host) == {"cpupower.service": ["cpu.governor"]}


def test_a_drifted_setting_names_who_writes_it_and_a_held_one_does_not(host: FakeHost):
    host.converge()
    runs(host, "lactd.service")
    assert "LACT" not in host.run("verify").prose
    host.sim("set", "power_limit_mw", 300000)
    answer = host.run("verify")
    assert answer.evidence("power_limit_w").endswith("it is written by LACT (lactd.service)")
    assert "LACT" not in answer.evidence(f"{UUID}.persistence_mode")


def test_a_daemon_that_does_not_run_is_nobody(host: FakeHost):
    host.converge()
    runs(host, "lactd.service", active=False)
    host.sim("set", "power_limit_mw", 300000)
    assert "LACT" not in host.run("verify").evidence("power_limit_w")


def test_install_warns_of_those_who_write_what_the_plan_sets_and_of_no_others(host: FakeHost):
    runs(host, "nvidia-powerd.service")
    host.write("/etc/rc.local", "nvidia-smi -c EXCLUSIVE_PROCESS\n")  # the plan leaves the compute mode alone
    for arguments in (("--check",), ()):
        notes = host.run("install", *arguments).document["notes"]
        assert [n for n in notes if n.startswith("other writer:")] == [
            "other writer: NVIDIA Dynamic Boost (nvidia-powerd.service) writes power_limit_w too; "
            "one of the two has to give way"
        ]


@pytest.mark.parametrize("unit", ["tuned.service", "power-profiles-daemon.service", "tlp.service"])
def test_nothing_of_the_frequency_is_written_beside_a_daemon_that_owns_it(host: FakeHost, unit: str):
    host.plan = plan(cpu=Cpu("performance", "power"))
    host.write("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", "intel_pstate\n")  # which refuses the pair
    host.run("install")
    host.place()
    runs(host, unit)
    answer = host.run("apply", "--section", "cpu")
    assert answer.code == 3
    assert answer.verdict("cpu.governor") == ("refused", "other_writer")
    assert answer.verdict("energy_performance_preference") == ("refused", "other_writer")
    assert unit in answer.evidence("cpu.governor")
    assert unit in answer.evidence("energy_performance_preference")
    assert host.read(GOVERNOR).strip() == "powersave"


@pytest.mark.parametrize(
    ("active", "enabled", "owns"),
    [
        ("inactive", "enabled", True),
        ("failed", "enabled-runtime", True),
        ("activating", "static", True),
        ("reloading", "disabled", True),
        ("deactivating", "disabled", False),
        ("inactive", "masked", False),
        ("inactive", "static", False),
    ],
)
def test_a_daemon_that_starts_later_owns_it_already(host: FakeHost, active: str, enabled: str, owns: bool):
    """At a boot it may come after us, and would take ours for its original."""
    host.run("install")
    host.place()
    host.write("/usr/lib/systemd/system/tuned.service", "[Service]\n")
    said, others = {"is-active": active, "is-enabled": enabled}, host.command

    def command(argv: Sequence[str]) -> Finished:
        return Finished(0, f"{said[argv[1]]}\n", "") if argv[-1] == "tuned.service" else others(argv)

    host.command = command  # type: ignore[method-assign]
    answer = host.run("apply", "--section", "cpu")
    assert (answer.verdict("cpu.governor") == ("refused", "other_writer")) is owns
    assert (host.read(GOVERNOR).strip() == "powersave") is owns


@pytest.mark.parametrize(
    ("configured", "writes"), [("", True), ("reapply_sysctl = 1\n", True), ("#x\nreapply_sysctl=0 \n", False)]
)
def test_of_the_kernel_parameters_tuned_owns_those_that_it_does_not_leave_to_the_files(
    host: FakeHost, configured: str, writes: bool
):
    """By default it applies the files of sysctl.d after its own, and so does ours stand."""
    host.plan = plan(sysctl={"kernel.numa_balancing": "0", "vm.dirty_ratio": "40", "vm.swappiness": "10"})
    host.write("/proc/sys/kernel/numa_balancing", "1\n")
    host.write("/proc/sys/vm/dirty_ratio", "20\n")
    host.write("/etc/tuned/tuned-main.conf", configured)
    runs(host, "tuned.service")
    notes = host.run("install").document["notes"]
    assert any("TuneD" in note and "vm.swappiness" in note for note in notes) is not writes
    host.place()
    answer = host.run("apply", "--section", "cpu")
    verdict = ("held", "none") if writes else ("refused", "other_writer")
    assert answer.verdict("vm.swappiness") == answer.verdict("kernel.numa_balancing") == verdict
    assert answer.verdict("vm.dirty_ratio") == ("held", "none")
    assert host.read("/proc/sys/vm/swappiness").strip() == ("10" if writes else "60")


def test_what_the_daemon_set_as_planned_is_held_and_what_the_plan_leaves_alone_is_not_asked(host: FakeHost):
    host.converge()
    runs(host, "tuned.service")
    assert host.run("verify").verdict("cpu.governor") == ("held", "none")
    host.plan = plan(cpu=Cpu(None))
    assert host.run("apply", "--section", "cpu").code == 0


def test_revert_gives_the_governor_back_even_beside_such_a_daemon_and_says_so(host: FakeHost):
    host.converge()
    runs(host, "tuned.service")
    answer = host.run("revert", "--section", "cpu")
    assert answer.code == 0
    assert host.read(GOVERNOR).strip() == "powersave"
    told = [note for note in answer.document["notes"] if "TuneD" in note]
    settings = ("cpu.governor", "cpu.energy_performance_preference")
    said = "put back beside TuneD (tuned.service), whose own value comes with its restart"
    assert told == [f"{setting}: {said}" for setting in settings]


def test_what_a_lock_drifted_to_is_blamed_on_no_writer_of_something_else(host: FakeHost):
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.converge()
    host.write("/etc/rc.local", "nvidia-smi -lgc 1200\n")
    host.sim("set", "power_limit_mw", 300000)
    assert "rc.local" not in host.run("verify").evidence("power_limit_w")


def test_what_went_with_the_driver_is_blamed_on_nobody_but_who_may_have_written_it(host: FakeHost):
    host.plan = with_gpu()
    host.converge()
    host.write(f"{UNITS}/limit.service", "[Service]\nExecStart=/usr/bin/nvidia-smi -pl 600\n")
    host.sim("reload")  # back at the limit that the card boots with
    answer = host.run("verify")
    assert answer.verdict("power_limit_w") == ("overridden", "driver_reload")
    assert answer.evidence("power_limit_w").endswith("; or it was written by /etc/systemd/system/limit.service")


@pytest.mark.parametrize("reloads", [False, True], ids=["written", "reloaded"])
def test_what_the_card_boots_with_was_written_where_the_driver_has_stayed_provably(host: FakeHost, reloads: bool):
    host.plan = with_gpu()
    host.converge()
    host.sim("load", "on")
    host.wait(3600)
    assert host.run("watch").verdict("power_limit_w") == ("held", "none")
    host.write(f"{UNITS}/limit.service", "[Service]\nExecStart=/usr/bin/nvidia-smi -pl 600\n")
    if reloads:
        host.sim("reload")
    host.sim("set", "power_limit_mw", 600000)
    host.wait(300)
    answer = host.run("verify")
    assert answer.verdict("power_limit_w") == ("overridden", "driver_reload" if reloads else "other_writer")
    assert answer.evidence("power_limit_w").endswith("written by /etc/systemd/system/limit.service")
    assert ("the driver has not gone" in answer.evidence("power_limit_w")) is not reloads
    assert host.run("watch").verdict("power_limit_w") == (
        ("held", "none") if reloads else ("overridden", "other_writer")
    )


def test_a_counter_that_was_young_proves_nothing_when_it_has_risen_since(host: FakeHost):
    """It may have started again: what it shows the card can have drawn since."""
    host.plan = with_gpu()
    host.converge()
    host.wait(1)
    assert host.run("watch").verdict("power_limit_w") == ("held", "none")
    host.sim("reload")
    host.sim("set", "persistence", 1)
    host.sim("load", "on")
    host.wait(300)
    assert host.run("verify").verdict("power_limit_w") == ("overridden", "driver_reload")


@pytest.mark.parametrize(("manage", "told"), [(("gpu",), "power_limit_w"), (("cpu",), "cpu.governor")])
def test_nobody_is_warned_of_for_a_section_that_is_left_alone(host: FakeHost, manage: tuple[str, ...], told: str):
    host.write(f"{UNITS}/limit.service", "[Service]\nExecStart=/usr/bin/nvidia-smi -pl 300\n")
    host.write("/etc/rc.local", "cpupower frequency-set -g powersave\n")
    host.plan = plan(manage=manage)
    warned = [note for note in host.run("install").document["notes"] if note.startswith("other writer:")]
    assert len(warned) == 1
    assert told in warned[0]
