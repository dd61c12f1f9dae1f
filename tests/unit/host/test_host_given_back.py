"""What the plan asks for no more goes back, whatever became of the notes of it, and is then forgotten."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from inferhost.host.record.baseline import BASELINE
from inferhost.schema.plan import GpuSelector
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID
from tests.unit.host.test_host_clock_lock import CLOCKS, LOCK, applied
from tests.unit.host.test_host_guard import ROOM, RULE, SAFE_MW, Run
from tests.unit.host.test_host_watch_repair import known


@pytest.mark.parametrize("name", [LOCK, "memory_clock_lock_mhz"])
@pytest.mark.parametrize("doubt", ["lost", "cut short", "suspended"])
def test_a_lock_of_ours_is_taken_back_whatever_became_of_the_note_of_it(host: FakeHost, doubt: str, name: str):
    """What was here before us is on record as long as a lock of ours may stand, and no longer."""
    host.plan = with_gpu(**{name: (810, 810)})
    host.converge()
    if doubt == "lost":
        host.at(CLOCKS).unlink()
    elif doubt == "cut short":
        host.write(CLOCKS, host.read(CLOCKS)[:-40])
    else:
        host.slept_s = 600
    host.plan = plan()
    for verb in ("verify", *(["watch"] if doubt != "suspended" else [])):  # a watch repairs after a suspend
        assert (answer := host.run(verb)).code == 3
        assert answer.verdict(name) == ("overridden", "other_writer")
    foretold = host.run("apply", "--check")
    assert host.card()[name] == [810, 810]
    answer = host.run("apply")
    assert (answer.code, answer.said) == (0, foretold.said)
    assert host.card()[name] is None
    assert f"gpu:{UUID}:{name}" not in host.baseline()
    host.sim("set", name, "405,405" if name != LOCK else "1500,1500")  # by somebody else, who is none of ours
    for verb in ("apply", "boot", "watch"):
        assert host.run(verb).said == (False, [])
    assert host.card()[name] is not None


@pytest.mark.parametrize("code", [15, 999])
def test_a_lock_that_could_not_be_taken_back_is_tried_again(host: FakeHost, code: int):
    applied(host, 2100)
    host.at(CLOCKS).unlink()
    host.plan = with_gpu(power_limit_w=600)
    host.sim("fail", "nvmlDeviceResetGpuLockedClocks", code, 1)
    assert host.run("apply", "--section", "gpu").code == 3
    assert host.card()[LOCK] == [2100, 2100]
    assert host.run("apply", "--section", "gpu").code == 0
    assert host.card()[LOCK] is None


def locked_pair(pair: FakeHost, **changes: Any) -> None:
    """Two cards with a limit and a lock, managed by number."""
    first = dataclasses.replace(plan().gpus[0], graphics_clock_lock_mhz=(1200, 1200), **changes)
    second = dataclasses.replace(first, select=GpuSelector(None, "2BB1", 1))
    pair.plan = plan(gpus=(first, second), manage=("gpu", "cpu"), files=(), dropins=(), service=(), env={})
    pair.converge()


def as_found(pair: FakeHost, number: int) -> bool:
    """Whether the card is what it was before us, as far as it can be."""
    card = pair.card(number)
    return (card["power_limit_mw"], card["persistence"], card[LOCK]) == (480000, 1, None)


def without_second(pair: FakeHost) -> None:
    """The wish of one card less, as Ansible places it."""
    pair.plan = plan(gpus=pair.plan.gpus[:1], manage=("gpu", "cpu"), files=(), dropins=(), service=(), env={})
    assert pair.run("install").code == 0


@pytest.mark.parametrize("verb", ["apply", "boot"])
def test_a_card_that_leaves_the_plan_is_told_until_it_is_given_back(pair: FakeHost, verb: str):
    locked_pair(pair)
    without_second(pair)
    for look in ("verify", "watch"):
        answer = pair.run(look)
        assert answer.code == 3
        assert answer.verdict(f"{SECOND_UUID}.power_limit_w") == ("overridden", "none")
        assert "is in no plan any more" in answer.evidence(f"{SECOND_UUID}.{LOCK}")
    foretold = pair.run(verb, "--check")
    assert not as_found(pair, 1)
    answer = pair.run(verb)
    assert (answer.code, answer.said) == (0, foretold.said)
    assert as_found(pair, 1)
    assert not [key for key in pair.baseline() if SECOND_UUID in key]
    card = pair.card(0)
    assert (card["power_limit_mw"], card[LOCK]) == (450000, [1200, 1200])
    for again in ("verify", "watch", "apply", "boot"):
        assert (answer := pair.run(again)).said == (False, [])
        assert answer.code == 0
        assert SECOND_UUID not in answer.prose


def test_no_part_of_a_plan_gives_a_card_of_the_rest_back(pair: FakeHost, monkeypatch: pytest.MonkeyPatch):
    """A lost card, a repair and a guard each work on fewer cards than are meant."""
    locked_pair(pair, guard=RULE)
    pair.sim("set", "ambient_celsius", 110, "--gpu", 1)
    pair.sim("load", "on", "--gpu", 1)
    run = Run(pair, monkeypatch)
    run.until(lambda: run.state(SECOND_UUID) == "latched")
    pair.sim("set", "ambient_celsius", ROOM, "--gpu", 1)
    run.until(lambda: run.state(SECOND_UUID) == "free")
    pair.wait(60)
    pair.run("watch")
    pair.sim("reload")
    pair.sim("lost", 0)
    for verb in ("watch", "apply", "boot"):
        answer = pair.run(verb)
        assert "in no plan any more" not in answer.prose
        assert (pair.card(1)["power_limit_mw"], pair.card(1)[LOCK]) == (450000, [1200, 1200])
    assert {key.split(":")[1] for key in pair.baseline() if key.startswith("gpu:")} == {UUID, SECOND_UUID}


def test_a_card_that_is_gone_from_host_and_plan_is_named_and_stays_on_record(pair: FakeHost):
    locked_pair(pair)
    without_second(pair)
    pair.sim("lost", 1)
    for verb in ("apply", "verify", "boot", "watch"):
        answer = pair.run(verb)
        assert answer.code == 0
        assert f"{SECOND_UUID}: in no plan any more, and not on this host" in answer.prose
    assert pair.run("apply", "--gone").code == 0  # it is lost, so that nobody knows that it is gone
    assert [key for key in pair.baseline() if SECOND_UUID in key]


def test_a_card_that_cannot_be_given_back_yet_is_tried_again(pair: FakeHost):
    locked_pair(pair)
    without_second(pair)
    pair.sim("fail", "nvmlDeviceSetPowerManagementLimit", 999, 1)
    assert pair.run("apply").code == 3
    assert [key for key in pair.baseline() if SECOND_UUID in key] == [f"gpu:{SECOND_UUID}:power_limit_mw"]
    assert pair.run("apply").code == 0
    assert as_found(pair, 1)


def latched(pair: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The second card is held by its guard."""
    locked_pair(pair, guard=RULE)
    pair.sim("load", "on", "--gpu", 1)
    pair.sim("set", "ambient_celsius", 110, "--gpu", 1)
    run = Run(pair, monkeypatch)
    run.until(lambda: run.state(SECOND_UUID) == "latched")
    assert pair.card(1)["power_limit_mw"] == SAFE_MW
    return run


def test_a_card_that_leaves_the_plan_while_the_guard_holds_it_is_given_back(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    run = latched(pair, monkeypatch)
    without_second(pair)
    for verb in (("apply", "--check"), ("apply",)):
        answer = pair.run(*verb)
        assert answer.code == 0
        assert f"{SECOND_UUID}: the guard held this card, " in answer.prose
    assert (run.state(SECOND_UUID), as_found(pair, 1)) == ("free", True)
    assert "the guard held" not in pair.run("apply").prose


def test_a_hot_card_whose_guard_is_switched_off_is_named_before_it_draws_more(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    run = latched(pair, monkeypatch)
    assert "the guard held" not in pair.run("apply").prose
    gpus = tuple(dataclasses.replace(gpu, guard=None) for gpu in pair.plan.gpus)
    pair.plan = dataclasses.replace(pair.plan, gpus=gpus)
    assert pair.run("install").code == 0
    for verb in (("apply", "--check"), ("apply",)):
        answer = pair.run(*verb)
        assert answer.code == 0
        assert f"{SECOND_UUID}: the guard held this card, " in answer.prose
        assert f"{UUID}: the guard held" not in answer.prose
    assert (run.state(SECOND_UUID), pair.card(1)["power_limit_mw"]) == ("free", 450000)


def test_the_section_does_not_leave_the_plan_while_the_guard_holds_a_card(
    pair: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    run = latched(pair, monkeypatch)
    pair.plan = plan(gpus=pair.plan.gpus, manage=("cpu",), files=(), dropins=(), service=(), env={})
    before = pair.snapshot()
    answer = pair.run("install")
    assert (answer.code, answer.problems[0]["id"]) == (2, "guard-holds")
    assert f"the guard holds {SECOND_UUID}: " in answer.problems[0]["message"]
    assert pair.snapshot() == before
    assert pair.run("revert", "--section", "gpu").code == 0
    assert (run.state(SECOND_UUID), as_found(pair, 1)) == ("free", True)
    assert pair.run("install").code == 0


def test_nothing_is_given_back_while_nobody_knows_which_cards_are_meant(pair: FakeHost):
    locked_pair(pair)
    numbered = pair.plan.gpus
    named = [dataclasses.replace(numbered[0], select=GpuSelector(uuid, "2BB1", 0)) for uuid in (UUID, SECOND_UUID)]
    assert pair.run("revert", "--section", "gpu").code == 0
    pair.plan = plan(gpus=tuple(named), manage=("gpu", "cpu"), files=(), dropins=(), service=(), env={})
    pair.converge()
    pair.plan = plan(gpus=numbered, manage=("gpu", "cpu"), files=(), dropins=(), service=(), env={})
    pair.sim("lost", 1)
    for verb in ("boot", "verify", "watch"):
        assert "in no plan any more" not in pair.run(verb).prose
    assert (pair.card(0)["power_limit_mw"], pair.card(0)[LOCK]) == (450000, [1200, 1200])


@pytest.mark.parametrize("asleep", ["by plan", "lost"])
def test_beside_a_card_that_is_not_looked_at_one_in_no_plan_is_told_all_the_same(pair: FakeHost, asleep: str):
    """By its place, as far as the driver's own list says where it is: the card that sleeps stays closed."""
    locked_pair(pair, persistence_mode=asleep != "by plan")
    for place, uuid, minor in (("0000:03:00.0", UUID, 0), ("0000:0b:00.0", SECOND_UUID, 1)):
        known(pair, place, uuid, minor)
    without_second(pair)
    if asleep == "lost":
        pair.sim("load", "on", "--gpu", 1)
        pair.sim("set", "persistence", 0, "--gpu", 0)
        pair.run("watch")
    pair.sim("fail", "nvmlDeviceGetHandleByIndex_v2", 999)  # whoever opens every card is caught
    record = json.loads(pair.read(BASELINE))
    record["records"][f"gpu:GPU-3:{LOCK}"] = record["records"][f"gpu:{UUID}:{LOCK}"]
    pair.write(BASELINE, json.dumps(record))
    answer = pair.run("watch")
    assert "not on this host" not in answer.prose  # nobody looked at all of them
    assert answer.code == 3
    assert answer.verdict(f"{SECOND_UUID}.power_limit_w") == ("overridden", "none")
    assert "is in no plan any more" in answer.evidence(f"{SECOND_UUID}.{LOCK}")
    pair.at("/proc/driver/nvidia/gpus/0000:0b:00.0/information").unlink()
    answer = pair.run("watch")
    assert SECOND_UUID not in answer.prose


def test_beside_a_card_that_sleeps_no_card_is_in_no_plan_while_one_of_the_plans_is_not_known(pair: FakeHost):
    locked_pair(pair, persistence_mode=False)
    for place, uuid, minor in (("0000:03:00.0", UUID, 0), ("0000:0b:00.0", SECOND_UUID, 1)):
        known(pair, place, uuid, minor)
    record = json.loads(pair.read(BASELINE))
    for key in (key for key in record["records"] if key.startswith(f"gpu:{SECOND_UUID}")):
        del record["records"][key]["context"]["selected_as"]  # its number was another card's, which is gone now
    pair.write(BASELINE, json.dumps(record))
    assert not [v for v in pair.run("watch").document["verdicts"] if "in no plan" in v["evidence"]]


@pytest.fixture
def dead(pair: FakeHost) -> FakeHost:
    """A host whose second card is gone from it and from its plan."""
    locked_pair(pair)
    without_second(pair)
    text = (pair.folder / "personality.txt").read_text()
    (pair.folder / "alone.txt").write_text("[gpu]".join(text.split("[gpu]")[:2]))
    pair.sim("init", pair.folder / "alone.txt")
    pair.sim("set", "persistence", 1)
    assert pair.run("boot").code == 0
    return pair


def test_what_is_on_record_of_a_card_that_is_gone_for_good_is_forgotten_when_asked_for(dead: FakeHost):
    kept = {key: record for key, record in dead.baseline().items() if SECOND_UUID not in key}
    for verb in ("apply", "verify"):
        assert f"{SECOND_UUID}: in no plan any more, and not on this host: " in (said := dead.run(verb).prose)
        assert "gone for good: inferhost apply --gone forgets it" in said
    answer = dead.run("apply", "--check", "--gone")
    assert (
        answer.code,
        f"{SECOND_UUID}: not on this host: forgotten with {LOCK} unknown, " in answer.prose,
    ) == (
        0,
        True,
    )
    assert [key for key in dead.baseline() if SECOND_UUID in key]
    card = dead.card(0)
    assert (dead.run("apply", "--gone").code, dead.baseline(), dead.card(0)) == (0, kept, card)
    for verb in ("apply", "verify"):
        assert SECOND_UUID not in dead.run(verb).prose


def test_without_being_asked_a_revert_keeps_it_and_names_the_way_out(dead: FakeHost):
    answer = dead.run("revert")
    assert answer.code == 8
    assert "gone for good: inferhost revert --section gpu --gone" in answer.prose
    assert {key.split(":")[1] for key in dead.baseline() if key.startswith("gpu:")} == {SECOND_UUID}
    assert dead.run("revert", "--gone").code == 0
    assert not dead.at(BASELINE).exists()


@pytest.mark.parametrize("failing", [("lost", 1), ("fail", "nvmlInitWithFlags", 9)], ids=["a card", "the driver"])
def test_a_card_that_only_does_not_answer_is_never_forgotten(pair: FakeHost, failing: tuple[object, ...]):
    locked_pair(pair)
    pair.sim(*failing)
    answer = pair.run("revert", "--section", "gpu", "--gone")
    assert answer.code != 0
    assert [key for key in pair.baseline() if SECOND_UUID in key]
    assert "forgotten" not in answer.prose
