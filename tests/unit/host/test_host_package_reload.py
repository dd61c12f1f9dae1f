"""Containers of others while packages come, change or go: the packages' scripts have systemd read its units again."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import pytest

from inferhost.host.record.placed import placed_files
from inferhost.schema.plan import BASE
from tests.golden import golden_plan
from tests.unit.host.driver_fake import DriverHost, Package
from tests.unit.host.simulated import simulator_state
from tests.unit.host.test_host_runtime import BY_CDI, LEGACY, docker, runtime

OPTION = "inferhost_runtime_spare_containers"


@pytest.fixture
def host(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[DriverHost]:
    """A converged driver, and a container that got its cards from NVIDIA's hook."""
    with simulator_state(tmp_path / "sim"):
        found = DriverHost(tmp_path, simulator_build, program)
        found.converge()
        found.tools = {"docker": docker(LEGACY)}
        yield found


def place_all(host: DriverHost) -> None:
    """Every file of the plan, so that no unit changes."""
    for file in placed_files(host.plan, [*host.plan.manage, BASE]):
        host.write(file.path, file.content.decode(), file.mode)


def test_a_converged_driver_hurts_nobody(host: DriverHost):
    assert host.run("install").code == 0


def test_another_driver_version_is_refused_while_a_container_would_lose_its_cards(host: DriverHost):
    host.plan = golden_plan("driver-p4-new")
    place_all(host)
    before = host.snapshot()
    (problem,) = host.run("install").problems
    assert problem["path"] == OPTION
    assert problem["message"].startswith("container old (docker) would lose the cards: libcuda1, ")
    assert host.snapshot() == before
    host.tools = {"docker": docker(BY_CDI)}
    assert host.run("install").code == 0


def test_so_is_a_package_that_is_gone_and_one_that_somebody_moved(host: DriverHost):
    held = host.packages["libcuda1"]
    host.packages["libcuda1"] = Package("535.300.01-1", held=True)
    (problem,) = host.run("install").problems
    assert "would lose the cards: libcuda1 changes" in problem["message"]
    host.packages["libcuda1"] = held
    del host.packages["nvidia-smi"]
    (problem,) = host.run("install").problems
    assert "would lose the cards: nvidia-smi changes" in problem["message"]


def test_so_is_a_toolkit_that_is_to_come(host: DriverHost):
    wanted = runtime(packages=(), toolkit=("nvidia-container-toolkit-base",), daemon={})
    host.plan = dataclasses.replace(host.plan, manage=("runtime",), runtime=wanted)
    place_all(host)
    (problem,) = host.run("install").problems
    assert "would lose the cards: nvidia-container-toolkit-base changes" in problem["message"]


def test_and_a_revert_that_removes_packages(host: DriverHost):
    assert (
        host.run("status").document["facts"]["endangered"].startswith("container old (docker) would lose the cards")
    )
    for name in host.run("status").document["facts"]["driver"]["remove"]:
        del host.packages[name]
    assert host.run("status").document["facts"]["endangered"] == ""
