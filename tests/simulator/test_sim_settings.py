"""Setters, refusals, and the dump that a revert is judged by."""

import json


def test_the_power_limit_is_what_was_set_and_is_enforced(sim):
    seen = sim.nvml(
        """
        nvmlDeviceSetPowerManagementLimit(gpu, 333000)
        show([nvmlDeviceGetPowerManagementLimit(gpu), nvmlDeviceGetEnforcedPowerLimit(gpu)])
        """
    )
    assert seen == [333_000, 333_000]


def test_a_limit_outside_the_constraints_is_refused_and_changes_nothing(sim):
    seen = sim.nvml(
        """
        low, high = nvmlDeviceGetPowerManagementLimitConstraints(gpu)
        codes = [code(nvmlDeviceSetPowerManagementLimit, gpu, limit) for limit in (low - 1, high + 1, low, high)]
        show([codes, nvmlDeviceGetPowerManagementLimit(gpu)])
        """
    )
    assert seen == [[2, 2, 0, 0], 600_000]


def test_the_second_version_of_the_limit_call_refuses_in_silence(sim):
    """A trap of the binding: it never checks the code of this call (facts-nvml.md A.2), so only the getter tells."""
    seen = sim.nvml(
        """
        answers = []
        for scope, limit in ((NVML_POWER_SCOPE_GPU, 400000), (NVML_POWER_SCOPE_GPU, 1),
                             (NVML_POWER_SCOPE_MODULE, 300000)):
            answers.append([code(nvmlDeviceSetPowerManagementLimit_v2, gpu, scope, limit),
                            nvmlDeviceGetPowerManagementLimit(gpu)])
        show(answers)
        """
    )
    assert seen == [[0, 400_000]] * 3


def test_every_setter_needs_root(sim):
    codes = sim.nvml(
        """
        os.seteuid(65534)
        show([code(nvmlDeviceSetPersistenceMode, gpu, 1), code(nvmlDeviceSetPowerManagementLimit, gpu, 450000),
              code(nvmlDeviceSetGpuLockedClocks, gpu, 1500, 2100), code(nvmlDeviceResetGpuLockedClocks, gpu),
              code(nvmlDeviceSetMemoryLockedClocks, gpu, 810, 7001), code(nvmlDeviceResetMemoryLockedClocks, gpu),
              code(nvmlDeviceSetComputeMode, gpu, 3), code(nvmlDeviceGetPowerManagementLimit, gpu)])
        """
    )
    assert codes == [4, 4, 4, 4, 4, 4, 4, 0]


def test_an_unprivileged_reader_that_may_not_write_the_state_still_reads(sim):
    sim.folder.chmod(0o755)
    (sim.folder / "lock").chmod(0o644)
    assert sim.nvml("os.seteuid(65534); nvmlInit(); show(nvmlDeviceGetCount())", opened=False) == 1


def test_compute_mode_takes_the_modes_that_exist(sim):
    codes = sim.nvml("show([code(nvmlDeviceSetComputeMode, gpu, mode) for mode in range(5)])")
    assert codes == [0, 3, 0, 0, 2]


def test_lock_requests_snap_to_the_steps_of_the_card(sim):
    sim.do("set", "persistence", 1)
    sim.nvml(
        """
        nvmlDeviceSetGpuLockedClocks(gpu, 2001, 2399)
        nvmlDeviceSetMemoryLockedClocks(gpu, 5000, 13000)
        show(0)
        """
    )
    settings = sim.settings()
    assert settings["graphics_clock_lock_mhz"] == [2002, 2400]  # steps of 7.5 MHz, told without the half
    assert settings["memory_clock_lock_mhz"] == [7001, 13365]


def test_a_snap_goes_to_the_nearest_step(sim):
    """Half a step is 3.75 MHz, and a step is told without its half MHz: never more than 4 MHz away."""
    for request_mhz in range(1990, 2006):
        sim.do("set", "graphics_clock_lock_mhz", f"{request_mhz},{request_mhz}")
        assert abs(sim.settings()["graphics_clock_lock_mhz"][0] - request_mhz) <= 4


def test_a_request_above_the_card_is_accepted_and_snaps_to_the_maximum(sim):
    """open-gpu-kernel-modules #1266: a maximum above the reachable clock is accepted."""
    sim.do("set", "persistence", 1)
    assert sim.nvml("show(code(nvmlDeviceSetMemoryLockedClocks, gpu, 405, 16000))") == 0
    assert sim.settings()["memory_clock_lock_mhz"] == [405, 14001]


def test_contradictory_lock_requests_are_refused(sim):
    codes = sim.nvml(
        """
        tdp, unlimited = NVML_CLOCK_LIMIT_ID_TDP, NVML_CLOCK_LIMIT_ID_UNLIMITED
        show([code(nvmlDeviceSetGpuLockedClocks, gpu, *pair)
              for pair in ((2100, 1500), (0, 0), (tdp, 3000), (1500, unlimited), (tdp, unlimited))])
        """
    )
    assert codes == [2, 2, 2, 2, 0]


def test_a_reset_removes_the_lock_and_may_be_repeated(sim):
    sim.do("set", "persistence", 1)
    codes = sim.nvml(
        """
        nvmlDeviceSetGpuLockedClocks(gpu, 1500, 2100)
        show([code(nvmlDeviceResetGpuLockedClocks, gpu), code(nvmlDeviceResetGpuLockedClocks, gpu)])
        """
    )
    assert codes == [0, 0]
    assert sim.settings()["graphics_clock_lock_mhz"] is None


def test_the_dump_holds_settings_and_no_readings(sim):
    sim.do("set", "persistence", 1)
    before = sim.do("dump")
    sim.under_load(600)
    assert sim.do("dump") == before
    assert sorted(json.loads(before)["gpus"][0]) == [
        "application_clocks_mhz",
        "compute_mode",
        "ecc_mode",
        "graphics_clock_lock_mhz",
        "memory_clock_lock_mhz",
        "mig_instances",
        "mig_mode",
        "persistence",
        "power_limit_mw",
        "uuid",
    ]


def test_the_dump_is_deterministic_with_sorted_keys(pair):
    pair.do("advance", 60)
    for words in (["dump"], ["dump", "--all"]):
        text = pair.do(*words)
        assert text == pair.do(*words)
        ordered = json.dumps(json.loads(text), sort_keys=True)
        assert json.dumps(json.loads(text)) == ordered


def test_the_same_history_gives_the_same_bytes(sim):
    def history() -> bytes:
        sim.attempt("init", sim.folder / "personality.txt")
        sim.do("set", "power_limit_mw", 333_000)
        sim.under_load(77.7)
        return (sim.folder / "state").read_bytes()

    (sim.folder / "personality.txt").write_bytes((sim.folder / "personality").read_bytes())
    assert history() == history()


def test_a_prepared_state_shows_in_the_dump(sim):
    sim.do("set", "power_limit_mw", 480_000)
    sim.do("set", "persistence", 1)
    sim.do("set", "graphics_clock_lock_mhz", "1500,2100")
    sim.do("set", "compute_mode", 3)
    assert sim.settings() == {
        "application_clocks_mhz": None,
        "compute_mode": 3,
        "ecc_mode": [0, 0],
        "graphics_clock_lock_mhz": [1500, 2100],
        "memory_clock_lock_mhz": None,
        "mig_instances": [],
        "mig_mode": None,
        "persistence": 1,
        "power_limit_mw": 480_000,
        "uuid": "GPU-5a1b6000-2bb1-4000-8000-000000000001",
    }
    sim.do("set", "graphics_clock_lock_mhz", "none")
    assert sim.settings()["graphics_clock_lock_mhz"] is None


def test_a_bad_command_is_refused_and_changes_nothing(sim):
    before = sim.do("dump", "--all")
    for words in (
        ["set", "power_limit_mw", 149_999],
        ["set", "power_limit", 300_000],
        ["set", "power_limit_mw", 300_000, "--gpu", 1],
        ["set", "power_limit_mw", 300_000, "stray"],
        ["set", "persistence", "on"],
        ["set", "application_clocks_mhz", "14001,3090"],
        ["fault", "compute_mode", "clamped"],
        ["fault", "ecc", "clamped"],
        ["set", "ecc_pending", 2],
        ["load", "maybe"],
        ["advance", -1],
        ["advance", "ten"],
        ["fault", "power_limit", "broken"],
        ["fault", "persistence", "clamped"],
        ["fault", "fan", "off"],
        ["fail", "nvmlDeviceGetFanSpeedRPM", 3],
        ["fail", "nvmlDeviceGetName", 0],
        ["fail", "nvmlDeviceGetName", 31],
        ["fail-nth", 0, 999],
        ["lost", 1],
        ["nonsense"],
    ):
        refused = sim.attempt(*words)
        assert (refused.returncode, bool(refused.stderr)) == (2, True), words
    assert sim.do("dump", "--all") == before


def test_a_refused_command_leaves_nothing_behind_in_a_state_that_it_created(sim):
    (sim.folder / "state").unlink()
    assert sim.attempt("set", "persistence", 1, "stray").returncode == 2
    assert sim.settings()["persistence"] == 0


def test_a_command_without_a_machine_says_how_to_get_one(bare):
    refused = bare.attempt("dump")
    assert refused.returncode == 4
    assert refused.stderr == (
        f"error: {bare.folder}/: no simulated machine\nhint: inferhost-sim init PERSONALITY_FILE\n"
    )


def test_random_operations_agree_with_a_dictionary(sim):
    """400 operations in one process against a plain dictionary; compared after each one."""
    wrong = sim.nvml(
        """
        import random
        chance = random.Random(20261121)
        model = {"limit": 600000, "persistence": 0, "mode": 0}
        wrong = []
        for step in range(400):
            kind = chance.choice(["limit", "persistence", "mode", "bad", "reopen"])
            if kind == "limit":
                model["limit"] = chance.randrange(150000, 600001)
                nvmlDeviceSetPowerManagementLimit(gpu, model["limit"])
            elif kind == "persistence":
                model["persistence"] = chance.randrange(2)
                nvmlDeviceSetPersistenceMode(gpu, model["persistence"])
            elif kind == "mode":
                model["mode"] = chance.choice([0, 2, 3])
                nvmlDeviceSetComputeMode(gpu, model["mode"])
            elif kind == "bad":
                code(nvmlDeviceSetPowerManagementLimit, gpu, chance.choice([0, 149999, 600001]))
            else:
                nvmlShutdown(); nvmlInit()
                if not model["persistence"]:
                    model["limit"] = 600000
            found = {"limit": nvmlDeviceGetPowerManagementLimit(gpu),
                     "persistence": nvmlDeviceGetPersistenceMode(gpu), "mode": nvmlDeviceGetComputeMode(gpu)}
            if found != model:
                wrong.append([step, kind, found, model])
        show(wrong)
        """
    )
    assert wrong == []
