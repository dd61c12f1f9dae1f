"""What a card does as virtual time passes. Captured points name their source, as the personality file does."""

import pytest

STEP_MHZ = 8  # one graphics step is 7.5 MHz


def test_nothing_moves_without_virtual_time(sim):
    before = sim.everything()
    sim.do("load", "on")
    after = sim.everything()
    for reading in ("graphics_clock_mhz", "power_mw", "temperature_millicelsius", "energy_mj"):
        assert after[reading] == before[reading]


def test_an_idle_card_rests_in_p8(sim):
    """Captured: P8, 180 MHz SM, 405 MHz memory, mask 0x0 (find_string id 59803664370)."""
    sim.do("advance", 600)
    idle = sim.everything()
    assert (idle["pstate"], idle["graphics_clock_mhz"], idle["memory_clock_mhz"]) == (8, 180, 405)
    assert idle["event_reasons"] == 0


def test_a_load_runs_in_p1_below_the_maximum_memory_clock(sim):
    """Captured: 2790 MHz, 13365 MHz and about 500 W while decoding, of 600 W (guide 003)."""
    sim.do("load", "on")
    sim.do("advance", 30)
    seen = sim.nvml(
        """
        show([nvmlDeviceGetPerformanceState(gpu), nvmlDeviceGetClockInfo(gpu, NVML_CLOCK_SM),
              nvmlDeviceGetClockInfo(gpu, NVML_CLOCK_MEM), nvmlDeviceGetPowerUsage(gpu),
              nvmlDeviceGetUtilizationRates(gpu).gpu, nvmlDeviceGetCurrentClocksEventReasons(gpu),
              nvmlDeviceGetCurrentClocksThrottleReasons(gpu), len(nvmlDeviceGetComputeRunningProcesses(gpu))])
        """
    )
    assert seen == [1, 2790, 13365, 500_000, 100, 0, 0, 1]


def test_the_clock_ramps_up_and_falls_at_once(sim):
    clocks = [sim.under_load(0.1)["graphics_clock_mhz"]]
    for _ in range(12):
        sim.do("advance", 0.1)
        clocks.append(sim.everything()["graphics_clock_mhz"])
    assert clocks == sorted(clocks)
    assert clocks[0] < 600
    assert clocks[-1] == 2790
    sim.do("load", "off")
    sim.do("advance", 0.1)
    assert sim.everything()["graphics_clock_mhz"] == 180


@pytest.mark.parametrize("request_mhz", [900, 1500, 2001, 2399])
def test_a_locked_clock_is_held_within_one_step(sim, request_mhz):
    sim.do("load", "on")
    sim.nvml(f"nvmlDeviceSetGpuLockedClocks(gpu, {request_mhz}, {request_mhz}); show(0)")
    sim.do("advance", 10)
    held, listed, reasons = sim.nvml(
        """
        clock, listed = nvmlDeviceGetClockInfo(gpu, NVML_CLOCK_SM), nvmlDeviceGetSupportedGraphicsClocks(gpu, 14001)
        show([clock, clock in listed, nvmlDeviceGetCurrentClocksEventReasons(gpu)])
        """
    )
    assert listed
    assert abs(held - request_mhz) <= STEP_MHZ
    assert reasons == 0  # a lock sets no bit (facts-nvml.md A.2)


def test_a_lower_clock_draws_less(sim):
    draws = []
    for clock in (2790, 2100, 1500, 900):
        sim.do("load", "on")
        sim.do("set", "graphics_clock_lock_mhz", f"{clock},{clock}")
        sim.do("advance", 10)
        draws.append(sim.everything()["power_mw"])
    assert draws == sorted(draws, reverse=True)
    assert draws[0] > draws[-1]


def test_a_lock_does_not_wake_an_idle_card(sim):
    sim.do("set", "persistence", 1)
    sim.nvml("nvmlDeviceSetGpuLockedClocks(gpu, 2100, 2100); show(0)")
    sim.do("advance", 10)
    assert sim.everything()["graphics_clock_mhz"] == 180


def test_a_lock_above_the_natural_clock_is_accepted_and_not_reached(sim):
    """Captured: 3000-3090 and 14001 accepted, 2790 and 13365 seen under load (guide 003)."""
    sim.do("load", "on")
    codes = sim.nvml(
        """
        show([code(nvmlDeviceSetGpuLockedClocks, gpu, 3000, 3090),
              code(nvmlDeviceSetMemoryLockedClocks, gpu, 14001, 14001)])
        """
    )
    sim.do("advance", 30)
    after = sim.everything()
    assert codes == [0, 0]
    assert (after["graphics_clock_mhz"], after["memory_clock_mhz"], after["event_reasons"]) == (2790, 13365, 0)


def test_a_lower_memory_lock_takes_the_memory_off_its_p_state(sim):
    sim.do("load", "on")
    sim.nvml("nvmlDeviceSetMemoryLockedClocks(gpu, 405, 810); show(0)")
    sim.do("advance", 1)
    after = sim.everything()
    assert after["memory_clock_mhz"] == 810
    assert after["pstate"] > 1


@pytest.mark.parametrize("limit_w", [150, 250, 300, 400, 480])
def test_a_power_cap_holds_the_draw_and_lowers_the_clock(sim, limit_w):
    sim.do("load", "on")
    sim.nvml(f"nvmlDeviceSetPowerManagementLimit(gpu, {limit_w * 1000}); show(0)")
    sim.do("advance", 30)
    draw, clock, reasons, counter = sim.nvml(
        """
        show([nvmlDeviceGetPowerUsage(gpu), nvmlDeviceGetClockInfo(gpu, NVML_CLOCK_SM),
              nvmlDeviceGetCurrentClocksEventReasons(gpu), nvmlDeviceGetFieldValues(gpu, [74])[0].value.ullVal])
        """
    )
    assert draw <= limit_w * 1000
    assert clock < 2790
    assert reasons == nvml_reason("power_cap")
    assert counter == 30_000_000_000  # field 74 counts nanoseconds


def test_a_cap_above_the_draw_changes_nothing(sim):
    sim.do("load", "on")
    sim.nvml("nvmlDeviceSetPowerManagementLimit(gpu, 510000); show(0)")
    sim.do("advance", 30)
    after = sim.everything()
    assert (after["graphics_clock_mhz"], after["event_reasons"]) == (2790, 0)


def test_a_tighter_cap_never_gives_a_higher_clock(sim):
    clocks = []
    for limit_mw in range(600_000, 149_999, -30_000):
        sim.do("load", "on")
        sim.do("set", "power_limit_mw", limit_mw)
        sim.do("advance", 5)
        clocks.append(sim.everything()["graphics_clock_mhz"])
    assert clocks == sorted(clocks, reverse=True)


def test_heat_rises_to_its_balance_and_falls_back(sim):
    """Captured at 500 W: 70.2 C on the open side (find_string id 61508693714, bottom card)."""
    cold = sim.everything()["temperature_millicelsius"]
    rising = [sim.under_load(60)["temperature_millicelsius"] for _ in range(15)]
    assert rising == sorted(rising)
    assert rising[0] > cold
    assert abs(rising[-1] - 70_200) < 1500
    sim.do("load", "off")
    sim.do("advance", 900)
    assert abs(sim.everything()["temperature_millicelsius"] - cold) < 100


def test_a_hot_room_makes_the_card_throttle_with_the_thermal_reason(sim):
    sim.do("set", "ambient_celsius", 65)
    hot = sim.under_load(1800)
    assert hot["event_reasons"] == nvml_reason("sw_thermal")
    assert hot["graphics_clock_mhz"] < 2790 - 5 * STEP_MHZ
    assert abs(hot["temperature_millicelsius"] - 90_000) < 2000  # settles at the threshold
    sim.do("set", "ambient_celsius", 20)
    assert sim.under_load(1800)["event_reasons"] == 0


def test_beyond_the_hardware_threshold_the_card_falls_to_its_lowest_clock(sim):
    sim.do("set", "ambient_celsius", 120)
    sim.do("advance", 80)  # past both thresholds, too fast for the software controller to be done
    hot = sim.under_load(1)
    assert hot["temperature_millicelsius"] > 96_000
    assert hot["event_reasons"] & nvml_reason("hw_thermal") == nvml_reason("hw_thermal")
    assert hot["graphics_clock_mhz"] == 180


def test_energy_is_the_integral_of_power(sim):
    sim.under_load(10)  # past the ramp: the draw is constant from here
    before = sim.everything()
    sim.do("advance", 100)
    after = sim.everything()
    assert after["energy_mj"] - before["energy_mj"] == after["power_mw"] * 100


def test_reported_power_is_an_average_of_one_second(sim):
    sim.do("set", "persistence", 1)
    sim.under_load(10)
    sim.do("load", "off")
    sim.do("advance", 0.5)
    average, instant = sim.nvml("show([value.value.uiVal for value in nvmlDeviceGetFieldValues(gpu, [185, 186])])")
    assert (average, instant) == ((500_000 + 15_000) // 2, 15_000)


def nvml_reason(name: str) -> int:
    """Bits of nvmlClocksEventReason* in nvidia-ml-py 13.615.71."""
    return {"power_cap": 0x4, "sw_thermal": 0x20, "hw_thermal": 0x48}[name]
