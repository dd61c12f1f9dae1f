"""A sandbox host that the driver section may manage: its archive of stand-ins, its inventory, what it says."""

import json
import pathlib
import subprocess

import yaml

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_packages import KERNEL, OLD
from tests.bed.playbook import NAME, PORT, ROOT, bed, run_playbook

SUITES = {"debian-12": ["bookworm"], "ubuntu-24.04": ["noble", "noble-updates"]}
COMPONENTS = {"debian-12": ["contrib", "non-free", "non-free-firmware"], "ubuntu-24.04": ["restricted", "multiverse"]}
BOOK_KEEPING = ("/var/lib/dpkg", "/var/lib/apt", "/etc/ld.so.cache")
"""Where the package manager writes as it goes; the packages themselves are compared."""
MIRROR = "/srv/driver-archive"


class Host:
    """One sandbox host that the driver section may manage, and its inventory."""

    def __init__(self, folder: pathlib.Path, os_name: str, card: str, pci_id: str, memory_mib: int) -> None:
        self.folder, self.os = folder, os_name
        twin = yaml.safe_load((ROOT / "inventories/sandbox/host_vars/sandbox-c220g5/hardware.yml").read_text())
        hardware = twin["inferhost_hardware"]
        gpu = {**hardware["gpus"][0], "model": card, "pci_device_id": pci_id, "memory_mib": memory_mib}
        ranges = dict.fromkeys(("power_min_w", "power_default_w", "power_max_w"))
        hardware |= {"os": os_name, "gpus": [{**gpu, **ranges}], "driver_version": None}
        connection = ROOT / "inventories/sandbox/host_vars/sandbox-c220g5/connection.yml"
        values = yaml.safe_load(connection.read_text()) | {
            "inferhost_hardware": hardware,
            "inferhost_manage": ["driver"],
            "inferhost_driver_repository_url": f"file:{MIRROR}",
            "inferhost_driver_repository_key": str(folder / "key.asc"),
        }
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"sandbox-driver": values}}}))

    def offer(self, *packages: stand_ins.Package) -> None:
        """The host's archive holds these packages from now on."""
        content = stand_ins.archive(self.folder, SUITES[self.os], COMPONENTS[self.os], packages)
        self.run("rm", "-rf", MIRROR)
        self.run("mkdir", "-p", MIRROR)
        ran = subprocess.run(
            [ROOT / "tests/bed/bed", "exec", NAME, "tar", "-C", MIRROR, "-x"], input=content, check=False
        )
        assert ran.returncode == 0

    def run(self, *argv: str) -> str:
        return bed("exec", NAME, *argv)

    def playbook(self, name: str, **options):
        given = {f"inferhost_driver_{key}": value for key, value in options.items()}
        return run_playbook(name, "-i", str(self.folder / "hosts.yml"), "-e", json.dumps(given))

    def site(self, **options):
        return self.playbook("site.yml", **options)

    def versions(self) -> dict:
        listed = self.run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n").splitlines()
        return {name: (version, status) for name, version, status in (line.split() for line in listed)}

    def snapshot(self) -> dict:
        found = json.loads(self.run("python3", "-c", (ROOT / "tests/bed/snapshot.py").read_text()))
        found["paths"] = {path: what for path, what in found["paths"].items() if not path.startswith(BOOK_KEEPING)}
        return {**found, "packages": self.versions()}

    def verdicts(self) -> dict:
        ran = subprocess.run(
            [ROOT / "tests/bed/bed", "exec", NAME, "inferhost", "verify"], capture_output=True, text=True, check=False
        )
        return {verdict["setting"]: verdict for verdict in json.loads(ran.stdout)["verdicts"]}


def changed(ran) -> list:
    return [name for name, changed, _ in ran.changes() if changed]


def debian_host(folder: pathlib.Path) -> Host:
    """Debian 12 with a Tesla P4 and a kernel of its own, as far as files go."""
    bed("up", NAME, PORT)
    host = Host(folder, "debian-12", "tesla-p4", "1BB3", 7606)
    host.run("mkdir", "-p", f"/lib/modules/{KERNEL}")
    host.run("touch", f"/boot/vmlinuz-{KERNEL}")
    host.run("depmod", KERNEL)
    host.offer(*stand_ins.debian(OLD, "1"), *stand_ins.debian_rest())
    return host
