"""What was proven is watched, what was fetched is left or purged, and what was here before is never deleted."""

from __future__ import annotations

import dataclasses
import os

from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.fetching import PART, PATH, WEIGHTS, fetched, tiny
from tests.unit.host.hub import Hub


def test_verify_sees_a_file_that_changed_one_that_went_and_one_that_the_service_could_write(host: FakeHost, hub: Hub):
    fetched(tiny(host, hub))
    assert host.run("verify").verdict("models.main") == ("held", "none")
    assert host.run("verify").verdict("models.main.read_only") == ("held", "none")
    host.at(f"{PATH}/config.json").chmod(0o666)
    assert host.run("verify").verdict("models.main.read_only") == ("overridden", "other_writer")
    host.at(f"{PATH}/model.safetensors").write_bytes(WEIGHTS[:-1] + b"?")
    assert host.run("verify").verdict("models.main") == ("overridden", "other_writer")
    again = host.run("fetch")
    assert (again.code, host.at(f"{PATH}/model.safetensors").read_bytes()) == (0, WEIGHTS)


def test_a_file_of_the_service_s_own_user_is_not_read_only_to_it(host: FakeHost, hub: Hub):
    service = dataclasses.replace(plan().service[0], user="llm")
    tiny(host, hub)
    host.plan = dataclasses.replace(host.plan, service=(service,))
    fetched(host)
    assert host.run("verify").verdict("models.main.read_only") == ("held", "none")
    host.write("/etc/passwd", f"llm:x:{os.getuid()}:{os.getgid()}::/nonexistent:/usr/sbin/nologin\n")
    assert host.run("verify").verdict("models.main.read_only") == ("overridden", "other_writer")


def test_a_revert_leaves_the_model_and_forgets_it(host: FakeHost, hub: Hub):
    fetched(tiny(host, hub))
    host.write(PART, "half")
    answer = host.run("revert")
    assert answer.code == 0, answer.prose
    assert host.at(f"{PATH}/model.safetensors").read_bytes() == WEIGHTS
    assert not host.at(PART).exists()
    assert not host.at("/var/lib/inferhost").exists()
    assert "inferhost_models_purge deletes it" in answer.prose


def test_a_purge_leaves_nothing_of_ours_and_everything_of_others(host: FakeHost, hub: Hub):
    before = tiny(host, hub).snapshot()
    fetched(host)
    assert host.run("revert", "--purge").code == 0
    assert host.snapshot() == before
    fetched(host)
    host.write(f"{PATH}/lora.bin", "mine")
    assert host.run("revert", "--purge").code == 0
    assert [p.name for p in host.at("/srv/models").rglob("*") if p.is_file()] == ["lora.bin"]


def test_a_purge_never_deletes_what_was_here_before(host: FakeHost, hub: Hub):
    host.write(f"{PATH}/model.safetensors", "")
    host.at(f"{PATH}/model.safetensors").write_bytes(WEIGHTS)
    fetched(tiny(host, hub))
    assert host.run("revert", "--purge").code == 0
    assert host.at(f"{PATH}/model.safetensors").read_bytes() == WEIGHTS
