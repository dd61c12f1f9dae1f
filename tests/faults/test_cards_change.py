"""Cards that go, move or restart under our hands, two programs at once, and the calls of the binding that never fail.

What was there before us belongs to a card's UUID: not to its place, its number or its driver.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import pynvml
import pytest

from inferhost.host.gpu.nvml import Nvml, NvmlError
from inferhost.host.record import lock
from inferhost.schema.plan import GpuSelector
from tests.faults.test_every_write import killed_at
from tests.unit.host.fake_host import Answer, FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID

LOCK = "graphics_clock_lock_mhz"
BUG = 1


def managed(pair: FakeHost) -> None:
    """Two cards, each with a limit of its own before us; ours is 450 W."""
    pair.sim("set", "power_limit_mw", 500000, "--gpu", 1)
    first = pair.plan.gpus[0]
    second = dataclasses.replace(first, select=dataclasses.replace(first.select, ordinal=1))
    pair.plan = plan(gpus=(first, second), manage=("gpu",), files=(), dropins=(), service=(), env={})
    assert pair.run("install").code == 0


def restarted(pair: FakeHost, changed: str) -> None:
    """Another boot with this personality; the cards have our limit."""
    (pair.folder / "personality.txt").write_text(changed)
    pair.sim("init", pair.folder / "personality.txt")
    pair.sim("set", "persistence", 1)
    pair.sim("set", "power_limit_mw", 450000)
    pair.write("/proc/sys/kernel/random/boot_id", "boot-2\n")


def limits(pair: FakeHost) -> dict[str, int]:
    return {card["uuid"]: card["power_limit_mw"] for card in (pair.card(0), pair.card(1))}


def test_cards_that_changed_places_get_their_own_limits_back(pair: FakeHost):
    managed(pair)
    assert pair.run("apply").code == 0
    text = (pair.folder / "personality.txt").read_text()
    for old, new in (("00000000:03:00.0", "00000000:0C:00.0"), ("00000000:0B:00.0", "00000000:03:00.0")):
        assert old in text
        text = text.replace(old, new)
    restarted(pair, text)
    assert pair.run("revert").code == 0
    assert limits(pair) == {UUID: 480000, SECOND_UUID: 500000}


def test_a_revert_after_a_driver_upgrade_restores_and_says_that_it_was_found_in_an_earlier_boot(pair: FakeHost):
    managed(pair)
    assert pair.run("apply").code == 0
    text = (pair.folder / "personality.txt").read_text()
    assert "driver_version = 580.95.05" in text
    restarted(pair, text.replace("580.95.05", "595.45.04"))
    answer = pair.run("revert")
    assert answer.code == 0
    assert limits(pair) == {UUID: 480000, SECOND_UUID: 500000}
    assert f"gpu.{UUID}.power_limit_w: 480 was found in an earlier boot" in answer.document["notes"]


def during(host: FakeHost, verb: str, step: str, *words: object) -> Answer:
    """The verb, while just before one of its writes something happens to the cards."""
    met = []

    def happen(now: str) -> None:
        if now == step and not met:
            met.append(now)
            host.sim(*words)

    answer = host.run(verb, before_write=happen)
    assert met, step
    return answer


def test_a_card_that_is_lost_amid_an_apply_is_told_its_neighbour_is_set_and_a_revert_says_what_it_cannot(
    pair: FakeHost,
):
    managed(pair)
    answer = during(pair, "apply", f"nvml {UUID} power_limit", "lost", 0)
    assert answer.code == 3
    assert answer.verdict(f"{UUID}.power_limit_w") == ("refused", "needs_reboot")
    assert answer.verdict(f"{SECOND_UUID}.power_limit_w") == ("held", "none")
    back = pair.run("revert")
    assert back.code == 8
    assert pair.card(1)["power_limit_mw"] == 500000
    assert [key for key in pair.baseline() if key.startswith("gpu:")] == [
        f"gpu:{UUID}:persistence_mode",
        f"gpu:{UUID}:power_limit_mw",
    ]


def test_a_card_that_is_lost_amid_a_revert_keeps_its_record_and_its_neighbour_goes_back(pair: FakeHost):
    managed(pair)
    assert pair.run("apply").code == 0
    answer = during(pair, "revert", f"nvml {UUID} power_limit", "lost", 0)
    assert answer.code == 8
    assert pair.card(1)["power_limit_mw"] == 500000
    assert f"gpu:{UUID}:power_limit_mw" in pair.baseline()


def two_of_one_kind(pair: FakeHost) -> list[str]:
    """The personality text of both cards; they are managed by number, the first at 450 W and the second at 400 W."""
    first = dataclasses.replace(pair.plan.gpus[0], power_limit_w=450)
    second = dataclasses.replace(first, power_limit_w=400, select=dataclasses.replace(first.select, ordinal=1))
    pair.plan = plan(gpus=(first, second), manage=("gpu",), files=(), dropins=(), service=(), env={})
    assert pair.run("install").code == 0
    assert pair.run("apply").code == 0
    assert limits(pair) == {UUID: 450000, SECOND_UUID: 400000}
    return (pair.folder / "personality.txt").read_text().split("[gpu]")


@pytest.mark.parametrize("verb", ["apply", "boot", "watch", "verify"])
def test_a_number_never_means_the_neighbour_of_a_card_that_is_lost(pair: FakeHost, verb: str):
    two_of_one_kind(pair)
    pair.sim("lost", 0)
    pair.sim("set", "power_limit_mw", 300000, "--gpu", 1)  # so that there is something to write
    answer = pair.run(verb)
    assert answer.code == 3
    assert "wanted card 0 with PCI device id 2BB1" in answer.prose
    assert pair.card(1)["power_limit_mw"] == (400000 if verb in ("apply", "boot") else 300000)
    assert not any(v["setting"].startswith(f"gpu.{UUID}") for v in answer.document["verdicts"])


@pytest.mark.parametrize("verb", ["apply", "boot", "watch"])
def test_a_number_never_means_the_neighbour_of_a_card_that_left_the_bus(pair: FakeHost, verb: str):
    shared, first, second = two_of_one_kind(pair)
    assert UUID in first
    (pair.folder / "personality.txt").write_text(f"{shared}[gpu]{second}")
    pair.sim("init", pair.folder / "personality.txt")
    pair.sim("set", "persistence", 1)
    answer = pair.run(verb)
    assert "wanted card 0 with PCI device id 2BB1" in answer.prose
    assert pair.card(0)["uuid"] == SECOND_UUID
    assert pair.card(0)["power_limit_mw"] == (600000 if verb == "watch" else 400000)


def test_a_new_card_takes_the_number_of_the_one_that_it_replaces(pair: FakeHost):
    two_of_one_kind(pair)
    third = UUID[:-1] + "3"
    restarted(pair, (pair.folder / "personality.txt").read_text().replace(UUID, third))
    pair.sim("set", "power_limit_mw", 600000)
    assert pair.run("apply").code == 0
    assert limits(pair) == {third: 450000, SECOND_UUID: 400000}


def test_a_uuid_never_means_another_card_of_its_kind(pair: FakeHost):
    gone = dataclasses.replace(plan().gpus[0], select=GpuSelector(UUID[:-1] + "3", "2BB1", 0))
    pair.plan = plan(gpus=(gone,), manage=("gpu",), files=(), dropins=(), service=(), env={})
    answer = pair.run("install")
    assert (answer.code, answer.problems[0]["id"]) == (2, "gpu-missing")


def test_a_number_that_comes_later_means_the_next_card_that_nobody_is_recorded_for(pair: FakeHost):
    whole = [plan().gpus[0], dataclasses.replace(plan().gpus[0], select=GpuSelector(None, "2BB1", 1))]
    for count in (1, 2):
        pair.plan = plan(gpus=tuple(whole[:count]), manage=("gpu",), files=(), dropins=(), service=(), env={})
        assert pair.run("install").code == 0
        assert pair.run("apply").code == 0
    assert limits(pair) == {UUID: 450000, SECOND_UUID: 450000}


def test_without_a_record_a_number_means_nothing_while_a_card_is_silent(pair: FakeHost):
    pair.sim("lost", 0)
    answer = pair.run("install")
    assert answer.code == 2
    assert "wanted card 0 with PCI device id 2BB1" in answer.prose
    assert not pair.at("/etc/inferhost/plan.json").exists()


def with_locks(pair: FakeHost) -> None:
    """Both cards have a clock lock."""
    first = dataclasses.replace(pair.plan.gpus[0], graphics_clock_lock_mhz=(2100, 2100))
    second = dataclasses.replace(first, select=dataclasses.replace(first.select, ordinal=1))
    pair.plan = plan(gpus=(first, second))
    pair.converge()
    pair.stop_engine()


def test_a_card_whose_reset_fails_does_not_keep_its_neighbours_from_going_back(pair: FakeHost):
    with_locks(pair)
    pair.sim("fail", "nvmlDeviceResetGpuLockedClocks", 999, 1)
    answer = pair.run("revert")
    assert answer.code == 8
    assert [card["power_limit_mw"] for card in (pair.card(0), pair.card(1))] == [480000, 480000]
    assert [key for key in pair.baseline() if key.startswith("gpu:")] == [f"gpu:{UUID}:{LOCK}"]
    assert pair.read("/proc/sys/vm/swappiness") == "60\n"
    assert pair.run("revert").code == 0
    assert pair.card(0)[LOCK] is None


def test_a_reset_needs_no_counter_and_tells_of_one_that_fails(pair: FakeHost):
    with_locks(pair)
    pair.sim("fail", "nvmlDeviceGetTotalEnergyConsumption", 999, 1)
    answer = pair.run("revert")
    assert answer.code == 0
    assert [card[LOCK] for card in (pair.card(0), pair.card(1))] == [None, None]
    assert "nvmlDeviceGetTotalEnergyConsumption" in str(answer.document)


def test_a_limit_that_the_board_undercut_before_us_is_put_back_and_forgotten(host: FakeHost):
    host.sim("fault", "power_limit", "clamped", 400000)
    host.plan = with_gpu(power_limit_w=300)
    assert host.run("install").code == 0
    assert host.run("apply", "--section", "gpu").code == 0
    host.run("revert")
    assert host.card()["power_limit_mw"] == 480000
    assert not host.at("/var/lib/inferhost/baseline.json").exists()


def test_a_kill_and_another_driver_at_any_write_of_an_apply_are_repaired_by_the_next(host: FakeHost):
    """While a program has NVML open the driver stays, so it is loaded again when the program is dead."""
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100), power_limit_w=600)
    assert host.run("install").code == 0
    number = 1
    while killed_at(host, "apply", number):
        host.sim("reload")
        assert host.run("apply", "--section", "gpu").code == 0, number
        card = host.card()
        assert (card[LOCK], card["power_limit_mw"], card["persistence"]) == ([2100, 2100], 600000, 1), number
        host.sim("reload")
        assert host.run("verify", "--section", "gpu").code == 3, number
        number += 1
    assert number > 5
    assert host.baseline()[f"gpu:{UUID}:power_limit_mw"]["found"] == 480000


def in_a_child(host: FakeHost, before_write: Callable[[str], None], finds: Callable[[], list[str]]) -> int:
    """An apply in a process of its own, which ends with 0 where it did and nothing was wrong."""
    child = os.fork()
    if child == 0:
        code = BUG
        try:
            code = host.run("apply", before_write=before_write).code or BUG * bool(finds())
        finally:
            os._exit(code)
    return child


def test_two_that_apply_at_once_end_as_one_alone(host: FakeHost):
    """The first stands before its first write to the card until the second has said what it does: it has to wait."""
    host.plan = plan(manage=("gpu", "cpu"))
    assert host.run("install").code == 0
    host.place()
    (first_stands, stand), (second_spoke, speak) = os.pipe(), os.pipe()
    stood: list[str] = []
    words: list[str] = []

    def pause(step: str) -> None:
        if step.startswith("nvml") and not stood:
            stood.append(step)
            os.close(speak)
            os.write(stand, b".")
            assert os.read(second_spoke, 1), "the second ended without a word"

    def told(word: str) -> None:
        words.append(word)
        os.write(speak, b".")

    first = in_a_child(host, pause, lambda: [] if stood else ["the first wrote nothing"])
    os.close(stand)
    assert os.read(first_stands, 1), "the first did not come to its first write"
    real = time.sleep
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lock.time, "sleep", lambda seconds: (told("waits"), real(seconds)))
        second = in_a_child(
            host, told, lambda: [word for word in words if word != "waits"] or (["no wait"] * (not words))
        )
    os.close(speak)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in (first, second)] == [0, 0]
    assert host.card()["power_limit_mw"] == 450000
    assert host.baseline()[f"gpu:{UUID}:power_limit_mw"]["found"] == 480000
    assert host.run("apply").said == (False, [])


def test_no_call_of_ours_is_one_whose_failure_the_binding_hides(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    """nvidia-ml-py 13.615.71 drops the code of some calls (`..._v2` of the power limit, clock offsets).

    The calls are those of real runs; NVML then answers 999 to each, and each has to say so.
    """
    made: dict[str, tuple[Any, ...]] = {}
    real = Nvml.call

    def call(nvml: Nvml, function: str, *arguments: Any) -> Any:
        made.setdefault(function, arguments)
        return real(nvml, function, *arguments)

    monkeypatch.setattr(Nvml, "call", call)
    host.plan = with_gpu(
        graphics_clock_lock_mhz=(2100, 2100), memory_clock_lock_mhz=(7001, 7001), compute_mode="prohibited"
    )
    for words in (["install"], ["apply"], ["verify"], ["sample", "--seconds", "0.4"], ["facts"], ["revert"]):
        host.run(*words)
    monkeypatch.setattr(Nvml, "call", real)
    assert {"nvmlDeviceSetPowerManagementLimit", "nvmlDeviceSetGpuLockedClocks"} <= set(made)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", lambda _: lambda *_arguments: 999)
    for function, arguments in sorted(made.items()):
        with pytest.raises(NvmlError, match=f"{function}: Unknown"):
            Nvml(lambda _: None).call(function, *arguments)
