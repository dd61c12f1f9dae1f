"""The scripts that are read for commands which write our settings: what units, the boot, cron and Slurm run."""

from __future__ import annotations

import os

import pytest

from tests.unit.host.fake_host import FakeHost
from tests.unit.host.test_host_writers import UNITS, writers


@pytest.mark.parametrize("interpreter", ["/usr/bin/python3", "/usr/bin/env python3"])
def test_a_program_of_nvml_that_a_unit_starts_is_read(host: FakeHost, interpreter: str):
    host.write(f"{UNITS}/cap.service", f"[Service]\nExecStart={interpreter} /usr/local/sbin/cap.py\n")
    host.write("/usr/local/sbin/cap.py", "import pynvml\npynvml.nvmlDeviceSetPowerManagementLimit(h, 300000)\n")
    assert writers(host) == {"/usr/local/sbin/cap.py": ["power_limit_w"]}


def test_the_script_that_a_unit_starts_and_those_that_slurm_names_are_read(host: FakeHost):
    host.write(f"{UNITS}/tune.service", "ExecStart=/opt/tune.sh --all\n")
    host.write("/opt/tune.sh", "nvidia-smi -pl 300\n")
    slurm = "ClusterName=x\nProlog=/opt/prolog.sh\n#Epilog=/opt/no.sh\nEpilog=/opt/epilog.d/*.sh\n"
    host.write("/etc/slurm/slurm.conf", slurm)
    host.write("/opt/prolog.sh", "nvidia-smi -rgc\n")
    host.write("/opt/epilog.d/10-back.sh", "nvidia-smi -c 0\n")
    host.write("/opt/epilog.d/README", "nvidia-smi -pm 0\n")
    assert writers(host) == {
        "/opt/tune.sh": ["power_limit_w"],
        "/opt/prolog.sh": ["graphics_clock_lock_mhz"],
        "/opt/epilog.d/10-back.sh": ["compute_mode"],
    }


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/rc.local", "#!/bin/sh\n/opt/tune.sh\n"),
        ("/etc/cron.d/tune", '@reboot root sleep 5 && "/opt/tune.sh"\n'),
        ("/etc/init.d/tune", "case $1 in\nstart) /opt/tune.sh;;\nesac\n"),
        ("/etc/modprobe.d/tune.conf", "install nvidia /sbin/modprobe -i nvidia && /opt/tune.sh\n"),
    ],
)
def test_the_script_that_a_script_of_the_boot_runs_is_read(host: FakeHost, path: str, text: str):
    host.write(path, text)
    host.write("/opt/tune.sh", "nvidia-smi -pl 300\n")
    assert writers(host) == {"/opt/tune.sh": ["power_limit_w"]}


@pytest.mark.parametrize("folder", ["/etc/slurm", "/etc/slurm-llnl", "/run/slurm/conf"])
def test_a_script_beside_the_configuration_of_slurm_is_read_wherever_that_stands(host: FakeHost, folder: str):
    host.write(f"{folder}/slurm.conf", "Prolog=node.d/*.sh\nTaskProlog=/opt/task.sh\n")
    host.write(f"{folder}/node.d/limit.sh", "nvidia-smi -pl 300\n")
    host.write("/opt/task.sh", "nvidia-smi -rgc\n")
    host.write(f"{folder}/epilog.d/back", "nvidia-smi -c 0\n")
    assert writers(host) == {
        f"{folder}/epilog.d/back": ["compute_mode"],
        f"{folder}/node.d/limit.sh": ["power_limit_w"],
        "/opt/task.sh": ["graphics_clock_lock_mhz"],
    }


def test_what_is_no_file_is_not_opened(host: FakeHost):
    """A pipe has nobody at its other end, and a watchdog starts the machine again."""
    host.write("/etc/rc.local", "cat /run/pipe > /dev/watchdog\n")
    host.write("/dev/watchdog", "nvidia-smi -pl 300\n")
    host.at("/run").mkdir(exist_ok=True)
    os.mkfifo(host.at("/run/pipe"))
    assert writers(host) == {}


@pytest.mark.parametrize("start", ["/bin/bash /opt/tune.sh", "-/usr/bin/env FOO=1 /opt/tune.sh --all"])
def test_the_script_behind_an_interpreter_is_read(host: FakeHost, start: str):
    host.write(f"{UNITS}/tune.service", f"[Service]\nExecStart={start}\n")
    host.write("/opt/tune.sh", "nvidia-smi -pl 300\n")
    assert writers(host) == {"/opt/tune.sh": ["power_limit_w"]}
