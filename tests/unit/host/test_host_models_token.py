"""The token goes to the hub and nowhere else, and a refusal says what it is for."""

from __future__ import annotations

import pytest

from tests.unit.host.fake_host import FakeHost
from tests.unit.host.fetching import PATH, TOKEN, TOKEN_FILE, fetched, tiny
from tests.unit.host.hub import Hub


def with_token(host: FakeHost, hub: Hub, mode: int = 0o600, token: str = TOKEN) -> FakeHost:
    hub.token = TOKEN
    host.write(TOKEN_FILE, token + "\n", mode)
    return tiny(host, hub, token_file=TOKEN_FILE)


def test_the_token_goes_to_the_hub_and_never_to_where_it_redirects(host: FakeHost, hub: Hub):
    answer = fetched(with_token(host, hub))
    assert answer.code == 0, answer.prose
    sent = {where: {h.get("Authorization") for w, _, h in hub.asked if w == where} for where in ("front", "back")}
    assert sent == {"front": {f"Bearer {TOKEN}"}, "back": {None}}


def test_the_token_is_in_no_output_and_no_file_but_its_own(host: FakeHost, hub: Hub):
    answer = fetched(with_token(host, hub))
    hub.token = "another"
    refused = with_token(host, hub, token="hf_otherverysecret")
    host.at(PATH).rename(host.at("/srv/models/away"))
    hub.token = "another"
    second = refused.run("fetch")
    assert second.code == 8
    said = answer.prose + str(answer.document) + second.prose + str(second.document)
    assert "verysecret" not in said
    for path in host.root.rglob("*"):
        if path.is_file() and path != host.at(TOKEN_FILE):
            assert b"verysecret" not in path.read_bytes(), path


@pytest.mark.parametrize(("status", "words"), [(401, "name a file with a token"), (403, "accept the model's terms")])
def test_a_refusal_names_the_token_and_what_to_do(host: FakeHost, hub: Hub, status: int, words: str):
    hub.status = status
    answer = fetched(tiny(host, hub))
    assert answer.code == 8
    assert answer.problems[0]["path"] == "inferhost_models_token_file"
    assert words in answer.problems[0]["hint"]
    assert len(hub.asked) == 1, "a refusal is not asked again"


def test_a_commit_that_is_not_there_names_the_repository(host: FakeHost, hub: Hub):
    hub.status = 404
    answer = fetched(tiny(host, hub))
    assert (answer.code, answer.problems[0]["path"]) == (8, "inferhost_models_repository")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_that_others_can_read_is_refused_before_anything(host: FakeHost, hub: Hub, mode: int):
    before = with_token(host, hub, mode).snapshot()
    answer = host.run("install")
    assert answer.code == 2
    assert "can be read by others" in answer.problems[0]["message"]
    assert (host.snapshot(), hub.asked) == (before, [])
