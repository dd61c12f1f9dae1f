"""A toolkit that somebody installed whole before us, as NVIDIA's guide says: moved, put back and given back whole."""

import dataclasses

import pytest

from tests.bed import driver_packages as stand_ins
from tests.bed.playbook import NAME, bed
from tests.bed.runtime_host import MIRROR, TOOLKIT, RuntimeHost
from tests.bed.snapshot import differences

THEIRS, PLANNED, NEWEST = "1.17.8-1", "1.20.1-1", "1.21.0-1"
WHOLE = "nvidia-container-toolkit"


def toolkit(version):
    base = dataclasses.replace(TOOLKIT, version=version)
    library = stand_ins.Package("libnvidia-container1", version)
    depends = f"{base.name} (= {version}), {library.name} (>= {version})"
    return [base, library, stand_ins.Package(WHOLE, version, depends)]


def state(host):
    """Version and state of each part that is there."""
    listed = host.run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n").splitlines()
    found = [line.split() for line in listed]
    return {words[0]: tuple(words[1:]) for words in found if words[0] in NAMES and words[-1][1:] == "i"}


NAMES = [package.name for package in toolkit(THEIRS)]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    found = RuntimeHost(tmp_path_factory.mktemp("toolkit"), "podman")
    found.offer(*(part for version in (THEIRS, PLANNED, NEWEST) for part in toolkit(version)))
    folder = f"{MIRROR}/stable/deb/amd64/pool"
    packed = [f"{folder}/{part.name}_{part.version}_amd64.deb" for part in toolkit(THEIRS)]
    found.run("dpkg", "--install", *packed)
    found.before = found.snapshot()
    found.ran = found.playbook("site.yml", runtime_toolkit_version="1.20.1")
    yield found
    bed("down", NAME)


def test_another_version_in_the_wish_moves_and_holds_every_part(host):
    assert host.ran.code == 0, host.ran.told()
    assert state(host) == dict.fromkeys(NAMES, (PLANNED, "hi"))


def test_parts_that_somebody_moved_and_removed_are_put_back(host):
    changes = (f"{TOOLKIT.name}={NEWEST}", f"{WHOLE}-")  # the second goes, because it wants the first of before
    host.run("apt-get", "-y", "--ignore-hold", "--allow-change-held-packages", "install", *changes)
    found = {name: version for name, (version, _) in state(host).items()}
    assert found == {TOOLKIT.name: NEWEST, "libnvidia-container1": PLANNED}
    ran = host.playbook("site.yml", runtime_toolkit_version="1.20.1")
    assert ran.code == 0, ran.told()
    assert state(host) == dict.fromkeys(NAMES, (PLANNED, "hi"))


def test_a_revert_gives_back_the_whole_toolkit_of_before(host):
    ran = host.playbook("playbooks/revert.yml")
    assert ran.code == 0, ran.told()
    assert state(host) == dict.fromkeys(NAMES, (THEIRS, "ii"))
    assert differences(host.before, host.snapshot()) == []
