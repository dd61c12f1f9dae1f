"""nouveau after a real restart, and who restarts the host: what the driver section promises of a kernel of its own.

The packages are stand-ins; kernel, initramfs, nouveau and the restarts are real. There is no card, so nouveau is
asked for as udev would for a Tesla P4, by its modalias, and by a list of modules that somebody left.
"""

import json

import pytest

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_host import P4, Host, fact
from tests.bed.driver_packages import OLD
from tests.vm.test_vm import HERE, NAME, PORT, vm

TESLA_P4 = "pci:v000010DEd00001BB3sv000010DEsd000011D8bc03sc02i00"
AS_UDEV = ("modprobe", "--use-blacklist", TESLA_P4)
WOULD = ("modprobe", "--dry-run", "--verbose", "--use-blacklist", TESLA_P4)
LISTED = "/etc/modules-load.d/somebody.conf"
FILE = "etc/modprobe.d/inferhost-nouveau.conf"


class VirtualHost(Host):
    """The same host on a kernel of its own."""

    root_shell = (HERE / "vm", "exec", NAME)
    connection = HERE / "inventory/host_vars/vm-gb200/connection.yml"

    def boot_id(self) -> str:
        return self.run("cat", "/proc/sys/kernel/random/boot_id").strip()

    def has_nouveau(self) -> bool:
        return "nouveau" in self.run("sh", "-c", "cut -d' ' -f1 /proc/modules").split()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    vm("up", NAME, PORT)
    found = VirtualHost(tmp_path_factory.mktemp("driver"), "debian-12", P4)
    kernel = found.run("uname", "-r").strip()
    found.run("truncate", "--size", "0", "/etc/apt/sources.list")  # nothing from the network: emulated, it takes long
    found.offer(*stand_ins.debian(OLD, "1"), *stand_ins.debian_rest(kernel))
    found.write(LISTED, b"nouveau\n")
    found.run(*AS_UDEV)
    assert found.has_nouveau(), "nouveau cannot load here, so keeping it out would prove nothing"
    found.before = found.snapshot()
    yield found
    vm("down", NAME)


@pytest.fixture(scope="module")
def installed(host):
    """Placed without consent to a restart."""
    began = host.boot_id()
    ran = host.site()
    assert ran.code == 0, ran.told()
    return ran, began


@pytest.fixture(scope="module")
def restarted(host, installed):
    """Restarted by a person, with the initramfs that the role had made."""
    vm("boot-own", NAME)
    return host


def test_without_consent_the_host_keeps_running_and_says_that_it_has_to_be_restarted(host, installed):
    ran, began = installed
    assert host.boot_id() == began
    assert fact(ran, "__inferhost_driver_reboot_required") is True
    found = host.verdicts()["driver.running"]
    assert (found["found"], found["verdict"], found["cause"]) == ("nouveau", "pending", "needs_reboot")


def test_the_initramfs_was_made_again_with_the_file_against_nouveau(host, installed):
    assert FILE in host.in_initramfs()


def test_after_the_restart_nouveau_is_not_loaded_and_cannot_be(restarted):
    assert restarted.run("cat", LISTED) == "nouveau\n"
    assert not restarted.has_nouveau()
    assert restarted.run(*WOULD) == ""
    restarted.run(*AS_UDEV)
    assert not restarted.has_nouveau()


def test_with_consent_the_role_restarts_a_host_on_which_something_changed_since_it_booted(restarted):
    restarted.run("touch", f"/{FILE}")
    began = restarted.boot_id()
    ran = restarted.site(reboot=True)
    assert restarted.boot_id() != began
    # There is no card, so the module did not come either: told, and not answered by one restart after the other.
    assert fact(ran, "__inferhost_driver_reboot_required") is False
    assert "no module is loaded, and the host was restarted since" in json.dumps([r for _, r in ran.tasks])


def test_revert_gives_back_the_host_and_nouveau_at_the_next_start(restarted):
    ran = restarted.playbook("playbooks/revert.yml")
    assert ran.code == 0, ran.told()
    changed = restarted.differences(restarted.before)
    # /run is empty at each boot, and udev fills it with the clock of that boot.
    assert [line for line in changed if not line.startswith("/run/")] == []
    assert FILE not in restarted.in_initramfs()
    vm("boot-own", NAME)
    assert restarted.has_nouveau()
