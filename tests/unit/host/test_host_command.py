"""How long the host program waits for a command: not for ever, but as long as units and images take."""

from __future__ import annotations

import os
import pathlib

import pytest

from inferhost.host import machine
from inferhost.host.driver import packages

LONGER = "sleep 1; echo it ended"


@pytest.fixture(autouse=True)
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that take longer than the host program waits for most."""
    for name in ("systemctl", "podman", "docker", "dpkg-query", "apt-get", "rpm"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{LONGER}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "COMMAND_TIMEOUT_S", 0.1)


@pytest.mark.parametrize("command", ["systemctl start", "systemctl stop", "podman pull", "docker pull"])
def test_a_unit_and_an_image_have_the_time_that_they_need(command: str):
    assert machine.run_command([*command.split(), "one"]) == machine.Finished(0, "it ended\n", "")


@pytest.mark.parametrize("question", [*packages.LIST.values(), *(asked for asked, _ in packages.REMOVAL.values())])
def test_a_package_database_is_waited_for_on_a_host_that_is_busy(question: list[str]):
    assert machine.run_command(question) == machine.Finished(0, "it ended\n", "")


@pytest.mark.parametrize("command", ["systemctl show", "podman inspect"])
def test_a_question_is_not_waited_for_for_ever(command: str):
    assert machine.run_command([*command.split(), "one"]).code == 124
