"""The energy performance preference is planned only where the driver has one and the governor leaves it free."""

from __future__ import annotations

from typing import Any

import pytest

from inferhost.schema.plan import Plan
from tests.unit.planner_wishes import gpu, hardware, planned, refusal, wish

MODEL = "llama-3.1-8b-instruct"
OPTION = "inferhost_cpu_energy_performance_preference"
WORDS = ["balance_performance", "balance_power", "default", "performance", "power"]
BARE = {"sockets": 1, "cores": 8, "numa_nodes": 1, "cpufreq": True}


def asked(driver: str | None, preferences: list[str] | None, preference: str, governor: str) -> dict[str, Any]:
    cpu = {**BARE, "scaling_driver": driver, "energy_performance_preferences": preferences}
    plain = wish("rtx-3090", MODEL, cpu_energy_performance_preference=preference, cpu_governor=governor)
    return {**plain, "inferhost_hardware": hardware(gpu("rtx-3090"), cpu=cpu)}


def outcome(plan: Plan) -> tuple[str | None, str, str]:
    why = next(r for r in plan.reasons if r.setting == "cpu.energy_performance_preference")
    return plan.cpu.energy_performance_preference, why.because, why.source


FORMULA = "formula:cpu.energy_performance_preference"
FORCED = "not asked for: {} forces performance under the governor performance"


@pytest.mark.parametrize(
    ("driver", "preferences", "preference", "governor", "expected"),
    [
        ("intel_pstate", WORDS, "power", "powersave", ("power", "the wish sets it", f"wish:{OPTION}")),
        ("intel_cpufreq", WORDS, "power", "performance", ("power", "the wish sets it", f"wish:{OPTION}")),
        ("amd-pstate-epp", WORDS, "performance", "leave", ("performance", "the wish sets it", f"wish:{OPTION}")),
        ("intel_pstate", WORDS, "leave", "powersave", (None, "left alone (the wish sets it)", f"wish:{OPTION}")),
        ("intel_pstate", WORDS, "performance", "performance", (None, FORCED.format("intel_pstate"), FORMULA)),
        ("amd-pstate-epp", WORDS, "leave", "performance", (None, FORCED.format("amd-pstate-epp"), FORMULA)),
        (
            "acpi-cpufreq",
            [],
            "power",
            "performance",
            (None, "not applicable: acpi-cpufreq has no such setting", FORMULA),
        ),
    ],
)
def test_the_preference_follows_driver_and_governor(driver, preferences, preference, governor, expected):
    assert outcome(planned(asked(driver, preferences, preference, governor))) == expected


@pytest.mark.parametrize("driver", ["intel_pstate", "amd-pstate-epp", "amd_pstate_epp"])
def test_a_preference_that_the_governor_forbids_is_refused_before_anything_is_touched(driver):
    assert refusal(asked(driver, WORDS, "power", "performance")) == (
        f"error: {OPTION}: found power, but {driver} forces performance under the governor performance\n"
        "hint: set inferhost_cpu_governor to powersave, which follows the preference"
    )


def test_a_preference_that_the_processor_does_not_offer_is_refused():
    assert refusal(asked("intel_pstate", ["default", "performance"], "power", "powersave")) == (
        f"error: {OPTION}: found power, this processor offers default, performance"
    )


def test_without_a_known_list_the_host_decides_and_the_plan_says_so():
    plan = planned(asked(None, None, "power", "performance"))
    assert plan.cpu.energy_performance_preference == "power"
    assert [p.needs for p in plan.pending if p.setting == "cpu.energy_performance_preference"] == [
        "the processor's own list of preferences"
    ]


def test_a_guest_has_no_preference():
    own = hardware(gpu("rtx-3090"), cpu={**BARE, "cpufreq": False}, virtualization="vmware")
    values = {**wish("rtx-3090", MODEL, cpu_energy_performance_preference="power"), "inferhost_hardware": own}
    assert outcome(planned(values))[:2] == (None, "not applicable: vmware owns the processor's frequency")


IDLE = "inferhost_cpu_idle_latency_us"


def test_an_idle_limit_is_planned_as_wished_and_the_host_says_which_states_there_are():
    plan = planned(wish("l40s", "qwen3-8b", cpu_idle_latency_us=10))
    assert plan.cpu.idle_latency_us == 10
    found = next(r for r in plan.reasons if r.setting == "cpu.idle_latency_us")
    assert (found.value, found.source) == (10, f"wish:{IDLE}")
    assert "costs power all day" in found.gain
    assert [p.needs for p in plan.pending if p.setting == "cpu.idle_latency_us"] == [
        "the processor's own list of idle states"
    ]


def test_idle_states_are_left_alone_by_default():
    plan = planned(wish("l40s", "qwen3-8b"))
    assert plan.cpu.idle_latency_us is None
    assert next(r.source for r in plan.reasons if r.setting == "cpu.idle_latency_us") == "formula:cpu.idle_latency"


@pytest.mark.parametrize("wanted", ["-1", "100001", "C1", "1.5", "9999999999"])
def test_an_idle_limit_that_is_no_number_of_microseconds_is_refused(wanted: str):
    text = refusal(wish("l40s", "qwen3-8b", cpu_idle_latency_us=wanted))
    assert text.startswith(
        f'error: {IDLE}: found "{wanted}", wanted leave or 0 to 100000 microseconds\nhint: 10 keeps'
    )
