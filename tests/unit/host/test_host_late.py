"""Cards and drivers that come late, or go: what the boot left undone is the drift timer's, and silence is told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from inferhost.host.record import lock
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.simulated import SECOND_UUID, UUID
from tests.unit.host.test_host_numbers import FIRST, METRICS, PLACES, SECOND, booted, both, limits, of_gpus
from tests.unit.host.test_host_watch import WATCHED

__all__ = ["both"]

CARDS = {PLACES[0]: UUID, PLACES[1]: SECOND_UUID}
PLANNED = {UUID: 300, SECOND_UUID: 550}
LOCK = "graphics_clock_lock_mhz"


def there(host: FakeHost) -> None:
    """Both cards are there in this boot."""
    texts = [host.folder / f"card-{number}.txt" for number in range(2)]
    assert all(text.exists() for text in texts)
    host.sim("init", *texts)
    for number in range(2):
        host.sim("set", "persistence", 1, "--gpu", number)


def rebooted_without(host: FakeHost, place: str) -> None:
    booted(host, CARDS)
    present = next(host.folder / f"card-{n}.txt" for n, one in enumerate(CARDS) if one != place)
    host.sim("init", present)
    host.sim("set", "persistence", 1)


def amid(host: FakeHost, number: int, what: Callable[[], None]) -> None:
    """This happens while the host waits for that time."""
    waits: list[float] = []
    wait = host.wait

    def waited(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == number:
            what()
        wait(seconds)

    host.wait = waited  # type: ignore[method-assign]


@pytest.mark.parametrize("place", PLACES[:2])
def test_a_card_that_comes_after_the_boot_gets_its_settings_at_the_next_look(both: FakeHost, place: str):
    rebooted_without(both, place)
    assert both.run("boot", "--wait", "60").code == 3
    assert both.run("watch").code == 3
    late = CARDS[place]
    assert json.loads(both.read(WATCHED))["again"] == [f"gpu.{late}"]
    there(both)
    answer = both.run("watch")
    assert f"gpu.{late}: left undone by the boot or by a repair: settings are applied" in answer.document["notes"]
    assert (limits(both)[late], both.card([UUID, SECOND_UUID].index(late))[LOCK]) == (PLANNED[late], [1200, 1200])
    assert json.loads(both.read(WATCHED))["again"] == []
    both.sim("set", "power_limit_mw", 400000)
    assert both.run("watch").verdict(f"{late}.power_limit_w") == ("overridden", "other_writer")
    assert limits(both) == {UUID: 400, SECOND_UUID: 400}


def test_a_driver_that_comes_after_the_boot_is_given_its_settings_at_the_next_look(both: FakeHost):
    booted(both, CARDS)
    both.sim("fail", "nvmlInitWithFlags", 9)
    assert both.run("boot", "--wait", "1").code == 7
    for _ in range(2):
        answer = both.run("watch")
        assert (answer.code, "settings are applied" in answer.prose) == (7, False)
    both.sim("fail", "nvmlInitWithFlags", "off")
    assert (both.run("watch").code, limits(both)) == (0, PLANNED)


def test_so_is_one_whose_cards_nobody_is_recorded_for(host: FakeHost):
    """The driver came with the plan: its cards are known by their numbers alone."""
    host.plan = of_gpus(FIRST, SECOND)
    booted(host, CARDS)
    host.sim("fail", "nvmlInitWithFlags", 9)
    assert [host.run(verb).code for verb in ("install", "boot", "watch")] == [0, 7, 7]
    host.sim("fail", "nvmlInitWithFlags", "off")
    assert (host.run("watch").code, limits(host)) == (0, PLANNED)


def test_what_failed_at_boot_is_tried_again(both: FakeHost):
    booted(both, CARDS)
    both.sim("fail", "nvmlDeviceSetPowerManagementLimit", 999, 1)
    assert both.run("boot").code == 3
    assert (both.run("watch").code, limits(both)) == (0, PLANNED)


def test_what_another_run_kept_the_boot_from_is_made_up_for(both: FakeHost, monkeypatch: pytest.MonkeyPatch):
    booted(both, CARDS)
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    with lock.locked(both.machine(str(both.root))):
        assert both.run("boot").code == 8
    assert (both.run("watch").code, limits(both)) == (0, PLANNED)


def test_what_a_program_on_the_card_stood_in_the_way_of_is_not_made_up_for_behind_its_back(both: FakeHost):
    both.plan = of_gpus(dataclasses.replace(FIRST, compute_mode="exclusive_process"), SECOND)
    assert [both.run(verb).code for verb in ("install", "apply")] == [0, 0]
    booted(both, CARDS)
    both.sim("load", "on")
    assert (both.run("boot").code, limits(both)) == (3, PLANNED)
    both.sim("load", "off")
    answer = both.run("watch")
    assert answer.verdict(f"{UUID}.compute_mode")[0] == "overridden"
    assert "settings are applied" not in answer.prose


@pytest.mark.parametrize("kept", [True, False], ids=["", "on a full disk"])
def test_what_is_left_undone_is_no_more_than_a_remark_where_it_cannot_be_kept(both: FakeHost, kept: bool):
    rebooted_without(both, PLACES[1])
    both.run("boot")
    both.at(WATCHED).write_text(json.dumps({**json.loads(both.read(WATCHED)), "again": []}))

    def full(step: str) -> None:
        if not kept and "watched.json" in step:
            raise OSError(28, "No space left on device")

    answer = both.run("boot", before_write=full)
    assert (answer.code, "watched.json: could not be written" in answer.prose) == (3, not kept)


def test_check_mode_keeps_nothing_of_it(both: FakeHost):
    rebooted_without(both, PLACES[1])
    before = both.snapshot()
    assert both.run("boot", "--check").code == 3
    assert both.snapshot() == before


def test_a_card_that_is_there_does_not_wait_for_one_that_is_not(both: FakeHost):
    rebooted_without(both, PLACES[1])
    start_s, written = both.passed_s, list[float]()
    amid(both, 4, lambda: there(both))

    def seen(step: str) -> None:
        if step.startswith("nvml"):
            written.append(both.passed_s - start_s)

    answer = both.run("boot", "--wait", "60", before_write=seen)
    assert (answer.code, answer.problems) == (0, [])
    assert sorted(set(written)) == [0.0, 2.0]
    assert (limits(both)[SECOND_UUID], both.card(1)[LOCK]) == (550, [1200, 1200])
    assert "waited 2.0 s for the cards" in answer.prose


@pytest.mark.parametrize("code", [9, 12, 18])
def test_a_driver_that_goes_is_told_as_loudly_as_a_card(both: FakeHost, code: int):
    both.at(METRICS).mkdir(parents=True)
    both.sim("fail", "nvmlInitWithFlags", code)
    before: Any = json.loads(both.read(WATCHED))["loaded"]
    answer = both.run("watch")
    assert (answer.code, [problem["path"] for problem in answer.problems]) == (3, ["nvml"])
    told = both.read(f"{METRICS}/inferhost.prom").splitlines()
    assert [line for line in told if line.startswith(("inferhost_gpu_present{", "inferhost_check_exit_code"))] == [
        "inferhost_check_exit_code 3",
        *(f'inferhost_gpu_present{{gpu="{uuid}"}} 0' for uuid in CARDS.values()),
    ]
    not_held = both.run("status").document["facts"]["not_held"]
    assert [what.partition(" ")[0] for what in not_held] == [
        *(f"gpu.{u}.{s}:" for u in CARDS.values() for s in ("persistence_mode", "power_limit_w", LOCK)),
        "nvml:",
    ]
    assert json.loads(both.read(WATCHED))["loaded"] == before
    both.sim("fail", "nvmlInitWithFlags", "off")
    assert both.run("watch").code == 0
    assert both.run("status").document["facts"]["not_held"] == []
