"""The kernel's side of the driver: modules, headers, what is loaded, the library, and Secure Boot."""

from __future__ import annotations

import pytest

from tests.golden import golden_plan
from tests.unit.host.driver_fake import (
    DEBIANS_KEY,
    NEW,
    NEXT,
    NOUVEAU_OFF,
    OLD,
    RUNNING,
    UBUNTUS_KEY,
    VALIDATION,
    DriverHost,
    Package,
)
from tests.unit.host.fake_host import plan
from tests.unit.host.test_host_driver import CAME_ALONG, OURS

MODULE = f"/lib/modules/{RUNNING}/updates/dkms/nvidia-current.ko"
NEXT_STEP = "restart, and choose Enroll MOK on the console"


@pytest.fixture
def host(bare: DriverHost) -> DriverHost:
    """Installed and held, and not restarted yet."""
    bare.converge()
    return bare


@pytest.fixture
def restarted(host: DriverHost) -> DriverHost:
    """Runs the installed module since a restart after it was built."""
    host.load(OLD)
    host.boot(ago_s=-10)
    return host


def reboot_required(host: DriverHost) -> bool:
    return bool(host.run("apply").document["facts"]["driver"]["reboot_required"])


@pytest.mark.parametrize("kernel", [RUNNING, NEXT])
def test_a_module_for_the_running_and_for_the_next_kernel_is_proven(host: DriverHost, kernel):
    assert host.run("verify").verdict(f"module.{kernel}") == ("held", "none")


@pytest.mark.parametrize("kernel", [RUNNING, NEXT])
def test_missing_headers_are_found_for_either_kernel(host: DriverHost, kernel):
    del host.modules[kernel]
    host.at(f"/lib/modules/{kernel}/build/Makefile").unlink()
    host.at(f"/lib/modules/{kernel}/build").rmdir()
    answer = host.run("verify")
    assert (answer.code, answer.verdict(f"module.{kernel}")) == (3, ("ignored", "no_interface"))
    assert f"the headers of {kernel} are missing" in answer.evidence(f"module.{kernel}")


@pytest.mark.parametrize("there", [None, NEW])
def test_a_module_that_is_not_there_or_of_another_version_names_the_command(host: DriverHost, there):
    host.modules.pop(NEXT) if there is None else host.build_module(NEXT, there)
    answer = host.run("apply")
    assert (answer.code, answer.verdict(f"module.{NEXT}")) == (3, ("ignored", "unexplained"))
    assert f"dkms autoinstall -k {NEXT}" in answer.evidence(f"module.{NEXT}")


def test_the_installed_module_that_runs_is_held_and_needs_no_restart(restarted: DriverHost):
    assert restarted.run("verify").verdict("driver.running") == ("held", "none")
    assert not reboot_required(restarted)


@pytest.mark.parametrize(
    ("loaded", "kind", "told"),
    [
        (None, "", "no module is loaded"),
        (NEW, "", "module and library disagree"),
        (OLD, "Open Kernel Module for ", "the other kernel module is loaded"),
    ],
)
def test_what_a_restart_repairs_is_pending_and_asked_for(host: DriverHost, loaded, kind, told):
    if loaded:
        host.load(loaded, kind)
    answer = host.run("verify")
    assert (answer.code, answer.verdict("driver.running")) == (7, ("pending", "needs_reboot"))
    assert told in answer.evidence("driver.running")
    assert reboot_required(host)


def test_nouveau_is_told_even_beside_our_module(restarted: DriverHost):
    restarted.write("/sys/module/nouveau/refcnt", "0\n")
    answer = restarted.run("verify")
    assert "nouveau holds the card" in answer.evidence("driver.running")


@pytest.mark.parametrize("loaded", [None, NEW])
def test_what_a_restart_did_not_repair_is_drift_and_no_restart_is_asked_for_again(host: DriverHost, loaded):
    """Else a card that is broken would have its host restarted by every run."""
    host.boot(ago_s=-10)
    if loaded:
        host.load(loaded)
    answer = host.run("verify")
    assert (answer.code, answer.verdict("driver.running")) == (3, ("ignored", "unexplained"))
    assert "the host was restarted since" in answer.evidence("driver.running")
    assert not reboot_required(host)


@pytest.mark.parametrize("kept", [MODULE, NOUVEAU_OFF])
def test_either_a_new_module_or_the_new_file_against_nouveau_makes_a_restart_useful(host: DriverHost, kept):
    for path in {MODULE, MODULE.replace(RUNNING, NEXT), NOUVEAU_OFF} - {kept}:
        host.at(path).unlink()
    assert reboot_required(host)
    host.at(kept).unlink()
    assert not reboot_required(host)


def test_a_host_that_cannot_say_when_it_booted_may_be_restarted(host: DriverHost):
    host.write("/proc/stat", "cpu 1 2 3\n")
    assert reboot_required(host)


def test_the_library_of_the_packages_is_held(host: DriverHost):
    host.library(OLD)
    assert host.run("verify").verdict("driver.library") == ("held", "none")


def test_a_library_newer_than_the_module_is_found_with_how_to_remove_it(host: DriverHost):
    host.library(NEW)
    answer = host.run("verify")
    assert (answer.code, answer.verdict("driver.library")) == (3, ("overridden", "other_writer"))
    assert f"libcuda.so.{NEW}" in answer.evidence("driver.library")
    assert "nvidia-installer --uninstall" in answer.evidence("driver.library")


def test_without_a_library_nothing_is_said_of_one(host: DriverHost):
    assert not any(v["setting"] == "driver.library" for v in host.run("verify").document["verdicts"])


OS_RELEASE = {
    "debian-12": 'ID=debian\nVERSION_ID="12"\n',
    "debian-13": 'ID=debian\nVERSION_ID="13"\n',
    "ubuntu-24.04": 'ID=ubuntu\nVERSION_ID="24.04"\n',
    "rocky-9.6": 'ID="rocky"\nVERSION_ID="9.6"\n',
}
IMPORTED = "run mokutil --import {} (the console asks for its password again), " + NEXT_STEP
NEW_KEYS = [
    ("debian-12", DEBIANS_KEY, "apt-get install dkms mokutil openssl, run openssl req -new -x509 -nodes"),
    ("debian-13", DEBIANS_KEY, "apt-get install dkms mokutil, run dkms generate_mok, "),
    (
        "ubuntu-24.04",
        UBUNTUS_KEY,
        "apt-get install dkms shim-signed mokutil, run update-secureboot-policy --new-key, ",
    ),
    ("rocky-9.6", DEBIANS_KEY, "dnf install dkms mokutil (dkms is of EPEL), run dkms generate_mok, "),
]


@pytest.mark.parametrize(("system", "key", "first"), NEW_KEYS)
def test_secure_boot_without_any_key_names_each_step_to_one_in_this_distributions_words(
    bare: DriverHost, system: str, key: str, first: str
):
    bare.secure_boot(on=True)
    bare.write("/etc/os-release", OS_RELEASE[system])
    (problem,) = bare.run("install").problems
    assert problem["hint"].startswith(first)
    assert f", {IMPORTED.format(key)}; " in problem["hint"]


@pytest.mark.parametrize(
    ("system", "key", "other"), [(s, k, {UBUNTUS_KEY, DEBIANS_KEY} - {k}) for s, k, _ in NEW_KEYS]
)
def test_a_key_that_dkms_does_not_sign_with_here_is_no_help(bare: DriverHost, system: str, key: str, other: set[str]):
    bare.secure_boot(on=True)
    bare.write("/etc/os-release", OS_RELEASE[system])
    bare.keys = dict.fromkeys([*other, "/root/own.der"], "is already enrolled")
    for one in bare.keys:
        bare.write(one, "")
    assert bare.run("install").problems[0]["id"] == "secure-boot"
    bare.write("/etc/dkms/framework.conf", "# mok_certificate=/no\nmok_certificate=/root/not-there.der\n")
    (problem,) = bare.run("install").problems
    assert problem["hint"].startswith("make the key that /etc/dkms/framework.conf names, run mokutil --import ")
    bare.write(
        "/etc/dkms/framework.conf.d/own.conf", 'mok_signing_key="/root/own.key"\nmok_certificate="/root/own.der"\n'
    )
    assert bare.run("install").code == 0
    bare.keys["/root/own.der"] = "is not enrolled"
    assert IMPORTED.format("/root/own.der") in bare.run("install").problems[0]["hint"]


@pytest.mark.parametrize(
    ("keys", "step"),
    [
        ({DEBIANS_KEY: "is not enrolled"}, IMPORTED.format(DEBIANS_KEY)),
        (
            {DEBIANS_KEY: "is already in the enrollment request"},
            f"{DEBIANS_KEY} waits for its enrolment: {NEXT_STEP}",
        ),
        ({DEBIANS_KEY: "is blocked in dbx"}, IMPORTED.format(DEBIANS_KEY)),
    ],
)
def test_secure_boot_without_a_trusted_key_stops_before_anything_is_written(bare: DriverHost, keys, step):
    bare.secure_boot(on=True)
    bare.keys = keys
    for key in keys:
        bare.write(key, "")
    assert bare.run("install").problems[0]["hint"].startswith("install mokutil, run mokutil --import ") is (
        step == IMPORTED.format(DEBIANS_KEY)
    )
    bare.write("/usr/bin/mokutil", "")
    before = bare.snapshot()
    answer = bare.run("install")
    (problem,) = answer.problems
    assert (answer.code, problem["path"]) == (2, "secure boot")
    assert problem["hint"].startswith(step)
    assert problem["hint"].endswith("; or turn Secure Boot off in the firmware")
    after = bare.snapshot()
    assert {path: after[path] for path in before if path != "/run/inferhost"} == before
    assert not bare.at("/var/lib/inferhost/baseline.json").exists()


@pytest.mark.parametrize(
    ("images", "flavours"),
    [
        (["linux-image-generic"], ["generic"]),
        (["linux-image-virtual-hwe-22.04"], ["generic-hwe-22.04"]),
        (["linux-image-aws", "linux-image-generic"], ["aws", "generic"]),
        ([], []),
    ],
)
def test_secure_boot_names_the_distributions_signed_modules_for_this_kernel_and_those_that_follow(
    bare: DriverHost, images: list[str], flavours: list[str]
):
    bare.secure_boot(on=True)
    bare.packages |= {name: Package("6", depends=f"linux-image-{NEXT} (= 6)") for name in images}
    bare.packages[f"linux-image-{NEXT}"] = Package("6")
    bare.plan = golden_plan("driver-h100")
    (problem,) = bare.run("install").problems
    modules = [f"linux-modules-nvidia-580-server-open-{name}" for name in (RUNNING, *flavours)]
    rest = "nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server, restart; "
    wanted = f"leave driver out of inferhost_manage, apt-get install {' '.join(modules)} {rest}"
    assert wanted in problem["hint"]


@pytest.mark.parametrize("words", ["is already enrolled", "is already in db"])
def test_secure_boot_with_a_trusted_key_is_no_obstacle(bare: DriverHost, words):
    bare.secure_boot(on=True)
    bare.keys = {DEBIANS_KEY: words}
    bare.write(DEBIANS_KEY, "")
    assert bare.run("install").code == 0


def test_secure_boot_that_is_off_is_no_obstacle(bare: DriverHost):
    bare.secure_boot(on=False)
    assert bare.run("install").code == 0


def test_validation_that_shim_was_told_to_leave_out_is_no_obstacle(bare: DriverHost):
    bare.secure_boot(on=True)
    bare.secure_boot(on=True, variable=VALIDATION)
    assert bare.run("install").code == 0


def test_secure_boot_is_no_business_of_a_host_whose_driver_is_not_managed(bare: DriverHost):
    bare.secure_boot(on=True)
    bare.plan = plan()
    assert bare.run("install").code == 0


def test_the_key_that_dkms_made_goes_after_dkms_and_not_before(bare: DriverHost):
    bare.converge()
    bare.write("/var/lib/dkms/mok.key", "its private half", 0o600)
    assert bare.run("revert", "--section", "driver").code == 8
    assert bare.at("/var/lib/dkms/mok.key").exists()
    for name in [*OURS, *CAME_ALONG]:
        del bare.packages[name]
    assert bare.run("revert", "--section", "driver").code == 0
    assert not bare.at("/var/lib/dkms").exists()


@pytest.mark.parametrize("words", ["is already enrolled", "is already in the enrollment request"])
def test_a_key_that_the_firmware_knows_stays_and_is_said(bare: DriverHost, words: str):
    bare.converge()
    bare.write(DEBIANS_KEY, "its public half")
    bare.keys = {DEBIANS_KEY: words}
    for name in [*OURS, *CAME_ALONG]:
        del bare.packages[name]
    answer = bare.run("revert", "--section", "driver")
    assert answer.code == 0
    assert bare.at(DEBIANS_KEY).exists()
    assert "/var/lib/dkms: its key is enrolled in the firmware" in answer.prose
    assert not [key for key in bare.baseline() if key.startswith("tree:/var/lib/dkms")]


@pytest.mark.parametrize("stays", ["the key", "dkms itself"])
def test_the_key_of_a_dkms_that_somebody_else_needs_stays(bare: DriverHost, stays: str):
    if stays == "the key":
        bare.write("/var/lib/dkms/mok.key", "theirs", 0o600)
    bare.converge()
    bare.write("/var/lib/dkms/mok.key", "a private half", 0o600)
    if stays == "dkms itself":
        bare.packages["zfs-dkms"] = Package("1", depends="dkms")
    assert bare.run("revert", "--section", "driver").code == 8
    for name in [*OURS, *CAME_ALONG]:
        if not (stays == "dkms itself" and name == "dkms"):
            del bare.packages[name]
    bare.run("revert", "--section", "driver")
    assert bare.at("/var/lib/dkms/mok.key").exists()


def followed(host: DriverHost, **metas: tuple[str, str]) -> list[str]:
    """The headers beyond those of a kernel, where these kernel packages are installed: what each needs, by name."""
    for name, needed in metas.values():
        host.packages[name] = Package("1", depends=f"{needed} (= 1), linux-firmware")
        host.packages[needed] = Package("1")
    found = host.run("install", "--check").document["facts"]["driver"]["headers"]
    return [name for name in found if name not in (f"linux-headers-{RUNNING}", f"linux-headers-{NEXT}")]


@pytest.mark.parametrize(
    "kind", ["amd64", "cloud-amd64", "rt-amd64", "generic", "generic-hwe-22.04", "virtual-hwe-22.04", "aws", "nvidia"]
)
def test_the_headers_follow_the_kind_of_kernel_that_the_host_follows(bare: DriverHost, kind: str):
    assert followed(bare, one=(f"linux-image-{kind}", f"linux-image-{NEXT}")) == [f"linux-headers-{kind}"]


def test_a_host_that_follows_two_kinds_gets_headers_for_both(bare: DriverHost):
    bare.write("/boot/vmlinuz-6.8.0-60-generic", "")
    own = ("linux-image-amd64", f"linux-image-{RUNNING}")
    theirs = ("linux-image-generic", "linux-image-unsigned-6.8.0-60-generic")
    assert followed(bare, own=own, theirs=theirs)[-2:] == ["linux-headers-amd64", "linux-headers-generic"]


def test_debug_symbols_are_no_kernel_to_follow(bare: DriverHost):
    dbg = ("linux-image-amd64-dbg", f"linux-image-{NEXT}-dbg")
    assert followed(bare, dbg=dbg, own=("linux-image-amd64", f"linux-image-{NEXT}")) == ["linux-headers-amd64"]


def test_where_no_package_follows_later_kernels_it_is_told(host: DriverHost):
    told = "so none brings their headers: install linux-headers-VERSION with a new kernel"
    assert any(told in note for note in host.run("verify").document["notes"])
    followed(host, own=("linux-image-amd64", f"linux-image-{NEXT}"))
    assert not any(told in note for note in host.run("verify").document["notes"])
    assert followed(host) == ["linux-headers-amd64"]
