"""What board and firmware give a card is looked at under load, and what falls short is said and is no drift."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest

from inferhost.host.gpu.board import SMALL_BAR_MIB, shortfalls
from tests.unit.host.fake_host import Answer, FakeHost, p4_plan, with_gpu
from tests.unit.host.simulated import P4, P4_UUID, UUID

BUS = "/sys/bus/pci/devices/0000:03:00.0"
NODES = "/sys/devices/system/node"
WHOLE: dict[str, Any] = {
    "pcie_generation": 5,
    "pcie_generation_max": 5,
    "pcie_generation_card": 5,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "under_load": True,
    "bar1_mib": SMALL_BAR_MIB + 1,
    "numa_node": 0,
    "virtualization_mode": "none",
}
"""A board that lacks nothing."""


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


@pytest.mark.parametrize(
    ("changed", "several_nodes", "said"),
    [
        ({}, True, []),
        (dict.fromkeys(WHOLE, None), False, ["its link was not judged"]),
        ({**dict.fromkeys(WHOLE, None), "under_load": True}, False, []),
        ({"under_load": False, "pcie_generation": 1}, True, ["its link was not judged"]),
        ({"pcie_generation": 4}, True, ["its link runs at PCIe generation 4 of 5 under load"]),
        ({"pcie_generation_max": None}, True, []),
        ({"pcie_generation_max": 4, "pcie_generation": 4}, True, ["the slot allows PCIe generation 4"]),
        ({"pcie_generation_card": None}, True, []),
        ({"pcie_width": 8}, True, ["its link runs at PCIe width 8 of 16 under load"]),
        ({"pcie_width_max": None}, True, []),
        ({"pcie_width": None}, True, []),
        ({"bar1_mib": SMALL_BAR_MIB}, True, [f"a window of {SMALL_BAR_MIB} MiB"]),
        ({"bar1_mib": None}, True, []),
        ({"numa_node": None}, True, ["the firmware does not say"]),
        ({"numa_node": None, "virtualization_mode": None}, True, ["the firmware does not say"]),
        ({"numa_node": None, "virtualization_mode": "passthrough"}, True, []),  # what a guest sees is not the slot's
        ({"numa_node": None}, False, []),
    ],
)
def test_each_shortfall_is_told_alone_and_what_is_unknown_is_none(
    changed: dict[str, Any], several_nodes: bool, said: list[str]
):
    found = list(shortfalls({**WHOLE, **changed}, several_nodes))
    assert [next((begin for begin in said if text.startswith(begin)), text) for text in found] == said


def test_what_a_card_or_kernel_does_not_say_is_unknown(loaded: FakeHost, monkeypatch: pytest.MonkeyPatch):
    def unsupported(*_: Any) -> Any:
        raise pynvml.NVMLError(3)

    for function in ("nvmlDeviceGetVirtualizationMode", "nvmlDeviceGetBAR1MemoryInfo", "nvmlDeviceGetEccMode"):
        monkeypatch.setattr(pynvml, function, unsupported)
    loaded.write(f"{BUS}/numa_node", "-1\n")
    answer = looked(loaded)
    board = answer.document["facts"]["boards"][UUID]
    assert [board[name] for name in ("virtualization_mode", "bar1_mib", "ecc", "numa_node")] == [None] * 4
    assert not [text for text in remarks(answer) if "without a lock" not in text]


def test_correction_is_what_runs_and_not_what_waits_and_the_window_is_all_of_it(
    loaded: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    window = pynvml.c_nvmlBAR1Memory_t(bar1Total=2**34, bar1Free=2**20, bar1Used=2**34 - 2**20)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetEccMode", lambda _: [1, 0])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetBAR1MemoryInfo", lambda _: window)
    board = looked(loaded).document["facts"]["boards"][UUID]
    assert (board["ecc"], board["bar1_mib"]) == (True, 2**14)


@pytest.mark.parametrize(("nodes", "told"), [(("node0", "has_cpu", "possible"), False), (("node0", "node1"), True)])
def test_only_a_host_with_several_nodes_has_a_place_to_tell(
    loaded: FakeHost, monkeypatch: pytest.MonkeyPatch, nodes: tuple[str, ...], told: bool
):
    for name in nodes:
        loaded.write(f"{NODES}/{name}/cpulist", "0\n")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetVirtualizationMode", lambda _: 0)
    assert any("NUMA node" in text for text in remarks(looked(loaded))) is told


def test_a_small_window_and_an_unknown_place_are_told(host: FakeHost):
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    host.plan = p4_plan(application_clocks_mhz=(3003, 999))
    host.converge()
    for node in (0, 1):
        host.write(f"{NODES}/node{node}/cpulist", "0\n")
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


@pytest.mark.parametrize(
    "function", ["nvmlDeviceGetBAR1MemoryInfo", "nvmlDeviceGetMaxPcieLinkWidth", "nvmlDeviceGetVirtualizationMode"]
)
def test_a_reading_that_fails_is_told_and_takes_no_verdict_along(
    loaded: FakeHost, monkeypatch: pytest.MonkeyPatch, function: str
):
    def fail(*_: Any) -> Any:
        raise pynvml.NVMLError(999)

    monkeypatch.setattr(pynvml, function, fail)
    answer = looked(loaded)
    assert any("what its board gives it is not known" in text and function in text for text in remarks(answer))
    assert answer.verdict("power_limit_w") == ("held", "none")
