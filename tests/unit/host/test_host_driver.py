"""The driver section on the host: what is recorded, what is held, what somebody else moved, and what goes back."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.driver.persistence import persistence_verdicts
from inferhost.host.gpu.nvml import Nvml
from inferhost.host.machine import Finished
from inferhost.host.record.placed import placed_files
from tests.golden import golden_plan
from tests.unit.host.driver_fake import (
    FABRIC_MANAGER,
    NEW,
    NEXT,
    NOUVEAU_OFF,
    OLD,
    RUNNING,
    DriverHost,
    Package,
    debian,
)
from tests.unit.host.simulated import UUID

OURS = [
    "libcuda1",
    "libnvidia-ml1",
    "nvidia-kernel-dkms",
    "nvidia-kernel-support",
    "nvidia-persistenced",
    "nvidia-smi",
]
CAME_ALONG = ["dkms", "linux-headers-6.1.0-10-amd64", "linux-headers-6.1.0-9-amd64", "linux-headers-amd64"]


@pytest.fixture
def host(bare: DriverHost) -> DriverHost:
    """Installed and held, and not restarted yet."""
    bare.converge()
    return bare


def moved_by_somebody(host: DriverHost, *names: str) -> None:
    for name in names:
        host.packages[name] = Package(f"{NEW}-1", held=True)


def facts(host: DriverHost, verb: str) -> dict:
    return dict(host.run(verb).document["facts"]["driver"])


def test_the_driver_and_what_it_needs_of_itself_is_held_and_nothing_else(host: DriverHost):
    assert sorted(name for name, package in host.packages.items() if package.held) == OURS


def test_a_package_that_provides_what_the_module_needs_is_held_too(host: DriverHost):
    assert host.packages["nvidia-kernel-support"].held
    assert "nvidia-kernel-support" not in host.plan.driver.install.packages


def test_every_package_is_on_record_before_the_first_is_touched(bare: DriverHost):
    assert bare.run("install").code == 0
    before = bare.baseline()["packages:before"]["found"]
    assert before == {
        "automatic": [],
        "disabled": [],
        "family": "apt",
        "held": [],
        "stream": [],
        "versions": {"libc6": "2.36-9"},
    }
    bare.install_packages(debian())
    assert bare.run("install").code == 0
    assert bare.baseline()["packages:before"]["found"] == before


def test_headers_for_the_running_and_the_next_kernel_are_asked_for_before_the_driver(bare: DriverHost):
    assert facts(bare, "install")["headers"] == [
        f"linux-headers-{RUNNING}",
        f"linux-headers-{NEXT}",
        "linux-headers-amd64",
    ]


def test_the_next_kernel_is_the_newest_by_number_not_by_letter(bare: DriverHost):
    bare.write("/boot/vmlinuz-6.1.0-8-amd64", "")
    assert "linux-headers-6.1.0-8-amd64" not in facts(bare, "install")["headers"]


def test_a_container_gets_no_headers_and_is_never_asked_to_restart(bare: DriverHost):
    for kernel in (RUNNING, NEXT):
        bare.at(f"/boot/vmlinuz-{kernel}").unlink()
        bare.at(f"/lib/modules/{kernel}/modules.dep").unlink()
        bare.at(f"/lib/modules/{kernel}").rmdir()
    assert facts(bare, "install")["headers"] == []
    bare.packages |= debian()
    bare.write(NOUVEAU_OFF, "")  # newer than the boot, and still no reason
    answer = bare.run("apply")
    assert answer.document["facts"]["driver"]["reboot_required"] is False
    assert any("no kernel of its own" in note for note in answer.document["notes"])


def test_a_second_apply_holds_nothing_again_and_changes_nothing(host: DriverHost):
    answer = host.run("apply")
    assert (answer.changed, answer.document["facts"]["driver"]["hold"]) == (False, [])
    assert not any("held from now on" in note for note in answer.document["notes"])


def test_check_mode_records_nothing(bare: DriverHost):
    before = bare.snapshot()
    assert bare.run("install", "--check").code == 0
    bare.install_packages(debian())
    bare.run("apply", "--check")
    after = bare.snapshot()
    assert {path: after[path] for path in before} == before
    assert not bare.at("/var/lib/inferhost/baseline.json").exists()


def test_a_held_package_that_was_moved_is_found_with_who_puts_it_back(host: DriverHost):
    moved_by_somebody(host, "libcuda1")
    answer = host.run("verify")
    assert (answer.code, answer.verdict("package.libcuda1")) == (3, ("overridden", "other_writer"))
    assert f"held at {OLD}-1" in answer.evidence("package.libcuda1")
    assert "site.yml --tags driver puts it back" in answer.evidence("package.libcuda1")


def test_a_version_that_somebody_else_brought_is_never_taken_for_ours(host: DriverHost):
    moved_by_somebody(host, "libcuda1")
    host.run("apply")
    assert host.baseline()["packages:held"]["found"]["libcuda1"] == f"{OLD}-1"
    assert facts(host, "install")["restore"] == [f"libcuda1={OLD}-1"]


def test_all_of_them_moved_are_all_put_back(host: DriverHost):
    moved_by_somebody(host, "libcuda1", "nvidia-kernel-dkms", "nvidia-smi")
    found = facts(host, "install")
    assert found["restore"] == [f"{name}={OLD}-1" for name in ("libcuda1", "nvidia-kernel-dkms", "nvidia-smi")]
    assert found["replace"] == []


def test_a_moved_version_is_put_back_rather_than_replaced_by_another(bare: DriverHost):
    bare.plan = golden_plan("driver-p4-old")
    bare.converge()
    moved_by_somebody(bare, "nvidia-kernel-dkms")
    found = facts(bare, "install")
    assert (found["restore"], found["replace"]) == ([f"nvidia-kernel-dkms={OLD}-1"], [])


def test_nothing_goes_back_to_a_version_that_the_wish_left(host: DriverHost):
    host.plan = golden_plan("driver-p4-new")
    moved_by_somebody(host, "libcuda1")
    assert facts(host, "install")["restore"] == []


def test_a_branch_that_was_not_planned_is_never_recorded_as_ours(bare: DriverHost):
    bare.run("install")
    bare.install_packages(debian("550.163.01"))
    bare.run("apply")
    assert "packages:held" not in bare.baseline()


def test_a_lost_hold_is_found_and_held_again(host: DriverHost):
    host.packages["nvidia-smi"].held = False
    assert host.run("verify").verdict("package.nvidia-smi") == ("overridden", "other_writer")
    assert facts(host, "apply")["hold"] == ["nvidia-smi"]


def test_a_package_that_is_gone_is_found(host: DriverHost):
    del host.packages["libcuda1"]
    answer = host.run("verify")
    assert answer.verdict("package.libcuda1") == ("overridden", "other_writer")
    assert "not installed" in answer.evidence("package.libcuda1")


def test_a_held_package_that_somebody_removed_comes_back_at_the_version_of_the_others(host: DriverHost):
    """The archive may have a newer one of the branch by now, which the held ones do not fit."""
    for name in ("libcuda1", "nvidia-kernel-dkms"):
        del host.packages[name]
    found = facts(host, "install")
    assert found["missing"] == ["nvidia-kernel-dkms", "libcuda1"]
    assert found["restore"] == []  # that comes without asking what would go for it
    assert found["ask"] == [f"libcuda1={OLD}-1", f"nvidia-kernel-dkms={OLD}-1"]


def test_another_version_in_the_wish_replaces_all_that_is_held(host: DriverHost):
    host.plan = golden_plan("driver-p4-new")
    assert host.run("verify").verdict("package.nvidia-kernel-dkms") == ("overridden", "other_writer")
    found = facts(host, "install")
    assert (found["restore"], found["replace"]) == ([], OURS)
    host.install_packages({**debian(NEW), "nvidia-persistenced": host.packages["nvidia-persistenced"]})
    host.run("apply")
    assert host.baseline()["packages:held"]["found"]["libcuda1"] == f"{NEW}-1"


def test_a_package_database_that_does_not_answer_stops_before_anything_is_written(bare: DriverHost, monkeypatch):
    monkeypatch.setattr(bare, "_dpkg_query", lambda _: Finished(2, "", "dpkg-query: error: database is locked"))
    before = bare.snapshot()
    answer = bare.run("install")
    assert answer.code != 0
    assert "database is locked" in answer.prose
    after = bare.snapshot()
    assert {path: after[path] for path in before} == before


def with_fabric_manager(host: DriverHost, version: str) -> DriverHost:
    """A host with NVSwitch whose fabric manager does not start at boot yet."""
    host.plan = golden_plan("driver-h100")
    host.others[FABRIC_MANAGER] = {"active": False, "enabled": False}
    host.run("install")
    for file in placed_files(host.plan, host.plan.manage):
        host.write(file.path, file.content.decode(), file.mode)
    found = {name: Package("580.95.05-0ubuntu1") for name in host.plan.driver.install.packages}
    host.packages |= {**found, "nvidia-fabricmanager-580": Package(version)}
    host.hold(facts(host, "apply")["hold"])
    return host


@pytest.fixture
def hgx(bare: DriverHost) -> DriverHost:
    return with_fabric_manager(bare, "580.95.05-1")


def test_a_fabric_manager_of_another_version_than_the_driver_is_found(bare: DriverHost):
    answer = with_fabric_manager(bare, "580.82.07-1").run("verify")
    assert answer.verdict("package.nvidia-fabricmanager-580") == ("ignored", "unexplained")
    assert "refuses a driver of another version" in answer.evidence("package.nvidia-fabricmanager-580")


def test_a_fabric_manager_of_the_drivers_version_is_held_whatever_its_packaging(hgx: DriverHost):
    assert hgx.run("verify").verdict("package.nvidia-fabricmanager-580") == ("held", "none")


def test_what_is_held_for_an_earlier_plan_and_was_removed_stays_away(hgx: DriverHost):
    name = "nvidia-fabricmanager-580"
    install = hgx.plan.driver.install
    wanted = dataclasses.replace(install, packages=tuple(n for n in install.packages if n != name), units=())
    hgx.plan = dataclasses.replace(hgx.plan, driver=dataclasses.replace(hgx.plan.driver, install=wanted))
    del hgx.packages[name]
    assert name in hgx.baseline()["packages:held"]["found"]
    found = facts(hgx, "install")
    assert (found["restore"], found["ask"]) == ([], [])


def test_the_fabric_manager_starts_at_boot_and_is_looked_for(hgx: DriverHost):
    assert facts(hgx, "apply")["enable"] == [FABRIC_MANAGER]
    assert hgx.run("verify").verdict(f"unit.{FABRIC_MANAGER}") == ("pending", "needs_reboot")
    hgx.others[FABRIC_MANAGER] = {"active": False, "enabled": True}
    assert facts(hgx, "apply")["enable"] == []
    hgx.load("580.95.05", "Open Kernel Module for ")
    assert hgx.run("verify").verdict(f"unit.{FABRIC_MANAGER}") == ("ignored", "unexplained")
    hgx.others[FABRIC_MANAGER]["active"] = True
    assert hgx.run("verify").verdict(f"unit.{FABRIC_MANAGER}") == ("held", "none")


def test_a_unit_that_did_not_start_at_boot_before_us_does_not_after_us(hgx: DriverHost):
    assert facts(hgx, "status")["disable"] == []
    hgx.others[FABRIC_MANAGER]["enabled"] = True
    assert facts(hgx, "status")["disable"] == [FABRIC_MANAGER]


def test_a_unit_that_started_at_boot_before_us_still_does(bare: DriverHost):
    bare.plan = golden_plan("driver-h100")
    bare.others[FABRIC_MANAGER] = {"active": True, "enabled": True}
    bare.run("install")
    assert facts(bare, "status")["disable"] == []


@pytest.mark.parametrize(("on", "verdict"), [(1, ("held", "none")), (0, ("ignored", "unexplained"))])
def test_persistence_is_read_back_from_each_card(host: DriverHost, monkeypatch, on, verdict):
    monkeypatch.setattr(Nvml, "simulated", lambda _: False)
    host.sim("set", "persistence", on)
    assert host.run("verify").verdict(f"driver.persistence.{UUID}") == verdict


def test_persistence_waits_where_no_driver_of_the_section_answers(host: DriverHost):
    assert host.run("verify").verdict("driver.persistence") == ("pending", "needs_driver")


def test_persistence_is_the_gpu_sections_to_verify_where_that_is_managed(host: DriverHost):
    both = dataclasses.replace(host.plan, manage=("driver", "gpu"))
    install = both.driver.install
    machine = host.machine(str(host.root))
    assert persistence_verdicts(machine, both, install) == []
    assert persistence_verdicts(machine, host.plan, install) != []


def test_persistence_is_not_asked_where_the_wish_leaves_it_off(host: DriverHost):
    host.plan = golden_plan("driver-p4-no-persistence")
    settings = [v["setting"] for v in host.run("verify").document["verdicts"]]
    assert not any(setting.startswith("driver.persistence") for setting in settings)


def test_what_came_along_goes_and_what_was_there_stays(host: DriverHost):
    found = facts(host, "status")
    assert found["remove"] == sorted([*OURS, *CAME_ALONG])
    assert (found["release"], found["restore"], found["hold"]) == (OURS, [], [])
    assert found["initramfs"] == ["update-initramfs", "-u", "-k", "all"]


def test_a_tool_that_came_for_the_driver_goes_with_it_and_is_never_held(bare: DriverHost):
    install = dataclasses.replace(bare.plan.driver.install, tools=("versionlock", "dkms-tools"))
    bare.plan = dataclasses.replace(bare.plan, driver=dataclasses.replace(bare.plan.driver, install=install))
    bare.packages["dkms-tools"] = Package("1")
    bare.run("install")
    bare.packages["versionlock"] = Package("1")
    bare.converge()
    assert facts(bare, "status")["remove"] == sorted([*OURS, *CAME_ALONG, "versionlock"])
    assert not bare.packages["versionlock"].held


def test_a_package_of_somebody_else_that_would_go_too_stops_the_revert(host: DriverHost):
    host.packages["their-tool"] = Package("1", depends="libcuda1")
    answer = host.run("status")
    assert answer.document["facts"]["driver"]["remove"] == []
    assert "would remove their-tool too" in answer.prose


def test_a_package_that_was_there_before_goes_back_to_its_version_and_its_hold(bare: DriverHost):
    bare.packages |= {"libcuda1": Package("525.1-1", held=True), "nvidia-smi": Package("525.1-1")}
    bare.converge()
    found = facts(bare, "status")
    assert found["restore"] == ["libcuda1=525.1-1", "nvidia-smi=525.1-1"]
    assert "libcuda1" not in found["remove"]
    assert "nvidia-smi" in found["release"]
    assert "libcuda1" not in found["release"]
    bare.packages["libcuda1"].held = False
    assert facts(bare, "status")["hold"] == ["libcuda1"]


def test_another_driver_that_made_room_comes_back_and_until_then_it_is_not_as_before(bare: DriverHost):
    theirs = {"nvidia-tesla-470-driver": Package("470.1-1"), "nvidia-tesla-470-smi": Package("470.1-1")}
    bare.packages |= {**theirs, "an-old-kernel": Package("5")}
    assert bare.run("install").code == 0
    for name in (*theirs, "an-old-kernel"):
        del bare.packages[name]
    bare.converge()
    assert facts(bare, "status")["restore"] == [f"{name}=470.1-1" for name in theirs]
    for name in [*OURS, *CAME_ALONG]:
        del bare.packages[name]
    answer = bare.run("revert", "--section", "driver")
    assert answer.verdict("driver.packages") == ("ignored", "unexplained")
    bare.packages |= theirs
    assert bare.run("revert", "--section", "driver").verdict("driver.packages") == ("held", "none")


def test_the_user_that_a_package_made_goes_after_its_package_and_not_before(bare: DriverHost):
    bare.converge()
    before = bare.read("/etc/passwd")
    bare.write("/etc/passwd", f"{before}nvpd:x:999:999::/var/run/nvpd:/usr/sbin/nologin\n")
    bare.run("revert", "--section", "driver")
    assert "nvpd:" in bare.read("/etc/passwd")
    for name in [*OURS, *CAME_ALONG]:
        del bare.packages[name]
    assert bare.run("revert", "--section", "driver").code == 0
    assert bare.read("/etc/passwd") == before


def test_a_user_of_the_daemon_that_was_there_before_stays(bare: DriverHost):
    bare.write("/etc/passwd", bare.read("/etc/passwd") + "nvpd:x:999:999::/var/run/nvpd:/usr/sbin/nologin\n")
    before = bare.read("/etc/passwd")
    bare.converge()
    for name in [*OURS, *CAME_ALONG]:
        del bare.packages[name]
    bare.run("revert", "--section", "driver")
    assert bare.read("/etc/passwd") == before


def test_what_came_along_is_followed_to_its_end_and_of_alternatives_only_the_first_that_is_there(host: DriverHost):
    host.packages["dkms"].depends = "build-tool | gcc | clang, python3:any (>= 3.9)"
    found = {"gcc": Package("12", depends="cpp"), "cpp": Package("12"), "python3": Package("3.11")}
    host.packages |= {**found, "clang": Package("14")}
    assert set(facts(host, "status")["remove"]) == {*OURS, *CAME_ALONG, *found}


def test_a_package_that_is_not_of_the_driver_stays_where_somebody_moved_it(host: DriverHost):
    host.packages["libc6"] = Package("2.36-10")
    assert facts(host, "status")["restore"] == []


def test_the_record_is_kept_until_the_packages_are_back(host: DriverHost):
    host.run("revert", "--section", "driver")
    assert "packages:before" in host.baseline()
    answer = host.run("revert", "--section", "driver")
    assert answer.verdict("driver.packages") == ("ignored", "unexplained")
    for name in [*OURS, *CAME_ALONG]:
        del host.packages[name]
    assert host.run("revert", "--section", "driver").verdict("driver.packages") == ("held", "none")
    assert not any(key.startswith("package") for key in host.baseline())
