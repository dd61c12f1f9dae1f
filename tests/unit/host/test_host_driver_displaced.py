"""What a revert of the driver brings back: what our installations displaced, and nothing that others did since."""

from __future__ import annotations

import pytest

from inferhost.host.machine import Finished
from tests.golden import golden_plan
from tests.unit.host.driver_fake import NEW, OLD, DriverHost, Package, debian

THEIRS = {
    "nvidia-tesla-470-driver": Package("470.1-1", held=True),
    "nvidia-tesla-470-smi": Package("470.1-1"),
    "nvidia-docker2": Package("525.1-1", held=True),
    "postgresql-15": Package("15.1-1", held=True),
}
IN_THE_WAY = ("nvidia-tesla-470-driver", "nvidia-tesla-470-smi")


@pytest.fixture
def host(bare: DriverHost) -> DriverHost:
    """Another driver was there and made room for ours."""
    bare.packages |= {name: Package(p.version, held=p.held) for name, p in THEIRS.items()}
    assert bare.run("install").code == 0
    for name in IN_THE_WAY:
        del bare.packages[name]
    bare.converge()
    return bare


def asked(host: DriverHost) -> dict:
    return dict(host.run("status").document["facts"]["driver"])


def without_ours(host: DriverHost) -> None:
    """What the role does first."""
    for name in asked(host)["remove"]:
        del host.packages[name]


def test_what_made_room_comes_back_with_its_hold(host: DriverHost):
    found = asked(host)
    assert found["restore"] == [f"{name}=470.1-1" for name in IN_THE_WAY]
    assert found["hold"] == ["nvidia-tesla-470-driver"]


def test_what_others_removed_and_freed_since_stays_so_and_the_revert_ends(host: DriverHost):
    del host.packages["nvidia-docker2"]
    host.packages["postgresql-15"].held = False
    found = asked(host)
    assert found["restore"] == [f"{name}=470.1-1" for name in IN_THE_WAY]
    assert found["hold"] == ["nvidia-tesla-470-driver"]
    without_ours(host)
    host.packages |= {name: THEIRS[name] for name in IN_THE_WAY}
    assert host.run("revert", "--section", "driver").verdict("driver.packages") == ("held", "none")


CUDA = {
    "cuda-drivers": Package("470.1-1", depends="nvidia-tesla-470-driver"),
    "cuda-runtime-12-8": Package("12.8-1", depends="cuda-drivers (>= 470)", auto=True),
    "cuda-12-8": Package("12.8-1", depends="cuda-runtime-12-8"),
}
"""What NVIDIA's repository names without the word nvidia, and apt removes with the driver."""


def test_what_needs_the_driver_that_made_room_comes_back_with_it(bare: DriverHost):
    bare.packages |= {**{name: Package("470.1-1") for name in IN_THE_WAY}, **CUDA, "vim": Package("9")}
    bare.run("install")
    for name in (*IN_THE_WAY, *CUDA, "vim"):  # vim was removed by a person
        del bare.packages[name]
    bare.converge()
    back = {**dict.fromkeys(IN_THE_WAY, "470.1-1"), **{name: p.version for name, p in CUDA.items()}}
    assert asked(bare)["restore"] == [f"{name}={back[name]}" for name in sorted(back)]
    without_ours(bare)
    assert bare.run("revert", "--section", "driver").verdict("driver.packages") == ("ignored", "unexplained")
    bare.packages |= {name: Package(version) for name, version in back.items()}
    assert asked(bare)["automatic"] == ["cuda-runtime-12-8"]
    bare.packages["cuda-runtime-12-8"].auto = True
    assert bare.run("revert", "--section", "driver").verdict("driver.packages") == ("held", "none")


def test_what_somebody_brought_since_the_first_day_is_not_noted(bare: DriverHost):
    bare.packages |= {name: Package("470.1-1") for name in IN_THE_WAY}
    bare.run("install")
    bare.run("apply")  # which ends the first look
    bare.packages["their-tool"] = Package("1", depends=IN_THE_WAY[1])
    bare.run("install")
    assert sorted(bare.baseline()["packages:noted"]["found"]) == sorted(IN_THE_WAY)


def test_a_hold_that_has_not_come_back_with_its_package_is_not_as_before(host: DriverHost):
    without_ours(host)
    host.packages |= {name: Package("470.1-1") for name in IN_THE_WAY}
    answer = host.run("revert", "--section", "driver")
    assert answer.verdict("driver.packages") == ("ignored", "unexplained")
    assert asked(host)["hold"] == ["nvidia-tesla-470-driver"]


def test_a_package_of_the_plan_that_others_moved_and_we_never_did_stays_where_it_is(bare: DriverHost):
    bare.packages["linux-headers-amd64"] = Package("6.1.1-1")
    bare.run("install")
    ours = {name: package for name, package in debian().items() if name != "linux-headers-amd64"}
    bare.install_packages(ours)
    bare.run("apply")
    bare.packages["linux-headers-amd64"] = Package("6.1.2-1")  # the upgrade of a week later
    assert asked(bare)["restore"] == []


def test_a_run_that_failed_after_it_made_room_is_not_forgotten(bare: DriverHost):
    bare.packages |= {name: Package("470.1-1") for name in IN_THE_WAY}
    bare.run("install")
    for name in IN_THE_WAY:
        del bare.packages[name]
    assert asked(bare)["restore"] == [f"{name}=470.1-1" for name in IN_THE_WAY]
    bare.run("install")
    bare.install_packages(debian())
    bare.run("apply")
    assert asked(bare)["restore"] == [f"{name}=470.1-1" for name in IN_THE_WAY]


def test_a_converged_run_notes_nothing_and_a_later_plan_adds_to_what_made_room(host: DriverHost):
    assert "packages:noted" not in host.baseline()
    assert not host.run("install").changed
    host.plan = golden_plan("driver-p4-new")
    host.run("install")
    del host.packages["nvidia-docker2"]
    host.install_packages(debian(NEW))
    host.run("apply")
    assert asked(host)["restore"] == ["nvidia-docker2=525.1-1", *(f"{name}=470.1-1" for name in IN_THE_WAY)]


def test_a_version_that_the_archive_dropped_keeps_no_other_away_and_no_revert_from_its_end(host: DriverHost):
    host.dropped.add(("nvidia-tesla-470-driver", "470.1-1"))
    found = asked(host)
    assert found["restore"] == ["nvidia-tesla-470-smi=470.1-1"]
    assert (found["lost"], found["hold"]) == ({"nvidia-tesla-470-driver": "470.1-1"}, [])
    without_ours(host)
    host.packages["nvidia-tesla-470-smi"] = Package("470.1-1")
    answer = host.run("revert", "--section", "driver")
    assert answer.verdict("driver.packages") == ("held", "none")
    assert "apt-get install nvidia-tesla-470-driver brings what they have now" in answer.prose
    assert not any(key.startswith("packages:") for key in host.baseline())


def test_where_the_package_lists_are_empty_nothing_is_given_up(host: DriverHost, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "_madison", lambda _: Finished(0, "", ""))
    assert asked(host)["restore"] == [f"{name}=470.1-1" for name in IN_THE_WAY]


def test_what_came_for_another_package_and_was_named_by_us_gets_its_mark_back(bare: DriverHost):
    bare.packages |= {name: Package("470.1-1", auto=True) for name in IN_THE_WAY}
    bare.packages |= {"libcuda1": Package("525.1-1", auto=True), "nvidia-settings": Package("525.1-1", auto=True)}
    bare.run("install")
    for name in IN_THE_WAY:
        del bare.packages[name]
    bare.converge()
    bare.packages["libcuda1"].auto = True  # a dependency then, and named when it comes back
    found = asked(bare)
    assert found["restore"] == ["libcuda1=525.1-1", *(f"{name}=470.1-1" for name in IN_THE_WAY)]
    assert found["automatic"] == ["libcuda1", *IN_THE_WAY]
    without_ours(bare)
    bare.packages["nvidia-settings"].auto = False  # its owner's word since
    bare.packages |= {name: Package("470.1-1", auto=True) for name in IN_THE_WAY}
    bare.packages["libcuda1"] = Package("525.1-1")
    assert asked(bare)["automatic"] == ["libcuda1"]
    assert bare.run("revert", "--section", "driver").verdict("driver.packages") == ("ignored", "unexplained")
    bare.packages["libcuda1"].auto = True
    assert bare.run("revert", "--section", "driver").verdict("driver.packages") == ("held", "none")


def test_a_dependency_of_the_earlier_driver_that_is_there_gets_its_mark_back_though_it_never_moved(bare: DriverHost):
    bare.packages["libcuda1"] = Package(f"{OLD}-1", auto=True)
    bare.converge()
    bare.packages["libcuda1"] = Package(f"{OLD}-1", held=True)  # named by a later replacement
    assert asked(bare)["automatic"] == ["libcuda1"]
