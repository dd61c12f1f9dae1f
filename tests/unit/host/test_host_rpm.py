"""The RHEL 9 family's package database, asked by the host program. rpm's own words; no such host was run.

What rpm says of a removal, and its %{NVRA}, was read from rpm 4.18 over a database of empty packages of these names.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import pytest

from inferhost.host.machine import Finished
from tests.golden import golden_plan
from tests.unit.host.driver_fake import DriverHost
from tests.unit.host.simulated import simulator_state

MODULE, CUDA = "kmod-nvidia-latest-dkms", "nvidia-driver-cuda"
NEEDED = """error: Failed dependencies:
	dkms >= 2.2 is needed by (installed) zfs-dkms-2.1-1.noarch
	(dkms or glibc-x) is needed by (installed) either-1-1.noarch
	nvidia-driver is needed by (installed) nvidia-gds-12-1.x86_64
"""
SEVERAL = """error: "kernel-devel" specifies multiple packages:
  kernel-devel-5.14.0-570.el9_6.x86_64
  kernel-devel-5.14.0-503.el9_5.x86_64
"""
RUNNING, NEXT = "5.14.0-503.el9_5.x86_64", "5.14.0-570.el9_6.x86_64"
HEADERS = [f"kernel-devel-{RUNNING}", f"kernel-devel-{NEXT}", "kernel-devel-matched"]


class RpmHost(DriverHost):
    """Rocky 9 with a Tesla card and two kernels, and what rpm and dnf answer there."""

    def __init__(self, folder: pathlib.Path, build: pathlib.Path, program: pathlib.Path) -> None:
        super().__init__(folder, build, program)
        self.plan = golden_plan("driver-p4-rocky")
        self.rpms = {"glibc": "2.34-1"}
        self.headers: list[str] = []  # kernels whose kernel-devel is there; rpm has one package of each
        self.removal = Finished(0, "", "")
        self.needed: dict[str, Finished] = {}  # what rpm says where this package would go
        self.tools = {"rpm": self._rpm, "dnf": lambda _: Finished(0, "kernel-devel\n" if self.headers else "", "")}
        for kernels in ("/boot", "/lib/modules"):
            shutil.rmtree(self.at(kernels))
        for kernel in (RUNNING, NEXT):
            self.write(f"/boot/vmlinuz-{kernel}", "")
            self.write(f"/lib/modules/{kernel}/modules.dep", "")
        self.write("/proc/sys/kernel/osrelease", f"{RUNNING}\n")

    def install_all(self) -> None:
        """The packages of the plan, placed and recorded."""
        assert self.run("install").code == 0
        install = self.plan.driver.install
        self.rpms |= dict.fromkeys([*install.packages, *install.tools, HEADERS[-1]], "580.95.05-1.el9")
        self.headers = [RUNNING, NEXT]
        self.run("apply")

    def _rpm(self, argv: Sequence[str]) -> Finished:
        if argv[1] == "--erase":
            several = "kernel-devel" in argv and len(self.headers) > 1 and "--allmatches" not in argv
            needed = [said for name, said in self.needed.items() if name in argv]
            return Finished(1, "", SEVERAL) if several else [*needed, self.removal][0]
        found = [(name, version, f"{name}-{version}.noarch") for name, version in self.rpms.items()]
        found += [("kernel-devel", one.rpartition(".")[0], f"kernel-devel-{one}") for one in self.headers]
        return Finished(0, "".join(f"{name}\t{version}\tii\t\t{full}\n" for name, version, full in found), "")

    def consent(self) -> None:
        install = dataclasses.replace(self.plan.driver.install, may_replace=True)
        self.plan = dataclasses.replace(self.plan, driver=dataclasses.replace(self.plan.driver, install=install))

    def enable(self, stream: str, state: str = "enabled") -> None:
        text = f"[nvidia-driver]\nname=nvidia-driver\nstream={stream}\nprofiles=\nstate={state}\n"
        self.write("/etc/dnf/modules.d/nvidia-driver.module", text)


@pytest.fixture
def host(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[RpmHost]:
    with simulator_state(tmp_path / "sim"):
        yield RpmHost(tmp_path, simulator_build, program)


def test_a_revert_names_the_packages_of_others_that_need_ours_and_removes_nothing(host: RpmHost):
    host.install_all()
    host.removal = Finished(3, "", NEEDED)
    answer = host.run("status")
    assert answer.document["facts"]["driver"]["remove"] == []
    assert "would remove either, nvidia-gds, zfs-dkms too" in answer.prose


def test_what_nobody_else_needs_goes(host: RpmHost):
    host.install_all()
    answer = host.run("status")
    ours = [*host.plan.driver.install.packages, *host.plan.driver.install.tools]
    assert answer.document["facts"]["driver"]["remove"] == sorted([*ours, "kernel-devel", HEADERS[-1]])
    assert not answer.problems


def test_headers_of_a_kernel_go_alone_where_those_of_another_were_there_before(host: RpmHost):
    host.headers = [RUNNING]
    host.install_all()
    found = host.run("status").document["facts"]["driver"]["remove"]
    assert [name for name in found if name.startswith("kernel-devel")] == HEADERS[1:]
    wanted = f"error: Failed dependencies:\n\t{HEADERS[1]} is needed by (installed) theirs-1-1.noarch\n"
    host.needed[HEADERS[1]] = Finished(1, "", wanted)
    answer = host.run("status")
    assert HEADERS[1] not in answer.document["facts"]["driver"]["remove"]
    assert not answer.problems


def test_a_host_that_has_its_packages_lacks_none_and_one_without_a_kernels_headers_lacks_those(host: RpmHost):
    assert host.run("install").document["facts"]["driver"]["missing"][2:5] == HEADERS
    host.install_all()
    assert host.run("install").document["facts"]["driver"]["missing"] == []
    host.headers = [RUNNING]
    assert host.run("install").document["facts"]["driver"]["missing"] == HEADERS[1:2]


def test_what_rpm_says_first_is_told(host: RpmHost):
    host.install_all()
    host.removal = Finished(1, "", 'error: "x" specifies multiple packages:\n  x-1-1.noarch\n  x-2-1.noarch\n')
    assert '"x" specifies multiple packages' in host.run("status").prose


def test_an_rpm_that_does_not_answer_removes_nothing(host: RpmHost):
    host.install_all()
    host.removal = Finished(1, "", "error: cannot open Packages database")
    answer = host.run("status")
    assert answer.code != 0
    assert "cannot open Packages database" in answer.prose
    assert "driver" not in answer.document["facts"]


THEIRS = {CUDA: "570.195.03-1.el9", MODULE: "570.195.03-1.el9", "nvidia-persistenced": "570.195.03-1.el9"}


def test_a_driver_of_somebody_else_is_moved_to_another_branch_with_consent_alone(host: RpmHost):
    host.rpms |= THEIRS
    host.enable("570-dkms")
    before = host.snapshot()
    (problem,) = host.run("install").problems
    assert problem["path"] == "inferhost_driver_replace_packages"
    assert f"nvidia-driver:570-dkms, {MODULE} 570.195.03-1.el9, {CUDA} 570" in problem["message"]
    assert "stream nvidia-driver:580-dkms" in problem["hint"]
    assert host.snapshot() == before
    host.consent()
    answer = host.run("install")
    assert answer.document["facts"]["driver"]["replace"] == sorted(THEIRS)


def test_another_stream_alone_is_somebodys_choice_too_and_none_or_ours_is_not(host: RpmHost):
    host.enable("570-dkms")
    assert [p["path"] for p in host.run("install").problems] == ["inferhost_driver_replace_packages"]
    for stream, state in (("580-dkms", "enabled"), ("570-dkms", "disabled"), ("", "")):
        host.enable(stream, state)
        assert host.run("install", "--check").code == 0


def test_a_revert_gives_back_stream_and_versions_that_were_there(host: RpmHost):
    host.rpms |= THEIRS
    host.enable("570-dkms")
    host.consent()
    host.install_all()
    found = host.run("status").document["facts"]["driver"]
    assert found["stream"] == ["enable", "nvidia-driver:570-dkms"]
    assert found["restore"] == [f"{name}=570.195.03-1.el9" for name in sorted(THEIRS)]


def test_what_we_locked_is_free_for_another_branch(host: RpmHost):
    host.install_all()
    locks = "".join(f"{name}-580.95.05-1.el9.*\n" for name in (CUDA, MODULE, "nvidia-persistenced"))
    host.write("/etc/dnf/plugins/versionlock.list", locks)
    install = dataclasses.replace(host.plan.driver.install, branch="590", module_stream="nvidia-driver:590-dkms")
    host.plan = dataclasses.replace(host.plan, driver=dataclasses.replace(host.plan.driver, install=install))
    found = host.run("install").document["facts"]["driver"]
    assert found["release"] == found["replace"] == sorted((CUDA, MODULE, "nvidia-persistenced"))


def test_a_lock_of_somebody_else_is_named_with_what_frees_it(host: RpmHost):
    host.rpms |= THEIRS
    host.consent()
    host.write("/etc/dnf/plugins/versionlock.list", f"{CUDA}-0:570.195.03-1.el9.*\n")
    (problem,) = host.run("install").problems
    assert problem["message"].startswith(f"{CUDA} 570.195.03-1.el9: locked by somebody else")
    assert f"dnf versionlock delete {CUDA} lets it change" in problem["hint"]
