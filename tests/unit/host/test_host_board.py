"""What board and firmware give a card is looked at under load, and what falls short is said and is no drift."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest

from tests.unit.host.fake_host import P4, P4_UUID, UUID, Answer, FakeHost, p4_plan, with_gpu

BUS = "/sys/bus/pci/devices/0000:03:00.0"


@pytest.fixture
def loaded(host: FakeHost) -> FakeHost:
    host.plan = with_gpu(power_limit_w=600)
    host.converge()
    host.sim("load", "on")
    host.sim("advance", 20)
    return host


def looked(host: FakeHost) -> Answer:
    answer = host.run("verify", "--section", "gpu", "--under-load", "--seconds", "4")
    assert answer.code == 0
    return answer


def remarks(answer: Answer) -> list[str]:
    return [note.partition(": ")[2] for note in answer.document["notes"] if note.startswith("gpu.")]


def test_link_window_correction_virtualisation_place_and_reasons_are_told(loaded: FakeHost):
    loaded.write(f"{BUS}/numa_node", "1\n")
    answer = looked(loaded)
    board = answer.document["facts"]["boards"][UUID]
    assert board == {
        "pcie_generation": 5,
        "pcie_generation_max": 5,
        "pcie_generation_card": None,  # the simulated library has no such function, as an old driver has not
        "pcie_width": 16,
        "pcie_width_max": 16,
        "under_load": True,
        "bar1_mib": 131072,
        "ecc": board["ecc"],
        "virtualization_mode": "passthrough",
        "numa_node": 1,
        "event_reasons": {},
    }
    assert board["ecc"] in (True, False)
    assert not [text for text in remarks(answer) if "PCIe" in text or "window" in text or "NUMA" in text]


def test_an_idle_link_is_not_judged(loaded: FakeHost):
    loaded.sim("load", "off")
    answer = looked(loaded)
    assert answer.document["facts"]["boards"][UUID]["pcie_generation"] == 1
    assert "its link was not judged: an idle one trains down" in remarks(answer)


def test_a_link_below_what_slot_and_card_can_do_is_told_and_is_no_drift(
    loaded: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    answers: dict[str, int] = {
        "nvmlDeviceGetCurrPcieLinkGeneration": 3,
        "nvmlDeviceGetMaxPcieLinkGeneration": 4,
        "nvmlDeviceGetGpuMaxPcieLinkGeneration": 5,
        "nvmlDeviceGetCurrPcieLinkWidth": 8,
    }
    for function, value in answers.items():
        monkeypatch.setattr(pynvml, function, lambda _handle, value=value: value)
    assert [text.partition(";")[0] for text in remarks(looked(loaded)) if "PCIe" in text] == [
        "its link runs at PCIe generation 3 of 4 under load",
        "its link runs at PCIe width 8 of 16 under load",
        "the slot allows PCIe generation 4, the card can do 5",
    ]


def test_a_small_window_and_an_unknown_place_are_told(host: FakeHost):
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    host.plan = p4_plan(application_clocks_mhz=(3003, 999))
    host.converge()
    for node in (0, 1):
        host.write(f"/sys/devices/system/node/node{node}/cpulist", "0\n")
    host.sim("load", "on")
    host.sim("advance", 20)
    answer = looked(host)
    assert answer.document["facts"]["boards"][P4_UUID]["bar1_mib"] == 256
    assert any(text.startswith("a window of 256 MiB, so no resizable BAR") for text in remarks(answer))
    assert any(text.startswith("the firmware does not say at which NUMA node") for text in remarks(answer))


def test_event_reasons_are_told_as_shares_of_the_time_under_load(host: FakeHost):
    host.plan = with_gpu(power_limit_w=300)
    host.converge()
    host.sim("load", "on")
    host.sim("advance", 20)
    assert looked(host).document["facts"]["boards"][UUID]["event_reasons"] == {"sw_power_cap": 1.0}


@pytest.mark.parametrize("function", ["nvmlDeviceGetBAR1MemoryInfo", "nvmlDeviceGetMaxPcieLinkWidth"])
def test_a_reading_that_fails_is_told_and_takes_no_verdict_along(
    loaded: FakeHost, monkeypatch: pytest.MonkeyPatch, function: str
):
    def fail(*_: Any) -> Any:
        raise pynvml.NVMLError(999)

    monkeypatch.setattr(pynvml, function, fail)
    answer = looked(loaded)
    assert any("what its board gives it is not known" in text and function in text for text in remarks(answer))
    assert answer.verdict("power_limit_w") == ("held", "none")
