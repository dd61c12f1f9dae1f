"""The driver section on a real host, with stand-in packages: installed, held, proven, taken back.

The faults, and Ubuntu's names, are in tests/slow.
"""

import pytest

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_host import changed, debian_host
from tests.bed.driver_packages import KERNEL, NEW, OLD
from tests.bed.playbook import NAME, bed


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    host = debian_host(tmp_path_factory.mktemp("driver"))
    host.before = host.snapshot()
    yield host
    bed("down", NAME)


def test_the_driver_is_installed_held_and_its_module_proven(debian):
    ran = debian.site()
    assert ran.code == 0, ran.told()
    found = debian.versions()
    assert found["nvidia-kernel-dkms"] == (f"{OLD}-1", "hi")
    assert {
        found[name][1] for name in ("libcuda1", "nvidia-smi", "firmware-nvidia-gsp", "libnvidia-ptxjitcompiler1")
    } == {"hi"}
    assert f"linux-headers-{KERNEL}" in found
    automatic = debian.run("apt-mark", "showauto").split()
    assert (f"linux-headers-{KERNEL}" in automatic, "linux-headers-amd64" in automatic) == (True, False)
    assert debian.verdicts()[f"driver.module.{KERNEL}"]["verdict"] == "held"
    assert debian.verdicts()["driver.running"]["cause"] == "needs_reboot"


def test_a_second_run_and_a_check_change_nothing(debian):
    for again in (debian.site(), debian.check()):
        assert (again.code, changed(again)) == (0, []), again.told()


def test_a_dead_source_of_somebody_else_stops_no_run_of_a_host_that_has_its_packages(debian):
    theirs = "/etc/apt/sources.list.d/theirs.list"
    debian.write(theirs, b"deb [trusted=yes] http://127.0.0.1:9/gone bookworm main\n")
    debian.run("find", "/var/lib/apt", "-exec", "touch", "-d", "2 days ago", "{}", "+")
    ran = debian.site()
    debian.run("rm", theirs)
    assert (ran.code, changed(ran)) == (0, []), ran.told()


def test_an_upgrade_moves_nothing_of_the_driver(debian):
    debian.offer(*stand_ins.debian(OLD, "1"), *stand_ins.debian(NEW, "0+deb12u1"), *stand_ins.debian_rest())
    debian.run("apt-get", "-qq", "update")
    told = debian.run("apt-get", "-y", "upgrade")
    assert "The following packages have been kept back" in told
    assert debian.versions()["nvidia-kernel-dkms"] == (f"{OLD}-1", "hi")


def test_a_lost_hold_is_found(debian):
    debian.run("apt-mark", "unhold", "nvidia-smi")
    found = debian.verdicts()["driver.package.nvidia-smi"]
    assert (found["verdict"], found["cause"]) == ("overridden", "other_writer")
    assert "not held" in found["evidence"]
    assert changed(debian.site()) == ["inferhost_plan : package_hold | No upgrade moves the package"]


def test_revert_gives_back_the_host_as_it_was(debian):
    ran = debian.playbook("playbooks/revert.yml")
    assert ran.code == 0, ran.told()
    assert debian.differences(debian.before) == []
