"""Cards that the plan names by their number: a number has one card, and means none while nobody knows which."""

from __future__ import annotations

import dataclasses
import json

import pytest

from inferhost.host.gpu.clock_record import CLOCKS
from inferhost.schema.plan import Gpu, GpuSelector, Plan
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.simulated import PERSONALITY, SECOND_UUID, UUID
from tests.unit.host.test_host_watch import WATCHED

FIRST = dataclasses.replace(plan().gpus[0], power_limit_w=300, graphics_clock_lock_mhz=(1200, 1200))
SECOND = dataclasses.replace(FIRST, power_limit_w=550, select=GpuSelector(None, "2BB1", 1))
PLACES = ("00000000:0A:00.0", "00000000:0B:00.0", "00000000:0C:00.0")
METRICS = "/var/lib/prometheus/node-exporter"


def of_gpus(*gpus: Gpu) -> Plan:
    return plan(gpus=gpus, manage=("gpu",), files=(), dropins=(), service=(), env={})


def booted(host: FakeHost, cards: dict[str, str]) -> None:
    """Another boot with these cards, by their places: what a driver forgets is gone, and so is /run."""
    texts = []
    for place, uuid in cards.items():
        text = PERSONALITY.read_text().replace(UUID, uuid).replace("00000000:03:00.0", place)
        texts.append(host.folder / f"card-{len(texts)}.txt")
        texts[-1].write_text(text)
    host.sim("init", *texts)
    for number in range(len(cards)):
        host.sim("set", "persistence", 1, "--gpu", number)
    host.write("/proc/sys/kernel/random/boot_id", f"boot-{host.passed_s}-{len(cards)}\n")
    for name in (CLOCKS, WATCHED):
        host.at(name).unlink(missing_ok=True)


def limits(host: FakeHost) -> dict[str, int]:
    return {card["uuid"]: card["power_limit_mw"] // 1000 for card in json.loads(host.sim("dump"))["gpus"]}


@pytest.fixture
def both(host: FakeHost) -> FakeHost:
    """Two cards of one kind with wishes of their own, as planned."""
    host.plan = of_gpus(FIRST, SECOND)
    booted(host, {PLACES[0]: UUID, PLACES[1]: SECOND_UUID})
    assert [host.run(verb).code for verb in ("install", "apply", "watch")] == [0, 0, 0]
    return host


@pytest.mark.parametrize("late", [0, 1])
def test_nobody_knows_which_of_two_cards_the_first_one_is(host: FakeHost, late: int):
    host.plan = of_gpus(FIRST, SECOND)
    cards = {PLACES[0]: UUID, PLACES[1]: SECOND_UUID}
    booted(host, {place: uuid for place, uuid in cards.items() if place != PLACES[late]})
    answer = host.run("install")
    assert (answer.code, len(answer.problems)) == (2, 2)
    assert "nobody knows which of 2 this one is" in answer.prose
    assert "wait until all of them are there, or give each card that is there its uuid" in answer.prose
    host.sim("fail", "nvmlInitWithFlags", 9)
    assert host.run("install").code == 0  # the driver comes with a reboot
    booted(host, {place: uuid for place, uuid in cards.items() if place != PLACES[late]})
    before = limits(host)
    answer = host.run("boot")
    assert (answer.code, limits(host)) == (3, before)
    booted(host, cards)
    assert (host.run("boot").code, limits(host)) == (0, {UUID: 300, SECOND_UUID: 550})


def test_a_card_that_is_on_record_is_known_while_the_other_is_late(both: FakeHost):
    booted(both, {PLACES[1]: SECOND_UUID})
    assert (both.run("boot").code, limits(both)) == (3, {SECOND_UUID: 550})


def test_a_dead_card_that_left_the_hardware_is_named_and_its_neighbour_is_managed_by_its_uuid(both: FakeHost):
    booted(both, {PLACES[1]: SECOND_UUID})
    both.plan = of_gpus(dataclasses.replace(SECOND, select=FIRST.select))
    answer = both.run("install")
    assert answer.code == 2
    assert f"wanted card 0 with PCI device id 2BB1, by the record {UUID}" in answer.prose
    assert f"2BB1 {SECOND_UUID} (card 1 by the record)" in answer.prose
    assert "is it out for good? then give each card that is there its uuid" in answer.prose
    both.plan = of_gpus(dataclasses.replace(SECOND, select=GpuSelector(SECOND_UUID, "2BB1", 0)))
    assert [both.run(verb).code for verb in ("install", "apply", "verify")] == [0, 0, 0]
    assert limits(both) == {SECOND_UUID: 550}


@pytest.mark.parametrize("new", [f"GPU-0{UUID[5:]}", f"GPU-f{UUID[5:]}"], ids=["sorts before", "sorts after"])
def test_a_number_goes_to_the_card_that_replaces_and_back_again(both: FakeHost, new: str):
    both.at(METRICS).mkdir(parents=True)
    for uuid in (new, UUID):
        booted(both, {PLACES[0]: uuid, PLACES[1]: SECOND_UUID})
        assert (both.run("boot").code, limits(both)) == (0, {uuid: 300, SECOND_UUID: 550})
        numbered = {record["context"]["uuid"] for record in both.baseline().values() if _number(record) == "2BB1[0]"}
        assert numbered == {uuid}
        assert both.run("watch").code == 0
        present = [line for line in both.read(f"{METRICS}/inferhost.prom").splitlines() if "gpu_present{" in line]
        assert present == [f'inferhost_gpu_present{{gpu="{one}"}} 1' for one in (uuid, SECOND_UUID)]
        half = json.loads(both.read(CLOCKS))
        half["asked"][uuid]["confirmed"] = False
        both.write(CLOCKS, json.dumps(half))
        answer = both.run("watch")
        assert (answer.code, json.loads(both.read(CLOCKS))["asked"][uuid]["confirmed"]) == (0, True)
        both.sim("set", "persistence", 0, "--gpu", 0)
        both.run("watch")
        assert json.loads(both.read(WATCHED))["asleep"] == [uuid]


def test_an_install_gives_the_number_to_the_card_that_replaces_as_well(both: FakeHost):
    booted(both, {PLACES[0]: f"GPU-0{UUID[5:]}", PLACES[1]: SECOND_UUID})
    assert both.run("install").code == 0
    cards = [record for key, record in both.baseline().items() if key.startswith("gpu:")]
    numbered = {record["context"]["uuid"]: _number(record) for record in cards}
    assert numbered == {UUID: None, f"GPU-0{UUID[5:]}": "2BB1[0]", SECOND_UUID: "2BB1[1]"}


def test_nobody_knows_either_where_a_card_with_a_uuid_would_stand_in_the_row(host: FakeHost):
    host.plan = of_gpus(FIRST, dataclasses.replace(SECOND, select=GpuSelector(UUID, "2BB1", 1)))
    booted(host, {PLACES[1]: SECOND_UUID})
    answer = host.run("install")
    assert (answer.code, [problem["id"] for problem in answer.problems]) == (2, ["gpu-missing"] * 2)


def _number(record: dict[str, dict[str, str]]) -> str | None:
    return record["context"].get("selected_as")
