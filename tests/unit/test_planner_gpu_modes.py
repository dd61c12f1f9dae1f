"""Application clocks where a card has nothing else, compute mode where an engine can still run; else a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from inferhost.schema.plan import Plan
from tests.unit.planner_wishes import gpu, hardware, planned, refusal, wish

CLOCKS = "inferhost_gpu_application_clocks"
MODE = "inferhost_gpu_compute_mode"
ECC = "inferhost_gpu_ecc"


def gpu_wish(*cards: str, **own: Any) -> dict[str, Any]:
    plain = {"inferhost_hardware": hardware(*(gpu(card) for card in cards)), "inferhost_manage": ["gpu"]}
    return {**plain, **{f"inferhost_gpu_{name}": value for name, value in own.items()}}


def why(plan: Plan, setting: str) -> tuple[Any, str]:
    found = next(r for r in plan.reasons if r.setting == f"gpus[0].{setting}")
    return found.value, found.source


def test_a_pascal_card_gets_its_pair_and_the_host_checks_it_against_the_cards_list():
    plan = planned(gpu_wish("tesla-p4", application_clocks="3003,1531"))
    assert plan.gpus[0].application_clocks_mhz == (3003, 1531)
    assert why(plan, "application_clocks_mhz") == ((3003, 1531), f"wish:{CLOCKS}")
    assert [p.needs for p in plan.pending if p.setting.endswith("application_clocks_mhz")] == [
        "the card's own list of clocks"
    ]


def test_left_alone_unless_the_wish_names_them():
    plan = planned(gpu_wish("tesla-p4"))
    assert (plan.gpus[0].application_clocks_mhz, plan.gpus[0].compute_mode) == (None, None)
    assert why(plan, "application_clocks_mhz") == (None, "formula:gpu.application_clocks")
    assert why(planned(gpu_wish("l40s")), "application_clocks_mhz") == (
        None,
        "catalogue:gpus/l40s#application_clocks",
    )


@pytest.mark.parametrize(
    ("card", "wanted", "text"),
    [
        (
            "l40s",
            "9001,2520",
            "found 9001,2520, but gpus[0] (l40s) has application clocks that NVML 13 deprecates and CUDA 14 removes\n"
            "hint: inferhost_gpu_graphics_clock_lock asks for a range of the graphics clock",
        ),
        (
            "rtx-5090",
            "3002,2550",
            "found 3002,2550, but gpus[0] (rtx-5090) has no application clocks\n"
            "hint: inferhost_gpu_graphics_clock_lock asks for a range of the graphics clock",
        ),
        (
            "tesla-p4",
            "1531",
            'found "1531", wanted leave or MEMORY,GRAPHICS in MHz\nhint: for example 3003,1531',
        ),
        ("tesla-p4", "3004,1531", "found 3004 MHz for the memory clock of gpus[0] (tesla-p4), wanted 1 to 3003"),
        (
            "tesla-p4",
            "3003,0",
            "found 0 MHz for the graphics clock of gpus[0] (tesla-p4), wanted the card's own list",
        ),
    ],
)
def test_what_a_card_cannot_do_is_refused_with_what_would_work(card: str, wanted: str, text: str):
    assert refusal(gpu_wish(card, application_clocks=wanted)) == f"error: {CLOCKS}: {text}"


def test_one_card_of_two_that_cannot_is_enough_for_a_refusal():
    assert "gpus[1] (l40s)" in refusal(gpu_wish("tesla-p4", "l40s", application_clocks="3003,1531"))


@pytest.mark.parametrize("mode", ["default", "exclusive_process", "prohibited"])
def test_a_compute_mode_is_planned_for_every_card(mode: str):
    plan = planned(gpu_wish("l40s", "l40s", compute_mode=mode))
    assert [card.compute_mode for card in plan.gpus] == [mode, mode]
    assert why(plan, "compute_mode") == (mode, f"wish:{MODE}")


@pytest.mark.parametrize(("wanted", "planned_ecc"), [("on", True), (False, False), ("leave", None)])
def test_error_correction_is_planned_as_wished_and_needs_a_restart(wanted: object, planned_ecc: bool | None):
    plan = planned(gpu_wish("l40s", ecc=wanted))
    assert plan.gpus[0].ecc is planned_ecc
    found = next(r for r in plan.reasons if r.setting == "gpus[0].ecc")
    source = "formula:gpu.ecc" if planned_ecc is None else f"wish:{ECC}"
    disruption = "none" if planned_ecc is None else "reboot"
    assert (found.value, found.source, found.disruption) == (planned_ecc, source, disruption)
    needs = [p.needs for p in plan.pending if p.setting == "gpus[0].ecc"]
    assert needs == ([] if planned_ecc is None else ["a restart of the host after the first run"])


def test_a_card_without_error_correction_is_refused_it_and_needs_none_to_go_without():
    assert refusal(gpu_wish("rtx-5090", ecc="on")) == (
        f"error: {ECC}: found on, but gpus[0] (rtx-5090) has no error correction\n"
        "hint: leave; the driver shows ECC as N/A on this card"
    )
    plan = planned(gpu_wish("rtx-5090", ecc="off"))
    assert (plan.gpus[0].ecc, why(plan, "ecc")) == (None, (None, "catalogue:gpus/rtx-5090#ecc"))


def total_mib(card: str, memory_mib: int, ecc: str) -> int:
    values = wish(card, "qwen3-8b", gpu_ecc=ecc)
    values["inferhost_hardware"] = hardware(gpu(card, memory_mib=memory_mib))
    return planned(values).budget["main"]["total_memory_bytes"] // 2**20


def test_the_budget_counts_what_inline_check_bits_take_and_never_what_a_restart_will_set_free():
    assert total_mib("l40s", 49140, "on") == total_mib("l40s", 46068, "on") == 45363
    assert total_mib("rtx-4090", 24564, "leave") == 24115
    assert total_mib("rtx-4090", 24564, "on") == 24115 * 15 // 16
    assert total_mib("rtx-4090", 23028, "off") == 24115 * 15 // 16  # on when it was looked at
    assert total_mib("rtx-pro-6000-bw-ws", 97887, "on") == total_mib("rtx-pro-6000-bw-ws", 97887, "off") == 97280


def test_a_card_that_no_program_may_use_cannot_serve():
    values = {**gpu_wish("l40s", compute_mode="prohibited"), "inferhost_manage": ["gpu", "service"]}
    assert f"error: {MODE}: found prohibited, and an engine is to run on this card" in refusal(values)


def test_an_unmanaged_card_is_left_alone_whatever_the_wish_says():
    values = {**gpu_wish("l40s", compute_mode="prohibited", application_clocks="1,1"), "inferhost_manage": []}
    assert planned(values).gpus[0].compute_mode is None


MEMORY_LOCK = "inferhost_gpu_memory_clock_lock"


def test_a_memory_lock_is_planned_at_its_own_risk_which_is_shown():
    plan = planned(gpu_wish("rtx-pro-6000-bw-ws", memory_clock_lock="14001"))
    assert plan.gpus[0].memory_clock_lock_mhz == (14001, 14001)
    found = next(r for r in plan.reasons if r.setting == "gpus[0].memory_clock_lock_mhz")
    assert "at its own risk: any finite maximum can cost up to 32 % on this architecture" in found.because
    assert (found.gain, found.source) == ("at most +4.8 % decode", f"wish:{MEMORY_LOCK}")
    assert [p.needs for p in plan.pending if p.setting == "gpus[0].memory_clock_lock_mhz"] == [
        "the card's own list of clocks"
    ]


@pytest.mark.parametrize("name", ["graphics_clock_lock", "memory_clock_lock"])
def test_a_lock_that_goes_with_the_last_program_is_refused(name: str):
    """It would be asked for again by each apply, and be in doubt all the same."""
    assert refusal(gpu_wish("l40s", **{name: "1500"}, persistence_mode=False)) == (
        f"error: inferhost_gpu_{name}: found 1500, and inferhost_gpu_persistence_mode false\n"
        "hint: inferhost_gpu_persistence_mode: true; without it the driver, and with it the lock, goes with the last "
        "program"
    )


@pytest.mark.parametrize(
    ("card", "wanted", "text"),
    [
        ("tesla-p4", "3003", "found 3003, but gpus[0] (tesla-p4) cannot lock its memory clock"),
        ("h100-sxm", "2619", "found 2619, but gpus[0] (h100-sxm) cannot lock its memory clock"),
        ("l40s", "9002", "found 9002, above 9001 MHz, the highest of gpus[0] (l40s)"),
        ("l40s", "0-9001", "found 0-9001, wanted MIN-MAX with 0 < MIN <= MAX"),
        ("l40s", "max", 'found "max", wanted unlocked, MHZ or MIN-MAX'),
    ],
)
def test_a_memory_lock_that_cannot_be_is_refused(card: str, wanted: str, text: str):
    assert refusal(gpu_wish(card, memory_clock_lock=wanted)).startswith(f"error: {MEMORY_LOCK}: {text}\n")


def test_what_a_card_would_take_at_the_next_load_of_its_driver_is_named():
    assert "(nvidia-smi -lmcd)" in refusal(gpu_wish("h100-sxm", memory_clock_lock="2619"))
    assert "-lmcd" not in refusal(gpu_wish("tesla-p4", memory_clock_lock="3003"))
