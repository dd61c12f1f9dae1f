"""A model made of a fetched one: once, again when either changed, and never half."""

from __future__ import annotations

import dataclasses
import stat

from inferhost.host.models import fetch
from inferhost.schema.plan import Model, Quantisation
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.fetching import SHA256, WEIGHTS, fetched, model, wanting
from tests.unit.host.hub import COMMIT, REPOSITORY, Hub


def program(host: FakeHost, script: str) -> Model:
    """A model that is quantised by a stand-in of llama-quantize."""
    host.write("/usr/bin/llama-quantize", f"#!/bin/sh\n{script}\n", 0o755)
    task = Quantisation("/usr/bin/llama-quantize", "Q4_K_M", "/srv/models/f16.gguf", None)
    where = {"source": "address", "kind": "file", "path": "/srv/models/q4.gguf", "sha256": SHA256, "revision": None}
    return model(**where, quantise=task)


def test_a_model_is_quantised_once_and_again_when_it_changed(host: FakeHost, hub: Hub):
    where = f"{hub.front}/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    one = dataclasses.replace(program(host, 'echo "$3 of $(wc -c <"$1")" >"$2"'), location=where)
    assert fetched(wanting(host, one)).code == 0
    assert host.read("/srv/models/q4.gguf") == f"Q4_K_M of {len(WEIGHTS)}\n"
    assert host.run("fetch").changed is False
    assert host.run("verify").verdict("models.main") == ("held", "none")
    host.write("/srv/models/q4.gguf", "spoilt")
    assert (host.run("fetch").code, host.read("/srv/models/q4.gguf")[:6]) == (0, "Q4_K_M")
    assert host.run("revert", "--purge").code == 0
    assert not host.at("/srv/models").exists()


def test_what_is_made_can_be_read_by_the_service(host: FakeHost, hub: Hub):
    where = f"{hub.front}/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    one = dataclasses.replace(program(host, 'umask 077; echo x >"$2"'), location=where)
    assert fetched(wanting(host, one)).code == 0
    assert stat.S_IMODE(host.at("/srv/models/q4.gguf").stat().st_mode) == 0o644


def test_a_file_of_somebody_else_is_never_made_anew(host: FakeHost, hub: Hub):
    where = f"{hub.front}/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    host.write("/srv/models/q4.gguf", "mine")
    answer = fetched(wanting(host, dataclasses.replace(program(host, 'echo x >"$2"'), location=where)))
    assert (answer.code, answer.problems[0]["id"]) == (8, "not-ours")
    assert host.read("/srv/models/q4.gguf") == "mine"


def test_there_has_to_be_room_for_both(host: FakeHost, hub: Hub, monkeypatch):
    asked = []
    monkeypatch.setattr(fetch, "no_room", lambda _machine, _path, needs: asked.append(needs))
    where = f"{hub.front}/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    assert fetched(wanting(host, dataclasses.replace(program(host, 'echo x >"$2"'), location=where))).code == 0
    assert asked == [2 * len(WEIGHTS)]


def test_a_quantisation_that_fails_leaves_nothing_and_shows_the_programs_words(host: FakeHost, hub: Hub):
    where = f"{hub.front}/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    one = dataclasses.replace(program(host, 'echo half >"$2"; echo no tensors here; exit 1'), location=where)
    answer = fetched(wanting(host, one))
    assert (answer.code, answer.problems[0]["path"]) == (8, "inferhost_models_quantise")
    assert "ended with 1: no tensors here" in answer.problems[0]["message"]
    assert [p.name for p in host.at("/srv/models").iterdir()] == ["f16.gguf"]


def test_a_quantised_file_that_is_another_one_is_thrown_away(host: FakeHost, hub: Hub):
    where = f"{hub.front}/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    one = program(host, 'echo x >"$2"')
    task = dataclasses.replace(one.quantise, sha256="1" * 64)
    answer = fetched(wanting(host, dataclasses.replace(one, location=where, quantise=task)))
    assert (answer.code, answer.problems[0]["path"]) == (8, "inferhost_models_quantised_sha256")
    assert not host.at("/srv/models/q4.gguf").exists()
