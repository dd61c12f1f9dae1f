"""What NVML's header and the manuals say of each generation, asked of every personality through the real binding.

The table below is the documentation, not the personality files: a file that forgets a refusal turns a row red.
Sources: nvml.h (which generation a call is for), nvidia-smi(1), facts-nvml.md A.1 and A.4.
"""

import dataclasses

import pytest
from conftest import HERE

OK, NO, OLD = 0, 3, 26  # success, NotSupported, Deprecated
PERSONALITIES = HERE / "personalities"


@dataclasses.dataclass(frozen=True)
class Card:
    """Codes that the calls of one kind answer; architecture and compute capability as the binding numbers them."""

    architecture: int
    capability: list[int]
    graphics_lock: int = OK  # Volta and later
    memory_lock: int = OK  # Ampere and later; not at once on Hopper
    application_clocks: int = OLD  # Tesla and Quadro since Kepler; deprecated since NVML 13; never on RTX GeForce
    energy: int = OK  # Volta and later
    ecc: int = OK
    mig: int = NO


GEFORCE = {"application_clocks": NO, "ecc": NO}
CARDS = {
    "tesla-p4": Card(4, [6, 1], graphics_lock=NO, memory_lock=NO, application_clocks=OK, energy=NO),
    "rtx-2080-super": Card(6, [7, 5], memory_lock=NO, **GEFORCE),
    "rtx-3070": Card(7, [8, 6], **GEFORCE),
    "rtx-3080-ti": Card(7, [8, 6], **GEFORCE),
    "rtx-3090": Card(7, [8, 6], **GEFORCE),
    "rtx-4060-ti": Card(8, [8, 9], **GEFORCE),
    "rtx-4070-ti": Card(8, [8, 9], **GEFORCE),
    "rtx-4090": Card(8, [8, 9], application_clocks=NO),  # the one GeForce card here with ECC
    "rtx-5090": Card(10, [12, 0], **GEFORCE),
    "rtx-pro-6000-blackwell-workstation": Card(10, [12, 0]),
    "l4": Card(8, [8, 9]),
    "l40s": Card(8, [8, 9]),
    "a100-80gb-pcie": Card(7, [8, 0], mig=OK),
    "h100-80gb-hbm3": Card(9, [9, 0], memory_lock=NO, mig=OK),
    "h200": Card(9, [9, 0], memory_lock=NO, mig=OK),
}


def machine(bare, name):
    bare.do("init", PERSONALITIES / f"{name}.txt")
    return bare


def test_every_personality_is_in_the_table():
    assert sorted(CARDS) == sorted(path.stem for path in PERSONALITIES.glob("*.txt"))


@pytest.mark.parametrize("name", CARDS)
def test_a_card_answers_as_its_generation_does(bare, name):
    seen = machine(bare, name).nvml(
        """
        graphics = nvmlDeviceGetMaxClockInfo(gpu, NVML_CLOCK_SM)
        memory = nvmlDeviceGetMaxClockInfo(gpu, NVML_CLOCK_MEM)
        fields = nvmlDeviceGetFieldValues(gpu, [NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION])
        show({
            "architecture": nvmlDeviceGetArchitecture(gpu),
            "capability": nvmlDeviceGetCudaComputeCapability(gpu),
            "graphics_lock": [code(nvmlDeviceSetGpuLockedClocks, gpu, graphics, graphics),
                              code(nvmlDeviceResetGpuLockedClocks, gpu)],
            "memory_lock": [code(nvmlDeviceSetMemoryLockedClocks, gpu, memory, memory),
                            code(nvmlDeviceResetMemoryLockedClocks, gpu)],
            "application_clocks": [code(nvmlDeviceSetApplicationsClocks, gpu, memory, graphics),
                                   code(nvmlDeviceGetApplicationsClock, gpu, NVML_CLOCK_SM),
                                   code(nvmlDeviceGetDefaultApplicationsClock, gpu, NVML_CLOCK_MEM),
                                   code(nvmlDeviceResetApplicationsClocks, gpu)],
            "energy": [code(nvmlDeviceGetTotalEnergyConsumption, gpu), fields[0].nvmlReturn],
            "ecc": [code(nvmlDeviceGetEccMode, gpu), code(nvmlDeviceSetEccMode, gpu, 1)],
            "mig": [code(nvmlDeviceGetMigMode, gpu), code(nvmlDeviceSetMigMode, gpu, 0)],
        })
        """
    )
    card = dataclasses.asdict(CARDS[name])
    assert {key: seen.pop(key) for key in ("architecture", "capability")} == {
        key: card.pop(key) for key in ("architecture", "capability")
    }
    assert seen == {key: [code] * len(seen[key]) for key, code in card.items()}


# Bandwidth of the data sheets; gpu-specs.csv. The H200's own clock and width give 4917, not the 4800 on the label.
BANDWIDTH_GB_S = {
    "tesla-p4": 192.3, "rtx-3070": 448, "rtx-3080-ti": 912, "rtx-3090": 936, "rtx-4060-ti": 288, "rtx-4070-ti": 504,
    "rtx-4090": 1008, "rtx-5090": 1792, "l4": 300, "l40s": 864, "a100-80gb-pcie": 1935, "h100-80gb-hbm3": 3350,
}  # fmt: skip


@pytest.mark.parametrize("name", BANDWIDTH_GB_S)
def test_the_bandwidth_follows_from_clock_and_width(bare, name):
    clock_mhz, bits = machine(bare, name).nvml(
        "show([nvmlDeviceGetMaxClockInfo(gpu, NVML_CLOCK_MEM), nvmlDeviceGetMemoryBusWidth(gpu)])"
    )
    assert 2 * clock_mhz * bits / 8 / 1000 == pytest.approx(BANDWIDTH_GB_S[name], rel=0.002)


@pytest.mark.parametrize("name", CARDS)
def test_a_loaded_card_runs_within_its_limits_and_a_rested_one_is_cold(bare, name):
    sim = machine(bare, name)
    loaded = sim.under_load(600)
    limit_mw = sim.settings()["power_limit_mw"]
    assert loaded["power_mw"] <= limit_mw
    assert loaded["temperature_millicelsius"] < 87_000
    sim.do("load", "off")
    sim.do("advance", 3600)
    assert sim.everything()["power_mw"] < 80_000
    assert sim.everything()["temperature_millicelsius"] < loaded["temperature_millicelsius"]


def test_application_clocks_are_what_a_pascal_card_runs_at(bare):
    sim = machine(bare, "tesla-p4")
    default = sim.under_load(10)
    assert (default["graphics_clock_mhz"], default["memory_clock_mhz"]) == (885, 3003)
    assert default["event_reasons"] == 0x2  # nvml.h: the clocks are set to application-specific values
    sim.nvml(
        "nvmlDeviceSetApplicationsClocks(gpu, 3003, nvmlDeviceGetSupportedGraphicsClocks(gpu, 3003)[40]); show(0)"
    )
    sim.do("advance", 10)
    assert sim.everything()["graphics_clock_mhz"] == sim.settings()["application_clocks_mhz"][1] == 1024


def test_the_power_limit_wins_over_an_application_clock(bare):
    """75 W carry about the boost clock of 1114 MHz, not the 1531 MHz that the card accepts."""
    sim = machine(bare, "tesla-p4")
    sim.do("set", "application_clocks_mhz", "3003,1531")
    loaded = sim.under_load(10)
    assert 1080 < loaded["graphics_clock_mhz"] < 1130
    assert loaded["event_reasons"] == 0x2 | 0x4


def test_application_clocks_come_from_the_cards_lists(bare):
    """nvml.h: InvalidArgument where the pair is no valid combination."""
    codes = machine(bare, "tesla-p4").nvml(
        """
        show([code(nvmlDeviceSetApplicationsClocks, gpu, *pair)
              for pair in ((3002, 885), (3003, 884), (0, 0), (3003, 885), (405, 885))])
        """
    )
    assert codes == [2, 2, 2, 0, 0]


def test_application_clocks_have_a_getter_and_are_lost_with_the_driver(bare):
    sim = machine(bare, "tesla-p4")
    getter = "[nvmlDeviceGetApplicationsClock(gpu, kind) for kind in (NVML_CLOCK_MEM, NVML_CLOCK_SM)]"
    assert sim.nvml(f"nvmlDeviceSetApplicationsClocks(gpu, 3003, 1531); show({getter})") == [3003, 1531]
    assert sim.nvml(f"show({getter})") == [3003, 885]  # no persistence: the driver unloaded in between
    sim.do("set", "persistence", 1)
    sim.nvml("nvmlDeviceSetApplicationsClocks(gpu, 3003, 1531); show(0)")
    assert sim.nvml(f"show({getter})") == [3003, 1531]
    assert sim.nvml(f"nvmlDeviceResetApplicationsClocks(gpu); show({getter})") == [3003, 885]


def test_an_application_clock_may_be_ignored_or_held_lower(bare):
    sim = machine(bare, "tesla-p4")
    sim.do("set", "persistence", 1)
    sim.do("fault", "application_clocks", "accepted_ignored")
    assert sim.nvml("show(code(nvmlDeviceSetApplicationsClocks, gpu, 3003, 1024))") == 0
    assert sim.settings()["application_clocks_mhz"] == [3003, 885]
    sim.do("fault", "application_clocks", "clamped", 700)
    assert sim.nvml("show(code(nvmlDeviceSetApplicationsClocks, gpu, 3003, 1024))") == 0
    assert sim.settings()["application_clocks_mhz"] == [3003, 1024]
    assert sim.under_load(10)["graphics_clock_mhz"] < 707


def test_an_ignored_compute_mode_shows_in_its_getter(sim):
    sim.do("fault", "compute_mode", "accepted_ignored")
    assert sim.nvml("nvmlDeviceSetComputeMode(gpu, 3); show(nvmlDeviceGetComputeMode(gpu))") == 0
