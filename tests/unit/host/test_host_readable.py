"""What an engine could not read is told before anything is placed: closed to its user, or not in its container."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import pytest

from inferhost.host.machine import Finished
from inferhost.host.service.readable import ACCESS_LIST
from tests.unit.host.fake_host import ENGINE, FakeHost
from tests.unit.host.test_host_container import contained

CACHE = "/srv/hub/models--q"
SNAPSHOT = f"{CACHE}/snapshots/1"
PART = "/srv/parts/m-{:05}-of-00003.gguf"


def serving(host: FakeHost, path: str, mode: str = "unit") -> FakeHost:
    """The host with this model, in a unit or in a container that is given the model alone."""
    whole = host.plan if mode == "unit" else contained(mode)
    service = dataclasses.replace(whole.service[0], model_path=path)
    if service.container is not None:
        container = dataclasses.replace(service.container, mounts=((path, path, "ro"),))
        service = dataclasses.replace(service, container=container)
        host.tools["podman"] = lambda _: Finished(0, "", "")
    host.plan = dataclasses.replace(whole, service=(service,))
    return host


def cached(host: FakeHost) -> FakeHost:
    """The host with a model as Hugging Face's cache keeps it: a folder of links to files beside it."""
    host.write(f"{CACHE}/blobs/a1", "weights")
    host.write(f"{SNAPSHOT}/config.json", "{}")
    os.symlink("../../blobs/a1", host.at(f"{SNAPSHOT}/model.safetensors"))
    return host


def test_links_to_what_the_container_does_not_see_are_told(host: FakeHost):
    serving(cached(host), SNAPSHOT, "quadlet")
    (problem,) = host.run("install").problems
    assert problem == {
        "path": "inferhost_service_model_path",
        "message": f"{SNAPSHOT}/model.safetensors leads to {CACHE}/blobs/a1, which the container does not see",
        "hint": f"a folder with the files themselves: cp -rL {SNAPSHOT} THERE; or inferhost_service_mode: unit",
        "id": "link",
    }
    assert not host.at("/etc/inferhost/plan.json").exists()


@pytest.mark.parametrize(("path", "mode"), [(SNAPSHOT, "unit"), (CACHE, "quadlet"), ("/srv/link", "quadlet")])
def test_links_that_lead_somewhere_are_no_obstacle(host: FakeHost, path: str, mode: str):
    """In a unit, inside of what the container is given, and where the whole of it is a link, which podman follows."""
    os.symlink("hub/models--q", cached(host).at("/srv/link"))
    answer = serving(host, path, mode).run("install")
    assert answer.code == 0, answer.prose


def told(host: FakeHost, path: str) -> str:
    """The one problem of a model at this path that a unit serves."""
    (problem,) = serving(host, path).run("install").problems
    assert (problem["path"], problem["id"]) == ("inferhost_service_model_path", "closed")
    assert not host.at("/etc/inferhost/plan.json").exists()
    return problem["message"]


def test_a_model_that_the_units_user_cannot_read_is_told(host: FakeHost):
    host.write("/home/ivan/m/model.safetensors", "weights")
    host.write("/home/ivan/m/config.json", "{}")
    host.at("/home/ivan/m/model.safetensors").chmod(0o600)
    what = "is closed to user inferhost, which runs the engine"
    assert told(host, "/home/ivan/m") == f"/home/ivan/m/model.safetensors {what}"
    host.at("/home/ivan").chmod(0o700)
    assert told(host, "/home/ivan/m") == f"/home/ivan {what}"


def in_parts(host: FakeHost, mode: str) -> FakeHost:
    """The host with a model in three files."""
    for number in (1, 2, 3):
        host.write(PART.format(number), "weights")
    serving(host, PART.format(1), mode)
    if mode != "unit":
        (service,) = host.plan.service
        mounts = tuple((PART.format(number), PART.format(number), "ro") for number in (1, 2, 3))
        container = dataclasses.replace(service.container, mounts=mounts)
        host.plan = dataclasses.replace(host.plan, service=(dataclasses.replace(service, container=container),))
    return host


@pytest.mark.parametrize("mode", ["unit", "quadlet"])
def test_every_part_of_a_model_has_to_be_there_and_open(host: FakeHost, mode: str):
    answer = in_parts(host, mode).run("install")
    assert answer.code == 0, answer.prose
    host.at(PART.format(3)).chmod(0o600)
    (problem,) = host.run("install").problems
    assert (problem["path"], problem["id"]) == ("inferhost_service_model_path", "closed")
    assert problem["message"].startswith(f"{PART.format(3)} is closed to user")
    host.at(PART.format(3)).unlink()
    (problem,) = host.run("install").problems
    assert (problem["path"], problem["id"]) == ("inferhost_service_model_path", "not-there")
    wanted = f"{PART.format(3)} is not on this host, and the engine reads all 3 parts of its model"
    assert problem["message"] == wanted


def test_a_link_is_as_closed_as_what_it_leads_to(host: FakeHost):
    cached(host).at(f"{CACHE}/blobs").chmod(0o700)
    assert told(host, SNAPSHOT).startswith(f"{CACHE}/blobs is closed")


def test_an_owner_and_a_member_of_the_group_are_no_strangers(host: FakeHost):
    found = host.at("/srv/m.gguf").stat()
    asked = {"--user": "999", "--groups": f"999 {found.st_gid}"}
    host.tools["id"] = lambda argv: Finished(0, f"{asked[argv[1]]}\n", "")
    host.at("/srv/m.gguf").chmod(0o640)
    assert host.run("install").code == 0
    host.at("/srv/m.gguf").chmod(0o600)
    assert [p["id"] for p in host.run("install").problems] == ["closed"]
    asked["--user"] = str(found.st_uid)
    assert host.run("install").code == 0


def test_where_a_list_says_who_may_read_it_is_believed(host: FakeHost, monkeypatch):
    host.at("/srv/m.gguf").chmod(0o640)
    assert [p["id"] for p in host.run("install").problems] == ["closed"]
    monkeypatch.setattr(os, "listxattr", lambda path: [ACCESS_LIST])
    assert host.run("install").code == 0


def test_an_engine_that_the_units_user_cannot_start_is_told(host: FakeHost):
    folder = str(pathlib.PurePosixPath(ENGINE[0]).parent)
    host.at(folder).chmod(0o700)
    (problem,) = host.run("install").problems
    assert problem["path"] == "inferhost_service_engine_path"
    assert problem["message"] == f"{folder} is closed to user inferhost, which runs the engine"
