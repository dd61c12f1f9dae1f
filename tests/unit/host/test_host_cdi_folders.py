"""Folders for CDI specifications that a person named: ours has to be among them, or no container gets a card."""

from __future__ import annotations

import dataclasses
import json

import pytest

from inferhost.host.machine import Finished
from inferhost.host.runtime.daemon_json import PATH
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.test_host_runtime import NO_PACKAGES, docker, runtime

CONF, SHIPPED, OWN = (
    "/etc/containers/containers.conf",
    "/usr/share/containers/containers.conf",
    "/etc/containers/containers.conf.d/50-own.conf",
)


@pytest.fixture
def docked(host: FakeHost) -> FakeHost:
    host.plan = plan(manage=("runtime",), runtime=runtime(), service=(), dropins=(), files=())
    host.tools = {**NO_PACKAGES, "docker": docker(cdi_folders='["/run/cdi"]')}
    return host


@pytest.fixture
def podded(docked: FakeHost) -> FakeHost:
    section = dataclasses.replace(docked.plan.runtime, engine="podman", daemon={}, unit=None)
    docked.plan = dataclasses.replace(docked.plan, runtime=section)
    docked.tools = {**NO_PACKAGES, "podman": lambda _: Finished(0, "podman version 5.4.2\n", "")}
    return docked


@pytest.mark.parametrize("folders", [["/etc/cdi"], ["/run/cdi2", "/var/run/cdis"], [""]])
def test_docker_that_looks_elsewhere_is_refused_with_the_folder_that_is_missing(docked: FakeHost, folders: list[str]):
    docked.write(PATH, json.dumps({"cdi-spec-dirs": folders}))
    (problem,) = docked.run("install").problems
    assert (problem["path"], problem["id"]) == (PATH, "cdi-folders")
    said = f"cdi-spec-dirs names {', '.join(folders)}, and the specification of the cards lies in /run/cdi"
    assert problem["message"] == said
    assert problem["hint"] == 'add "/run/cdi" to cdi-spec-dirs, or leave it out'
    assert not docked.at("/etc/inferhost/plan.json").exists()


@pytest.mark.parametrize("folders", [["/etc/cdi", "/run/cdi/"], ["/var/run/cdi"], [], None])
def test_docker_that_looks_there_or_was_told_nothing_is_not(docked: FakeHost, folders: list[str] | None):
    docked.write(PATH, json.dumps({"cdi-spec-dirs": folders}))
    assert docked.run("install").code == 0


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({CONF: '[engine]\ncdi_spec_dirs = ["/etc/cdi"]\n'}, CONF),
        ({CONF: "[engine]\ncdi_spec_dirs = [\n  '/etc/cdi',\n  '/opt/cdi',\n]\n"}, CONF),
        ({CONF: 'cdi_spec_dirs=["/run/cdi"]\n', OWN: 'cdi_spec_dirs=["/opt/cdi"]\n'}, OWN),
        ({CONF: 'cdi_spec_dirs=["/opt/cdi"]\n', OWN: 'cdi_spec_dirs=["/etc/cdi", "/var/run/cdi"]\n'}, ""),
        ({SHIPPED: 'cdi_spec_dirs=["/opt/cdi"]\n', CONF: 'cdi_spec_dirs=["/run/cdi"]\n'}, ""),
        ({SHIPPED: 'cdi_spec_dirs=["/opt/cdi"]\n'}, SHIPPED),
        ({SHIPPED: '#cdi_spec_dirs = [\n#  "/etc/cdi",\n#]\n'}, ""),
        ({f"{OWN}.bak": 'cdi_spec_dirs=["/opt/cdi"]\n'}, ""),
        ({}, ""),
    ],
)
def test_podmans_last_word_counts(podded: FakeHost, files: dict[str, str], where: str):
    for path, text in files.items():
        podded.write(path, text)
    assert [p["path"] for p in podded.run("install").problems] == ([where] if where else [])


def test_the_engine_that_is_not_planned_is_not_asked(podded: FakeHost):
    podded.write(PATH, json.dumps({"cdi-spec-dirs": ["/etc/cdi"]}))
    assert podded.run("install").code == 0


NAMES = "cdiVersion: 0.5.0\nkind: {}\ndevices:\n- name: {}\n"
SPEC, BESIDE, BEFORE = "/run/cdi/nvidia.yaml", "/run/cdi/toolkit.json", "/etc/cdi/nvidia.yaml"
JSON = '{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[{"name":"all","containerEdits":{}}]}'


def test_a_second_file_of_the_same_devices_beside_ours_is_refused_because_engines_take_neither(docked: FakeHost):
    docked.write(BESIDE, JSON)
    (problem,) = docked.run("install").problems
    assert (problem["path"], problem["id"]) == (BESIDE, "cdi-rival")
    assert "of two files in one folder an engine takes neither" in problem["message"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (BESIDE, JSON.replace("nvidia.com/gpu", "management.nvidia.com/gpu")),
        (BESIDE, JSON.replace("all", "own")),
        (f"{BESIDE}.bak", JSON),
        (BEFORE, NAMES.format("nvidia.com/gpu", "all")),
        (SPEC, NAMES.format("nvidia.com/gpu", "all")),
    ],
)
def test_a_file_of_other_devices_and_one_in_a_folder_that_counts_less_are_no_rivals(
    docked: FakeHost, path: str, text: str
):
    docked.write(path, text)
    assert docked.run("install").code == 0


@pytest.mark.parametrize(
    ("folders", "counts"), [(["/var/run/cdi", "/etc/cdi"], True), (["/etc/cdi", "/run/cdi"], False)]
)
def test_the_folder_that_is_named_last_counts(docked: FakeHost, folders: list[str], counts: bool):
    docked.write(PATH, json.dumps({"cdi-spec-dirs": folders}))
    docked.write(BEFORE, NAMES.format('"nvidia.com/gpu"', "all"))
    found = docked.run("install").problems
    assert [problem["path"] for problem in found] == ([BEFORE] if counts else [])
    assert [problem["hint"] for problem in found] == (
        ['name "/run/cdi" last in cdi-spec-dirs, or take that file away'] if counts else []
    )


def test_a_rival_that_came_later_is_told_by_the_verdict_on_ours(docked: FakeHost):
    docked.run("install")
    docked.write(SPEC, NAMES.format("nvidia.com/gpu", '"0"'))
    assert docked.run("verify").verdict("runtime.cdi_spec") == ("held", "none")
    docked.write(BESIDE, NAMES.format("nvidia.com/gpu", "0"))
    assert docked.run("verify").verdict("runtime.cdi_spec") == ("overridden", "other_writer")
    assert BESIDE in docked.run("verify").evidence("runtime.cdi_spec")
