"""Promise 3 on the GPUs: a verdict is what was read back, never what a call returned."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.gpu import which
from inferhost.host.gpu.nvml import Nvml
from inferhost.schema.plan import GpuSelector, Host
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID


def test_an_honest_card_holds_and_both_limits_are_the_evidence(host: FakeHost):
    host.run("install")
    answer = host.run("apply", "--section", "gpu")
    assert answer.code == 0
    assert answer.verdict("power_limit_w") == ("held", "none")
    assert answer.evidence("power_limit_w") == "limit 450 W, enforced 450 W"
    expected = [{"setting": f"gpu.{UUID}.power_limit_w", "before": "480", "after": "450"}]
    assert answer.said == (True, expected)


def test_a_second_apply_changes_nothing(host: FakeHost):
    host.converge()
    assert host.run("apply").said == (False, [])


def test_a_write_that_is_accepted_and_ignored_is_not_held(host: FakeHost):
    host.run("install")
    host.sim("fault", "power_limit", "accepted_ignored")
    answer = host.run("apply", "--section", "gpu")
    assert (answer.code, answer.changed) == (3, False)
    assert answer.verdict("power_limit_w") == ("ignored", "unexplained")


def test_a_persistence_write_that_is_ignored_is_not_held(host: FakeHost):
    host.sim("set", "persistence", 0)
    host.run("install")
    host.sim("fault", "persistence", "accepted_ignored")
    answer = host.run("apply", "--section", "gpu")
    assert (answer.code, answer.verdict("persistence_mode")) == (3, ("ignored", "unexplained"))


def test_an_enforced_limit_above_the_accepted_one_is_ignored(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.converge()
    monkeypatch.setattr(Nvml, "enforced_power_limit_mw", lambda *_: 600000)
    answer = host.run("verify", "--section", "gpu")
    assert (answer.code, answer.verdict("power_limit_w")) == (3, ("ignored", "unexplained"))


def test_an_enforced_limit_below_the_accepted_one_is_clamped(host: FakeHost):
    host.run("install")
    host.sim("fault", "power_limit", "clamped", 420000)
    for verb in ("apply", "verify"):
        answer = host.run(verb, "--section", "gpu")
        assert (answer.code, answer.verdict("power_limit_w")) == (3, ("clamped", "power_cap"))
        assert answer.evidence("power_limit_w") == "limit 450 W, enforced 420 W"


def test_a_limit_that_became_another_one_is_clamped(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    ask = Nvml.set_power_limit_mw
    monkeypatch.setattr(Nvml, "set_power_limit_mw", lambda nvml, card, _: ask(nvml, card, 460000))
    answer = host.run("apply", "--section", "gpu")
    assert (answer.code, answer.verdict("power_limit_w")) == (3, ("clamped", "unexplained"))
    assert answer.document["diff"] == [{"setting": f"gpu.{UUID}.power_limit_w", "before": "480", "after": "460"}]


def test_persistence_is_written_before_the_limit(host: FakeHost):
    host.sim("set", "persistence", 0)
    order: list[str] = []
    host.run("apply", "--section", "gpu", before_write=order.append)
    assert [s for s in order if s.startswith("nvml")] == [f"nvml {UUID} persistence_mode", f"nvml {UUID} power_limit"]


def test_persistence_off_is_written_after_the_limit_and_said(host: FakeHost):
    host.plan = with_gpu(persistence_mode=False)
    order: list[str] = []
    answer = host.run("apply", "--section", "gpu", before_write=order.append)
    assert [s for s in order if s.startswith("nvml")] == [f"nvml {UUID} power_limit", f"nvml {UUID} persistence_mode"]
    assert f"{UUID}: with persistence off the power limit goes when the driver unloads" in answer.document["notes"]


@pytest.mark.parametrize(("wish", "limit_mw"), [("default", 600000), ("max", 600000), (150, 150000), (600, 600000)])
def test_words_and_the_ends_of_the_range_are_resolved_by_the_card(host: FakeHost, wish: object, limit_mw: int):
    host.plan = with_gpu(power_limit_w=wish)
    assert host.run("apply", "--section", "gpu").code == 0
    assert host.card()["power_limit_mw"] == limit_mw


@pytest.mark.parametrize(("watts", "found"), [(601, "601 W"), (149, "149 W"), ("fast", '"fast"')])
def test_a_limit_out_of_range_is_refused_and_names_the_option(host: FakeHost, watts: object, found: str):
    host.plan = with_gpu(power_limit_w=watts)
    before = host.snapshot()
    answer = host.run("apply", "--section", "gpu")
    assert answer.code == 2
    assert answer.verdict("power_limit_w") == ("refused", "none")
    assert answer.prose.splitlines()[-2:] == [
        f"error: inferhost_gpu_power_limit: found {found}, NVIDIA RTX PRO 6000 Blackwell Workstation Edition "
        f"({UUID}) accepts 150 to 600 W",
        "hint: watts outside the card's range are refused, never clamped",
    ]
    assert host.snapshot() == before


def test_none_leaves_a_setting_alone(host: FakeHost):
    host.plan = with_gpu(power_limit_w=None, persistence_mode=None)
    answer = host.run("apply", "--section", "gpu")
    assert (answer.said, answer.document["verdicts"]) == ((False, []), [])
    assert host.card()["power_limit_mw"] == 480000


def test_a_real_plan_is_refused_on_a_simulated_card(host: FakeHost):
    host.plan = plan(host=Host("box", False))
    before = host.snapshot()
    for verb in ("install", "apply", "verify"):
        answer = host.run(verb)
        assert (answer.code, answer.problems[0]["id"]) == (2, "simulated-mismatch")
        assert answer.problems[0]["message"] == ("the plan is for real GPUs, this host's NVML library is simulated")
    assert host.snapshot() == before


def test_a_sandbox_plan_is_refused_on_a_real_card(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Nvml, "simulated", lambda _: False)
    before = host.snapshot()
    for verb in ("install", "apply", "verify"):
        answer = host.run(verb)
        assert (answer.code, answer.problems[0]["path"]) == (2, "inferhost_simulated")
        assert answer.problems[0]["message"] == ("the plan is for simulated GPUs, this host's NVML library is real")
    assert host.snapshot() == before


def test_a_missing_card_is_refused_with_what_is_there(host: FakeHost):
    host.plan = with_gpu(select=GpuSelector("GPU-elsewhere", "2BB1", 0))
    before = host.snapshot()
    answer = host.run("apply", "--section", "gpu")
    assert answer.code == 2
    assert answer.problems[0]["message"] == (
        f"found NVIDIA RTX PRO 6000 Blackwell Workstation Edition 2BB1 {UUID}, wanted GPU-elsewhere"
    )
    assert host.snapshot() == before


def test_cards_of_one_model_are_told_apart_by_their_place_on_the_bus(pair: FakeHost):
    first = pair.plan.gpus[0]
    second = dataclasses.replace(first, select=GpuSelector(None, "10DE:2BB1", 1), power_limit_w=500)
    pair.plan = plan(gpus=(first, second))
    pair.run("apply", "--section", "gpu")
    assert {pair.card(n)["uuid"]: pair.card(n)["power_limit_mw"] for n in (0, 1)} == {
        UUID: 450000,
        SECOND_UUID: 500000,
    }


def test_one_of_two_cards_failing_leaves_the_other_right(pair: FakeHost):
    first = pair.plan.gpus[0]
    pair.plan = plan(gpus=(first, dataclasses.replace(first, select=GpuSelector(SECOND_UUID, "2BB1", 0))))
    pair.run("install")
    pair.sim("fail", "nvmlDeviceSetPowerManagementLimit", 4, 1)
    answer = pair.run("apply", "--section", "gpu")
    assert answer.code == 3
    assert (pair.card(0)["power_limit_mw"], pair.card(1)["power_limit_mw"]) == (480000, 450000)


@pytest.mark.parametrize(
    ("function", "code", "verdict"),
    [
        ("nvmlDeviceSetPowerManagementLimit", 4, ("refused", "read_only")),
        ("nvmlDeviceSetPowerManagementLimit", 999, ("refused", "unexplained")),
        ("nvmlDeviceSetPowerManagementLimit", 3, ("unsupported", "no_interface")),
        ("nvmlDeviceGetPowerManagementLimitConstraints", 3, ("unsupported", "no_interface")),
        ("nvmlDeviceGetEnforcedPowerLimit", 3, ("unverified", "no_interface")),
    ],
)
def test_a_failing_call_leads_to_its_verdict_and_names_itself(host: FakeHost, function, code, verdict):
    host.run("install")
    host.sim("fail", function, code)
    answer = host.run("apply", "--section", "gpu")
    assert answer.verdict("power_limit_w") == verdict
    assert function in answer.evidence("power_limit_w")
    assert answer.code == (3 if verdict[0] == "refused" else 0)


def test_a_setting_without_a_recorded_original_is_not_written(host: FakeHost):
    host.sim("fail", "nvmlDeviceGetPowerManagementLimit", 999, 1)
    answer = host.run("apply", "--section", "gpu")
    assert (answer.code, host.card()["power_limit_mw"]) == (3, 480000)
    untold = "not written: its original is not on record"
    assert [p["message"] for p in answer.problems] == [untold]


def test_two_entries_that_mean_one_card_are_refused_before_it_is_touched(pair: FakeHost):
    first, second = (dataclasses.replace(plan().gpus[0], power_limit_w=watts) for watts in (300, 400))
    named = dataclasses.replace(first, select=GpuSelector(SECOND_UUID, "2BB1", 0))
    numbered = dataclasses.replace(second, select=GpuSelector(None, "2BB1", 1))
    pair.plan = plan(gpus=(named, numbered))
    answer = pair.run("install")
    assert (answer.code, answer.problems[0]["id"]) == (2, "same-card")
    assert answer.problems[0]["path"] == "inferhost_hardware.gpus[1]"
    assert SECOND_UUID in answer.problems[0]["message"]
    assert {card["power_limit_mw"] for card in (pair.card(0), pair.card(1))} == {480000}


def test_a_lost_card_is_named_with_the_call_that_told(host: FakeHost):
    host.run("install")
    host.sim("lost", 0)
    answer = host.run("apply", "--section", "gpu")
    assert answer.code == 3
    assert "GpuIsLost (NVML error 15)" in answer.problems[0]["message"]


@pytest.mark.parametrize(
    ("broken", "code", "told"),
    [
        (["lost", 0], 3, "GpuIsLost (NVML error 15), wanted card 0 with PCI device id 2BB1"),
        (["fail", "nvmlDeviceGetCount_v2", 15], 3, "nvml: nvmlDeviceGetCount: GpuIsLost"),
        (["fail", "nvmlInitWithFlags", 999], 3, "nvml: nvmlInit: Unknown"),
        (["fail", "nvmlInitWithFlags", 9], 7, "nvmlInit: DriverNotLoaded"),
    ],
    ids=["every card lost", "no count", "driver fails", "no driver"],
)
@pytest.mark.parametrize("words", [[], ["--under-load", "--seconds", "4"]], ids=["look", "under load"])
def test_a_verify_that_cannot_look_at_a_card_looks_at_the_rest_of_the_host(
    host: FakeHost, broken: list[object], code: int, told: str, words: list[str]
):
    host.converge()
    host.sim(*broken)
    answer = host.run("verify", *words)
    assert answer.code == code
    assert told in answer.prose
    assert [answer.verdict(name)[0] for name in ("cpu.governor", "vm.swappiness", "main.active")] == ["held"] * 3
    assert host.run("status").code == 0
    host.write("/proc/sys/vm/swappiness", "30\n")
    assert (answer := host.run("verify", *words)).code == 3
    assert answer.verdict("vm.swappiness") == ("overridden", "other_writer")


def test_a_verify_without_one_card_of_two_looks_at_the_other(pair: FakeHost):
    first = plan().gpus[0]
    pair.plan = plan(gpus=(first, dataclasses.replace(first, select=GpuSelector(None, "2BB1", 1))))
    pair.converge()
    pair.sim("lost", 0)
    answer = pair.run("verify", "--section", "gpu")
    assert (answer.code, answer.verdict(f"{SECOND_UUID}.power_limit_w")) == (3, ("held", "none"))
    assert [problem["path"] for problem in answer.problems] == ["inferhost_hardware.gpus[0]"]


def test_without_a_driver_the_settings_wait_and_the_rest_is_applied(host: FakeHost):
    host.sim("fail", "nvmlInitWithFlags", 9)
    assert host.run("install").code == 0
    answer = host.run("apply")
    assert answer.code == 7
    assert answer.verdict("gpu.2BB1[0].power_limit_w") == ("pending", "needs_driver")
    assert host.read("/proc/sys/vm/swappiness") == "10\n"
    host.sim("fail", "nvmlInitWithFlags", "off")
    assert host.run("apply").code == 0
    assert host.baseline()[f"gpu:{UUID}:power_limit_mw"]["found"] == 480000


def test_a_driver_upgraded_under_the_library_waits_for_a_reboot(host: FakeHost):
    host.sim("fail", "nvmlInitWithFlags", 18)
    assert host.run("verify", "--section", "gpu").verdict("power_limit_w") == ("pending", "needs_reboot")


def test_a_limit_changed_by_somebody_else_is_overridden(host: FakeHost):
    host.converge()
    host.sim("set", "power_limit_mw", 500000)
    answer = host.run("verify", "--section", "gpu")
    assert (answer.code, answer.verdict("power_limit_w")) == (3, ("overridden", "other_writer"))


def test_a_limit_lost_with_the_driver_is_told_as_that(host: FakeHost):
    host.converge()
    host.sim("reload")
    assert host.run("verify", "--section", "gpu").verdict("power_limit_w") == ("overridden", "driver_reload")


@pytest.mark.parametrize("text", ["2BB1", "2bb1", "10DE:2BB1", "0x2BB110DE"])
def test_a_pci_device_id_is_read_in_each_common_spelling(text: str):
    assert which.pci_device_id(text) == "2BB1"


def test_nvml_is_closed_again_after_a_refusal_too(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    opened, closed = [], []
    call = Nvml.call

    def counted(self: Nvml, function: str, *arguments: object) -> object:
        {"nvmlInit": opened, "nvmlShutdown": closed}.get(function, []).append(function)
        return call(self, function, *arguments)

    monkeypatch.setattr(Nvml, "call", counted)
    host.run("verify", "--section", "gpu")
    host.plan = with_gpu(power_limit_w=9000)
    host.run("verify", "--section", "gpu")
    assert (len(opened), len(closed)) == (2, 2)
