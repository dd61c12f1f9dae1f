"""A sandbox host that the driver section may manage: its archive of stand-ins, its inventory, what it says."""

import json
import pathlib
import subprocess
from typing import NamedTuple

import yaml

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_packages import KERNEL, OLD
from tests.bed.playbook import NAME, PORT, ROOT, bed, run_playbook, snapshot
from tests.bed.snapshot import differences

SUITES = {"debian-12": ["bookworm"], "ubuntu-24.04": ["noble", "noble-updates"]}
COMPONENTS = {"debian-12": ["contrib", "non-free", "non-free-firmware"], "ubuntu-24.04": ["restricted", "multiverse"]}
BOOK_KEEPING = ("/var/lib/dpkg", "/var/lib/apt", "/etc/ld.so.cache", "/var/lib/initramfs-tools", "/run/adduser")
"""Where tools note what they did last, or lock; packages and what lies in the initramfs are compared themselves."""
MIRROR = "/srv/driver-archive"


class Card(NamedTuple):
    """What an inventory says of a card."""

    model: str
    pci_device_id: str
    memory_mib: int


P4 = Card("tesla-p4", "1BB3", 7606)


class Host:
    """One sandbox host that the driver section may manage, and its inventory.

    Its packages come out of the stand-ins' archive, or out of the one at `archive_url`, whose key the host has.
    """

    root_shell = (ROOT / "tests/bed/bed", "exec", NAME)
    connection = ROOT / "inventories/sandbox/host_vars/sandbox-c220g5/connection.yml"

    def __init__(self, folder: pathlib.Path, os_name: str, card: Card, archive_url: str = "") -> None:
        self.folder, self.os = folder, os_name
        twin = yaml.safe_load((ROOT / "inventories/sandbox/host_vars/sandbox-c220g5/hardware.yml").read_text())
        hardware = twin["inferhost_hardware"]
        gpu = {**hardware["gpus"][0], **card._asdict()}
        ranges = dict.fromkeys(("power_min_w", "power_default_w", "power_max_w"))
        hardware |= {"os": os_name, "gpus": [{**gpu, **ranges}], "driver_version": None}
        values = yaml.safe_load(self.connection.read_text()) | {
            "inferhost_hardware": hardware,
            "inferhost_manage": ["driver"],
            "inferhost_driver_repository_url": archive_url or f"file:{MIRROR}",
            "inferhost_driver_repository_key": "" if archive_url else str(folder / "key.asc"),
        }
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"sandbox-driver": values}}}))

    def offer(self, *packages: stand_ins.Package) -> None:
        """The host's archive holds these packages from now on."""
        content = stand_ins.archive(self.folder, SUITES[self.os], COMPONENTS[self.os], packages)
        self.run("rm", "-rf", MIRROR)
        self.run("mkdir", "-p", MIRROR)
        self.run("tar", "-C", MIRROR, "-x", given=content)

    def add_kernel(self, kernel: str) -> None:
        """A kernel as far as files go."""
        self.run("mkdir", "-p", f"/lib/modules/{kernel}")
        self.run("touch", f"/boot/vmlinuz-{kernel}")
        self.run("depmod", kernel)

    def run(self, *argv: str, given: bytes = b"", wanted: int = 0) -> str:
        """Both outputs of a command that root runs there."""
        ran = subprocess.run(
            [*self.root_shell, *argv], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert ran.returncode == wanted, ran.stdout.decode()
        return ran.stdout.decode()

    def write(self, path: str, content: bytes) -> None:
        """A file that everybody may read, apt's own user among them."""
        self.run("sh", "-c", 'umask 022; cat >"$0"', path, given=content)

    def apt(self, *argv: str, wanted: int = 0) -> str:
        return self.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", *argv, wanted=wanted)

    def playbook(self, name: str, *arguments: str, **options):
        given = {f"inferhost_driver_{key}": value for key, value in options.items()}
        return run_playbook(name, "-i", str(self.folder / "hosts.yml"), "-e", json.dumps(given), *arguments)

    def site(self, **options):
        return self.playbook("site.yml", **options)

    def check(self, **options):
        """What check mode foretells of `site`."""
        return self.playbook("site.yml", "--check", "--diff", **options)

    def role(self, entry_point: str):
        """A play with this one entry point of the role."""
        play = self.folder / f"{entry_point}.yml"
        task = f"{{ansible.builtin.import_role: {{name: inferhost_driver, tasks_from: {entry_point}}}}}"
        play.write_text(f"- hosts: all\n  gather_facts: false\n  become: true\n  tasks: [{task}]\n")
        return self.playbook(str(play))

    def versions(self) -> dict:
        listed = self.run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n").splitlines()
        return {name: (version, status) for name, version, status in (line.split() for line in listed)}

    def snapshot(self) -> dict:
        found = snapshot(self.root_shell)
        found["paths"] = {path: what for path, what in found["paths"].items() if not path.startswith(BOOK_KEEPING)}
        return {**found, "packages": self.versions(), "automatic": self.run("apt-mark", "showauto").split()}

    def differences(self, before: dict) -> list[str]:
        """What is not as in that snapshot, packages included."""
        after = self.snapshot()
        packages = set(before["packages"].items()) ^ set(after["packages"].items())
        marks = sorted(set(before["automatic"]) ^ set(after["automatic"]))
        told = [f"{name}: marked as wanted by name before or after, not both" for name in marks]
        return differences(before, after) + sorted(f"{name}: {state}" for name, state in packages) + told

    def in_initramfs(self) -> list[str]:
        """The paths in the initramfs of the one kernel that has one."""
        return self.run("sh", "-c", "lsinitramfs /boot/initrd.img-*").splitlines()

    def verdicts(self) -> dict:
        ran = subprocess.run([*self.root_shell, "inferhost", "verify"], capture_output=True, text=True, check=False)
        return {verdict["setting"]: verdict for verdict in json.loads(ran.stdout)["verdicts"]}


def changed(ran) -> list:
    return [name for name, changed, _ in ran.changes() if changed]


def fact(ran, name: str):
    """What a fact of the host was at the end of the run; None where no task set it."""
    found = [r["ansible_facts"][name] for _, r in ran.tasks if name in r.get("ansible_facts", {})]
    return found[-1] if found else None


def debian_host(folder: pathlib.Path) -> Host:
    """Debian 12 with a Tesla P4 and a kernel of its own, as far as files go."""
    bed("up", NAME, PORT)
    host = Host(folder, "debian-12", P4)
    host.add_kernel(KERNEL)
    host.offer(*stand_ins.debian(OLD, "1"), *stand_ins.debian_rest())
    return host
