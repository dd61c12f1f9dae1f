"""What a host program can find out about the card, through the real binding."""

import subprocess

MIB = 1024 * 1024


def test_the_card_is_what_the_personality_says(sim):
    seen = sim.nvml(
        """
        pci = nvmlDeviceGetPciInfo(gpu)
        show({
            "driver": nvmlSystemGetDriverVersion(), "cuda": nvmlSystemGetCudaDriverVersion_v2(),
            "name": nvmlDeviceGetName(gpu), "device_id": pci.pciDeviceId, "bus_id": pci.busId,
            "capability": nvmlDeviceGetCudaComputeCapability(gpu),
            "bus_bits": nvmlDeviceGetMemoryBusWidth(gpu), "virtualization": nvmlDeviceGetVirtualizationMode(gpu),
            "limits_mw": nvmlDeviceGetPowerManagementLimitConstraints(gpu),
            "default_mw": nvmlDeviceGetPowerManagementDefaultLimit(gpu),
            "max_mhz": [nvmlDeviceGetMaxClockInfo(gpu, kind) for kind in (NVML_CLOCK_SM, NVML_CLOCK_MEM)],
        })
        """
    )
    # gpu-specs.csv rtx-pro-6000-bw-ws and guide 003
    assert seen == {
        "driver": "580.95.05",
        "cuda": 13000,
        "name": "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "device_id": 0x2BB110DE,
        "bus_id": "00000000:03:00.0",
        "capability": [12, 0],
        "bus_bits": 512,
        "virtualization": 1,
        "limits_mw": [150_000, 600_000],
        "default_mw": 600_000,
        "max_mhz": [3090, 14001],
    }


def test_memory_adds_up_in_both_versions_of_the_call(sim):
    sim.do("load", "on")
    one, two = sim.nvml(
        """
        one, two = nvmlDeviceGetMemoryInfo(gpu), nvmlDeviceGetMemoryInfo(gpu, nvmlMemory_v2)
        show([[one.total, one.used, one.free], [two.total, two.used, two.free, two.reserved]])
        """
    )
    assert one[0] == two[0] == 97887 * MIB
    assert one[1] + one[2] == one[0]
    assert sum(two[1:]) == two[0]
    assert one[1] == two[1] + two[3]  # the first version counts the driver's own memory as used


def test_bandwidth_follows_from_two_getters(sim):
    """2 x memory clock x bus width is 1792 GB/s, the data sheet's value (facts-nvml.md A.2)."""
    clock, bits = sim.nvml("show([nvmlDeviceGetMaxClockInfo(gpu, NVML_CLOCK_MEM), nvmlDeviceGetMemoryBusWidth(gpu)])")
    assert round(2 * clock * bits / 8 / 1000) == 1792


def test_index_uuid_and_address_lead_to_the_same_card(pair):
    seen = pair.nvml(
        """
        found = []
        for index in range(nvmlDeviceGetCount()):
            card = nvmlDeviceGetHandleByIndex(index)
            by_uuid = nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(card))
            by_address = nvmlDeviceGetHandleByPciBusId(nvmlDeviceGetPciInfo(card).busId)
            found.append([nvmlDeviceGetIndex(card), nvmlDeviceGetIndex(by_uuid), nvmlDeviceGetIndex(by_address)])
        show(found)
        """
    )
    assert seen == [[0, 0, 0], [1, 1, 1]]


def test_a_card_that_is_not_there_is_told(sim):
    codes = sim.nvml(
        """
        show([code(nvmlDeviceGetHandleByIndex, 1), code(nvmlDeviceGetHandleByUUID, "GPU-0"),
              code(nvmlDeviceGetHandleByPciBusId, "00000000:7F:00.0")])
        """
    )
    assert codes == [2, 6, 6]


def test_clock_lists_run_down_from_the_maximum_without_repeats(sim):
    memory, graphics, unlisted = sim.nvml(
        """
        memory = nvmlDeviceGetSupportedMemoryClocks(gpu)
        show([memory, nvmlDeviceGetSupportedGraphicsClocks(gpu, memory[0]),
              code(nvmlDeviceGetSupportedGraphicsClocks, gpu, 3002)])
        """
    )
    assert memory[0] == 14001
    assert 13365 in memory
    assert graphics[:3] == [3090, 3082, 3075]  # the neighbours 3090 and 3082: find_string id 70329309305
    assert graphics[-1] == 180
    for clocks in (memory, graphics):
        assert clocks == sorted(set(clocks), reverse=True)
    assert unlisted == 6


def test_a_list_that_has_no_room_is_told_its_length(sim):
    """The binding always asks with no room first; other programs may guess too low."""
    seen = sim.nvml(
        """
        library = ctypes.CDLL("libnvidia-ml.so.1")
        count, room = ctypes.c_uint(1), (ctypes.c_uint * 1)(7)
        show([library.nvmlDeviceGetSupportedMemoryClocks(gpu, ctypes.byref(count), room), count.value, room[0]])
        """
    )
    assert seen == [7, 5, 7]


def test_both_ways_to_read_the_temperature_agree(sim):
    sim.under_load(60)
    old, new = sim.nvml("show([nvmlDeviceGetTemperature(gpu, 0), nvmlDeviceGetTemperatureV(gpu, 0)])")
    assert old == new > 40


def test_a_function_we_do_not_export_is_function_not_found(sim):
    assert sim.nvml("show(code(nvmlDeviceGetSerial, gpu))") == 13


def test_a_call_the_card_refuses_is_not_supported(sim):
    assert sim.nvml("show(code(nvmlDeviceGetMigMode, gpu))") == 3


def test_application_clocks_are_deprecated(sim):
    codes = sim.nvml(
        """
        show([code(nvmlDeviceSetApplicationsClocks, gpu, 14001, 2500), code(nvmlDeviceResetApplicationsClocks, gpu),
              code(nvmlDeviceGetApplicationsClock, gpu, NVML_CLOCK_SM),
              code(nvmlDeviceGetDefaultApplicationsClock, gpu, NVML_CLOCK_SM)])
        """
    )
    assert codes == [26, 26, 26, 26]


def test_nothing_works_before_init_or_after_shutdown(sim):
    codes = sim.nvml(
        """
        nvmlInit(); nvmlInit(); nvmlShutdown()
        still = code(nvmlDeviceGetCount)
        nvmlShutdown()
        show([still, code(nvmlDeviceGetCount), code(nvmlShutdown)])
        """,
        opened=False,
    )
    assert codes == [0, 1, 1]


def test_without_a_personality_there_is_no_driver(bare):
    assert bare.nvml("show(code(nvmlInit))", opened=False) == 9


def test_a_personality_in_the_folder_is_enough(sim):
    (sim.folder / "state").unlink()
    assert sim.nvml("show(nvmlDeviceGetCount())") == 1


def test_the_library_says_that_it_is_simulated(sim):
    symbol = 'ctypes.c_int.in_dll(ctypes.CDLL("libnvidia-ml.so.1"), "inferhost_simulated_v1").value'
    assert sim.nvml(f"show({symbol})", opened=False) == 1


def test_the_library_exports_the_registered_functions_and_nothing_else(sim):
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", sim.build / "libnvidia-ml.so.1"], capture_output=True, text=True, check=True
    )
    exported = {line.split()[-1] for line in listing.stdout.splitlines()}
    assert exported == {*sim.do("functions").split(), "inferhost_simulated_v1"}


def test_every_exported_function_exists_in_the_real_binding(sim):
    named = sim.nvml(
        """
        import pynvml, re
        text = open(pynvml.__file__).read()
        show(sorted(set(re.findall(r'_nvmlGetFunctionPointer\\("(\\w+)"\\)', text))))
        """
    )
    # Unversioned and older entry points of the same library, which other programs still look up.
    older = {"nvmlInit", "nvmlInit_v2", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"}
    assert set(sim.do("functions").split()) - set(named) <= older
