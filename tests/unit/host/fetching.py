"""What the tests of models share: plans with models, and a host that fetches them from the stand-in of a hub."""

from __future__ import annotations

import dataclasses
import hashlib

from inferhost.schema.plan import Model
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.hub import COMMIT, LARGE, REPOSITORY, Hub

PATH, TOKEN = "/srv/models/tiny", "hf_averysecrettoken"
TOKEN_FILE = "/root/hub-token"
WEIGHTS = LARGE["model.safetensors"]
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
PART = f"{PATH}/.model.safetensors.inferhost-part"


def model(**changes: object) -> Model:
    plain = Model(
        name="main",
        path=PATH,
        kind="directory",
        source="hub",
        location=REPOSITORY,
        revision=COMMIT,
        files=(),
        endpoint=None,
        sha256=None,
        expected_bytes=None,
        token_file=None,
        quantise=None,
    )
    return dataclasses.replace(plain, **changes)


def wanting(host: FakeHost, *models: Model) -> FakeHost:
    """The host with a plan of these models and nothing else."""
    host.plan = plan(manage=("models",), gpus=(), files=(), dropins=(), service=(), env={}, sysctl={}, models=models)
    return host


def tiny(host: FakeHost, hub: Hub, **changes: object) -> FakeHost:
    return wanting(host, model(endpoint=hub.front, **changes))


def address(host: FakeHost, hub: Hub, **changes: object) -> FakeHost:
    where = f"{hub.front}/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    one = {"source": "address", "location": where, "kind": "file", "path": f"{PATH}.gguf", "sha256": SHA256}
    return wanting(host, model(revision=None, **{**one, **changes}))


def fetched(host: FakeHost):
    """The run of `fetch` after an `install` that went well."""
    answer = host.run("install")
    assert answer.code == 0, answer.prose
    return host.run("fetch")
