"""Sharing between processes, and what is lost when the driver unloads (nvml.h: "not persistent across ... unloads").

Without persistence the last process to leave takes limit, locks and counters with it.
"""

import json
import signal

LOST = {"power_limit_mw": 600_000, "graphics_clock_lock_mhz": None, "memory_clock_lock_mhz": None}
SET_ALL = """
nvmlDeviceSetPowerManagementLimit(gpu, 450000)
nvmlDeviceSetGpuLockedClocks(gpu, 1500, 2100)
nvmlDeviceSetMemoryLockedClocks(gpu, 7001, 13365)
"""
HOLD = "show('ready'); sys.stdin.read()"


def kept(settings: dict) -> dict:
    return {key: settings[key] for key in LOST}


def test_a_setting_of_one_process_is_seen_by_another(sim):
    holder = sim.start("nvmlDeviceSetPowerManagementLimit(gpu, 450000)\n" + HOLD)
    holder.stdout.readline()
    assert sim.nvml("show(nvmlDeviceGetPowerManagementLimit(gpu))") == 450_000
    holder.communicate("")


def test_settings_outlive_their_process_while_persistence_is_on(sim):
    sim.do("set", "persistence", 1)
    sim.nvml(SET_ALL + "show(0)")
    assert kept(sim.settings()) != LOST
    assert sim.nvml("show(nvmlDeviceGetPowerManagementLimit(gpu))") == 450_000


def test_settings_are_lost_with_the_last_process_while_persistence_is_off(sim):
    during = sim.nvml(SET_ALL + "show(nvmlDeviceGetPowerManagementLimit(gpu))")
    assert during == 450_000
    assert kept(sim.settings()) == LOST


def test_another_open_process_keeps_the_driver_loaded(sim):
    other = sim.start(HOLD)
    other.stdout.readline()
    sim.nvml(SET_ALL + "nvmlShutdown(); show(0)")
    assert sim.settings()["power_limit_mw"] == 450_000
    other.communicate("")
    assert kept(sim.settings()) == LOST


def test_a_running_load_keeps_the_driver_loaded(sim):
    sim.do("load", "on")
    sim.nvml(SET_ALL + "show(0)")
    assert sim.settings()["power_limit_mw"] == 450_000
    sim.do("load", "off")
    assert kept(sim.settings()) == LOST


def test_shutdown_unloads_before_the_process_ends(sim):
    sim.nvml(SET_ALL + "nvmlShutdown(); nvmlInit(); show(nvmlDeviceGetPowerManagementLimit(gpu))")
    seen = sim.nvml(SET_ALL + "nvmlShutdown(); nvmlInit(); show(nvmlDeviceGetPowerManagementLimit(gpu))")
    assert seen == 600_000


def test_a_nested_shutdown_does_not_unload(sim):
    seen = sim.nvml("nvmlInit()\n" + SET_ALL + "nvmlShutdown(); show(nvmlDeviceGetPowerManagementLimit(gpu))")
    assert seen == 450_000


def test_a_killed_process_counts_as_gone(sim):
    holder = sim.start(SET_ALL + HOLD)
    holder.stdout.readline()
    assert sim.settings()["power_limit_mw"] == 450_000
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert kept(sim.settings()) == LOST


def test_a_process_killed_within_a_call_leaves_no_lock_and_no_half_state(sim):
    """Killed at many moments of a busy loop of writes; the state file must stay whole and free each time."""
    for _ in range(10):
        busy = sim.start(
            "show('ready')\n"
            "while True:\n"
            "    nvmlDeviceSetPowerManagementLimit(gpu, 200000); nvmlDeviceSetPowerManagementLimit(gpu, 400000)"
        )
        busy.stdout.readline()
        busy.send_signal(signal.SIGKILL)
        busy.wait()
        assert sim.settings()["power_limit_mw"] == 600_000


def test_the_state_file_is_whole_at_every_moment(sim):
    """Seen without the lock while another process writes: always there, always of one size."""
    state = sim.folder / "state"
    size = state.stat().st_size
    busy = sim.start(
        """
        show("ready")
        for limit in range(200000, 500000, 250):
            nvmlDeviceSetPowerManagementLimit(gpu, limit)
        """
    )
    busy.stdout.readline()
    while busy.poll() is None:
        assert len(state.read_bytes()) == size
    assert busy.returncode == 0


def test_concurrent_writers_lose_no_update(pair):
    """Two processes write to one card each, 200 times; a lost update would undo the other's card."""
    script = """
    card = nvmlDeviceGetHandleByIndex({index})
    wrong = 0
    for step in range(200):
        wanted = 200000 + 1000 * step
        nvmlDeviceSetPowerManagementLimit(card, wanted)
        wrong += nvmlDeviceGetPowerManagementLimit(card) != wanted
    show(wrong)
    """
    writers = [pair.start(script.format(index=index)) for index in (0, 1)]
    assert [json.loads(writer.communicate()[0]) for writer in writers] == [0, 0]


def test_energy_counts_from_the_last_driver_load(sim):
    sim.do("set", "persistence", 1)
    sim.under_load(100)
    before = sim.nvml("show(nvmlDeviceGetTotalEnergyConsumption(gpu))")
    sim.do("reload")
    assert before > 45_000_000  # 100 s near 500 W, in mJ
    assert sim.nvml("show(nvmlDeviceGetTotalEnergyConsumption(gpu))") == 0


def test_a_reload_loses_every_volatile_setting(sim):
    sim.do("set", "persistence", 1)
    sim.nvml(SET_ALL + "nvmlDeviceSetComputeMode(gpu, 3); show(0)")
    sim.do("reload")
    settings = sim.settings()
    assert kept(settings) == LOST
    assert (settings["persistence"], settings["compute_mode"]) == (0, 0)


def test_compute_mode_outlives_the_driver_but_not_a_reboot(sim):
    sim.nvml("nvmlDeviceSetComputeMode(gpu, 3); show(0)")
    assert sim.settings()["compute_mode"] == 3


def test_a_reload_is_refused_while_a_process_has_the_driver_open(sim):
    holder = sim.start(HOLD)
    holder.stdout.readline()
    refused = sim.attempt("reload")
    assert refused.returncode == 2
    assert "in use" in refused.stderr
    holder.communicate("")


def test_a_prepared_limit_is_found_by_the_first_process_and_lost_with_it(sim):
    sim.do("set", "power_limit_mw", 480_000)
    assert sim.settings()["power_limit_mw"] == 480_000
    assert sim.nvml("show(nvmlDeviceGetPowerManagementLimit(gpu))") == 480_000
    assert sim.settings()["power_limit_mw"] == 600_000


def test_another_writer_does_not_keep_the_driver_loaded(sim):
    """`set` under an open process is somebody else's write: it lasts no longer than the driver."""
    holder = sim.start(HOLD)
    holder.stdout.readline()
    sim.do("set", "power_limit_mw", 480_000)
    assert sim.settings()["power_limit_mw"] == 480_000
    holder.communicate("")
    assert sim.settings()["power_limit_mw"] == 600_000


def test_persistence_is_per_card(pair):
    pair.do("set", "persistence", 1, "--gpu", 1)
    pair.nvml(
        """
        for index in (0, 1):
            nvmlDeviceSetPowerManagementLimit(nvmlDeviceGetHandleByIndex(index), 450000)
        show(0)
        """
    )
    assert [pair.settings(gpu)["power_limit_mw"] for gpu in (0, 1)] == [600_000, 450_000]
