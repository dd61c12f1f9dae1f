"""What apt makes of the files that a plan places for it: the real apt reads them, and chooses or leaves alone."""

import re

import pytest

from inferhost.host.driver.changed_plan import moves
from inferhost.host.driver.packages import Installed
from inferhost.host.driver.sources import sources
from inferhost.host.record.baseline import Baseline
from inferhost.host.runtime.toolkit import asked_for
from inferhost.planner.machine.driver_packages import PIN_PATH, SOURCES_PATH, UNATTENDED_PATH
from inferhost.planner.machine.runtime import PIN_PATH as TOOLKIT_PIN_PATH
from inferhost.planner.machine.runtime import SOURCES_PATH as TOOLKIT_SOURCES_PATH
from tests.bed import driver_packages as stand_ins
from tests.bed.driver_packages import NEW, OLD, Package
from tests.unit import test_planner_driver as driver
from tests.unit import test_planner_runtime as runtime
from tests.unit.own_apt import Apt, own_apt
from tests.unit.planner_wishes import planned
from tests.unit.test_driver_role import SHARED, task

TOOLKIT = "nvidia-container-toolkit-base"
OTHERS = [Package("libc6", "2.36"), Package("dkms", "3.0.10"), Package("nvidia-persistenced", "535.171.04-1")]
NEXT_BRANCH = "550.163.01"


@pytest.fixture
def apt(tmp_path) -> Apt:
    """An archive with three drivers, of which one is of the next branch, and three toolkits."""
    drivers = [one for version in (OLD, NEW, NEXT_BRANCH) for one in stand_ins.debian(version, "1")]
    toolkits = [Package(TOOLKIT, f"{version}-1") for version in ("1.20.1", "1.20.10", "1.21.0")]
    return own_apt(tmp_path, *drivers, *toolkits, *OTHERS)


def candidates(apt: Apt, pin: str, *names: str) -> dict[str, str]:
    """The version that apt would install of each package with this file of preferences."""
    (apt.folder / "preferences/inferhost").write_text(pin)
    said = apt.run(["apt-cache", "policy", *names])
    assert (said.returncode, said.stderr) == (0, "")
    return dict(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", said.stdout, re.M))


@pytest.mark.parametrize(("own", "chosen"), [({}, NEW), ({"version": OLD}, OLD), ({"version": NEW}, NEW)])
def test_the_pin_keeps_every_package_of_the_driver_at_the_planned_branch_or_version(apt, own, chosen):
    names = [package.name for package in stand_ins.debian(OLD, "1")]
    pin = driver.content(planned(driver.wish(driver.FIRST, "debian-12", **own)), PIN_PATH)
    assert candidates(apt, pin, *names) == dict.fromkeys(names, f"{chosen}-1")
    assert candidates(apt, "", *names) == dict.fromkeys(names, f"{NEXT_BRANCH}-1")


def test_the_pin_keeps_what_is_installed_from_the_next_branch_and_takes_it_back(apt):
    apt.installed(*stand_ins.debian(NEW, "1"))
    pin = driver.content(planned(driver.wish(driver.FIRST, "debian-12", version=OLD)), PIN_PATH)
    assert candidates(apt, pin, "libcuda1") == {"libcuda1": f"{OLD}-1"}


@pytest.mark.parametrize(
    ("version", "chosen"), [("1.20.1", "1.20.1-1"), ("1.20.10-1", "1.20.10-1"), ("1.21.0", "1.21.0-1")]
)
def test_the_toolkits_pin_takes_this_version_and_none_that_begins_like_it(apt, version, chosen):
    pin = runtime.content(planned(runtime.wish(toolkit_version=version)), TOOLKIT_PIN_PATH)
    assert candidates(apt, pin, TOOLKIT) == {TOOLKIT: chosen}


@pytest.mark.parametrize(
    ("version", "brought"), [("1.20.1", ["1.20.1-1"]), ("1.21.0-1", ["1.21.0-1"]), ("1.19.9", [])]
)
def test_a_version_that_is_named_comes_or_nothing_does_where_a_pin_alone_would_take_the_newest(apt, version, brought):
    plan = planned(runtime.wish(toolkit_version=version))
    by_pin = candidates(apt, runtime.content(plan, TOOLKIT_PIN_PATH), TOOLKIT)
    assert by_pin == {TOOLKIT: (brought or ["1.21.0-1"])[0]}
    said = apt.run(["apt-get", "--simulate", "install", *asked_for(plan.runtime, plan.runtime.toolkit)])
    assert re.findall(rf"^Inst {TOOLKIT} \((\S+)", said.stdout, re.M) == brought
    assert (said.returncode == 0) is bool(brought)


@pytest.mark.parametrize("version", [OLD, "535.1.1"])
def test_a_driver_of_no_source_does_not_come_either(apt, version):
    plan = planned(driver.wish(driver.FIRST, "debian-12", version=version))
    pin = driver.content(plan, PIN_PATH)
    anchor, *others = plan.driver.install.packages
    assert candidates(apt, pin, anchor) == {anchor: f"{OLD if version == OLD else NEXT_BRANCH}-1"}
    asked = moves(None, plan.driver.install, Installed({}, frozenset(), {}), Baseline(None, {}, False))["ask"]
    assert asked == sorted([f"{anchor}={version}*", *others])
    assert (apt.run(["apt-get", "--simulate", "install", *asked]).returncode == 0) is (version == OLD)


def toolkit(version: str) -> list[Package]:
    """All of it, as NVIDIA's own guide has it installed."""
    return [
        Package(TOOLKIT, version),
        Package("nvidia-container-toolkit", version, f"{TOOLKIT} (= {version}), libnvidia-container1 (>= {version})"),
        Package("libnvidia-container1", version),
    ]


def test_a_put_back_names_every_part_because_apt_removes_what_needs_the_very_version(tmp_path):
    installs = task("package_versions.yml", "package_versions | The named versions are installed", SHARED)
    argv = [*installs["vars"]["__installs"], "--simulate"]
    apt = own_apt(tmp_path, *toolkit("1.17.8-1"), *toolkit("1.20.1-1"))
    apt.installed(*toolkit("1.20.1-1"), held=(TOOLKIT,))
    alone = apt.run([*argv, f"{TOOLKIT}=1.17.8-1"])
    assert alone.returncode != 0
    assert "Packages need to be removed but remove is disabled" in alone.stderr
    together = apt.run([*argv, *(f"{package.name}={package.version}" for package in toolkit("1.17.8-1"))])
    assert (together.returncode, together.stderr) == (0, "")
    assert sorted(re.findall(r"^(\S+) (\S+) \[", together.stdout, re.M)) == sorted(
        ("Inst", package.name) for package in toolkit("1.17.8-1")
    )


def test_unattended_upgrades_read_a_list_that_means_every_package_of_the_driver_and_nothing_else(apt):
    """They match each entry at a name's beginning. Source: unattended-upgrades 2.9.1, is_pkgname_in_blacklist."""
    plan = planned(driver.wish(driver.FIRST, "debian-12"))
    (apt.folder / "settings/51inferhost").write_text(driver.content(plan, UNATTENDED_PATH))
    said = apt.run(["apt-config", "dump", "--format", "%F %v%n", "Unattended-Upgrade::Package-Blacklist"])
    assert (said.returncode, said.stderr) == (0, "")
    entries = [line.partition(" ")[2] for line in said.stdout.splitlines() if line.partition(" ")[2]]
    assert len(entries) == len(plan.driver.install.pinned)
    names = [*plan.driver.install.packages, *(package.name for package in stand_ins.debian(OLD, "1"))]
    for name in (*names, "libc6", "linux-image-amd64", "docker.io"):
        assert any(re.match(entry, name) for entry in entries) is (name in names), name


def test_the_planned_files_name_their_archive_as_the_host_program_reads_it():
    debian, toolkit = "http://mirror.example/debian", "https://mirror.example/libnvidia-container"
    mine = driver.content(planned(driver.wish(driver.FIRST, "debian-12", repository_url=debian)), SOURCES_PATH)
    assert [(one.uri, one.suite) for one in sources(SOURCES_PATH, mine)] == [(debian, "bookworm")]
    wish = runtime.wish(toolkit_repository_url=toolkit, toolkit_repository_key="keys/toolkit.asc")
    mine = runtime.content(planned(wish), TOOLKIT_SOURCES_PATH)
    found = [(one.uri, one.suite) for one in sources(TOOLKIT_SOURCES_PATH, mine)]
    assert found == [(f"{toolkit}/stable/deb/amd64", "/")]


def test_an_archive_of_stand_ins_leaves_no_agent_behind(apt):
    """A machine has 128 watchers of folders for all programs; a hundred agents leave a sandbox's systemd none."""
    asked = apt.run(["gpg-connect-agent", "--homedir", str(apt.folder / "gnupg"), "--no-autostart", "/bye"])
    assert "no gpg-agent running" in asked.stderr
