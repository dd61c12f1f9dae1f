"""The real driver packages of Debian's non-free component, as the plan of c220g5 names them: nothing is a stand-in.

The container has Debian's kernel and initramfs tools as files, so that dkms builds the module for a kernel that would
boot next. What it cannot show is a card, and a module that is loaded. The times are printed, never asserted.
"""

import time

import pytest

from tests.bed import driver_packages as stand_ins
from tests.bed.bedlib.machine import mirror, suite
from tests.bed.driver_host import COMPONENTS, MIRROR, P4, SUITES, Host, changed, fact
from tests.bed.driver_packages import NEW
from tests.bed.playbook import NAME, PORT, bed

ANCHOR = "nvidia-kernel-dkms"
# dkms writes the date into the log's second line when it begins, and nothing after the build.
BUILD_SECONDS = (
    'log=$(ls /var/lib/dkms/*/*/*/*/log/make.log); echo $(($(stat -c %Y $log) - $(date -d "$(sed -n 2p $log)" +%s)))'
)
OTHERS_SOURCE = "/etc/apt/sources.list.d/others.list"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if suite() != "bookworm":
        pytest.skip(f"this machine is Debian {suite()}: the c220g5 plan's branch 535 is in bookworm's archive only")
    bed("up", NAME, PORT)
    host = Host(tmp_path_factory.mktemp("driver"), "debian-12", P4, archive_url=mirror("bookworm"))
    host.apt("update")
    host.apt("install", "--no-install-recommends", "linux-image-amd64")
    host.kernel = host.run("ls", "/lib/modules").strip()
    host.before, host.initramfs = host.snapshot(), host.in_initramfs()
    yield host
    bed("down", NAME)


def test_the_packages_are_installed_held_and_the_module_is_built(real, capsys):
    began = time.monotonic()
    ran = real.site()
    assert ran.code == 0, ran.told()
    built = real.run("sh", "-c", BUILD_SECONDS).strip()
    tell(capsys, f"site.yml with the real packages: {time.monotonic() - began:.0f} s, {built} s of it dkms build")
    found = real.versions()
    version = found[ANCHOR][0].partition("-")[0]
    same = ["libcuda1", "libnvidia-ml1", "nvidia-smi", "nvidia-kernel-support", "firmware-nvidia-gsp"]
    assert {name: found[name] for name in same} == dict.fromkeys(same, found[ANCHOR])
    assert {name: s for name, (_, s) in found.items() if ("nvidia" in name or "cuda" in name) and s != "hi"} == {}
    verdicts = real.verdicts()
    for setting in (module_of(real), "driver.library"):
        assert (verdicts[setting]["verdict"], verdicts[setting]["found"]) == ("held", version)
    said = real.run("modinfo", "-k", real.kernel, "-F", "vermagic", "nvidia-current")
    assert said.startswith(f"{real.kernel} ")
    assert fact(ran, "__inferhost_driver_reboot_required") is True


def test_the_initramfs_keeps_nouveau_out(real):
    assert "etc/modprobe.d/inferhost-nouveau.conf" in real.in_initramfs()


def test_a_second_run_changes_nothing(real):
    again = real.site()
    assert (again.code, changed(again)) == (0, []), again.told()


def test_an_archive_with_a_newer_version_moves_nothing(real):
    real.offer(*stand_ins.debian(NEW, "0+deb12u1"))
    real.write("/etc/apt/keyrings/others.asc", (real.folder / "key.asc").read_bytes())
    line = (
        f"deb [signed-by=/etc/apt/keyrings/others.asc] file:{MIRROR} {SUITES[real.os][0]} {COMPONENTS[real.os][0]}\n"
    )
    real.write(OTHERS_SOURCE, line.encode())
    real.apt("update")
    before = real.versions()
    assert f"Candidate: {NEW}-0+deb12u1" in real.run("apt-cache", "policy", ANCHOR)
    told = real.apt("full-upgrade")
    assert "have been kept back" in told
    refused = real.apt("install", ANCHOR, wanted=100)
    assert "Held packages were changed" in refused
    assert real.versions() == before
    assert (real.site().code, real.versions()) == (0, before)
    real.run("rm", "-r", OTHERS_SOURCE, "/etc/apt/keyrings/others.asc", MIRROR)
    real.apt("update")


def test_a_module_that_was_lost_comes_back_by_the_command_that_the_verdict_names(real):
    module = real.run("dkms", "status").partition(",")[0]
    real.run("dkms", "uninstall", module, "-k", real.kernel)
    verdict = real.verdicts()[module_of(real)]
    assert verdict["verdict"] == "ignored"
    advice = f"dkms autoinstall -k {real.kernel}"
    assert advice in verdict["evidence"]
    real.run(*advice.split())
    assert real.verdicts()[module_of(real)]["verdict"] == "held"


def test_revert_gives_back_the_host_as_it_was(real):
    ran = real.playbook("playbooks/revert.yml")
    assert ran.code == 0, ran.told()
    assert real.differences(real.before) == []
    assert real.in_initramfs() == real.initramfs


def module_of(host) -> str:
    return f"driver.module.{host.kernel}"


def tell(capsys, line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}")
