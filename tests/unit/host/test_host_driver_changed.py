"""A driver that the wish changes: our holds make room, nobody else's do, and what no plan wants any more goes."""

from __future__ import annotations

import dataclasses

import pytest

from tests.golden import golden_plan
from tests.unit.host.driver_fake import FABRIC_MANAGER, NEW, OLD, DriverHost, Package, debian

KEPT = ["libcuda1", "libnvidia-ml1", "nvidia-persistenced", "nvidia-smi"]
ONLY_PROPRIETARY = ["nvidia-kernel-dkms", "nvidia-kernel-support"]
OPEN = {
    "nvidia-open-kernel-dkms": Package(f"{OLD}-1", depends="nvidia-open-kernel-support"),
    "nvidia-open-kernel-support": Package(f"{OLD}-1"),
}


@pytest.fixture
def host(bare: DriverHost) -> DriverHost:
    """The proprietary module is there and held."""
    bare.converge()
    return bare


def facts(host: DriverHost, verb: str) -> dict:
    return dict(host.run(verb).document["facts"]["driver"])


def wish(host: DriverHost, **changed: object) -> None:
    install = dataclasses.replace(host.plan.driver.install, **changed)
    host.plan = dataclasses.replace(host.plan, driver=dataclasses.replace(host.plan.driver, install=install))


def wish_open(host: DriverHost) -> None:
    packages = ("nvidia-open-kernel-dkms", *host.plan.driver.install.packages[1:])
    wish(host, kernel_module="open", packages=packages)


def wish_next_branch(host: DriverHost) -> None:
    """As where the names carry the branch."""
    packages = tuple(f"{name}-550" for name in host.plan.driver.install.packages)
    wish(host, branch="550", packages=packages)


def asked(host: DriverHost) -> list[str]:
    """All packages of the plan, the one with the module at the planned version."""
    install = host.plan.driver.install
    anchor, *others = install.packages
    return sorted([f"{anchor}={install.version or install.branch + '.'}*", *others])


def freed(host: DriverHost, names: list[str]) -> None:
    for name in names:
        host.packages[name].held = False


def test_nothing_is_asked_released_or_removed_while_the_plan_is_the_same(host: DriverHost):
    found = facts(host, "install")
    assert (found["ask"], found["release"], found["replace"], found["held_by_others"]) == ([], [], [], {})
    after = facts(host, "apply")
    assert (after["release"], after["remove"]) == ([], [])


def test_on_a_bare_host_all_is_asked_for_and_nothing_is_ours(bare: DriverHost):
    bare.packages["nvidia-settings"] = Package("525.1-1", held=True)
    found = facts(bare, "install")
    assert found["ask"] == asked(bare)
    assert (found["ours"], found["release"], found["held_by_others"]) == ([], [], {"nvidia-settings": "525.1-1"})


def test_another_module_releases_what_only_the_first_one_needs_and_moves_the_rest_by_name(host: DriverHost):
    wish_open(host)
    found = facts(host, "install")
    assert found["release"] == ONLY_PROPRIETARY
    assert found["replace"] == KEPT
    assert found["ask"] == sorted([*KEPT, "nvidia-open-kernel-dkms=535.*"])
    assert found["ours"] == sorted([*KEPT, *ONLY_PROPRIETARY])


def test_what_the_kept_packages_need_of_the_driver_moves_with_them(bare: DriverHost):
    compiler = {"libnvidia-ptxjitcompiler1": Package(f"{OLD}-1")}
    bare.packages |= compiler
    bare.converge()
    bare.packages["libcuda1"].depends = "libnvidia-ptxjitcompiler1"
    bare.hold(facts(bare, "apply")["hold"])
    wish_open(bare)
    found = facts(bare, "install")
    assert (found["release"], found["replace"]) == (ONLY_PROPRIETARY, sorted([*KEPT, *compiler]))


def test_a_branch_with_names_of_its_own_releases_all_of_the_one_before(host: DriverHost):
    wish_next_branch(host)
    found = facts(host, "install")
    assert (found["release"], found["replace"]) == (sorted([*KEPT, *ONLY_PROPRIETARY]), [])
    assert found["ask"] == asked(host)


def test_a_hold_that_somebody_else_made_before_us_is_never_released_and_is_named(bare: DriverHost):
    bare.packages |= {"libcuda1": Package(f"{OLD}-1", held=True)}
    bare.converge()
    wish_next_branch(bare)
    found = facts(bare, "install")
    assert "libcuda1" not in found["release"] + found["ours"]
    assert found["held_by_others"] == {"libcuda1": f"{OLD}-1"}


def test_a_hold_of_a_package_that_is_not_on_our_record_is_not_ours(host: DriverHost):
    host.packages["nvidia-settings"] = Package(f"{OLD}-1", held=True)
    wish_next_branch(host)
    found = facts(host, "install")
    assert "nvidia-settings" not in found["release"]
    assert found["held_by_others"] == {"nvidia-settings": f"{OLD}-1"}


def test_what_only_the_earlier_plan_wanted_goes_after_the_new_driver_is_there_and_not_before(host: DriverHost):
    wish_open(host)
    assert (facts(host, "apply")["remove"], facts(host, "apply")["release"]) == ([], [])
    freed(host, facts(host, "install")["release"])
    host.packages |= OPEN
    found = facts(host, "apply")
    assert (found["remove"], found["release"]) == (ONLY_PROPRIETARY, [])
    host.hold(found["hold"])
    held = sorted(name for name, package in host.packages.items() if package.held)
    assert held == sorted([*KEPT, *OPEN])
    for name in ONLY_PROPRIETARY:
        del host.packages[name]
    again = facts(host, "apply")
    assert (again["remove"], again["release"], again["hold"]) == ([], [], [])


def test_a_helper_that_the_wish_drops_is_freed_and_goes(host: DriverHost):
    before = host.plan
    wish(host, packages=(*host.plan.driver.install.packages, "nvidia-fabricmanager-535"))
    host.run("install")
    host.packages["nvidia-fabricmanager-535"] = Package(f"{OLD}-1")
    host.hold(facts(host, "apply")["hold"])
    assert host.packages["nvidia-fabricmanager-535"].held
    host.plan = before
    found = facts(host, "apply")
    assert found["release"] == found["remove"] == ["nvidia-fabricmanager-535"]


def test_the_unit_of_a_helper_that_the_wish_drops_starts_no_more_at_boot(bare: DriverHost):
    bare.plan = golden_plan("driver-h100")
    bare.others[FABRIC_MANAGER] = {"active": False, "enabled": False}
    bare.run("install")
    bare.others[FABRIC_MANAGER] = {"active": True, "enabled": True}
    assert facts(bare, "apply")["disable"] == []
    wish(bare, units=())
    assert facts(bare, "apply")["disable"] == [FABRIC_MANAGER]
    bare.others[FABRIC_MANAGER] = {"active": False, "enabled": False}
    assert facts(bare, "apply")["disable"] == []


def test_a_helper_that_was_not_freed_by_a_run_that_failed_is_freed_by_the_next(host: DriverHost):
    before = host.plan
    wish(host, packages=(*host.plan.driver.install.packages, "nvidia-fabricmanager-535"))
    host.run("install")
    host.packages["nvidia-fabricmanager-535"] = Package(f"{OLD}-1", held=True)
    host.run("apply")
    host.plan = before
    assert facts(host, "apply") == facts(host, "apply")
    assert facts(host, "apply")["release"] == ["nvidia-fabricmanager-535"]


def test_what_somebody_else_held_before_us_stays_held_when_no_plan_wants_it(bare: DriverHost):
    bare.packages |= {"nvidia-kernel-support": Package(f"{OLD}-1", held=True, provides="nvidia-kernel-support--v1")}
    bare.converge()
    bare.packages["nvidia-kernel-support"].held = True
    wish_open(bare)
    bare.packages |= OPEN
    assert facts(bare, "apply")["release"] == ["nvidia-kernel-dkms"]


def test_what_somebody_elses_package_needs_is_freed_and_left(host: DriverHost):
    wish_open(host)
    freed(host, facts(host, "install")["release"])
    host.packages |= {**OPEN, "their-tool": Package("1", depends="nvidia-kernel-support")}
    answer = host.run("apply")
    assert answer.document["facts"]["driver"]["remove"] == []
    assert any("their-tool needs it; left" in note for note in answer.document["notes"])


def test_a_package_that_was_there_before_any_plan_is_freed_and_stays(bare: DriverHost):
    bare.packages |= {"nvidia-kernel-support": Package(f"{OLD}-1", provides="nvidia-kernel-support--v1")}
    bare.converge()
    assert bare.packages["nvidia-kernel-support"].held
    wish_open(bare)
    freed(bare, [n for n in facts(bare, "install")["release"] if n != "nvidia-kernel-support"])
    bare.packages |= OPEN
    found = facts(bare, "apply")
    assert (found["release"], found["remove"]) == (["nvidia-kernel-support"], ["nvidia-kernel-dkms"])


def test_a_revert_frees_what_we_held_of_what_was_there_before(bare: DriverHost):
    bare.packages |= {name: package for name, package in debian().items() if not name.startswith("linux")}
    bare.converge()
    found = facts(bare, "status")
    assert found["release"] == sorted([*KEPT, *ONLY_PROPRIETARY])
    assert not set(found["remove"]) & {*KEPT, *ONLY_PROPRIETARY}
    answer = bare.run("revert", "--section", "driver")
    assert answer.verdict("driver.packages") == ("ignored", "unexplained")
    freed(bare, found["release"])
    for name in found["remove"]:
        del bare.packages[name]
    assert bare.run("revert", "--section", "driver").verdict("driver.packages") == ("held", "none")


@pytest.mark.parametrize(
    ("brought", "accepted"),
    [
        ({"libcuda1": f"{NEW}-1"}, NEW),
        ({"libcuda1": "535.300.01-1", "nvidia-smi": f"{NEW}-1"}, NEW),
        ({"libcuda1": f"{OLD}-2"}, f"{OLD}-2"),  # the same driver packed again
        ({"libcuda1": "550.163.01-1"}, ""),  # of another branch the wish takes no version
        ({"nvidia-persistenced": "535.274.02-1"}, ""),  # Debian's has a version of its own
    ],
)
def test_what_somebody_else_brought_is_told_with_the_wish_that_takes_it(
    host: DriverHost, brought: dict[str, str], accepted: str
):
    for name, version in brought.items():
        host.packages[name] = Package(version, held=True)
    found = facts(host, "install")
    assert found["restore"] == [f"{name}={debian()[name].version}" for name in brought]
    assert found["accepts"] == (f"inferhost_driver_version: {accepted}" if accepted else "")
    evidence = host.run("verify").evidence(f"package.{next(iter(brought))}")
    way_out = f"inferhost_driver_version: {accepted} takes the new one" if accepted else "revert gives it up"
    assert evidence.endswith(f"site.yml --tags driver puts it back, {way_out}")


def test_the_wish_that_is_named_leads_out(host: DriverHost):
    host.packages |= {name: Package(f"{OLD}-2", held=True) for name in ("libcuda1", "nvidia-kernel-dkms")}
    wish(host, version=facts(host, "install")["accepts"].partition(": ")[2])
    assert facts(host, "install")["restore"] == []
    host.run("apply")
    assert host.baseline()["packages:held"]["found"]["libcuda1"] == f"{OLD}-2"
    assert host.run("verify").verdict("package.libcuda1") == ("held", "none")
