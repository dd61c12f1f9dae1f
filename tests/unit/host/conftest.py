"""Hosts in folders, with simulated cards; the simulator and the zipapp are built once."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from inferhost.host.zipapp_build import build as build_zipapp
from tests.unit.host.driver_fake import DriverHost
from tests.unit.host.fake_host import FakeHost, with_gpu
from tests.unit.host.hub import Hub, running_hub
from tests.unit.host.simulated import built_simulator, simulator_state


@pytest.fixture(scope="session")
def simulator_build() -> pathlib.Path:
    return built_simulator()


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("program") / "inferhost"
    build_zipapp(path)
    return path


@pytest.fixture
def host(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[FakeHost]:
    """A host nobody managed before: a limit of 480 W and persistence on, both set by hand."""
    with simulator_state(tmp_path / "sim"):
        found = FakeHost(tmp_path, simulator_build, program)
        found.sim("set", "power_limit_mw", 480000)
        found.sim("set", "persistence", 1)
        yield found


@pytest.fixture
def placed(host: FakeHost) -> FakeHost:
    """A host as planned, whose card has a lock that a driver reload takes."""
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    host.wait(60)  # the energy counter counts
    host.converge()
    return host


@pytest.fixture
def pair(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[FakeHost]:
    """The same with two cards of one model."""
    with simulator_state(tmp_path / "sim"):
        found = FakeHost(tmp_path, simulator_build, program, cards=2)
        found.sim("set", "power_limit_mw", 480000)
        found.sim("set", "persistence", 1)
        yield found


@pytest.fixture
def bare(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[DriverHost]:
    """A host with packages, of which none is the driver's yet."""
    with simulator_state(tmp_path / "sim"):
        yield DriverHost(tmp_path, simulator_build, program)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in of a model hub on loopback."""
    with running_hub() as found:
        yield found
