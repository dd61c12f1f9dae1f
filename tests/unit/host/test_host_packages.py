"""What the roles have to install: told from the package database of the host, before anything is placed."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from inferhost.host.machine import Finished
from tests.unit.host.driver_fake import NEXT, RUNNING, DriverHost, debian
from tests.unit.host.fake_host import FakeHost, plan, simulator_state
from tests.unit.host.test_host_runtime import docker, runtime

HEADERS = [f"linux-headers-{RUNNING}", f"linux-headers-{NEXT}", "linux-headers-amd64"]


@pytest.fixture
def bare(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path) -> Iterator[DriverHost]:
    with simulator_state(tmp_path / "sim"):
        yield DriverHost(tmp_path, simulator_build, program)


def missing(host: FakeHost, section: str) -> list[str]:
    return list(host.run("install").document["facts"][section]["missing"])


def test_a_bare_host_lacks_the_headers_and_the_driver_and_a_converged_one_nothing(bare: DriverHost):
    assert missing(bare, "driver") == [*HEADERS, *bare.plan.driver.install.packages]
    bare.packages |= debian()
    assert missing(bare, "driver") == []
    bare.packages.pop("linux-headers-amd64")
    assert missing(bare, "driver") == ["linux-headers-amd64"]


def test_an_engine_and_a_toolkit_that_are_not_there_are_missing(host: FakeHost):
    wanted = runtime(packages=("docker.io",), toolkit=("nvidia-container-toolkit-base",))
    host.plan = plan(manage=("runtime",), runtime=wanted, service=(), dropins=(), files=())
    host.tools = {"dpkg-query": lambda _: Finished(0, "docker.io\t26\tii \t\t\n", ""), "docker": docker()}
    assert missing(host, "runtime") == ["nvidia-container-toolkit-base"]
    host.plan = plan(manage=("gpu",), service=(), dropins=(), files=())
    assert missing(host, "runtime") == []
