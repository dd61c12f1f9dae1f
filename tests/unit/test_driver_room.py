"""What the role lets the driver take the place of, decided by the real apt-get on an archive of stand-ins.

apt only simulates, on a package database of its own in a folder; the conditions are the role's own.
"""

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_packages import UBUNTU, Package
from tests.unit.own_apt import Apt, own_apt
from tests.unit.test_driver_role import TASKS, holds, task

VERSION = f"{UBUNTU}-0ubuntu0.24.04.1"
OPEN = ("nvidia-headless-580-server-open", "nvidia-dkms-580-server-open", "nvidia-compute-utils-580-server")
UTILS = "nvidia-utils-580-server"
HELD = "apt_room | A hold of somebody else stays, and is named with what would work"
GONE = "apt_room | What would have to go is named"


@pytest.fixture(scope="module")
def offered() -> dict[str, Package]:
    return {package.name: package for package in stand_ins.ubuntu()}


@pytest.fixture(scope="module")
def apt(tmp_path_factory: pytest.TempPathFactory, offered: dict[str, Package]) -> Apt:
    init_plugin_loader()
    return own_apt(tmp_path_factory.mktemp("apt"), *offered.values())


def refusals(apt: Apt, ask: list[str], ours=(), held_by_others=None, may_replace=False) -> list[str]:
    """What the role says of an installation, as apt would do it; nothing where it may go on."""
    install = {"branch": "580", "kernel_module": "proprietary", "may_replace": may_replace}
    known = {"ask": ask, "ours": list(ours), "held_by_others": held_by_others or {}}
    given = {"__inferhost_installed": {"driver": known}, "__inferhost_plan": {"driver": {"install": install}}}

    def filled(asked: dict, key: str, variables: dict) -> dict:
        """The variables, with the task's own, each of which may name the ones before it."""
        for name, text in asked.get(key, {}).items():
            variables = {**variables, name: Templar(loader=DataLoader(), variables=variables).template(text)}
        return variables

    asks = task("apt_room.yml", "apt_room | What the installation would take is asked of apt")
    argv = Templar(loader=DataLoader(), variables=filled(asks, "vars", given)).template(
        asks["ansible.builtin.command"]["argv"]
    )
    ran = apt.run(argv)
    assert ran.returncode == 0, ran.stderr
    told = []
    for name in (HELD, GONE):
        stops = task("apt_room.yml", name)
        variables = filled(stops, "vars", {**given, "__inferhost_driver_room": {"stdout": ran.stdout}})
        if holds(stops["when"], variables):
            templar = Templar(loader=DataLoader(), variables=variables)
            told.append(templar.template(stops["ansible.builtin.fail"]["msg"]).strip())
    return told


ASK = ["nvidia-headless-580-server", UTILS]


def test_our_own_driver_makes_room_unasked(apt: Apt, offered: dict[str, Package]):
    ours = (*OPEN, UTILS)
    apt.installed(*(offered[name] for name in ours), held=ours)
    assert refusals(apt, ASK, ours=ours) == []


def test_without_the_release_apt_names_nobody_and_gives_up(apt: Apt, offered: dict[str, Package]):
    """Why the role frees its holds first."""
    ours = (*OPEN, UTILS)
    apt.installed(*(offered[name] for name in ours), held=ours)
    stuck = apt.run(["apt-get", "--simulate", "--allow-change-held-packages", "install", *ASK])
    assert stuck.returncode != 0
    assert "pkgProblemResolver" in stuck.stderr
    apt.installed(*(offered[name] for name in ours))
    assert apt.run(["apt-get", "--simulate", "install", *ASK]).returncode == 0


def test_a_hold_of_somebody_else_in_the_way_is_named_with_its_version_and_what_works(
    apt: Apt, offered: dict[str, Package]
):
    apt.installed(*(offered[name] for name in OPEN), held=OPEN[:2])
    told = refusals(apt, ASK, held_by_others=dict.fromkeys(OPEN[:2], VERSION), may_replace=True)
    assert len(told) == 1
    assert told[0].startswith(f"{OPEN[1]} {VERSION}, {OPEN[0]} {VERSION}: held by somebody else")
    assert "branch 580, proprietary kernel module" in told[0]
    assert f"apt-mark unhold {OPEN[1]} {OPEN[0]} lets it change" in told[0]
    assert "inferhost_driver_kernel_module" in told[0]


def test_a_hold_of_somebody_else_that_is_not_in_the_way_stops_nothing(apt: Apt, offered: dict[str, Package]):
    settings = Package("nvidia-settings", "510.47-1")
    apt.installed(settings, offered[OPEN[2]], held=(settings.name, OPEN[2]))
    assert refusals(apt, ASK, held_by_others={settings.name: settings.version, OPEN[2]: VERSION}) == []


@pytest.mark.parametrize("may_replace", [True, False])
def test_what_somebody_elses_package_loses_with_our_driver_is_named_unless_allowed(
    apt: Apt, offered: dict[str, Package], may_replace: bool
):
    tool = Package("cuda-tool", "1", OPEN[1])
    apt.installed(*(offered[name] for name in OPEN), tool, held=OPEN)
    told = refusals(apt, ASK, ours=OPEN, may_replace=may_replace)
    assert [one.split(" would be removed")[0] for one in told] == ([] if may_replace else ["cuda-tool"])


def test_another_driver_goes_only_with_consent(apt: Apt, offered: dict[str, Package]):
    theirs = ("nvidia-driver-580-open", "nvidia-utils-580")
    apt.installed(*(offered[name] for name in theirs))
    (told,) = refusals(apt, ASK)
    assert told.startswith(f"{', '.join(theirs)} would be removed")
    assert "inferhost_driver_replace_packages: true" in told
    assert refusals(apt, ASK, may_replace=True) == []


def test_the_role_asks_before_it_frees_and_frees_before_it_installs():
    listed = DataLoader().load_from_file(str(TASKS / "apt_packages.yml"))
    assert listed[0]["ansible.builtin.include_tasks"] == "apt_room.yml"
    assert listed[1]["ansible.builtin.import_role"]["tasks_from"] == "package_release"
    assert "ansible.builtin.apt" in listed[2]["block"][0]
    again = listed[2]["rescue"][0]
    assert again["ansible.builtin.dpkg_selections"]["selection"] == "hold"
    assert again["loop"] == listed[1]["vars"]["__inferhost_plan_release"]
