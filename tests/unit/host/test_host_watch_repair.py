"""What the drift timer repairs, and what it leaves: the cards and settings that need it, and nothing beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from inferhost.host.gpu.clock_lock import NOT_REPAIRED
from inferhost.host.gpu.clock_record import CLOCKS, MODULE
from inferhost.host.record import lock
from inferhost.host.watch import drift
from inferhost.schema.plan import GpuSelector
from tests.unit.host.fake_host import Answer, FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID
from tests.unit.host.test_host_watch import WATCHED


def test_a_repair_that_failed_is_tried_again_alone(placed: FakeHost):
    assert placed.run("watch").code == 0
    placed.sim("reload")
    placed.sim("fail", "nvmlDeviceSetGpuLockedClocks", 999)
    assert placed.run("watch").code == 3
    assert placed.card()["power_limit_mw"] == 450000
    placed.sim("set", "power_limit_mw", 300000)  # `nvidia-smi -pl` of somebody
    assert placed.run("watch").verdict("power_limit_w") == ("overridden", "other_writer")
    placed.sim("fail", "nvmlDeviceSetGpuLockedClocks", "off")
    assert placed.run("watch").verdict("power_limit_w") == ("overridden", "other_writer")
    card = placed.card()
    assert (card["power_limit_mw"], card["graphics_clock_lock_mhz"]) == (300000, [2100, 2100])
    order: list[str] = []
    placed.run("watch", before_write=order.append)
    assert not [step for step in order if step.startswith("nvml")]


def reloaded_after_a_look(host: FakeHost) -> None:
    host.wait(60)
    assert host.run("watch").code == 0
    host.sim("reload")
    host.sim("set", "persistence", 1)


def test_what_no_repair_was_for_is_not_tried_again(placed: FakeHost):
    reloaded_after_a_look(placed)
    placed.plan = with_gpu(power_limit_w=700, graphics_clock_lock_mhz=(2100, 2100))  # more than the card takes
    for repaired in (True, False):
        answer = placed.run("watch")
        assert (answer.code, answer.changed) == (3, repaired)
        assert json.loads(placed.read(WATCHED))["again"] == []


def test_a_reload_that_an_apply_met_first_is_repaired(placed: FakeHost):
    reloaded_after_a_look(placed)
    assert placed.run("apply", "--section", "gpu").changed
    answer = placed.run("watch")
    assert (answer.code, answer.changed, answer.document["notes"]) == (0, False, [])


def test_an_apply_ends_the_repairs_of_its_own_cards(placed: FakeHost):
    placed.run("watch")
    look = json.loads(placed.read(WATCHED))
    failed = [f"gpu.{SECOND_UUID}", f"gpu.{UUID}.power_limit_w"]
    loaded = {**look["loaded"], SECOND_UUID: look["loaded"][UUID]}
    placed.write(WATCHED, json.dumps({**look, "again": failed, "loaded": loaded}))
    placed.run("apply", "--section", "gpu")
    look = json.loads(placed.read(WATCHED))
    assert (look["again"], set(look["loaded"])) == (failed[:1], set(loaded))


def no_room_for(name: str) -> Callable[[str], None]:
    """A disk that is full when this file is written."""

    def full(step: str) -> None:
        if name in step:
            raise OSError(28, "No space left on device")

    return full


@pytest.mark.parametrize("repair", ["watch", "apply"])
def test_after_a_repair_that_could_not_begin_a_lock_is_not_believed_by_whoever_comes_next(
    host: FakeHost, repair: str
):
    """Not even when the counter has passed what it was when the lock was asked for."""
    host.plan = with_gpu(power_limit_w=None, graphics_clock_lock_mhz=(2100, 2100))  # no limit tells of the reload
    host.converge()
    reloaded_after_a_look(host)
    assert host.run("watch", before_write=no_room_for("clocks.json")).code == 3
    host.wait(600)
    answer = host.run("verify", "--section", "gpu")
    assert answer.verdict("graphics_clock_lock_mhz") == ("overridden", "driver_reload")
    assert answer.evidence("graphics_clock_lock_mhz") == NOT_REPAIRED
    host.run(repair, before_write=no_room_for("watched.json"))  # which still has it among what failed
    assert host.card()["graphics_clock_lock_mhz"] == [2100, 2100]
    assert host.run("apply", "--section", "gpu").said == (False, [])


def test_a_repair_that_met_no_driver_is_made_at_the_next_look(placed: FakeHost, monkeypatch: pytest.MonkeyPatch):
    reloaded_after_a_look(placed)
    real = drift.verbs.apply

    def unloaded(*arguments: Any, **options: Any) -> None:
        """Somebody has the module out for a moment."""
        placed.sim("fail", "nvmlInitWithFlags", 9)
        real(*arguments, **options)
        placed.sim("fail", "nvmlInitWithFlags", "off")

    with monkeypatch.context() as patched:
        patched.setattr(drift.verbs, "apply", unloaded)
        assert placed.run("watch").code == 3
    assert placed.card()["power_limit_mw"] == 600000
    assert placed.run("watch").code == 0
    assert placed.card()["power_limit_mw"] == 450000


def test_a_repair_that_another_run_kept_from_beginning_is_made_at_the_next_look(
    placed: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    reloaded_after_a_look(placed)
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    with lock.locked(placed.machine(str(placed.root))):
        assert placed.run("watch").code == 3
    assert placed.card()["power_limit_mw"] == 600000
    assert placed.run("watch").code == 0
    assert placed.card()["power_limit_mw"] == 450000


def loaded_again(host: FakeHost) -> None:
    """The driver's module anew, as `rmmod` and `modprobe` leave it: with a folder of another number."""
    host.sim("reload")
    host.sim("set", "persistence", 1)
    host.at("/sys/module/other").mkdir()
    host.at(MODULE).rmdir()
    host.at("/sys/module/other").rename(host.at(MODULE))


def test_a_reload_while_the_counter_was_young_is_noticed_by_the_module(host: FakeHost):
    host.at(MODULE).mkdir(parents=True)
    host.plan = with_gpu(power_limit_w=None, graphics_clock_lock_mhz=(2790, 2790))  # no load would show its loss
    host.converge()
    host.wait(60)
    assert host.run("watch").code == 0
    loaded_again(host)
    host.sim("load", "on")
    host.wait(600)
    answer = host.run("watch")
    assert (answer.code, host.card()["graphics_clock_lock_mhz"]) == (0, [2790, 2790])
    assert "(its kernel module was loaded again)" in answer.prose
    assert not host.run("watch").changed


def test_a_record_from_before_modules_were_noticed_tells_nothing_of_them(placed: FakeHost):
    assert placed.run("watch").code == 0
    placed.at(MODULE).mkdir(parents=True)
    assert placed.run("watch").said == (False, [])


def test_a_limit_that_is_what_the_card_boots_with_is_a_sign_for_its_lock(placed: FakeHost):
    """Where neither counter nor module tell: nobody is fought over, and the next apply asks for both."""
    placed.sim("reload")
    placed.sim("set", "persistence", 1)
    placed.sim("load", "on")
    placed.wait(600)
    placed.sim("load", "off")
    placed.wait(2)
    assert placed.run("watch").verdict("power_limit_w") == ("overridden", "driver_reload")
    assert placed.card()["graphics_clock_lock_mhz"] is None
    answer = placed.run("verify", "--section", "gpu")
    assert "its power limit is what the card boots with" in answer.evidence("graphics_clock_lock_mhz")
    assert placed.run("apply", "--section", "gpu").changed
    assert placed.card()["graphics_clock_lock_mhz"] == [2100, 2100]
    assert placed.run("apply", "--section", "gpu").said == (False, [])


def test_beside_a_card_whose_counter_fell_one_that_forgot_everything_is_repaired_too(pair: FakeHost):
    second = dataclasses.replace(plan().gpus[0], select=GpuSelector(None, "2BB1", 1))
    pair.plan = plan(gpus=(plan().gpus[0], second))
    pair.converge()
    pair.sim("load", "on", "--gpu", 0)
    pair.wait(60)
    assert pair.run("watch").code == 0
    pair.sim("reload")
    pair.sim("set", "persistence", 1)
    pair.sim("load", "off", "--gpu", 0)
    pair.sim("load", "on", "--gpu", 1)
    pair.wait(60)
    assert pair.run("watch").code == 0
    assert [pair.card(number)["power_limit_mw"] for number in (0, 1)] == [450000, 450000]


@pytest.mark.parametrize("code", [4, 999])
@pytest.mark.parametrize("function", ["nvmlDeviceSetGpuLockedClocks", "nvmlDeviceResetGpuLockedClocks"])
def test_a_request_that_was_refused_has_come_to_its_end(placed: FakeHost, function: str, code: int):
    placed.sim("fail", function, code)
    placed.plan = with_gpu(graphics_clock_lock_mhz=(1500, 1500) if "Set" in function else None)
    assert placed.run("install").code == 0
    assert placed.run("apply", "--section", "gpu").code == 3
    placed.sim("set", "power_limit_mw", 300000)
    order: list[str] = []
    for _ in range(2):
        answer = placed.run("watch", before_write=order.append)
        assert (answer.code, answer.verdict("power_limit_w")) == (3, ("overridden", "other_writer"))
    assert not [step for step in order if step.startswith("nvml")]
    if "Set" in function:
        assert answer.verdict("graphics_clock_lock_mhz") == ("refused", "unexplained")
        assert f"the last attempt was refused: {function}" in answer.evidence("graphics_clock_lock_mhz")
    placed.sim("fail", function, "off")
    placed.run("apply", "--section", "gpu")
    assert placed.card()["graphics_clock_lock_mhz"] == ([1500, 1500] if "Set" in function else None)


def test_a_request_that_was_cut_off_is_made_again_and_nothing_beside_it(placed: FakeHost):
    class Killed(BaseException):
        pass

    def kill(step: str) -> None:
        if step.endswith("graphics_clock_lock"):
            raise Killed

    placed.plan = with_gpu(graphics_clock_lock_mhz=(1500, 1500))
    with pytest.raises(Killed):
        placed.run("apply", "--section", "gpu", before_write=kill)
    placed.sim("set", "power_limit_mw", 300000)
    answer = placed.run("watch")
    assert answer.verdict("power_limit_w") == ("overridden", "other_writer")
    card = placed.card()
    assert (card["power_limit_mw"], card["graphics_clock_lock_mhz"]) == (300000, [1500, 1500])


def test_a_card_that_was_reset_is_repaired_and_its_neighbour_is_left_alone(pair: FakeHost):
    second = dataclasses.replace(plan().gpus[0], select=GpuSelector(None, "2BB1", 1))
    pair.plan = plan(gpus=(plan().gpus[0], second))
    pair.wait(60)
    pair.converge()
    assert pair.run("watch").code == 0
    look = json.loads(pair.read(WATCHED))
    look["loaded"][UUID]["energy_mj"] += 10**9  # as if the counter of this card alone started again
    pair.write(WATCHED, json.dumps(look))
    for number in (0, 1):
        pair.sim("set", "power_limit_mw", 300000, "--gpu", number)
    assert pair.run("watch").verdict(f"{SECOND_UUID}.power_limit_w") == ("overridden", "other_writer")
    assert [pair.card(number)["power_limit_mw"] for number in (0, 1)] == [450000, 300000]


def test_a_card_that_was_asleep_is_looked_at_again_while_a_program_holds_it_open(placed: FakeHost):
    """As the persistence daemon does, and an engine: then the driver stays, whether somebody looks or not."""
    placed.sim("load", "on")
    placed.sim("set", "persistence", 0)
    assert placed.run("watch").code == 3
    placed.sim("set", "persistence", 1)
    assert placed.run("watch").code == 3
    known(placed, "0000:03:00.0", UUID, 3)
    placed.at("/proc/77/fd").mkdir(parents=True)
    placed.at("/proc/77/fd/4").symlink_to("/dev/nvidiactl")
    answer = placed.run("watch")
    assert (answer.code, answer.verdict("persistence_mode")) == (3, ("overridden", "other_writer"))
    assert "inferhost apply turns it on" in answer.evidence("persistence_mode")
    placed.at("/proc/77/fd/5").symlink_to("/dev/nvidia3")
    answer = placed.run("watch")
    assert (answer.code, answer.verdict("persistence_mode")) == (0, ("held", "none"))


def known(host: FakeHost, place: str, uuid: str, minor: int) -> None:
    """What the driver's own list says of a card that was opened once."""
    lines = f"Model: \t NVIDIA\nGPU UUID: \t {uuid}\nBus Location: \t {place}\nDevice Minor: \t {minor}\n"
    host.write(f"/proc/driver/nvidia/gpus/{place}/information", lines)


def test_beside_a_card_that_sleeps_the_other_is_looked_at_and_repaired(pair: FakeHost):
    second = dataclasses.replace(plan().gpus[0], select=GpuSelector(None, "2BB1", 1))
    pair.plan = plan(gpus=(plan().gpus[0], second))
    pair.wait(60)
    pair.converge()
    pair.sim("load", "on")
    pair.sim("set", "persistence", 0, "--gpu", 1)
    assert pair.run("watch").code == 3
    assert [*verdicts(pair.run("watch"))] == [
        f"gpu.{SECOND_UUID}.persistence_mode"
    ]  # where the other is is not known
    for place, uuid, minor in (("0000:03:00.0", UUID, 0), ("0000:0b:00.0", SECOND_UUID, 1)):
        known(pair, place, uuid, minor)
    pair.sim("set", "power_limit_mw", 300000)
    pair.sim("fail", "nvmlDeviceGetHandleByIndex_v2", 999)  # whoever opens every card is caught
    answer = pair.run("watch")
    assert answer.verdict(f"{UUID}.power_limit_w") == ("overridden", "other_writer")
    assert answer.verdict(f"{SECOND_UUID}.persistence_mode") == ("overridden", "other_writer")
    assert not [v for v in answer.document["verdicts"] if v["setting"] == f"gpu.{SECOND_UUID}.power_limit_w"]
    pair.sim("reload")
    pair.sim("set", "persistence", 1, "--gpu", 0)
    answer = pair.run("watch")
    assert answer.verdict(f"{UUID}.power_limit_w") == ("held", "none")
    assert answer.verdict(f"{SECOND_UUID}.persistence_mode") == ("overridden", "other_writer")
    assert [pair.card(number)["power_limit_mw"] for number in (0, 1)] == [450000, 600000]
    assert json.loads(pair.read(WATCHED))["asleep"] == [SECOND_UUID]


def verdicts(answer: Answer) -> dict[str, str]:
    """Of the cards, by setting."""
    return {v["setting"]: v["verdict"] for v in answer.document["verdicts"] if v["setting"].startswith("gpu.")}


def test_what_is_written_down_of_what_the_plan_does_not_have_is_no_work(placed: FakeHost):
    assert placed.run("watch").code == 0
    look, clocks = json.loads(placed.read(WATCHED)), json.loads(placed.read(CLOCKS))
    for other in (SECOND_UUID, f"{UUID}:of another version"):
        clocks["asked"][other] = {**clocks["asked"][UUID], "confirmed": False}
    placed.write(CLOCKS, json.dumps(clocks))
    placed.write(WATCHED, json.dumps({**look, "asleep": [SECOND_UUID]}))
    answer = placed.run("watch")
    assert (answer.code, answer.changed, answer.document["notes"]) == (0, False, [])
    assert json.loads(placed.read(WATCHED))["asleep"] == []


def test_a_card_whose_persistence_a_verify_found_on_again_is_looked_at(pair: FakeHost):
    second = dataclasses.replace(plan().gpus[0], select=GpuSelector(None, "2BB1", 1))
    pair.plan = plan(gpus=(plan().gpus[0], second))
    pair.converge()
    pair.sim("load", "on")
    pair.sim("set", "persistence", 0)
    assert pair.run("watch").code == 3
    assert json.loads(pair.read(WATCHED))["asleep"] == [UUID, SECOND_UUID]
    pair.sim("set", "persistence", 1, "--gpu", 0)
    pair.run("verify", "--section", "gpu", "--check")
    assert json.loads(pair.read(WATCHED))["asleep"] == [UUID, SECOND_UUID]
    pair.run("verify", "--section", "gpu")
    assert json.loads(pair.read(WATCHED))["asleep"] == [SECOND_UUID]
    pair.sim("set", "persistence", 1)
    assert pair.run("verify", "--section", "gpu").code == 0
    pair.sim("set", "power_limit_mw", 300000)
    assert pair.run("watch").verdict(f"{SECOND_UUID}.power_limit_w") == ("overridden", "other_writer")
