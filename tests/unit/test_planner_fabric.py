"""The fabric manager of boards whose cards NVSwitch joins: who packages it, and what it wants beside it."""

import pytest

from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal
from tests.unit.test_planner_driver import DRIVER, NVIDIA, wish

JOINED = [card.key for card in CATALOGUE.gpus.values() if card.nvswitch_cards]
ON_SUBNET = "b200"


def board(card, cards, os="ubuntu-22.04", **own):
    """A host with so many of a card."""
    values = {f"inferhost_driver_{name}": value for name, value in own.items()}
    return {
        **DRIVER,
        **(NVIDIA if os.startswith("rocky") or card == ON_SUBNET else {}),
        "inferhost_hardware": hardware(*[gpu(card)] * cards, os=os, driver_version=None),
        **values,
    }


@pytest.mark.parametrize("os", ["ubuntu-22.04", "rocky-9.6"])
@pytest.mark.parametrize("card", JOINED)
def test_a_board_with_nvswitch_wants_an_answer_about_the_fabric_manager(card, os):
    text = refusal(board(card, 8, os))
    assert f"error: inferhost_driver_fabric_manager: is not set, and 8 {card} are usually joined by NVSwitch" in text
    assert "hint: true; or false where this host has no NVSwitch" in text
    for answer in (True, False):
        packages = planned(board(card, 8, os, fabric_manager=answer)).driver.install.packages
        assert any("fabricmanager" in name for name in packages) is answer


@pytest.mark.parametrize("cards", [4, 7, 8])
def test_switches_that_discovery_saw_want_it_unasked_however_many_cards_there_are(cards):
    """Seven: one of the board's cards is out of order."""
    values = board("h100-sxm", cards)
    values["inferhost_hardware"]["nvswitches"] = 4
    plan = planned(values)
    assert "nvidia-fabricmanager-580" in plan.driver.install.packages
    assert plan.driver.install.units == ("nvidia-fabricmanager.service",)
    (why,) = [reason.because for reason in plan.reasons if reason.setting == "driver.install.units"]
    assert why == "NVSwitches on this host's PCI bus: 4"
    assert planned({**values, "inferhost_driver_fabric_manager": False}).driver.install.units == ()
    values["inferhost_hardware"]["os"] = "debian-12"
    assert "NVSwitches on this host's PCI bus: 4, but no fabric manager of debian-12" in refusal(values)
    assert "or false where this host has no NVSwitch of its own" in refusal(values)


def dropin_of_the_fabric_manager(plan):
    return [dropin.content for dropin in plan.dropins if dropin.unit == "nvidia-fabricmanager.service"]


@pytest.mark.parametrize("os", ["ubuntu-22.04", "ubuntu-24.04", "rocky-9.6"])
def test_switches_that_are_reached_over_infiniband_get_their_subnet_manager_and_module_too(os):
    plan = planned(board(ON_SUBNET, 8, os, fabric_manager=True))
    assert plan.driver.install.packages[-2:] == ("nvidia-fabricmanager", "nvlsm")
    assert plan.driver.install.tools[-1:] == ("infiniband-diags",)
    (content,) = dropin_of_the_fabric_manager(plan)
    assert content.endswith("[Unit]\nWants=modprobe@ib_umad.service\nAfter=modprobe@ib_umad.service\n")
    assert "dropins.nvidia-fabricmanager.service.Wants" in {reason.setting for reason in plan.reasons}
    others = planned({**NVIDIA, **board("h200-sxm", 8, os, fabric_manager=True)})
    assert others.driver.install.packages[-1] == "nvidia-fabricmanager"
    assert "infiniband-diags" not in others.driver.install.tools
    assert dropin_of_the_fabric_manager(others) == []
    assert dropin_of_the_fabric_manager(planned(board(ON_SUBNET, 8, os, fabric_manager=False))) == []


@pytest.mark.parametrize("os", ["ubuntu-22.04", "ubuntu-24.04"])
def test_a_repository_without_a_subnet_manager_is_refused_with_the_one_that_has_it(os):
    values = {**board(ON_SUBNET, 8, os), "inferhost_driver_repository": "distribution"}
    assert "hint: inferhost_driver_repository: nvidia has fabric and subnet manager, then true; or false" in refusal(
        values
    )
    text = refusal({**values, "inferhost_driver_fabric_manager": True})
    assert "found true, but the fabric manager of b200 wants a subnet manager (nvlsm) beside it" in text
    assert "hint: inferhost_driver_repository: nvidia has fabric and subnet manager" in text


@pytest.mark.parametrize(("card", "cards"), [("h100-sxm", 4), ("h100-pcie", 8), ("rtx-pro-6000-bw-ws", 8)])
def test_where_no_board_with_nvswitch_is_known_nothing_is_asked(card, cards):
    assert planned(board(card, cards)).driver.install.units == ()


def test_where_no_fabric_manager_is_packaged_the_board_is_refused_with_who_packages_one():
    values = {**NVIDIA, **board("h100-sxm", 8, "debian-13")}
    assert "hint: take Ubuntu or the RHEL 9 family" in refusal(values)
    assert planned({**values, "inferhost_driver_fabric_manager": False}).driver.install


def test_the_boards_with_nvswitch_are_known():
    assert sorted(JOINED) == ["a100-sxm4-40gb", "a100-sxm4-80gb", "b200", "h100-sxm", "h200-sxm"]


def test_the_fabric_manager_is_to_start_at_boot():
    plan = planned(wish("h100-sxm", "ubuntu-22.04", fabric_manager=True))
    assert plan.driver.install.units == ("nvidia-fabricmanager.service",)
    assert planned(wish("h100-sxm", "ubuntu-22.04")).driver.install.units == ()


def test_the_fabric_manager_has_the_drivers_branch():
    plan = planned(wish("h100-sxm", "ubuntu-22.04", fabric_manager=True))
    assert "nvidia-fabricmanager-580" in plan.driver.install.packages
    assert "no fabric manager of debian-12.distribution is known" in refusal(
        wish("h100-sxm", "debian-12", fabric_manager=True)
    )
