"""Governor and energy performance preference under each frequency driver, whose coupling the kernel decides.

`Processor` does what the drivers do. Source: formula `cpu.energy_performance_preference`, with its sources there.
"""

from __future__ import annotations

import errno
import shutil

import pytest

from inferhost.host.machine import Machine
from inferhost.schema.plan import Cpu
from tests.unit.host.fake_host import PREFERENCES, FakeHost, plan

CPUS = (0, 1)
FOLDER = "/sys/devices/system/cpu/cpu{}/cpufreq"
EPP = "energy_performance_preference"
SETTING = f"cpu.{EPP}"
ACTIVE = ("intel_pstate", "amd-pstate-epp")
GOVERNORS = {**dict.fromkeys(ACTIVE, "performance powersave"), "acpi-cpufreq": "performance powersave schedutil"}


def test_a_cpu_that_came_online_after_the_last_apply_is_not_said_to_be_somebodys(host: FakeHost):
    host.plan = plan(gpus=(), cpu=Cpu("performance"), manage=("cpu",), sysctl={}, files=(), service=(), env={})
    folder = host.at(FOLDER.format(1))
    shutil.move(folder, host.folder / "offline")
    assert [host.run(verb).code for verb in ("install", "apply")] == [0, 0]
    shutil.move(host.folder / "offline", folder)
    for verb in ("verify", "watch"):
        answer = host.run(verb)
        found = {v["found"]: (v["verdict"], v["cause"], v["evidence"]) for v in answer.document["verdicts"]}
        assert (answer.code, found["performance"][:2]) == (3, ("held", "none"))
        assert found["powersave"][:2] == ("overridden", "unexplained")
        assert "a CPU that came online since; inferhost apply sets it" in found["powersave"][2]
    assert (host.run("apply").code, host.run("watch").code) == (0, 0)
    host.write(f"{FOLDER.format(1)}/scaling_governor", "schedutil\n")
    answer = host.run("verify")
    assert [v["cause"] for v in answer.document["verdicts"] if v["verdict"] == "overridden"] == ["other_writer"]


class Processor:
    """The frequency files of every CPU, and the kernel behind them."""

    def __init__(self, host: FakeHost, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, self.driver = host, driver
        self.before = dict.fromkeys(CPUS, "")
        for cpu in CPUS:
            self.put(cpu, "scaling_driver", driver)
            self.put(cpu, "scaling_available_governors", GOVERNORS.get(driver, "performance powersave schedutil"))
            if driver == "acpi-cpufreq":
                for name in (EPP, "energy_performance_available_preferences"):
                    host.at(f"{FOLDER.format(cpu)}/{name}").unlink()
        direct = Machine.write_kernel

        def write_kernel(machine: Machine, path: str, value: str) -> None:
            name = path.rpartition("/")[2]
            if "/cpufreq/" in path and self.driver in ACTIVE:
                self.ask(int(path.partition("/cpu/cpu")[2].partition("/")[0]), name, value)
            direct(machine, path, value)

        monkeypatch.setattr(Machine, "write_kernel", write_kernel)

    def ask(self, cpu: int, name: str, value: str) -> None:
        """What an active driver does before the value stands."""
        governor = self.get(cpu, "scaling_governor")
        if name == EPP and governor == "performance" and value != "performance":
            raise OSError(errno.EBUSY, "Device or resource busy")
        if name == "scaling_governor" and value == "performance" != governor:
            self.before[cpu] = self.get(cpu, EPP)
            self.put(cpu, EPP, "performance")
        if name == "scaling_governor" and value == "powersave" and self.driver == "intel_pstate":
            self.put(cpu, EPP, self.before[cpu] or self.get(cpu, EPP))  # amd_pstate leaves it where it is

    def put(self, cpu: int, name: str, value: str) -> None:
        self.host.write(f"{FOLDER.format(cpu)}/{name}", f"{value}\n")

    def get(self, cpu: int, name: str) -> str:
        return self.host.read(f"{FOLDER.format(cpu)}/{name}").strip()

    def all(self, name: str) -> list[str]:
        return [self.get(cpu, name) for cpu in CPUS]


@pytest.fixture
def processor(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    return lambda driver: Processor(host, driver, monkeypatch)


def wanted(host: FakeHost, governor: str | None, preference: str | None) -> None:
    host.plan = plan(cpu=Cpu(governor, preference))
    assert host.run("install").code == 0


@pytest.mark.parametrize("driver", [*ACTIVE, "intel_cpufreq"])
def test_a_preference_is_written_read_back_and_put_back(host: FakeHost, processor, driver: str):
    kernel = processor(driver)
    wanted(host, "powersave", "power")
    answer = host.run("apply", "--section", "cpu")
    assert (answer.code, answer.verdict(SETTING)) == (0, ("held", "none"))
    assert answer.evidence(SETTING) == "read back on 2 CPUs"
    assert kernel.all(EPP) == ["power", "power"]
    assert host.run("revert", "--section", "cpu").code == 0
    assert kernel.all(EPP) == ["balance_performance", "balance_performance"]


@pytest.mark.parametrize("driver", ACTIVE)
def test_what_the_governor_forced_is_put_back_with_the_governor(host: FakeHost, processor, driver: str):
    kernel = processor(driver)
    kernel.put(1, EPP, "balance_power")
    wanted(host, "performance", None)
    assert host.run("apply", "--section", "cpu").code == 0
    assert kernel.all(EPP) == ["performance", "performance"]
    assert host.run("revert", "--section", "cpu").code == 0
    assert kernel.all("scaling_governor") == ["powersave", "powersave"]
    assert kernel.all(EPP) == ["balance_performance", "balance_power"]


@pytest.mark.parametrize("driver", ACTIVE)
def test_an_original_under_the_governor_performance_comes_back_in_the_right_order(host: FakeHost, processor, driver):
    kernel = processor(driver)
    for cpu in CPUS:
        kernel.put(cpu, "scaling_governor", "performance")
        kernel.put(cpu, EPP, "performance")
    wanted(host, "powersave", "power")
    assert host.run("apply", "--section", "cpu").code == 0
    assert kernel.all(EPP) == ["power", "power"]
    assert host.run("revert", "--section", "cpu").code == 0
    assert (kernel.all("scaling_governor"), kernel.all(EPP)) == (["performance"] * 2, ["performance"] * 2)


@pytest.mark.parametrize("driver", ACTIVE)
@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_a_preference_that_the_governor_forbids_is_refused_with_its_reason(host, processor, driver: str, check):
    processor(driver)
    wanted(host, "performance", "power")
    answer = host.run("apply", "--section", "cpu", *check)
    assert (answer.code, answer.verdict(SETTING)) == (3, ("refused", "other_writer"))
    assert f"{driver} forces performance under the governor performance, and refuses power" in answer.evidence(
        SETTING
    )


@pytest.mark.parametrize("driver", ACTIVE)
def test_check_mode_foresees_the_governor_that_comes_first(host: FakeHost, processor, driver: str):
    kernel = processor(driver)
    for cpu in CPUS:
        kernel.put(cpu, "scaling_governor", "performance")
        kernel.put(cpu, EPP, "performance")
    wanted(host, "powersave", "power")
    foreseen = host.run("apply", "--section", "cpu", "--check")
    assert (foreseen.code, foreseen.said) == (0, host.run("apply", "--section", "cpu").said)


def test_a_driver_without_preferences_is_unsupported_and_nothing_is_recorded(host: FakeHost, processor):
    processor("acpi-cpufreq")
    wanted(host, "performance", "performance")
    answer = host.run("apply", "--section", "cpu")
    assert (answer.code, answer.verdict(SETTING)) == (0, ("unsupported", "no_interface"))
    assert answer.evidence(SETTING) == f"acpi-cpufreq has no {EPP} on 2 CPUs"
    assert [key for key in host.baseline() if key.endswith(EPP)] == []


def test_a_preference_that_cannot_be_read_counts_as_one_that_the_driver_lacks(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    """An attribute of sysfs may be there and answer with an error."""
    read = Machine.read_bytes

    def failing(machine: Machine, path: str) -> bytes | None:
        if path.endswith(f"/{EPP}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        return read(machine, path)

    monkeypatch.setattr(Machine, "read_bytes", failing)
    wanted(host, "performance", "performance")
    answer = host.run("apply", "--section", "cpu")
    assert (answer.code, answer.verdict(SETTING)) == (0, ("unsupported", "no_interface"))
    assert answer.verdict("cpu.governor") == ("held", "none")


def test_a_word_that_the_processor_does_not_offer_is_unsupported(host: FakeHost, processor):
    processor("intel_pstate")
    wanted(host, "powersave", "balanced")
    answer = host.run("apply", "--section", "cpu")
    assert answer.verdict(SETTING) == ("unsupported", "no_interface")
    assert answer.evidence(SETTING) == f"this kernel offers {PREFERENCES} on 2 CPUs"


def test_a_preference_that_the_kernel_ignores_is_not_held(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    wanted(host, None, "power")
    monkeypatch.setattr(Machine, "write_kernel", lambda *_: None)
    answer = host.run("apply", "--section", "cpu")
    assert (answer.code, answer.verdict(SETTING)) == (3, ("ignored", "unexplained"))


def test_a_preference_changed_by_somebody_else_is_drift(host: FakeHost, processor):
    kernel = processor("intel_pstate")
    wanted(host, "powersave", "power")
    host.run("apply", "--section", "cpu")
    kernel.put(1, EPP, "balance_power")
    answer = host.run("verify", "--section", "cpu")
    assert answer.code == 3
    assert sorted(v["verdict"] for v in answer.document["verdicts"] if v["setting"] == SETTING) == [
        "held",
        "overridden",
    ]


def test_a_number_found_before_us_comes_back_as_that_number(host: FakeHost, processor):
    kernel = processor("intel_pstate")
    kernel.put(0, EPP, "112")
    wanted(host, "powersave", "power")
    assert host.run("apply", "--section", "cpu").code == 0
    assert host.run("revert", "--section", "cpu").code == 0
    assert kernel.all(EPP) == ["112", "balance_performance"]


def test_a_zero_is_no_other_preference_than_the_governor_performance_forces(host: FakeHost):
    for cpu in CPUS:
        host.write(f"{FOLDER.format(cpu)}/scaling_driver", "intel_pstate\n")
    wanted(host, "performance", "0")
    assert host.run("apply", "--section", "cpu").verdict(SETTING) == ("held", "none")


def test_a_preference_that_is_gone_with_its_driver_does_not_keep_revert_from_ending(host: FakeHost):
    wanted(host, "performance", "power")
    host.run("apply", "--section", "cpu")
    host.at(f"{FOLDER.format(1)}/{EPP}").unlink()
    answer = host.run("revert", "--section", "cpu")
    assert answer.code == 0
    assert f"cpu 1: has no {EPP} now; it was balance_performance" in answer.document["notes"]
    assert [key for key in host.baseline() if key.startswith("cpu:")] == []


def restarted(host: FakeHost, kernel: Processor, driver: str, governor: str, preference: str | None) -> None:
    """The next boot has another frequency driver, with the words that it begins with."""
    host.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    kernel.driver = driver
    for cpu in CPUS:
        kernel.put(cpu, "scaling_driver", driver)
        kernel.put(cpu, "scaling_available_governors", GOVERNORS.get(driver, "powersave performance schedutil"))
        kernel.put(cpu, "scaling_governor", governor)
        host.at(f"{FOLDER.format(cpu)}/{EPP}").unlink(missing_ok=True)
        if preference is not None:
            kernel.put(cpu, EPP, preference)
            kernel.put(cpu, "energy_performance_available_preferences", PREFERENCES)


OTHERS = {
    "intel_pstate": ("intel_cpufreq", "schedutil", None),  # where `powersave` is the lowest clock
    "acpi-cpufreq": ("amd-pstate-epp", "powersave", "balance_performance"),  # which has no `schedutil`
}
"""By the driver before: the one of the next boot, and what that begins with."""


@pytest.mark.parametrize("applied", [True, False], ids=["applied since", "not applied"])
@pytest.mark.parametrize("first", OTHERS)
def test_a_word_of_another_driver_is_not_put_back(host: FakeHost, processor, first: str, applied: bool):
    then, governor, preference = OTHERS[first]
    kernel = processor(first)
    if first == "acpi-cpufreq":
        for cpu in CPUS:
            kernel.put(cpu, "scaling_governor", "schedutil")
    wanted(host, "performance", None)
    assert host.run("apply", "--section", "cpu").code == 0
    restarted(host, kernel, then, governor, preference)
    if applied:
        assert host.run("apply", "--section", "cpu", "--check").verdict("cpu.governor") == ("unverified", "none")
        answer = host.run("apply", "--section", "cpu")
        assert kernel.all("scaling_governor") == ["performance", "performance"]
        assert f"was a word of {first}, and {then} governs now; what is there now is recorded" in answer.prose
    answer = host.run("revert", "--section", "cpu")
    assert answer.code == 0
    assert (f"{then} governs now; what is there now stays" in answer.prose) is not applied
    assert kernel.all("scaling_governor") == [governor, governor]
    if preference is not None:
        assert kernel.all(EPP) == [preference, preference]
    assert [key for key in host.baseline() if key.startswith("cpu:")] == []


def test_a_preference_of_ours_that_outlives_a_change_of_the_driver_is_no_original(host: FakeHost, processor):
    """As with `echo passive > .../intel_pstate/status`: the governor is a new one, the register is not."""
    kernel = processor("intel_pstate")
    before = kernel.all(EPP)
    wanted(host, "performance", "performance")
    assert host.run("apply", "--section", "cpu").code == 0
    restarted(host, kernel, "intel_cpufreq", "schedutil", "performance")
    assert host.run("apply", "--section", "cpu").code == 0
    assert host.run("revert", "--section", "cpu").code == 0
    assert before != ["performance", "performance"]
    assert (kernel.all("scaling_governor"), kernel.all(EPP)) == (["schedutil", "schedutil"], before)


def test_a_record_that_names_no_driver_is_put_back_under_any(host: FakeHost, processor):
    """As an earlier version of the program wrote it."""
    kernel = processor("acpi-cpufreq")
    wanted(host, "performance", None)
    host.run("apply", "--section", "cpu")
    path = "/var/lib/inferhost/baseline.json"
    host.write(path, host.read(path).replace('"scaling_driver": "acpi-cpufreq"', '"other": ""'), 0o600)
    restarted(host, kernel, "intel_cpufreq", "schedutil", None)
    assert host.run("revert", "--section", "cpu").code == 0
    assert kernel.all("scaling_governor") == ["powersave", "powersave"]


def test_an_offline_cpu_keeps_its_originals_on_record_until_it_is_back(host: FakeHost):
    wanted(host, "performance", "power")
    host.run("apply", "--section", "cpu")
    folder = host.at(FOLDER.format(1))
    away = folder.rename(folder.parent / "away")
    for verb in (("revert", "--check"), ("revert", "--section", "cpu")):
        answer = host.run(*verb)
        assert answer.code == 8
        assert {p["id"] for p in answer.problems} == {"cpu-offline"}
        assert {p["path"] for p in answer.problems} == {"cpu:1:governor", f"cpu:1:{EPP}"}
    assert {key for key in host.baseline() if key.startswith("cpu:")} == {"cpu:1:governor", f"cpu:1:{EPP}"}
    away.rename(folder)
    assert host.run("revert", "--section", "cpu").code == 0
    assert host.read(f"{FOLDER.format(1)}/scaling_governor").strip() == "powersave"
    assert [key for key in host.baseline() if key.startswith("cpu:")] == []


def test_a_kernel_without_frequencies_has_none_to_put_back(host: FakeHost):
    wanted(host, "performance", "power")
    host.run("apply", "--section", "cpu")
    for cpu in CPUS:  # the same disk, now in a guest
        shutil.rmtree(host.at(FOLDER.format(cpu)))
    answer = host.run("revert", "--section", "cpu")
    assert (answer.code, [key for key in host.baseline() if key.startswith("cpu:")]) == (0, [])
    assert "cpu 1: has no governor now; it was powersave" in answer.document["notes"]


def test_in_a_container_nothing_is_written_and_nothing_is_ours(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Machine, "writable", lambda self, path: "/sys/" not in path)
    wanted(host, "performance", "power")
    answer = host.run("apply", "--section", "cpu")
    assert answer.verdict(SETTING) == answer.verdict("cpu.governor") == ("unsupported", "read_only")
    for cpu in CPUS:  # the outer host changed its mind
        host.write(f"{FOLDER.format(cpu)}/{EPP}", "power\n")
    answer = host.run("revert", "--section", "cpu")
    assert (answer.code, [key for key in host.baseline() if key.startswith("cpu:")]) == (0, [])
    assert f"{SETTING}: not writable here, so never changed by us" in answer.document["notes"]


@pytest.mark.parametrize("driver", ACTIVE)
def test_check_mode_foresees_a_revert(host: FakeHost, processor, driver: str):
    processor(driver)
    wanted(host, "performance", None)
    host.run("apply", "--section", "cpu")
    foreseen = host.run("revert", "--section", "cpu", "--check")
    assert foreseen.code == 0
    assert foreseen.verdict(SETTING) == foreseen.verdict("cpu.governor") == ("unverified", "none")


def test_what_we_wrote_and_cannot_write_back_stays_on_record(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    wanted(host, "performance", "power")
    host.run("apply", "--section", "cpu")
    monkeypatch.setattr(Machine, "writable", lambda self, path: "/sys/" not in path)
    answer = host.run("revert", "--section", "cpu")
    assert answer.verdict(SETTING) == ("unsupported", "read_only")
    assert (answer.code, {problem["id"] for problem in answer.problems}) == (8, {"not-restored"})
    assert f"cpu:0:{EPP}" in host.baseline()
