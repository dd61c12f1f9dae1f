"""The models section: nothing that may change under its name, no secret, and each refusal names its option."""

from __future__ import annotations

from typing import Any

import pytest

from inferhost.planner.machine.models import FORMS, READ_BY, REQUIRED
from inferhost.schema import document
from inferhost.schema.plan import Model, Quantisation
from tests.unit.planner_wishes import planned, refusal, wish

COMMIT, SHA = "0123456789abcdef0123456789abcdef01234567", "ab" * 32
HUB = {"source": "hub", "repository": "org/name", "revision": COMMIT}
ADDRESS = {"source": "address", "address": "https://example.net/m.gguf", "sha256": SHA, "path": "/srv/m.gguf"}
MODEL = "mistral-large-instruct-2411-awq"


def models_wish(manage: tuple[str, ...] = ("models", "service"), **own: Any) -> dict[str, Any]:
    given = {f"models_{name}": value for name, value in own.items()}
    return wish("rtx-pro-6000-bw-ws", MODEL, manage=list(manage), **given)


def models(**own: Any) -> tuple[Model, ...]:
    return planned(models_wish(**own)).models


def test_a_repository_goes_where_the_instance_of_the_same_name_looks():
    (one,) = models(**HUB)
    assert (one.path, one.kind, one.location, one.revision) == (
        f"/srv/models/{MODEL}",
        "directory",
        "org/name",
        COMMIT,
    )
    assert one.endpoint == "https://huggingface.co"


def test_it_is_left_alone_unless_it_is_managed():
    plan = planned(models_wish(manage=("service",), **HUB))
    assert plan.models == ()
    assert "not in inferhost_manage" in next(r.because for r in plan.reasons if r.setting == "manage.models")


def test_models_need_no_service():
    (one,) = models(manage=("models",), **ADDRESS)
    assert (one.path, one.kind, one.sha256, one.endpoint) == ("/srv/m.gguf", "file", SHA, None)


def test_several_models_inherit_the_flat_values():
    items = {"main": {"repository": "org/a"}, "draft": {"repository": "org/b", "path": "/srv/models/draft"}}
    found = models(items=items, source="hub", revision=COMMIT)
    assert [(m.name, m.location, m.revision) for m in found] == [
        ("draft", "org/b", COMMIT),
        ("main", "org/a", COMMIT),
    ]


def test_a_model_may_be_quantised():
    (one,) = models(**{**ADDRESS, "path": "/srv/q4.gguf"}, quantise="Q4_K_M", quantise_fetched_path="/srv/f16.gguf")
    assert one.quantise == Quantisation("/usr/bin/llama-quantize", "Q4_K_M", "/srv/f16.gguf", None)
    assert one.fetched_path == "/srv/f16.gguf"


def test_each_reason_names_the_option_that_decides():
    plan = planned(models_wish(**HUB))
    found = {r.setting: r.source for r in plan.reasons if r.setting.startswith("models.")}
    assert found == {
        "models.main.source": "wish:inferhost_models_revision",
        "models.main.path": "wish:inferhost_service_model_path",
    }


WRONG = [
    ({**HUB, "revision": "main"}, "revision", "wanted a commit of 40 hexadecimal digits"),
    ({**HUB, "revision": ""}, "revision", "is required with source hub"),
    ({**HUB, "repository": "name"}, "repository", "wanted OWNER/NAME"),
    ({**HUB, "sha256": SHA}, "sha256", "is the checksum of one file, and the path is a directory"),
    ({**HUB, "store_path": "/mnt/x"}, "store_path", "is not read with source hub"),
    ({**HUB, "path": "/srv/m.gguf"}, "files", "found 0 files, wanted 1"),
    ({**HUB, "path": "/srv/m-00001-of-00003.gguf", "files": ["m-00001-of-00003.gguf"]}, "path", "one of 3 parts"),
    ({**HUB, "path": "models/x"}, "path", "wanted an absolute path"),
    ({**HUB, "path": "/srv/../etc/x"}, "path", "wanted an absolute path"),
    ({**HUB, "path": "/etc/models"}, "path", "is no place for models"),
    ({**HUB, "endpoint": "ftp://x"}, "endpoint", "is no address"),
    ({**HUB, "endpoint": "http://hub.example", "token_file": "/root/t"}, "endpoint", "in the clear"),
    ({**ADDRESS, "sha256": ""}, "sha256", "is required with source address"),
    ({**ADDRESS, "sha256": "abc"}, "sha256", "wanted 64 hexadecimal digits"),
    ({**ADDRESS, "address": "https://me:pw@example.net/m.gguf"}, "address", "carries a secret"),
    ({**ADDRESS, "address": "https://example.net/m.gguf?token=x"}, "address", "carries a secret"),
    ({**ADDRESS, "address": "https:///m.gguf"}, "address", "is no address"),
    ({**ADDRESS, "quantise": "Q4", "quantise_fetched_path": "/srv/f.gguf"}, "quantise", "does not make"),
    ({**ADDRESS, "quantise": "Q4_0"}, "quantise_fetched_path", "wanted two files that end in .gguf"),
    ({**ADDRESS, "quantised_sha256": SHA}, "quantised_sha256", "is for a model that is quantised"),
    ({"source": "store"}, "store_path", "is required with source store"),
    ({"items": {"other": {}}}, "path", 'is required for model "other"'),
    ({"items": {"a": {"path": "/srv/x"}, "b": {"path": "/srv/x/y"}}}, "items.b.path", 'is the place of model "a"'),
    ({"items": {"main": {"revison": COMMIT}}}, "items.main.revison", "is not an option of a model"),
    ({"items": {"main": {"purge": True}}}, "items.main.purge", "is not an option of a model"),
    ({"items": {"../x": {"path": "/srv/x"}}}, "items.../x", "is no name for a model"),
]


@pytest.mark.parametrize(("own", "option", "says"), WRONG, ids=[f"{o} {s}"[:40] for _, o, s in WRONG])
def test_a_wrong_option_is_refused_by_name(own: dict[str, Any], option: str, says: str):
    told = refusal(models_wish(**own))
    lines = [line for line in told.splitlines() if line.startswith(f"error: inferhost_models_{option}: ")]
    assert any(says in line for line in lines), told
    assert "me:pw" not in told


def test_a_token_may_go_to_loopback_in_the_clear():
    assert models(**HUB, endpoint="http://127.0.0.1:8000", token_file="/root/t")[0].token_file == "/root/t"


def test_the_tables_know_each_other():
    assert set(REQUIRED) == set(READ_BY)
    assert all(set(REQUIRED[source]) <= set(READ_BY[source]) for source in READ_BY)
    assert set(FORMS) <= {o for options in READ_BY.values() for o in options} | {"quantised_sha256"}


def test_the_plan_holds_the_tokens_place_and_nothing_of_it():
    text = document.text(planned(models_wish(**HUB, token_file="/root/hub-token")))
    assert '"token_file": "/root/hub-token"' in text
