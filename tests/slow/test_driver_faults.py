"""What happens to drivers on machines that live: each found with what to do. And Ubuntu's names."""

import pytest

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_host import Host, changed, debian_host
from tests.bed.driver_packages import KERNEL, NEW, OLD
from tests.bed.playbook import NAME, PORT, bed, run_playbook


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    host = debian_host(tmp_path_factory.mktemp("driver"))
    host.before = host.snapshot()
    yield host
    bed("down", NAME)


def test_check_mode_on_a_bare_host_changes_nothing(debian):
    ran = run_playbook("site.yml", "-i", str(debian.folder / "hosts.yml"), "--check", "--diff")
    assert ran.code == 0, ran.told()
    assert debian.snapshot() == debian.before


def test_both_versions_are_there_and_the_old_one_is_installed(debian):
    assert debian.site().code == 0
    debian.offer(*stand_ins.debian(OLD, "1"), *stand_ins.debian(NEW, "0+deb12u1"), *stand_ins.debian_rest())
    debian.run("apt-get", "-qq", "update")


def test_a_held_package_that_was_moved_behind_our_back_is_found_and_put_back(debian):
    names = [f"{name}={NEW}-0+deb12u1" for name in ("libcuda1", "libnvidia-ptxjitcompiler1")]
    debian.run("apt-get", "-y", "--allow-change-held-packages", "install", *names)
    found = debian.verdicts()["driver.package.libcuda1"]
    assert (found["verdict"], found["cause"], found["found"]) == ("overridden", "other_writer", f"{NEW}-0+deb12u1")
    assert debian.playbook("playbooks/verify.yml").code != 0
    assert debian.site().code == 0
    assert debian.versions()["libcuda1"] == (f"{OLD}-1", "hi")


def test_missing_headers_and_a_missing_module_are_found_with_what_to_do(debian):
    debian.run("apt-get", "-y", "remove", f"linux-headers-{KERNEL}")
    debian.run("rm", f"{stand_ins.MODULE_FOLDER}/nvidia-current.ko")
    debian.run("depmod", KERNEL)
    found = debian.verdicts()[f"driver.module.{KERNEL}"]
    assert found["verdict"] == "ignored"
    assert f"the headers of {KERNEL} are missing" in found["evidence"]
    ran = debian.site()
    assert ran.code != 0
    assert f"dkms autoinstall -k {KERNEL}" in ran.told()
    debian.run("apt-get", "-y", "--allow-change-held-packages", "install", "--reinstall", "nvidia-kernel-dkms")
    assert debian.site().code == 0


def test_another_version_in_the_wish_moves_all_of_them(debian):
    ran = debian.site(version=NEW)
    assert ran.code == 0, ran.told()
    found = debian.versions()
    assert {found[name] for name in ("nvidia-kernel-dkms", "libcuda1", "nvidia-smi")} == {(f"{NEW}-0+deb12u1", "hi")}
    assert debian.verdicts()[f"driver.module.{KERNEL}"]["found"] == NEW


def test_revert_refuses_to_take_a_package_of_somebody_else(debian):
    theirs = stand_ins.Package("their-tool", "1", "libcuda1")
    debian.offer(*stand_ins.debian(NEW, "0+deb12u1"), *stand_ins.debian_rest(), theirs)
    debian.run("apt-get", "-qq", "update")
    debian.run("apt-get", "-y", "install", "their-tool")
    before = debian.versions()
    ran = debian.playbook("playbooks/revert.yml")
    assert ran.code != 0
    assert "would remove their-tool too" in ran.told()
    assert debian.versions() == before
    debian.run("apt-get", "-y", "purge", "their-tool")


def test_revert_gives_back_the_host_as_it_was(debian):
    ran = debian.playbook("playbooks/revert.yml")
    assert ran.code == 0, ran.told()
    assert debian.snapshot() == debian.before


@pytest.fixture(scope="module")
def ubuntu(tmp_path_factory):
    bed("up", NAME, PORT)
    host = Host(tmp_path_factory.mktemp("driver"), "ubuntu-24.04", "rtx-5090", "2B85", 32110)
    host.run(
        "sed", "-i", "-e", "s/^ID=.*/ID=ubuntu/", "-e", 's/^VERSION_ID=.*/VERSION_ID="24.04"/', "/etc/os-release"
    )
    host.offer(*stand_ins.ubuntu())
    host.before = host.snapshot()
    yield host
    bed("down", NAME)


def test_ubuntu_gets_the_open_module_and_a_daemon_that_keeps_the_driver_loaded(ubuntu):
    host = ubuntu
    ran = host.site()
    assert ran.code == 0, ran.told()
    assert host.versions()["nvidia-dkms-580-server-open"] == (f"{stand_ins.UBUNTU}-0ubuntu0.24.04.1", "hi")
    host.run("systemctl", "start", "nvidia-persistenced.service")
    started = host.run("systemctl", "show", "-p", "ExecStart", "nvidia-persistenced.service")
    assert "--no-persistence-mode" not in started
    assert "--user nvidia-persistenced" in started
    assert changed(host.site()) == []
    host.run("systemctl", "stop", "nvidia-persistenced.service")
    back = host.playbook("playbooks/revert.yml")
    assert back.code == 0, back.told()
    assert host.snapshot() == host.before
