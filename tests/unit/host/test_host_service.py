"""The truth about a service is its process, never its unit file; and files are compared byte for byte."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.service.processes import soft_limit
from tests.unit.host.fake_host import DROPIN, ENGINE, PID, SYSCTL_FILE, FakeHost, limits, plan


def test_a_service_that_runs_as_planned_is_held_in_every_part(host: FakeHost):
    host.converge()
    answer = host.run("verify", "--section", "service")
    assert answer.code == 0
    assert {v["verdict"] for v in answer.document["verdicts"]} == {"held"}
    names = [v["setting"] for v in answer.document["verdicts"] if v["setting"].startswith("service.")]
    assert names == [
        "service.main.active",
        "service.main.user",
        "service.main.argv",
        "service.main.limit_nofile",
        "service.main.limit_memlock",
        "service.main.env.CUDA_DEVICE_ORDER",
    ]


def test_a_stopped_service_is_drift(host: FakeHost):
    host.converge()
    host.stop_engine()
    answer = host.run("verify", "--section", "service")
    assert (answer.code, answer.verdict("main.active")) == (3, ("overridden", "unexplained"))


def test_a_service_that_systemd_starts_again_and_again_is_drift(host: FakeHost):
    host.converge()
    host.systemctl = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nMainPID=0\nResult=exit-code\n"
    answer = host.run("verify", "--section", "service")
    assert (answer.code, answer.verdict("main.active")) == (3, ("overridden", "unexplained"))


def test_a_service_that_is_still_starting_is_not_judged(host: FakeHost):
    host.converge()
    host.systemctl = "LoadState=loaded\nActiveState=activating\nSubState=start\nMainPID=0\n"
    assert host.run("verify", "--section", "service").verdict("main.active") == ("unverified", "needs_load")


def test_a_process_of_another_user_is_drift(host: FakeHost):
    host.converge()
    host.write(f"/proc/{PID}/status", "Name:\tllama-server\nUid:\t0\t0\t0\t0\n")
    assert host.run("verify", "--section", "service").verdict("main.user") == ("overridden", "other_writer")


def test_the_argument_that_differs_is_named_behind_a_wrapper_too(host: FakeHost):
    host.converge()
    running = ("/lib/ld.so", "--library-path", "/lib", *ENGINE[:-1], "30001")
    host.write(f"/proc/{PID}/cmdline", "\0".join(running) + "\0")
    answer = host.run("verify", "--section", "service")
    assert answer.evidence("main.argv") == f'/proc/{PID}/cmdline[4]: found "30001", wanted "30000"'


def test_without_systemd_nothing_is_claimed(host: FakeHost):
    host.converge()
    host.command = lambda argv: Machineless  # type: ignore[method-assign]
    answer = host.run("verify", "--section", "service")
    assert answer.verdict("main.active") == ("unverified", "no_interface")


class Machineless:
    """A command that is not there."""

    code, stdout, stderr = 127, "", ""


@pytest.mark.parametrize(
    "cmdline",
    [
        ENGINE,
        ("/bin/sh", *ENGINE),
        ("/opt/lib/ld-linux-x86-64.so.2", "--library-path", "/opt/lib", "/opt/bin/llama-server", *ENGINE[1:]),
    ],
)
def test_the_planned_arguments_are_held_behind_a_wrapper_too(host: FakeHost, cmdline: tuple[str, ...]):
    host.converge()
    host.write(f"/proc/{PID}/cmdline", "\0".join(cmdline) + "\0")
    assert host.run("verify", "--section", "service").verdict("main.argv") == ("held", "none")


def test_other_arguments_are_overridden_and_the_first_is_shown(host: FakeHost):
    host.converge()
    host.write(f"/proc/{PID}/cmdline", "\0".join((*ENGINE[:-1], "30001")) + "\0")
    answer = host.run("verify", "--section", "service")
    assert answer.verdict("main.argv") == ("overridden", "other_writer")
    assert answer.evidence("main.argv") == f'/proc/{PID}/cmdline[4]: found "30001", wanted "30000"'


def test_further_arguments_are_overridden(host: FakeHost):
    host.converge()
    host.write(f"/proc/{PID}/cmdline", "\0".join((*ENGINE, "--verbose")) + "\0")
    assert host.run("verify", "--section", "service").verdict("main.argv") == ("overridden", "other_writer")


def test_a_secret_argument_is_never_printed(host: FakeHost):
    argv = (*ENGINE, "--api-key", "planned1")
    host.plan = plan(service=(dataclasses.replace(host.plan.service[0], argv=argv),))
    host.converge()
    host.write(f"/proc/{PID}/cmdline", "\0".join((*argv[:-1], "hunter2")) + "\0")
    answer = host.run("verify", "--section", "service")
    assert answer.verdict("main.argv")[0] == "overridden"
    for secret in ("hunter2", "planned1"):
        assert secret not in answer.prose + str(answer.document)


def test_a_lower_limit_is_drift_where_the_host_could_raise_it(host: FakeHost):
    host.converge()
    host.write(f"/proc/{PID}/limits", limits("4096", "unlimited"))
    answer = host.run("verify", "--section", "service")
    assert (answer.code, answer.verdict("limit_nofile")) == (3, ("overridden", "unexplained"))


def test_a_lower_limit_is_unsupported_where_pid_1_may_not_raise_it(host: FakeHost):
    host.converge()
    host.write(f"/proc/{PID}/limits", limits("4096", "8388608"))
    host.write("/proc/1/status", "Name:\tsystemd\nCapEff:\t00000000a80425fb\n")
    answer = host.run("verify", "--section", "service")
    assert answer.code == 0
    assert answer.verdict("limit_nofile") == ("unsupported", "read_only")
    assert answer.verdict("limit_memlock") == ("unsupported", "read_only")
    assert "PID 1 lacks CAP_SYS_RESOURCE here" in answer.evidence("limit_memlock")


def test_limits_are_read_in_the_columns_of_the_kernel():
    text = limits("4096", "unlimited")
    assert (soft_limit(text, "Max open files"), soft_limit(text, "Max locked memory")) == ("4096", "unlimited")
    assert soft_limit(text, "Max nice priority") is None


def test_a_variable_with_another_value_is_overridden(host: FakeHost):
    host.converge()
    host.write(f"/proc/{PID}/environ", "CUDA_DEVICE_ORDER=FASTEST_FIRST\0")
    assert host.run("verify", "--section", "service").verdict("CUDA_DEVICE_ORDER") == ("overridden", "other_writer")


def test_the_value_of_a_secret_variable_is_compared_and_never_printed(host: FakeHost):
    host.plan = plan(env={"main": {"HF_TOKEN": "planned1"}})
    host.converge()
    for running, verdict in (("planned1", "held"), ("running2", "overridden")):
        host.write(f"/proc/{PID}/environ", f"HF_TOKEN={running}\0")
        answer = host.run("verify", "--section", "service")
        assert answer.verdict("HF_TOKEN")[0] == verdict
        assert "planned1" not in answer.prose + str(answer.document)
        assert "running2" not in answer.prose + str(answer.document)


def test_a_file_with_other_content_is_overridden(host: FakeHost):
    host.converge()
    host.write(SYSCTL_FILE, "vm.swappiness = 11\n")
    answer = host.run("verify", "--section", "cpu")
    assert (answer.code, answer.verdict(SYSCTL_FILE)) == (3, ("overridden", "other_writer"))


def test_a_file_with_another_mode_is_overridden(host: FakeHost):
    host.converge()
    host.at(DROPIN).chmod(0o600)
    answer = host.run("verify", "--section", "service")
    assert answer.verdict(DROPIN) == ("overridden", "other_writer")
    assert answer.evidence(DROPIN) == "the mode is 0600"


def test_a_missing_file_is_overridden(host: FakeHost):
    host.converge()
    host.at(DROPIN).unlink()
    assert host.run("verify", "--section", "service").evidence(DROPIN) == "there is no such file"


def test_a_link_into_a_store_with_the_planned_content_is_held(host: FakeHost):
    host.converge()
    content = host.read(SYSCTL_FILE)
    host.write("/nix/store/x-sysctl.conf", content)
    host.at(SYSCTL_FILE).unlink()
    host.at(SYSCTL_FILE).symlink_to(host.at("/nix/store/x-sysctl.conf"))
    assert host.run("verify", "--section", "cpu").verdict(SYSCTL_FILE) == ("held", "none")


def test_verify_writes_nothing(host: FakeHost):
    host.converge()
    before = host.snapshot()
    host.run("verify")
    assert host.snapshot() == before


def test_unmanaged_sections_are_untouched_and_said(host: FakeHost):
    host.plan = plan(manage=("gpu",))
    answer = host.run("apply")
    assert host.read("/proc/sys/vm/swappiness") == "60\n"
    assert answer.document["notes"][:5] == [
        "section driver is not managed on this host: untouched",
        "section cpu is not managed on this host: untouched",
        "section runtime is not managed on this host: untouched",
        "section models is not managed on this host: untouched",
        "section service is not managed on this host: untouched",
    ]


def test_status_names_the_units_from_the_record_when_the_plan_is_broken(host: FakeHost):
    host.converge()
    host.write("/etc/inferhost/plan.json", "{broken")
    answer = host.run("status")
    assert answer.code == 0
    assert answer.document["facts"]["units"] == ["inferhost-serve@main.service"]
    assert answer.document["facts"]["plan_id"] is None


def test_status_of_a_bare_host_is_empty(host: FakeHost):
    facts = host.run("status").document["facts"]
    assert (facts["units"], facts["recorded"], facts["manage"]) == ([], {}, [])


def test_status_says_what_is_installed_and_recorded(host: FakeHost):
    host.converge()
    facts = host.run("status").document["facts"]
    assert facts["plan_id"] == host.plan.plan_id
    assert facts["recorded"] == {"gpu": 2, "cpu": 6, "service": 5}
    assert facts["unit_states"] == {"inferhost-serve@main.service": "active"}
