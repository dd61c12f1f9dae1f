"""Switched faults: settings accepted without effect, failing calls, a lost card."""

import pytest


def test_an_ignored_limit_answers_success_and_keeps_the_old_value(sim):
    sim.do("fault", "power_limit", "accepted_ignored")
    seen = sim.nvml(
        """
        show([code(nvmlDeviceSetPowerManagementLimit, gpu, 300000), nvmlDeviceGetPowerManagementLimit(gpu),
              code(nvmlDeviceSetPowerManagementLimit, gpu, 1)])
        """
    )
    assert seen == [0, 600_000, 2]


def test_a_clamped_limit_is_read_back_as_wanted_but_enforced_lower(sim):
    sim.do("fault", "power_limit", "clamped", 400_000)
    sim.do("load", "on")
    seen = sim.nvml(
        """
        nvmlDeviceSetPowerManagementLimit(gpu, 450000)
        show([nvmlDeviceGetPowerManagementLimit(gpu), nvmlDeviceGetEnforcedPowerLimit(gpu)])
        """
    )
    assert seen == [450_000, 400_000]
    sim.do("advance", 30)
    assert sim.everything()["power_mw"] <= 400_000


def test_ignored_persistence_stays_off(sim):
    sim.do("fault", "persistence", "accepted_ignored")
    seen = sim.nvml("show([code(nvmlDeviceSetPersistenceMode, gpu, 1), nvmlDeviceGetPersistenceMode(gpu)])")
    assert seen == [0, 0]


@pytest.mark.parametrize(
    ("setting", "call", "request_mhz", "natural_mhz"),
    [
        ("graphics_clock", "nvmlDeviceSetGpuLockedClocks", 1500, 2790),
        ("memory_clock", "nvmlDeviceSetMemoryLockedClocks", 810, 13365),
    ],
)
def test_an_ignored_lock_is_accepted_and_has_no_effect_until_the_fault_ends(
    sim, setting, call, request_mhz, natural_mhz
):
    sim.do("fault", setting, "accepted_ignored")
    sim.do("load", "on")
    assert sim.nvml(f"show(code({call}, gpu, {request_mhz}, {request_mhz}))") == 0
    sim.do("advance", 10)
    assert sim.everything()[f"{setting}_mhz"] == natural_mhz
    assert sim.settings()[f"{setting}_lock_mhz"] == [request_mhz, request_mhz]  # so a revert has something to reset
    sim.do("fault", setting, "off")
    sim.do("advance", 10)
    assert sim.everything()[f"{setting}_mhz"] == request_mhz


@pytest.mark.parametrize(
    ("setting", "call", "request_mhz", "reading"),
    [
        ("graphics_clock", "nvmlDeviceSetGpuLockedClocks", 2400, "graphics_clock_mhz"),
        ("memory_clock", "nvmlDeviceSetMemoryLockedClocks", 13365, "memory_clock_mhz"),
    ],
)
def test_a_clamped_lock_reaches_less_than_was_asked_for(sim, setting, call, request_mhz, reading):
    sim.do("fault", setting, "clamped")
    sim.do("load", "on")
    assert sim.nvml(f"show(code({call}, gpu, {request_mhz}, {request_mhz}))") == 0
    sim.do("advance", 10)
    assert 0 < sim.everything()[reading] < request_mhz


def test_a_failing_call_fails_as_often_as_asked(sim):
    sim.do("fail", "nvmlDeviceGetName", 999, 2)
    codes = sim.nvml("show([code(nvmlDeviceGetName, gpu) for _ in range(4)])")
    assert codes == [999, 999, 0, 0]


def test_a_call_may_fail_for_ever_until_switched_off(sim):
    sim.do("fail", "nvmlDeviceSetPowerManagementLimit", 4)
    script = "show([code(nvmlDeviceSetPowerManagementLimit, gpu, 300000) for _ in range(3)])"
    assert sim.nvml(script) == [4, 4, 4]
    sim.do("fail", "nvmlDeviceSetPowerManagementLimit", "off")
    assert sim.nvml(script) == [0, 0, 0]


def test_a_failing_setter_changes_nothing(sim):
    sim.do("set", "persistence", 1)
    before = sim.do("dump")
    for call, arguments in {
        "nvmlDeviceSetPowerManagementLimit": "300000",
        "nvmlDeviceSetPersistenceMode": "0",
        "nvmlDeviceSetGpuLockedClocks": "1500, 2100",
        "nvmlDeviceSetMemoryLockedClocks": "810, 7001",
        "nvmlDeviceSetComputeMode": "3",
    }.items():
        sim.do("fail", call, 17)
        assert sim.nvml(f"show(code({call}, gpu, {arguments}))") == 17
    assert sim.do("dump") == before


def test_init_can_fail_as_without_a_driver(sim):
    sim.do("fail", "nvmlInitWithFlags", 9)
    assert sim.nvml("show(code(nvmlInit))", opened=False) == 9


@pytest.mark.parametrize("how", ["once", "forever"])
def test_the_nth_call_fails_whatever_it_is(sim, how):
    """Calls are counted from the arming on: Init and the handle are the first two."""
    script = """
    show([code(nvmlDeviceGetName, gpu), code(nvmlDeviceGetUUID, gpu), code(nvmlDeviceGetIndex, gpu)])
    """
    for n, expected in {3: [999, 0, 0], 4: [0, 999, 0], 5: [0, 0, 999], 6: [0, 0, 0]}.items():
        sim.do("fail-nth", n, 999, how)
        first = expected.index(999) if 999 in expected else 3
        wanted = expected if how == "once" else [0] * first + [999] * (3 - first)
        assert sim.nvml(script) == wanted
    sim.do("fail-nth", "off")
    assert sim.nvml(script) == [0, 0, 0]


def test_a_lost_card_stays_lost_and_the_other_works(pair):
    pair.do("lost", 0)
    script = """
    nvmlInit(); one = nvmlDeviceGetHandleByIndex(1)
    show([code(nvmlDeviceGetHandleByIndex, 0), code(nvmlDeviceGetTemperature, one, 0), nvmlDeviceGetCount(),
          code(nvmlDeviceGetHandleByUUID, "GPU-5a1b6000-2bb1-4000-8000-000000000001")])
    """
    for _ in range(2):
        assert pair.nvml(script, opened=False) == [15, 0, 2, 15]
        pair.do("advance", 3600)
        pair.do("reload")


def test_a_card_lost_under_an_open_handle_answers_15_to_everything(sim):
    process = sim.start(
        """
        show("ready"); sys.stdin.readline()
        show([code(nvmlDeviceGetPowerManagementLimit, gpu), code(nvmlDeviceSetPowerManagementLimit, gpu, 300000),
              code(nvmlDeviceGetTemperature, gpu, 0), code(nvmlDeviceGetUUID, gpu)])
        """
    )
    process.stdout.readline()
    sim.do("lost", 0)
    out, _ = process.communicate("go\n")
    assert out == "[15, 15, 15, 15]\n"


def test_writes_are_counted_so_that_check_mode_can_be_proven_silent(sim):
    sim.nvml("nvmlDeviceGetPowerManagementLimit(gpu); show(0)")
    assert '"writes": {}' in sim.do("dump", "--all")
    sim.nvml("show([code(nvmlDeviceSetPowerManagementLimit, gpu, limit) for limit in (300000, 1)])")
    assert '"writes": {"nvmlDeviceSetPowerManagementLimit": 2}' in sim.do("dump", "--all")
