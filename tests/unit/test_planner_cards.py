"""Several cards of several kinds in one host: what the wish says of single ones, by model, PCI address or UUID."""

from __future__ import annotations

from typing import Any

import pytest

from inferhost.planner.machine.card_wishes import CARDS
from inferhost.schema.plan import GpuSelector
from inferhost.schema.wish import GPU_HOST_WIDE, GPU_PREFIX, options
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal, wish

P4, L40S, SECOND = "tesla-p4", "l40s", "GPU-2"


def mixed(own: dict[str, Any], **flat: Any) -> dict[str, Any]:
    """A wish for a P4 and two cards of another model."""
    cards = (
        gpu(P4, pci_address="0000:41:00.0"),
        gpu(L40S, pci_address="0000:03:00.0"),
        gpu(L40S, uuid=SECOND, pci_address="0000:82:00.0"),
    )
    plain = {"inferhost_hardware": hardware(*cards), "inferhost_manage": ["gpu"], CARDS: own}
    return {**plain, **{f"inferhost_gpu_{name}": value for name, value in flat.items()}}


def limits(own: dict[str, Any], **flat: Any) -> list[Any]:
    return [card.power_limit_w for card in planned(mixed(own, **flat)).gpus]


def power(watts: int) -> dict[str, str]:
    return {"power_limit": str(watts)}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, [75, 300, 300]),
        ({L40S: power(250)}, [75, 250, 250]),
        ({"0000:03:00.0": power(250)}, [75, 250, 300]),
        ({"00000000:03:00.0": power(250)}, [75, 250, 300]),  # as NVML and nvidia-smi print it
        ({SECOND: power(250)}, [75, 300, 250]),
        ({SECOND.lower(): power(250)}, [75, 300, 250]),
        ({SECOND: power(200), "0000:82:00.0": power(220), L40S: power(250)}, [75, 250, 200]),
        ({"0000:82:00.0": power(220), L40S: power(250)}, [75, 250, 220]),
        ({SECOND: {}}, [75, 300, 300]),
    ],
)
def test_a_card_takes_the_options_of_every_key_that_means_it_the_more_exact_last(
    own: dict[str, Any], expected: list[int]
):
    assert limits({P4: power(75), **own}, power_limit="300") == expected


def test_each_kind_gets_what_it_can_do():
    """Application clocks on Pascal, a lock on the others; for all alike either would be refused."""
    own = {
        P4: {"application_clocks": "3003,1531"},
        SECOND: {"graphics_clock_lock": "2100", "compute_mode": "prohibited"},
    }
    plan = planned(mixed(own))
    assert [card.application_clocks_mhz for card in plan.gpus] == [(3003, 1531), None, None]
    assert [card.graphics_clock_lock_mhz for card in plan.gpus] == [None, None, (2100, 2100)]
    assert [card.compute_mode for card in plan.gpus] == [None, None, "prohibited"]
    reasons = {r.setting: r.source for r in plan.reasons}
    assert reasons["gpus[2].graphics_clock_lock_mhz"] == f"wish:{CARDS}"
    assert reasons["gpus[1].compute_mode"] == "wish:inferhost_gpu_compute_mode"
    assert "gpus[1]" in refusal(mixed({}, application_clocks="3003,1531"))


def test_an_engine_is_kept_from_no_card_but_a_prohibited_one_of_its_own():
    cards = {"inferhost_hardware": hardware(gpu(L40S), gpu(L40S, uuid=SECOND))}
    values = {**wish(L40S, "qwen3-4b"), **cards}
    own = {SECOND: {"compute_mode": "prohibited"}}
    assert planned({**values, CARDS: own}).gpus[1].compute_mode == "prohibited"
    said = refusal({**values, CARDS: own, "inferhost_service_gpus": ["1"]})
    assert said.startswith(
        f"error: {CARDS}.{SECOND}.compute_mode: found prohibited, and an engine is to run on this card"
    )


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ({SECOND: power(9000)}, f"{CARDS}.{SECOND}.power_limit: found 9000, outside 100 to 350 W of gpus[2]"),
        (
            {"rtx-4090": {}, P4: {}},
            f"{CARDS}.rtx-4090: is no card of inferhost_hardware\nhint: one of: tesla-p4, 0000:41:00.0",
        ),
        ({SECOND: {"mps": True}}, f"{CARDS}.{SECOND}.mps: is not an option of a card"),
        (
            {SECOND: {"power_limi": 1}},
            f'{CARDS}.{SECOND}.power_limi: is not an option of a card\nhint: did you mean "power_limit"?',
        ),
        ({SECOND: "400"}, f'{CARDS}.{SECOND}: found "400", wanted a mapping'),
        ({P4: {"ecc": "maybe"}}, f'{CARDS}.{P4}.ecc: found "maybe", wanted one of on, off, leave'),
        ({P4: {"mig": ["1g.10gb"]}}, f"{CARDS}.{P4}.mig: found 1g.10gb, but gpus[0] (tesla-p4) cannot be divided"),
        ({P4: {"guard_limit": 120}}, f"{CARDS}.{P4}.guard_limit: found 120, wanted 50 to 100 C"),
    ],
)
def test_what_cannot_be_is_refused_at_the_key_that_a_person_has_to_change(own: dict[str, Any], text: str):
    assert f"error: {text}" in refusal(mixed(own, guard=True))


def test_the_memory_of_an_engine_is_that_of_its_own_card():
    """Error correction takes 1/16 of the memory where it is switched on."""
    cards = [gpu("rtx-4090", uuid=f"GPU-{number}") for number in range(2)]
    values = {**wish("rtx-4090", "qwen3-4b"), "inferhost_hardware": hardware(*cards), CARDS: {"GPU-1": {"ecc": "on"}}}
    first, second = (
        planned({**values, "inferhost_service_gpus": [number]}).budget["main"]["total_memory_bytes"]
        for number in ("0", "1")
    )
    assert second < first


def test_what_is_wrong_with_the_host_is_said_once_and_not_per_card():
    values = {"inferhost_hardware": hardware(gpu(L40S), gpu(L40S)), "inferhost_manage": ["gpu"]}
    modes = {"inferhost_gpu_mps": True, "inferhost_gpu_compute_mode": "prohibited"}
    assert refusal({**values, **modes}).count("error:") == 1


def test_cards_of_one_model_are_numbered_by_their_addresses_whatever_the_order_of_the_file():
    """The host counts in PCI order."""
    cards = [gpu(L40S, pci_address=address) for address in ("0000:82:00.0", "0000:03:00.0", "0000:c1:00.0")]
    values = {"inferhost_hardware": hardware(*cards), "inferhost_manage": ["gpu"]}
    assert [card.select.ordinal for card in planned(values).gpus] == [1, 0, 2]
    cards[1]["pci_address"] = None
    assert [card.select for card in planned(values).gpus] == [GpuSelector(None, "26B9", n) for n in range(3)]


def test_what_is_the_hosts_alone_is_among_the_options():
    assert {GPU_PREFIX + name for name in GPU_HOST_WIDE} < set(options())


@pytest.mark.parametrize(
    "key",
    [
        *("rtx-3060", "rtx-3060-ti", "rtx-3080", "rtx-3090-ti", "rtx-4070", "rtx-4070-super", "rtx-4070-ti-super"),
        *("rtx-4080", "rtx-4080-super", "rtx-5070", "rtx-5070-ti", "rtx-5080", "tesla-v100-pcie-16gb"),
        *("tesla-v100-pcie-32gb", "tesla-t4", "a10", "rtx-a6000"),
    ],
)
def test_a_common_card_is_known_by_what_its_sellers_call_it_and_is_planned_for(key: str):
    budget = planned(wish(key, "llama-3.1-8b-instruct-q4_k_m")).budget["main"]
    assert budget["total_memory_bytes"] <= (CATALOGUE.gpus[key].memory_label_gb or 0) * 2**30


@pytest.mark.parametrize(("watts", "refused"), [("600", False), ("675", False), ("676", True), ("9999", True)])
def test_a_limit_far_above_the_default_is_refused_where_the_highest_is_not_known(watts, refused):
    values = wish("rtx-4090", "llama-3.1-8b-instruct", gpu_power_limit=watts)
    if not refused:
        assert planned(values).gpus[0].power_limit_w == int(watts)
        return
    assert refusal(values) == (
        f"error: inferhost_gpu_power_limit: found {watts}, above 675 W, 1.5 times the default 450 W of gpus[0] "
        "(rtx-4090), whose highest is not known\n"
        "hint: at most 675, default or max; power_max_w of the card in inferhost_hardware says what it takes"
    )
