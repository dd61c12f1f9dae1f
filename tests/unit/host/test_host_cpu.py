"""Kernel parameters and governors: read back from the kernel, written only where they differ."""

from __future__ import annotations

import errno
import shutil

import pytest

from inferhost.host.cpu import sysctl
from inferhost.host.machine import Machine
from inferhost.schema.plan import Cpu
from tests.unit.host.fake_host import FakeHost, plan

GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def test_live_values_are_written_read_back_and_held(host: FakeHost):
    host.run("install")
    answer = host.run("apply", "--section", "cpu")
    assert answer.code == 0
    assert (answer.verdict("vm.swappiness"), answer.verdict("cpu.governor")) == (("held", "none"), ("held", "none"))
    assert (host.read("/proc/sys/vm/swappiness"), host.read(GOVERNOR)) == ("10\n", "performance\n")


def test_many_processors_with_one_outcome_are_one_line(host: FakeHost):
    answer = host.run("apply", "--section", "cpu")
    assert {"setting": "cpu.governor (2 CPUs)", "before": "powersave", "after": "performance"} in (
        answer.document["diff"]
    )
    assert answer.evidence("cpu.governor") == "read back on 2 CPUs"


def test_equal_values_are_not_written(host: FakeHost):
    host.converge()
    order: list[str] = []
    host.run("apply", "--section", "cpu", before_write=order.append)
    assert [step for step in order if step.startswith("set")] == []


@pytest.mark.parametrize("wanted", ["4096 131072 6291456", "4096  131072\t6291456"])
def test_tabs_of_the_kernel_and_blanks_of_the_wish_make_no_difference(host: FakeHost, wanted: str):
    host.write("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n")
    host.plan = plan(sysctl={"net.ipv4.tcp_rmem": wanted})
    assert host.run("verify", "--section", "cpu").verdict("tcp_rmem") == ("held", "none")


@pytest.mark.parametrize("name", ["vm.no_such_thing", "net.ipv4"], ids=["unknown", "a folder"])
def test_what_is_no_parameter_of_this_kernel_is_unsupported(host: FakeHost, name: str):
    host.at("/proc/sys/net/ipv4").mkdir(parents=True)
    host.plan = plan(sysctl={name: "1"})
    answer = host.run("apply", "--section", "cpu")
    assert (answer.code, answer.verdict(name)) == (0, ("unsupported", "no_interface"))


def read_only(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container sees; root on this machine could write all the same, so the answer is put in place."""
    monkeypatch.setattr(Machine, "writable", lambda self, path: "/proc/sys" not in path)


def test_a_read_only_kernel_is_unsupported_where_it_differs(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    read_only(host, monkeypatch)
    for verb in ("apply", "verify"):
        answer = host.run(verb, "--section", "cpu")
        assert answer.verdict("vm.swappiness") == ("unsupported", "read_only")
    assert host.read("/proc/sys/vm/swappiness") == "60\n"


def test_a_read_only_kernel_is_held_where_it_agrees(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    read_only(host, monkeypatch)
    host.write("/proc/sys/vm/swappiness", "10\n")
    assert host.run("verify", "--section", "cpu").verdict("vm.swappiness") == ("held", "none")


def test_what_became_writable_after_it_was_recorded_goes_back(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        read_only(host, patched)
        host.run("install")
    host.run("apply", "--section", "cpu")
    assert host.read("/proc/sys/vm/swappiness") == "10\n"
    host.run("revert", "--section", "cpu")
    assert host.read("/proc/sys/vm/swappiness") == "60\n"


def test_what_was_never_writable_does_not_keep_revert_from_ending(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    read_only(host, monkeypatch)
    host.converge()
    host.stop_engine()
    host.write("/proc/sys/vm/swappiness", "75\n")  # the outer host changed its mind
    answer = host.run("revert")
    assert (answer.code, host.read("/proc/sys/vm/swappiness")) == (0, "75\n")
    assert "sysctl.vm.swappiness: not writable here, so never changed by us" in answer.document["notes"]


def refusing(number: int):
    """A kernel that refuses every sysctl write with `number`."""

    def write_kernel(self: Machine, path: str, value: str) -> None:
        raise OSError(number, "refused by the kernel")

    return write_kernel


@pytest.mark.parametrize(
    ("number", "verdict", "code"),
    [
        (errno.EINVAL, ("refused", "unexplained"), 3),
        (errno.EROFS, ("unsupported", "read_only"), 0),
        (errno.EACCES, ("unsupported", "read_only"), 0),
        (errno.EPERM, ("unsupported", "read_only"), 0),
    ],
)
def test_a_refused_write_is_told_by_its_cause(host: FakeHost, monkeypatch: pytest.MonkeyPatch, number, verdict, code):
    monkeypatch.setattr(Machine, "write_kernel", refusing(number))
    host.plan = plan(cpu=Cpu(None))
    answer = host.run("apply", "--section", "cpu")
    assert (answer.code, answer.verdict("vm.swappiness")) == (code, verdict)


def test_a_write_that_the_kernel_ignores_is_not_held(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Machine, "write_kernel", lambda *_: None)
    answer = host.run("apply", "--section", "cpu")
    assert answer.code == 3
    assert answer.verdict("vm.swappiness") == ("ignored", "unexplained")
    assert answer.verdict("cpu.governor") == ("ignored", "unexplained")


def test_a_value_that_does_not_go_back_stays_on_record(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    host.converge()
    with monkeypatch.context() as deaf:
        deaf.setattr(Machine, "write_kernel", lambda *_: None)
        answer = host.run("revert", "--section", "cpu")
    assert (answer.code, answer.verdict("vm.swappiness")) == (8, ("ignored", "unexplained"))
    assert {"sysctl:vm.swappiness", "cpu:0:governor"} <= set(host.baseline())
    assert host.run("revert", "--section", "cpu").code == 0
    assert host.read("/proc/sys/vm/swappiness") == "60\n"


def test_a_value_changed_by_somebody_else_is_overridden(host: FakeHost):
    host.converge()
    host.write("/proc/sys/vm/swappiness", "77\n")
    answer = host.run("verify", "--section", "cpu")
    assert (answer.code, answer.verdict("vm.swappiness")) == (3, ("overridden", "other_writer"))


@pytest.mark.parametrize(("flags", "cause"), [("fpu hypervisor", "hypervisor"), ("fpu vme", "no_interface")])
def test_without_cpufreq_governor_and_preference_are_unsupported_with_their_cause(
    host: FakeHost, flags: str, cause: str
):
    for cpu in (0, 1):
        shutil.rmtree(host.at(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq"))
    host.write("/proc/cpuinfo", f"processor\t: 0\nflags\t\t: {flags}\n")
    answer = host.run("verify", "--section", "cpu")
    assert answer.verdict("cpu.governor") == answer.verdict("energy_performance_preference") == ("unsupported", cause)


def test_a_governor_that_the_driver_lacks_is_unsupported(host: FakeHost):
    host.plan = plan(cpu=Cpu("ondemand"))
    answer = host.run("apply", "--section", "cpu")
    assert (answer.code, answer.verdict("cpu.governor")) == (0, ("unsupported", "no_interface"))
    assert answer.evidence("cpu.governor") == "this kernel offers performance powersave schedutil on 2 CPUs"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vm.swappiness", "/proc/sys/vm/swappiness"),
        ("net.ipv4.conf.eth0/100.forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
    ],
)
def test_names_are_paths_as_sysctl_8_reads_them(name: str, path: str):
    assert sysctl.sysctl_path(name) == path


def test_a_name_never_leaves_proc_sys(host: FakeHost):
    host.write("/proc/secret", "60\n")
    host.plan = plan(sysctl={"../secret": "1", "vm/../../secret": "1"})
    answer = host.run("apply", "--section", "cpu")
    assert (answer.code, host.read("/proc/secret")) == (3, "60\n")
