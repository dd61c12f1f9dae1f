"""Dividing a card: instances, compute instances and devices, as nvml.h and the MIG user guide describe them."""

import textwrap

import pytest
from conftest import HERE

PERSONALITIES = HERE / "personalities"
PRELUDE = """
def profile(name):
    for n in range(NVML_GPU_INSTANCE_PROFILE_COUNT):
        if code(nvmlDeviceGetGpuInstanceProfileInfo, gpu, n) == 0:
            info = nvmlDeviceGetGpuInstanceProfileInfo(gpu, n)
            if info.name == "MIG " + name:
                return info
def place(start, size):
    return byref(c_nvmlGpuInstancePlacement_t(start, size))
def make(name, start, size):
    return nvmlDeviceCreateGpuInstanceWithPlacement(gpu, profile(name).id, place(start, size))
def divide(instance, profile, start, size):
    return nvmlGpuInstanceCreateComputeInstanceWithPlacement(instance, profile, place(start, size))
def instances(name):
    found, count = (c_nvmlGpuInstance_t * 8)(), c_uint()
    nvmlDeviceGetGpuInstances(gpu, profile(name).id, found, byref(count))
    return [nvmlGpuInstanceGetInfo(found[n]) for n in range(count.value)]
nvmlDeviceSetMigMode(gpu, 1)
"""


@pytest.fixture
def a100(bare):
    bare.do("init", PERSONALITIES / "a100-80gb-pcie.txt")
    bare.do("set", "persistence", 1)
    return bare


def look(sim, script):
    return sim.nvml(PRELUDE + textwrap.dedent(script))


def test_profiles_are_those_of_the_personality_and_have_the_bindings_names(a100):
    assert look(a100, "p = profile('3g.40gb'); show([p.id, p.sliceCount, p.instanceCount, p.memorySizeMB])") == [
        9,
        3,
        2,
        40192,
    ]
    assert look(a100, "show(code(nvmlDeviceGetGpuInstanceProfileInfo, gpu, 17))") == 3


def test_instances_exist_in_mig_mode_only(a100):
    assert look(a100, "i = profile('1g.10gb').id; nvmlDeviceSetMigMode(gpu, 0)\n"
                      "show(code(nvmlDeviceCreateGpuInstanceWithPlacement, gpu, i, place(0, 1)))") == 3  # fmt: skip


def test_instances_begin_at_places_of_their_profile_and_never_overlap(a100):
    codes = look(
        a100,
        """
        make("3g.40gb", 0, 4)
        tries = [("3g.40gb", 4, 4), ("3g.40gb", 2, 4), ("1g.10gb", 0, 1), ("3g.40gb", 4, 3)]
        unknown = code(nvmlDeviceCreateGpuInstanceWithPlacement, gpu, 77, place(0, 1))
        show([code(make, *one) for one in tries] + [unknown])
        """,
    )
    assert codes == [0, 2, 23, 2, 2]
    assert a100.settings()["mig_instances"] == ["3g.40gb@0()", "3g.40gb@4()"]


def test_an_instance_says_where_it_is(a100):
    script = "make('1g.10gb', 2, 1); make('1g.10gb', 6, 1)\n"
    found = look(
        a100, script + "show([[i.placement.start, i.placement.size, i.profileId] for i in instances('1g.10gb')])"
    )
    assert found == [[2, 1, 19], [6, 1, 19]]


def test_compute_instances_share_an_instance_and_each_is_a_device(a100):
    uuids = look(
        a100,
        """
        whole, shared = make("3g.40gb", 4, 4), make("2g.20gb", 0, 2)
        one = nvmlGpuInstanceGetComputeInstanceProfileInfo(shared, 0, 0)
        all_of_it = nvmlGpuInstanceGetComputeInstanceProfileInfo(whole, 2, 0)
        names = [one.name, one.sliceCount, all_of_it.name, all_of_it.sliceCount]
        divide(whole, all_of_it.id, 0, 3); divide(shared, one.id, 1, 1); divide(shared, one.id, 0, 1)
        names.append(code(divide, shared, one.id, 1, 1))
        names.append(code(nvmlGpuInstanceGetComputeInstanceProfileInfo, whole, 1, 0))
        devices = [nvmlDeviceGetMigDeviceHandleByIndex(gpu, n) for n in range(3)]
        uuids = [nvmlDeviceGetUUID(device) for device in devices]
        show([names, uuids, [nvmlDeviceGetGpuInstanceId(device) for device in devices],
              nvmlDeviceGetMaxMigDeviceCount(gpu), code(nvmlDeviceGetMigDeviceHandleByIndex, gpu, 3)])
        """,
    )
    names, seen, ids, most, absent = uuids
    assert names == ["MIG 1c.2g.20gb", 1, "MIG 3g.40gb", 3, 23, 3]
    assert len(set(seen)) == 3
    assert {uuid[:4] for uuid in seen} == {"MIG-"}
    assert (ids, most, absent) == ([1, 2, 2], 7, 6)
    assert a100.settings()["mig_instances"] == ["2g.20gb@0(0:1,1:1)", "3g.40gb@4(0:3)"]


def test_what_is_in_use_is_not_destroyed(a100):
    look(
        a100,
        """
        i = make('7g.80gb', 0, 8)
        divide(i, nvmlGpuInstanceGetComputeInstanceProfileInfo(i, 4, 0).id, 0, 7)
        show(0)
        """,
    )
    taken = """
        found, count = (c_nvmlGpuInstance_t * 8)(), c_uint()
        nvmlDeviceGetGpuInstances(gpu, profile("7g.80gb").id, found, byref(count))
        computes = (c_nvmlComputeInstance_t * 8)()
        nvmlGpuInstanceGetComputeInstances(found[0], 4, computes, byref(count))
        where = nvmlComputeInstanceGetInfo(computes[0]).placement
        show([code(nvmlGpuInstanceDestroy, found[0]), code(nvmlComputeInstanceDestroy, computes[0]),
              code(nvmlGpuInstanceDestroy, found[0]), where.start, where.size, nvmlDeviceSetMigMode(gpu, 0)])
    """
    a100.do("load", "on")
    assert look(a100, taken) == [19, 19, 19, 0, 7, 19]
    a100.do("load", "off")
    assert look(a100, taken) == [19, 0, 0, 0, 7, 0]


def test_instances_end_with_the_driver(a100):
    look(a100, "make('1g.10gb', 0, 1); show(0)")
    a100.do("reload")
    assert (a100.settings()["mig_mode"], a100.settings()["mig_instances"]) == ([1, 1], [])


def test_only_root_divides(a100):
    assert look(a100, "i = profile('1g.10gb').id; os.seteuid(65534)\n"
                      "show(code(nvmlDeviceCreateGpuInstanceWithPlacement, gpu, i, place(0, 1)))") == 4  # fmt: skip
