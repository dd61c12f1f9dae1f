"""What happens to drivers on machines that live: each found with what to do. And Ubuntu's names."""

import pytest

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_host import MIRROR, Card, Host, changed, debian_host, fact
from tests.bed.driver_packages import KERNEL, NEW, OLD
from tests.bed.playbook import NAME, PORT, bed


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    host = debian_host(tmp_path_factory.mktemp("driver"))
    host.before = host.snapshot()
    yield host
    bed("down", NAME)


@pytest.fixture(scope="module")
def checked(debian):
    return debian.check()


def test_check_mode_on_a_bare_host_changes_nothing(debian, checked):
    assert checked.code == 0, checked.told()
    assert debian.differences(debian.before) == []


def test_an_archive_that_does_not_answer_is_told_and_not_left_behind(debian, checked):
    ran = debian.site(repository_url="file:/srv/nowhere")
    assert ran.code != 0
    assert "inferhost_driver_repository_url: " in ran.told()
    debian.run("apt-get", "-qq", "update")
    assert "nvidia-kernel-dkms" not in debian.versions()
    assert debian.playbook("playbooks/revert.yml").code == 0
    assert debian.differences(debian.before) == []


def test_a_kernel_whose_headers_no_archive_has_stops_the_run_before_the_driver(debian, checked):
    old = "6.1.0-100-amd64"
    debian.add_kernel(old)
    ran = debian.site()
    assert ran.code != 0
    assert f"linux-headers-{old}" in ran.told()
    assert "upgrade the kernel, restart the host into it" in ran.told()
    assert "nvidia-kernel-dkms" not in debian.versions()
    debian.run("rm", "-r", f"/boot/vmlinuz-{old}", f"/lib/modules/{old}")
    assert debian.playbook("playbooks/revert.yml").code == 0
    assert debian.differences(debian.before) == []


def test_check_mode_told_of_every_file_what_the_first_run_then_did(debian, checked):
    ran = debian.playbook("site.yml", "--diff")
    assert ran.code == 0, ran.told()
    placed = ("inferhost_plan : install", "inferhost_driver : files")
    told, done = ([c for c in run.changes() if c[0].startswith(placed)] for run in (checked, ran))
    assert told == done
    assert any(changed for _, changed, _ in done)
    assert "would install nvidia-kernel-dkms" in checked.output
    again = debian.check()
    assert (again.code, changed(again)) == (0, [])


def test_the_newer_version_is_there_and_the_old_one_is_installed(debian):
    debian.offer(*stand_ins.debian(OLD, "1"), *stand_ins.debian(NEW, "0+deb12u1"), *stand_ins.debian_rest())
    debian.run("apt-get", "-qq", "update")
    assert debian.versions()["nvidia-kernel-dkms"] == (f"{OLD}-1", "hi")


def test_a_library_that_a_run_file_brought_is_found_with_how_to_remove_it(debian):
    foreign = f"/usr/local/lib/libcuda.so.{NEW}"
    debian.write(foreign, stand_ins.library("libcuda.so.1"))
    debian.run("ldconfig")
    found = debian.verdicts()["driver.library"]
    assert (found["verdict"], found["cause"], found["found"]) == ("overridden", "other_writer", NEW)
    assert "nvidia-installer --uninstall" in found["evidence"]
    debian.run("rm", foreign, "/usr/local/lib/libcuda.so.1")
    debian.run("ldconfig")


def test_the_machine_that_runs_ansible_is_not_restarted_with_consent_either(debian):
    """A container shares the kernel of this machine, so its boot id says that it is this machine."""
    began = debian.run("systemctl", "show", "--property", "UserspaceTimestampMonotonic")
    ran = debian.site(reboot=True)
    assert ran.code == 0, ran.told()
    assert next(r for name, r in ran.tasks if name.endswith("The host runs the installed module"))["skipped"]
    assert fact(ran, "__inferhost_driver_reboot_required") is True
    assert "on every machine but the one that runs Ansible" in ran.output
    assert debian.run("systemctl", "show", "--property", "UserspaceTimestampMonotonic") == began


def test_a_held_package_that_was_moved_behind_our_back_is_found_and_put_back(debian):
    names = [f"{name}={NEW}-0+deb12u1" for name in ("libcuda1", "libnvidia-ptxjitcompiler1")]
    debian.run("apt-get", "-y", "--allow-change-held-packages", "install", *names)
    found = debian.verdicts()["driver.package.libcuda1"]
    assert (found["verdict"], found["cause"], found["found"]) == ("overridden", "other_writer", f"{NEW}-0+deb12u1")
    for told in (debian.playbook("playbooks/verify.yml"), debian.role("verify")):
        assert told.code != 0
        assert "driver.package.libcuda1" in told.output
    debian.offer(*stand_ins.debian(NEW, "0+deb12u1"), *stand_ins.debian_rest())  # archives drop old versions
    ran = debian.site()
    assert ran.code != 0
    assert f"inferhost_driver_version: {NEW} takes the one that is there" in ran.told()
    debian.offer(*stand_ins.debian(OLD, "1"), *stand_ins.debian(NEW, "0+deb12u1"), *stand_ins.debian_rest())
    debian.run("apt-get", "-qq", "update")
    assert debian.site().code == 0
    assert debian.versions()["libcuda1"] == (f"{OLD}-1", "hi")
    assert debian.role("verify").code == 0


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
    foretold = debian.playbook("playbooks/revert.yml", "--check")
    assert foretold.code == 0, foretold.told()
    assert debian.versions()["nvidia-kernel-dkms"] == (f"{NEW}-0+deb12u1", "hi")
    ran = debian.role("revert")
    assert ran.code == 0, ran.told()
    assert set(debian.versions()) == set(debian.before["packages"])
    assert debian.playbook("playbooks/revert.yml").code == 0
    assert debian.differences(debian.before) == []


@pytest.fixture(scope="module")
def ubuntu(tmp_path_factory):
    """Debian that calls itself Ubuntu, as an HGX with a kernel as far as files go."""
    bed("up", NAME, PORT)
    host = Host(tmp_path_factory.mktemp("driver"), "ubuntu-24.04", Card("h100-sxm", "2330", 81079))
    host.run(
        "sed", "-i", "-e", "s/^ID=.*/ID=ubuntu/", "-e", 's/^VERSION_ID=.*/VERSION_ID="24.04"/', "/etc/os-release"
    )
    host.add_kernel(KERNEL)
    host.offer(*stand_ins.ubuntu())
    host.before = host.snapshot()
    yield host
    bed("down", NAME)


def test_ubuntu_gets_the_open_module_and_the_fabric_manager_of_its_version(ubuntu):
    ran = ubuntu.site(fabric_manager=True)
    assert ran.code == 0, ran.told()
    version = (f"{stand_ins.UBUNTU}-0ubuntu0.24.04.1", "hi")
    found = ubuntu.versions()
    assert [found[name] for name in ("nvidia-dkms-580-server-open", "nvidia-fabricmanager-580")] == [version] * 2
    assert ubuntu.run("systemctl", "is-enabled", "nvidia-fabricmanager.service").strip() == "enabled"
    assert ubuntu.verdicts()[f"driver.module.{KERNEL}"]["verdict"] == "held"
    assert ubuntu.verdicts()["driver.unit.nvidia-fabricmanager.service"]["cause"] == "needs_reboot"


def test_ubuntus_daemon_keeps_the_driver_loaded_by_a_drop_in_over_its_own_unit(ubuntu):
    units = ubuntu.run("systemctl", "list-unit-files", "--no-legend", "--plain", "*persistence*").split()[::3]
    assert units == ["nvidia-persistenced.service"]
    ubuntu.run("systemctl", "start", *units)
    started = ubuntu.run("systemctl", "show", "-p", "ExecStart", *units)
    assert "--no-persistence-mode" not in started
    assert "--user nvidia-persistenced" in started
    ubuntu.run("systemctl", "stop", *units)


def test_a_second_run_on_ubuntu_changes_nothing(ubuntu):
    again = ubuntu.site(fabric_manager=True)
    assert (again.code, changed(again)) == (0, []), again.told()


def test_another_module_in_the_wish_takes_the_place_of_the_one_that_we_hold(ubuntu):
    """The open one conflicts with it, and the fabric manager is not wanted any more."""
    first = ("nvidia-headless-580-server-open", "nvidia-dkms-580-server-open")
    before = ubuntu.versions()
    foretold = ubuntu.check(kernel_module="proprietary")
    assert foretold.code == 0, foretold.told()
    assert "inferhost_plan : package_release | What we held is free" in changed(foretold)
    assert f"Remv {first[0]}" in foretold.output
    assert ubuntu.versions() == before
    ran = ubuntu.site(kernel_module="proprietary")
    assert ran.code == 0, ran.told()
    found = ubuntu.versions()
    assert not {*first, "nvidia-fabricmanager-580"} & set(found)
    wanted = ("nvidia-headless-580-server", "nvidia-dkms-580-server", "nvidia-compute-utils-580-server")
    assert {found[name][1] for name in wanted} == {"hi"}
    again = ubuntu.site(kernel_module="proprietary")
    assert (again.code, changed(again)) == (0, []), again.told()


def test_revert_gives_back_ubuntu_as_it_was(ubuntu):
    back = ubuntu.playbook("playbooks/revert.yml")
    assert back.code == 0, back.told()
    assert ubuntu.differences(ubuntu.before) == []


def test_another_driver_goes_only_with_consent_and_a_revert_brings_it_back(ubuntu):
    version = f"{stand_ins.UBUNTU}-0ubuntu0.24.04.1"
    theirs = ("nvidia-driver-580-open", "nvidia-utils-580")
    ubuntu.apt("install", *(f"{MIRROR}/pool/{name}_{version}_amd64.deb" for name in theirs))
    before = ubuntu.snapshot()
    refused = ubuntu.site()
    assert refused.code != 0
    assert f"{', '.join(theirs)} would be removed" in refused.told()
    assert ubuntu.versions()[theirs[0]] == (version, "ii")
    ubuntu.run("apt-mark", "hold", theirs[1])
    refused = ubuntu.site(replace_packages=True)
    assert refused.code != 0
    assert f"apt-mark unhold {theirs[1]} lets it change" in refused.told()
    assert ubuntu.versions()[theirs[1]] == (version, "hi")
    ubuntu.run("apt-mark", "unhold", theirs[1])
    ran = ubuntu.site(replace_packages=True)
    assert ran.code == 0, ran.told()
    assert not set(theirs) & set(ubuntu.versions())
    again = ubuntu.site(replace_packages=True)
    assert (again.code, changed(again)) == (0, []), again.told()
    back = ubuntu.playbook("playbooks/revert.yml")
    assert back.code == 0, back.told()
    assert ubuntu.differences(before) == []
