"""ECC, MIG and compute mode: what takes effect at once, what waits for a reset or a reboot (nvml.h)."""

import pytest
from conftest import HERE

PERSONALITIES = HERE / "personalities"
# The trap of the binding: why a mode was not activated is what the call returns, never an exception.
MIG = "def mig(mode): return [nvmlDeviceSetMigMode(gpu, mode), nvmlDeviceGetMigMode(gpu)]\n"


@pytest.fixture
def host(bare, tmp_path):
    """A machine with one card of that name, on bare metal or passed through to a virtual machine."""

    def make(name, passed_through=False):
        path = PERSONALITIES / f"{name}.txt"
        if passed_through:
            (tmp_path / "families").symlink_to(PERSONALITIES / "families")
            text = path.read_text().replace("virtualization_mode = 0", "virtualization_mode = 1")
            path = tmp_path / path.name
            path.write_text(text)
        bare.do("init", path)
        return bare

    return make


def test_ecc_waits_for_the_reboot_and_outlives_it(host):
    sim = host("l4")
    assert sim.nvml("nvmlDeviceSetEccMode(gpu, 0); show(nvmlDeviceGetEccMode(gpu))") == [1, 0]
    assert sim.settings()["ecc_mode"] == [1, 0]
    sim.do("reload")
    assert sim.settings()["ecc_mode"] == [0, 0]
    assert sim.nvml("show(code(nvmlDeviceSetEccMode, gpu, 2))") == 2
    sim.do("reload")
    assert sim.settings()["ecc_mode"] == [0, 0]


def test_an_ignored_ecc_request_shows_in_its_getter(host):
    sim = host("l4")
    sim.do("fault", "ecc", "accepted_ignored")
    assert sim.nvml("nvmlDeviceSetEccMode(gpu, 0); show(nvmlDeviceGetEccMode(gpu))") == [1, 1]


def test_a_request_for_ecc_that_somebody_left_waits_as_well(host):
    sim = host("l4")
    sim.do("set", "ecc_pending", 0)
    assert sim.settings()["ecc_mode"] == [1, 0]


def test_geforce_cards_have_no_ecc_but_for_the_largest_of_ada(host):
    for name, ecc in (("rtx-4090", [0, 0]), ("rtx-5090", None), ("rtx-3090", None)):
        assert host(name).settings()["ecc_mode"] == ecc, name


def test_mig_is_activated_by_a_reset_that_loses_limits_and_locks(host):
    sim = host("a100-80gb-pcie")
    sim.do("set", "persistence", 1)
    sim.do("set", "power_limit_mw", 200_000)
    assert sim.nvml(MIG + "show(mig(1))") == [0, [1, 1]]
    assert sim.settings()["power_limit_mw"] == 300_000
    sim.do("reload")
    assert sim.settings()["mig_mode"] == [1, 1]  # kept on Ampere


def test_mig_on_a_busy_card_stays_pending_and_says_in_use(host):
    sim = host("a100-80gb-pcie")
    sim.do("load", "on")
    assert sim.nvml(MIG + "show(mig(1))") == [19, [0, 1]]
    sim.do("load", "off")
    assert sim.nvml(MIG + "show(mig(1))") == [0, [1, 1]]


def test_mig_behind_passthrough_waits_for_the_machines_reboot(host):
    sim = host("a100-80gb-pcie", passed_through=True)
    assert sim.nvml(MIG + "show(mig(1))") == [16, [0, 1]]
    sim.do("reload")
    assert sim.settings()["mig_mode"] == [1, 1]


def test_mig_needs_no_reset_since_hopper_and_ends_with_the_driver(host):
    sim = host("h100-80gb-hbm3")
    sim.do("set", "persistence", 1)
    sim.do("set", "power_limit_mw", 500_000)
    assert sim.nvml(MIG + "show(mig(1))") == [0, [1, 1]]
    assert sim.settings()["power_limit_mw"] == 500_000
    sim.do("reload")
    assert sim.settings()["mig_mode"] == [0, 0]


def test_a_divided_card_takes_no_compute_mode_of_its_own(host):
    sim = host("h200")
    assert sim.nvml(MIG + "mig(1); show(code(nvmlDeviceSetComputeMode, gpu, 3))") == 2


def test_mode_calls_need_root_and_a_mode_that_exists(host):
    codes = host("h200").nvml(
        """
        bad = code(nvmlDeviceSetMigMode, gpu, 2)
        os.seteuid(65534)
        show([bad, code(nvmlDeviceSetMigMode, gpu, 1), code(nvmlDeviceSetEccMode, gpu, 0)])
        """
    )
    assert codes == [2, 4, 4]


def test_running_processes_are_listed_by_card(bare):
    bare.do("init", PERSONALITIES / "rtx-4090.txt", PERSONALITIES / "h200.txt")
    bare.do("load", "on", "--gpu", 1, "--pid", 4711)
    seen = bare.nvml(
        """
        show([[process.pid for process in nvmlDeviceGetComputeRunningProcesses(nvmlDeviceGetHandleByIndex(n))]
              for n in range(2)])
        """
    )
    assert seen == [[], [4711]]


def test_a_desktop_is_listed_apart_and_keeps_a_card_from_its_reset(host):
    sim = host("a100-80gb-pcie")
    sim.do("set", "drawing_pid", 900)
    lists = "nvmlDeviceGetComputeRunningProcesses(gpu), nvmlDeviceGetGraphicsRunningProcesses(gpu)"
    assert sim.nvml(f"show([[process.pid for process in found] for found in ({lists})])") == [[], [900]]
    assert sim.nvml(MIG + "show(mig(1))") == [19, [0, 1]]
    sim.do("set", "drawing_pid", 0)
    assert sim.nvml(MIG + "show(mig(1))") == [0, [1, 1]]


def test_one_lost_card_leaves_the_other_alone(bare):
    bare.do("init", PERSONALITIES / "rtx-4090.txt", PERSONALITIES / "h200.txt")
    held = bare.start(
        """
        cards = [nvmlDeviceGetHandleByIndex(n) for n in range(2)]
        show("open")
        sys.stdin.readline()
        show([code(nvmlDeviceGetPowerUsage, card) for card in cards]
             + [code(nvmlDeviceGetHandleByIndex, 0), nvmlDeviceGetCount()])
        """
    )
    assert held.stdout.readline() == '"open"\n'
    bare.do("lost", 0)
    assert held.communicate("\n", timeout=60)[0].strip() == "[15, 0, 15, 2]"
