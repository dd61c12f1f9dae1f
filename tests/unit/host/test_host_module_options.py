"""Options of the kernel module: what the running one shows of them, never what the file says."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import pytest

from inferhost.host.driver.options import PARAMS
from tests.unit.host.driver_fake import NEXT, OLD, RUNNING, DriverHost
from tests.unit.host.simulated import simulator_state

SETTING = "driver.option.NVreg_EnableStreamMemOPs"
SHOWN = 'ResmanDebugLevel: 4294967295\nEnableStreamMemOPs: {}\nExcludedGpus: "{}"\n'


@pytest.fixture
def host(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[DriverHost]:
    with simulator_state(tmp_path / "sim"):
        found = DriverHost(tmp_path, simulator_build, program)
        install = found.plan.driver.install
        assert install is not None
        options = (
            ("NVreg_EnableStreamMemOPs", "EnableStreamMemOPs", "0x1"),
            ("NVreg_ExcludedGpus", "ExcludedGpus", "GPU-1"),
        )
        driver = dataclasses.replace(found.plan.driver, install=dataclasses.replace(install, module_options=options))
        found.plan = dataclasses.replace(found.plan, driver=driver)
        found.converge()
        found.load(OLD)
        found.boot(ago_s=-10)
        yield found


def reboot_required(host: DriverHost) -> bool:
    return bool(host.run("apply").document["facts"]["driver"]["reboot_required"])


def test_options_that_the_running_module_shows_are_held(host: DriverHost):
    host.write(PARAMS, SHOWN.format(1, "GPU-1"))
    answer = host.run("verify")
    assert answer.verdict(SETTING) == ("held", "none")
    assert answer.verdict("NVreg_ExcludedGpus") == ("held", "none")
    assert not reboot_required(host)


def test_a_module_that_was_loaded_before_waits_for_the_restart_and_the_role_is_told(host: DriverHost):
    host.write(PARAMS, SHOWN.format(0, "GPU-1"))
    answer = host.run("verify")
    assert answer.verdict(SETTING) == ("pending", "needs_reboot")
    assert answer.verdict("NVreg_ExcludedGpus") == ("held", "none")
    assert reboot_required(host)
    for kernel in (RUNNING, NEXT):  # a container shows the options of the machine around it
        host.at(f"/boot/vmlinuz-{kernel}").unlink()
        host.at(f"/lib/modules/{kernel}").rename(host.at(f"/gone-{kernel}"))
    assert not reboot_required(host)


def test_without_a_module_they_wait_for_the_driver(host: DriverHost):
    assert host.run("verify").verdict(SETTING) == ("pending", "needs_driver")


def test_a_module_that_shows_no_such_option_ignores_it(host: DriverHost):
    host.write(PARAMS, "EnableMSI: 1\n")
    answer = host.run("verify")
    assert (answer.code, answer.verdict(SETTING)) == (3, ("ignored", "no_interface"))
