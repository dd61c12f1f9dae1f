"""Hosts in folders, with simulated cards; the simulator and the zipapp are built once."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import pytest

from inferhost.host.zipapp_build import build as build_zipapp
from tests.unit.host.fake_host import FakeHost, built_simulator, simulator_state
from tests.unit.host.hub import Hub, running_hub

PLANNED = ("driver", "driver_module", "module_options", "stand_ins")
"""Tests that ask the planner for their plans. The planner is the controller's and needs Python 3.11."""
collect_ignore = [f"test_host_{name}.py" for name in PLANNED if sys.version_info < (3, 11)]


def pytest_report_header() -> list[str]:
    return [f"SKIPPED {name}: its plans come from the planner, which needs Python 3.11" for name in collect_ignore]


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
def pair(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[FakeHost]:
    """The same with two cards of one model."""
    with simulator_state(tmp_path / "sim"):
        found = FakeHost(tmp_path, simulator_build, program, cards=2)
        found.sim("set", "power_limit_mw", 480000)
        found.sim("set", "persistence", 1)
        yield found


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in of a model hub on loopback."""
    with running_hub() as found:
        yield found
