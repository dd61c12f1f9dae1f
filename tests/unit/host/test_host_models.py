"""A model comes whole, proven and once; what is cut is resumed, what is wrong is thrown away, what is there stays."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat

import pytest

from inferhost.host.models import fetch, remote, transfer
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.fetching import PART, PATH, WEIGHTS, address, fetched, model, tiny, wanting
from tests.unit.host.hub import LARGE, REPOSITORY, SMALL, Hub


def test_a_repository_comes_whole_and_readable_by_all(host: FakeHost, hub: Hub):
    answer = fetched(tiny(host, hub))
    assert answer.code == 0, answer.prose
    for name, content in {**SMALL, **LARGE}.items():
        found = host.at(f"{PATH}/{name}")
        assert found.read_bytes() == content
        assert stat.S_IMODE(found.stat().st_mode) == 0o644
    assert answer.verdict("models.main") == ("held", "none")
    assert not [p for p in host.at(PATH).rglob("*") if "part" in p.name]


def test_a_second_run_asks_nobody_and_changes_nothing(host: FakeHost, hub: Hub):
    fetched(tiny(host, hub))
    hub.asked.clear()
    again = host.run("fetch")
    assert (again.code, again.changed, hub.asked) == (0, False, [])


def test_check_mode_writes_nothing_asks_nobody_and_says_what_the_run_then_does(host: FakeHost, hub: Hub):
    tiny(host, hub).run("install")
    before = host.snapshot()
    check = host.run("fetch", "--check")
    assert (check.code, hub.asked, host.snapshot()) == (0, [], before)
    assert check.said == host.run("fetch").said
    assert check.changed


def test_patterns_choose_files(host: FakeHost, hub: Hub):
    assert fetched(tiny(host, hub, files=("*.json", "*.safetensors"))).code == 0
    assert not host.at(f"{PATH}/tokenizer").exists()


def test_a_pattern_that_matches_nothing_names_what_is_there(host: FakeHost, hub: Hub):
    answer = fetched(tiny(host, hub, files=("*.gguf",)))
    assert answer.code == 8
    assert answer.problems[0]["path"] == "inferhost_models_files"
    assert "config.json" in answer.problems[0]["hint"]


@pytest.mark.parametrize("cut", [1, 4096, len(WEIGHTS) - 1])
def test_a_cut_transfer_goes_on_where_it_ended(host: FakeHost, hub: Hub, cut: int):
    hub.cuts = [10**9] * len(SMALL) + [cut]
    answer = fetched(tiny(host, hub))
    assert answer.code == 0, answer.prose
    ranges = [headers.get("Range") for where, path, headers in hub.asked if where == "back"]
    assert ranges == [None, f"bytes={cut}-"]
    assert f"the transfer ended at {cut} of {len(WEIGHTS)} bytes; asked again (1 of 4)" in answer.prose


def test_a_run_that_was_killed_leaves_a_part_and_the_next_one_goes_on_from_it(host: FakeHost, hub: Hub):
    tiny(host, hub).run("install")
    host.write(PART, "", 0o600)
    host.at(PART).write_bytes(WEIGHTS[:777_777])
    assert host.run("fetch").code == 0
    assert [h.get("Range") for where, _, h in hub.asked if where == "back"] == ["bytes=777777-"]
    assert host.at(f"{PATH}/model.safetensors").read_bytes() == WEIGHTS


def test_a_far_side_without_ranges_starts_again_and_the_file_is_right(host: FakeHost, hub: Hub):
    hub.ranges, hub.cuts = False, [10**9] * len(SMALL) + [5000]
    assert fetched(tiny(host, hub)).code == 0
    assert host.at(f"{PATH}/model.safetensors").read_bytes() == WEIGHTS


def test_a_far_side_that_always_cuts_is_given_up_and_what_came_is_kept(host: FakeHost, hub: Hub):
    hub.cuts = [10**9] * len(SMALL) + [1000] + [0] * 99
    answer = fetched(tiny(host, hub))
    assert answer.code == 8
    assert "5 times" in answer.problems[0]["message"]
    assert host.at(PART).stat().st_size == 1000
    hub.cuts = []
    assert host.run("fetch").code == 0


def test_a_busy_hub_is_asked_again(host: FakeHost, hub: Hub):
    hub.busy = 3
    answer = fetched(tiny(host, hub))
    assert answer.code == 0
    assert "models.main: HTTP status 503; asked again (3 of 4)" in answer.prose
    assert host.passed_s == 3 * transfer.PAUSE_S


def test_a_part_of_something_else_is_fetched_again_from_the_start(host: FakeHost, hub: Hub):
    tiny(host, hub).run("install")
    host.write(PART, "x" * 5000)
    answer = host.run("fetch")
    assert answer.code == 0, answer.prose
    assert "does not belong to it" in answer.prose
    assert host.at(f"{PATH}/model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_checksum_leaves_nothing_under_the_files_name(host: FakeHost, hub: Hub, name: str):
    content = {**SMALL, **LARGE}[name]
    hub.spoilt[name] = content[:-1] + b"?"
    answer = fetched(tiny(host, hub))
    assert answer.code == 8
    assert answer.problems[0]["id"] == "checksum"
    assert answer.verdict("models.main") == ("refused", "unexplained")
    assert not host.at(f"{PATH}/{name}").exists()
    assert not host.at(f"{PATH}/.{name}.inferhost-part").exists()


def test_the_wishes_own_checksum_counts_for_an_address(host: FakeHost, hub: Hub):
    assert fetched(address(host, hub)).code == 0
    assert host.at(f"{PATH}.gguf").read_bytes() == WEIGHTS
    other = address(host, hub, sha256="0" * 64, path="/srv/models/other.gguf").run("fetch")
    assert other.code == 8
    assert other.problems[0]["path"] == "inferhost_models_sha256"
    assert not host.at("/srv/models/other.gguf").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_list_that_leads_out_of_the_folder_is_refused(host: FakeHost, hub: Hub, name: str):
    hub.listed["config.json"] = name
    answer = fetched(tiny(host, hub))
    assert answer.code == 8
    assert "would leave its folder" in answer.problems[0]["message"]
    assert not list(host.root.rglob("evil"))


def test_too_little_room_is_said_before_the_first_byte(host: FakeHost, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    tiny(host, hub).run("install")
    monkeypatch.setattr(fetch, "SPARE_BYTES", 2**62)
    answer = host.run("fetch")
    assert (answer.code, answer.problems[0]["id"]) == (8, "no-room")
    assert "GiB are to be fetched" in answer.problems[0]["message"]
    assert hub.paths(f"/{REPOSITORY}/resolve") == []


def test_what_is_there_of_a_file_needs_no_room_again(host: FakeHost, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(fetch, "no_room", lambda _machine, _path, needs: asked.append(needs))
    address(host, hub).run("install")
    host.at(f"{PATH}.gguf").parent.mkdir(parents=True, exist_ok=True)
    host.at("/srv/models/.tiny.gguf.inferhost-part").write_bytes(WEIGHTS[:1000])
    assert host.run("fetch").code == 0
    assert asked == [len(WEIGHTS) - 1000]


def test_what_the_catalogue_knows_to_be_too_large_stops_the_run_before_anything(host: FakeHost, hub: Hub):
    before = tiny(host, hub, expected_bytes=2**62).snapshot()
    answer = host.run("install")
    assert (answer.code, answer.problems[0]["id"]) == (2, "no-room")
    assert host.snapshot() == before


def test_a_disk_that_fills_up_keeps_what_came_and_names_the_place(
    host: FakeHost, hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    tiny(host, hub).run("install")
    whole = transfer._write
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1 << 16)

    def full(file, block):
        if os.fstat(file.fileno()).st_size > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file, block)

    monkeypatch.setattr(transfer, "_write", full)
    answer = host.run("fetch")
    assert (answer.code, answer.problems[0]["path"]) == (8, "inferhost_models_path")
    assert "No space left on device" in answer.problems[0]["message"]
    kept = host.at(PART).stat().st_size
    assert kept > 200_000
    monkeypatch.setattr(transfer, "_write", whole)
    assert host.run("fetch").code == 0
    assert [h.get("Range") for w, _, h in hub.asked if w == "back"][-1] == f"bytes={kept}-"


def test_files_that_were_put_there_by_hand_are_taken_when_they_are_right(host: FakeHost, hub: Hub):
    host.write(f"{PATH}/model.safetensors", "")
    host.at(f"{PATH}/model.safetensors").write_bytes(WEIGHTS)
    assert fetched(tiny(host, hub)).code == 0
    assert [w for w, _, _ in hub.asked if w == "back"] == []


def test_another_content_of_somebody_else_is_never_written_over(host: FakeHost, hub: Hub):
    host.write(f"{PATH}/model.safetensors", "precious")
    answer = fetched(tiny(host, hub))
    assert (answer.code, answer.problems[0]["id"]) == (8, "not-ours")
    assert host.read(f"{PATH}/model.safetensors") == "precious"


def test_another_revision_replaces_ours_and_leaves_no_old_shard(host: FakeHost, hub: Hub):
    fetched(tiny(host, hub))
    hub.large = {"model-00001-of-00001.safetensors": b"new" * 1000}
    tiny(host, hub, files=("*.json", "*.safetensors"))
    answer = host.run("fetch")
    assert answer.code == 0, answer.prose
    assert sorted(p.name for p in host.at(PATH).rglob("*.*")) == ["config.json", "model-00001-of-00001.safetensors"]


def test_a_store_is_copied(host: FakeHost, hub: Hub):
    host.write("/mnt/store/tiny/config.json", "{}")
    host.write("/mnt/store/tiny/sub/weights", "w" * 100)
    assert fetched(wanting(host, model(source="store", location="/mnt/store/tiny", revision=None))).code == 0
    assert host.read(f"{PATH}/sub/weights") == "w" * 100
    assert host.run("fetch").changed is False


def test_a_store_that_is_not_mounted_is_refused_before_anything(host: FakeHost):
    answer = wanting(host, model(source="store", location="/mnt/nowhere", revision=None)).run("install")
    assert (answer.code, answer.problems[0]["path"]) == (2, "inferhost_models_store_path")


def test_what_is_here_is_looked_at_and_left(host: FakeHost):
    host.write(f"{PATH}.gguf", "mine")
    here = {"source": "here", "location": "", "revision": None, "kind": "file", "path": f"{PATH}.gguf"}
    assert fetched(wanting(host, model(**here))).code == 0
    right = wanting(host, model(**here, sha256=hashlib.sha256(b"mine").hexdigest())).run("fetch")
    assert (right.code, right.changed) == (0, True)
    wrong = wanting(host, model(**here, sha256="0" * 64)).run("fetch")
    assert wrong.code == 8
    assert host.read(f"{PATH}.gguf") == "mine"


@pytest.mark.parametrize("number", range(1, 30))
def test_a_kill_at_any_write_is_healed_by_the_next_run(host: FakeHost, hub: Hub, number: int):
    tiny(host, hub).run("install")
    count = 0

    class Killed(BaseException):
        pass

    def kill(_what: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed

    with contextlib.suppress(Killed):
        host.run("fetch", before_write=kill)
    assert host.run("fetch").code == 0
    for name, content in {**SMALL, **LARGE}.items():
        assert host.at(f"{PATH}/{name}").read_bytes() == content
    assert host.run("verify").verdict("models.main") == ("held", "none")


def test_an_engines_model_may_come_with_the_models_section(host: FakeHost, hub: Hub):
    host.at("/srv/m.gguf").unlink()
    assert host.run("install").code == 2
    one = address(host, hub, path="/srv/m.gguf").plan.models
    host.plan = plan(manage=("gpu", "cpu", "models", "service"), models=one)
    assert host.run("install").code == 0


def test_progress_is_told_at_most_every_few_seconds(monkeypatch: pytest.MonkeyPatch):
    said, now_s = [], [0.0]
    monkeypatch.setattr(transfer.time, "monotonic", lambda: now_s[0])
    progress = transfer.Progress("main", 60 << 30, said.append)
    for _ in range(60):
        now_s[0] += 1
        progress.add(1 << 30)
    assert len(said) == 60 // transfer.EVERY_S
    assert said[0] == "models.main: 5.00 of 60.00 GiB, 1074 MB/s, about 1 min left"


def test_nobody_waits_longer_than_ten_seconds_without_a_word():
    assert remote.TIMEOUT_S <= 10
    assert transfer.EVERY_S <= 10
