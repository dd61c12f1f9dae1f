"""What the roles have to install: told from the package database of the host, before anything is placed."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

import pytest

from inferhost.host.machine import Finished
from inferhost.schema.plan import File
from tests.unit.host.driver_fake import NEXT, RUNNING, DriverHost, Package, debian
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.test_host_runtime import docker, runtime

HEADERS = [f"linux-headers-{RUNNING}", f"linux-headers-{NEXT}", "linux-headers-amd64"]
TOOLKIT = "nvidia-container-toolkit-base"


def missing(host: FakeHost, section: str) -> list[str]:
    return list(host.run("install").document["facts"][section]["missing"])


def test_a_bare_host_lacks_the_headers_and_the_driver_and_a_converged_one_nothing(bare: DriverHost):
    assert missing(bare, "driver") == [*HEADERS, *bare.plan.driver.install.packages]
    bare.packages |= debian()
    assert missing(bare, "driver") == []
    bare.packages.pop("linux-headers-amd64")
    assert missing(bare, "driver") == ["linux-headers-amd64"]


def test_headers_of_one_kernel_go_with_it_and_those_of_somebody_else_are_not_marked(bare: DriverHost):
    def of_a_kernel() -> list[str]:
        return list(bare.run("install").document["facts"]["driver"]["of_a_kernel"])

    assert of_a_kernel() == HEADERS[:2]
    bare.packages[HEADERS[0]] = debian()[HEADERS[0]]
    assert of_a_kernel() == HEADERS[1:2]


def test_an_engine_and_a_toolkit_that_are_not_there_are_missing(host: FakeHost):
    wanted = runtime(packages=("docker.io",), toolkit=("nvidia-container-toolkit-base",))
    host.plan = plan(manage=("runtime",), runtime=wanted, service=(), dropins=(), files=())
    host.tools = {"dpkg-query": lambda _: Finished(0, "docker.io\t26\tii \t\t\n", ""), "docker": docker()}
    assert missing(host, "runtime") == ["nvidia-container-toolkit-base"]
    host.plan = plan(manage=("gpu",), service=(), dropins=(), files=())
    assert missing(host, "runtime") == []


NO_SOURCE = "no package source of this host offers"
MAIN = (*HEADERS, "nvidia-smi", "libcuda1")
"""What an archive offers where a component is switched off, as far as the plan asks."""


def source(section: str) -> File:
    path = f"/etc/apt/sources.list.d/inferhost-{section}.sources"
    return File(path, section, "0644", "Types: deb\n", None, "none")


def refused(host: FakeHost) -> dict[str, str]:
    """The message by path of what the preflight refuses, and nothing was written by it."""
    before = host.snapshot()
    found = {problem["path"]: problem["message"] for problem in host.run("install", "--check").problems}
    assert host.snapshot() == before
    return found


def test_packages_that_no_source_offers_are_refused_with_the_component_before_anything_is_placed(bare: DriverHost):
    bare.package_lists(*MAIN)
    lacking = "nvidia-kernel-dkms, libnvidia-ml1, nvidia-persistenced"
    assert refused(bare) == {"inferhost_driver_repository_url": f"is empty, and {NO_SOURCE} {lacking}"}
    (problem,) = bare.run("install").problems
    assert problem["hint"].startswith("add the components contrib, non-free, non-free-firmware to those sources")


def test_a_package_that_a_pin_forbids_is_not_offered(bare: DriverHost):
    others = [name for name in bare.plan.driver.install.packages if name != "libcuda1"]
    bare.package_lists(*HEADERS, *others, pinned_away=["libcuda1"])
    assert refused(bare) == {"inferhost_driver_repository_url": f"is empty, and {NO_SOURCE} libcuda1"}


def test_headers_of_a_kernel_that_the_archive_dropped_have_a_way_out_of_their_own(bare: DriverHost):
    bare.package_lists(*HEADERS[1:], *bare.plan.driver.install.packages)
    assert refused(bare) == {"inferhost_manage": f"found driver, and {NO_SOURCE} {HEADERS[0]}"}


def test_what_is_installed_needs_no_source(bare: DriverHost):
    bare.package_lists()
    bare.packages |= debian()
    assert refused(bare) == {}


def test_where_the_plan_brings_the_source_or_the_lists_are_old_nothing_is_known_yet(bare: DriverHost):
    bare.package_lists()
    without = bare.plan
    bare.plan = dataclasses.replace(without, files=(*without.files, source("driver")))
    assert refused(bare) == {}
    bare.plan = without
    os.utime(bare.at("/etc/apt/sources.list"), (time.time() + 60,) * 2)  # as after an edit
    assert refused(bare) == {}
    os.utime(bare.at("/etc/apt/sources.list"), (0, 0))
    assert refused(bare) != {}
    for name in bare.at("/var/lib/apt/lists").iterdir():
        name.unlink()
    assert refused(bare) == {}


@pytest.mark.parametrize(
    ("offered", "own_source", "paths"),
    [
        ((), False, ["inferhost_runtime_engine", "inferhost_runtime_toolkit_repository_url"]),
        (("docker.io",), False, ["inferhost_runtime_toolkit_repository_url"]),
        ((), True, ["inferhost_runtime_engine"]),
        (("docker.io",), True, []),
        (("docker.io", TOOLKIT), False, []),
    ],
)
def test_an_engine_or_a_toolkit_that_no_source_offers_is_refused_with_its_option(
    bare: DriverHost, offered: tuple[str, ...], own_source: bool, paths: list[str]
):
    wanted = runtime(packages=("docker.io",), toolkit=(TOOLKIT,))
    files = (source("runtime"),) if own_source else ()
    bare.plan = plan(manage=("runtime",), runtime=wanted, service=(), dropins=(), files=files)
    bare.package_lists(*offered)
    assert sorted(refused(bare)) == paths


@pytest.mark.parametrize(
    ("engine", "hint"),
    [
        ("docker", "podman; or remove containerd.io first if nothing needs it"),
        ("podman", "remove containerd.io first if nothing needs it"),
    ],
)
def test_an_engine_that_would_take_the_place_of_somebody_elses_is_refused_with_whose(
    bare: DriverHost, monkeypatch: pytest.MonkeyPatch, engine: str, hint: str
):
    """Ubuntu's docker.io and the containerd.io of a kubelet; apt removes that unasked."""
    asked = []

    def simulates(argv: Sequence[str]) -> Finished:
        asked.append(argv)
        return Finished(0, "Remv containerd.io [1.7.27-1]\nInst runc (1.3 x)\nInst docker.io (29 x)\n", "")

    monkeypatch.setattr(bare, "_apt_get", simulates)
    wanted = runtime(engine=engine, packages=(f"{engine}.io",), daemon={}, unit=None)
    bare.plan = plan(manage=("runtime",), runtime=wanted, service=(), dropins=(), files=())
    bare.package_lists(f"{engine}.io")
    (problem,) = bare.run("install", "--check").problems
    assert problem["path"] == "inferhost_runtime_engine"
    assert problem["message"] == f"found {engine}, and installing it would remove containerd.io"
    assert problem["hint"] == hint
    assert all("--simulate" in argv for argv in asked)
    assert asked[0][-2:] == ["install", f"{engine}.io"]
    asked.clear()
    bare.packages[f"{engine}.io"] = Package("29")
    assert bare.run("install", "--check").problems == []
    assert asked == []


@pytest.mark.parametrize(
    ("programs", "refused"),
    [(["/snap/bin/docker"], True), (["/snap/bin/docker", "/usr/bin/docker"], False), (["/usr/bin/docker"], False)],
)
def test_a_docker_of_a_snap_reads_nothing_of_ours_and_is_refused(
    bare: DriverHost, programs: list[str], refused: bool
):
    section = runtime(toolkit=())
    bare.plan = plan(manage=("runtime",), runtime=section, service=(), dropins=(), files=())
    bare.tools["docker"] = docker()
    for path in programs:
        bare.write(path, "")
    answer = bare.run("install", "--check")
    assert [p["id"] for p in answer.problems] == (["snap"] if refused else [])
    if refused:
        assert answer.problems[0]["path"] == "inferhost_hardware.container_engines"
        assert answer.problems[0]["hint"].startswith("snap remove docker, and discover again")


@pytest.mark.parametrize(("said", "paths"), [("aarch64", ["inferhost_manage"]), ("x86_64", []), ("", [])])
def test_a_machine_of_another_architecture_is_refused_before_anything_is_placed(
    bare: DriverHost, said: str, paths: list[str]
):
    bare.tools["uname"] = lambda argv: Finished(0, f"{said}\n", "")
    assert list(refused(bare)) == paths


def test_a_driver_of_nvidias_installer_is_named_before_packages_are_written_over_it(bare: DriverHost):
    bare.write("/var/lib/nvidia/log", "1.0-57013307 (570.133.07)\nNVIDIA Accelerated Graphics Driver\n")
    found = "found driver, and NVIDIA's .run installer has brought driver 570.133.07"
    assert refused(bare) == {"inferhost_manage": f"{found}, which packages would write over"}
    (problem,) = bare.run("install").problems
    assert problem["hint"].startswith("nvidia-uninstall takes it away")
    bare.packages |= debian()
    assert refused(bare) == {}


def test_without_the_driver_section_the_architecture_is_no_obstacle(bare: DriverHost):
    bare.tools["uname"] = lambda argv: Finished(0, "aarch64\n", "")
    bare.plan = plan(manage=("gpu",), service=(), dropins=(), files=())
    assert refused(bare) == {}
