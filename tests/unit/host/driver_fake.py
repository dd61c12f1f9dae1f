"""A host in a folder with packages, kernels and a firmware: what the driver section asks, answered from plain values.

The answers have the form of dpkg-query, apt-cache, apt-mark, apt-get, modinfo, mokutil and ldconfig; the real ones
answer in tests/bed and tests/slow. What Ansible does between the verbs is `install_packages` and `hold`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence

from inferhost.host.machine import Finished
from inferhost.host.record.placed import placed_files
from tests.golden import golden_plan
from tests.unit.host.fake_host import FakeHost

RUNNING, NEXT = "6.1.0-9-amd64", "6.1.0-10-amd64"
OLD, NEW = "535.261.03", "535.309.01"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
VALIDATION = "/sys/firmware/efi/efivars/MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"
UBUNTUS_KEY, DEBIANS_KEY = "/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub"
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
FABRIC_MANAGER = "nvidia-fabricmanager.service"
NOUVEAU_OFF = "/etc/modprobe.d/inferhost-nouveau.conf"


@dataclasses.dataclass
class Package:
    """One installed package: its version, whether it is held, what it depends on and provides, as in its fields."""

    version: str
    held: bool = False
    depends: str = ""
    provides: str = ""
    auto: bool = False  # came for another package


def debian(driver: str = OLD) -> dict[str, Package]:
    """The driver's packages of Debian 12, with a dependency of each kind."""
    version = f"{driver}-1"
    return {
        "nvidia-kernel-dkms": Package(version, depends="nvidia-kernel-support--v1, dkms (>= 3.0.3-4~)"),
        "nvidia-kernel-support": Package(version, provides="nvidia-kernel-support--v1, nvidia-kernel-support-any"),
        "nvidia-smi": Package(version, depends=f"libnvidia-ml1 (= {version}) | libnvidia-ml1-{driver}"),
        "libnvidia-ml1": Package(version),
        "libcuda1": Package(version, depends="libc6:any (>= 2.14)"),
        "nvidia-persistenced": Package("535.171.04-1~deb12u1", depends="libc6 (>= 2.14)"),
        "dkms": Package("3.0.10-8"),
        f"linux-headers-{RUNNING}": Package("6.1.1-1"),
        f"linux-headers-{NEXT}": Package("6.1.2-1"),
        "linux-headers-amd64": Package("6.1.2-1"),
    }


def policy(names: Sequence[str], offered: Sequence[str], pinned_away: Sequence[str] = ()) -> str:
    """What apt-cache policy says of these names: nothing of one that no source knows."""
    table = (
        "  Installed: (none)\n  Candidate: {}\n  Version table:\n     1.0 500\n        500 http://x bookworm/main\n"
    )
    found = {**dict.fromkeys(offered, "1.0"), **dict.fromkeys(pinned_away, "(none)")}
    return "".join(f"{name}:\n{table.format(found[name])}" for name in names if name in found)


class DriverHost(FakeHost):
    """A host that had libc6 before us; it runs one kernel and boots a newer one next."""

    def __init__(self, folder: pathlib.Path, build: pathlib.Path, program: pathlib.Path) -> None:
        super().__init__(folder, build, program)
        self.plan = golden_plan("driver-p4")
        self.packages = {"libc6": Package("2.36-9")}
        self.modules: dict[str, str] = {}  # version by kernel
        self.keys: dict[str, str] = {}  # mokutil's words by key
        self.libraries = ""  # ldconfig -p
        self.policy = lambda _names: Finished(0, "", "")
        self.dropped: set[tuple[str, str]] = set()  # name and version; the archive has every other
        self.write("/proc/sys/kernel/osrelease", f"{RUNNING}\n")
        self.write("/etc/os-release", 'ID=debian\nVERSION_ID="12"\n')
        self.write("/usr/sbin/update-initramfs", "")
        for kernel in (RUNNING, NEXT):
            self.write(f"/boot/vmlinuz-{kernel}", "")
            self.write(f"/lib/modules/{kernel}/modules.dep", "")
        self.boot(ago_s=3600)

    def boot(self, ago_s: int) -> None:
        """When this boot began; every file of the folder was written just now."""
        self.write("/proc/stat", f"cpu 1 2 3\nbtime {int(time.time()) - ago_s}\n")

    def load(self, driver: str, kind: str = "") -> None:
        """A loaded module, as its own file in /proc says it."""
        line = f"NVRM version: NVIDIA UNIX {kind}x86_64 Kernel Module  {driver}  Thu Jan  1 00:00:00 UTC 1970\n"
        self.write("/proc/driver/nvidia/version", line)

    def library(self, driver: str) -> None:
        """The CUDA library that programs find."""
        self.write(f"{LIBRARIES}/libcuda.so.{driver}", "")
        link = self.at(f"{LIBRARIES}/libcuda.so.1")
        link.unlink(missing_ok=True)
        link.symlink_to(f"libcuda.so.{driver}")
        found = {"libc.so.6": "/lib/libc.so.6", "libcuda.so.1": f"{LIBRARIES}/libcuda.so.1"}
        self.libraries = "".join(f"\t{name} (libc6,x86-64) => {path}\n" for name, path in found.items())

    def package_lists(self, *offered: str, pinned_away: Sequence[str] = ()) -> None:
        """Lists that apt read after its sources last changed, and what it would install."""
        self.write("/etc/apt/sources.list", "deb http://archive.example bookworm main\n")
        self.write("/var/lib/apt/lists/archive.example_dists_bookworm_main_binary-amd64_Packages.lz4", "")
        self.policy = lambda names: Finished(0, policy(names, offered, pinned_away), "")

    def secure_boot(self, on: bool, variable: str = SECURE_BOOT) -> None:
        self.write(variable, f"\x06\0\0\0{chr(on)}")

    def install_packages(self, found: dict[str, Package]) -> None:
        """What apt does: the packages, the headers' folders, and a module for each kernel."""
        self.packages |= found
        for kernel in (RUNNING, NEXT):
            if f"linux-headers-{kernel}" in found:
                self.write(f"/lib/modules/{kernel}/build/Makefile", "")
            self.build_module(kernel, found["nvidia-kernel-dkms"].version.partition("-")[0])

    def build_module(self, kernel: str, driver: str) -> None:
        self.modules[kernel] = driver
        self.write(f"/lib/modules/{kernel}/updates/dkms/nvidia-current.ko", driver)

    def hold(self, names: Sequence[str]) -> None:
        for name in names:
            self.packages[name].held = True

    def converge(self) -> None:
        """Installed, placed, and everything held that the program names."""
        assert self.run("install").code == 0
        for file in placed_files(self.plan, self.plan.manage):
            self.write(file.path, file.content.decode(), file.mode)
        self.install_packages(debian())
        self.hold(self.run("apply").document["facts"]["driver"]["hold"])

    def command(self, argv: Sequence[str]) -> Finished:
        known = {
            "dpkg-query": self._dpkg_query,
            "apt-get": self._apt_get,
            "apt-cache": self._apt_cache,
            "apt-mark": lambda _: Finished(0, "".join(f"{n}\n" for n, p in self.packages.items() if p.auto), ""),
            "modinfo": self._modinfo,
            "mokutil": self._mokutil,
            "ldconfig": lambda _: Finished(0, self.libraries, ""),
        }
        return known[argv[0]](argv) if argv[0] in known else super().command(argv)

    def _dpkg_query(self, _argv: Sequence[str]) -> Finished:
        lines = [
            f"{name}\t{p.version}\t{'h' if p.held else 'i'}i \t, {p.depends}\t{p.provides}\n"
            for name, p in self.packages.items()
        ]
        return Finished(0, "".join([*lines, "once-there\t1\trc \t, \t\n"]), "")

    def _apt_get(self, argv: Sequence[str]) -> Finished:
        gone = {name for name in argv if name in self.packages}
        while more := {n for n, p in self.packages.items() if n not in gone and gone & set(p.depends.split())}:
            gone |= more
        return Finished(0, "".join(f"Purg {name} [{self.packages[name].version}]\n" for name in sorted(gone)), "")

    def _apt_cache(self, argv: Sequence[str]) -> Finished:
        return self.policy(argv[argv.index("policy") + 1 :]) if "policy" in argv else self._madison(argv)

    def _madison(self, argv: Sequence[str]) -> Finished:
        """Every version that a test speaks of is in the archive, unless it was dropped."""
        lines = [
            f" {name} | {version} | http://deb.example bookworm/main amd64 Packages\n"
            for name in argv[2:]
            for version in (f"{OLD}-1", f"{NEW}-1", "525.1-1", "470.1-1", "12.8-1", "1.17.8-1")
            if (name, version) not in self.dropped
        ]
        return Finished(0, "".join(lines), "")

    def _modinfo(self, argv: Sequence[str]) -> Finished:
        _, _, kernel, _, field, name = argv
        if name != "nvidia-current" or kernel not in self.modules:
            return Finished(1, "", f"modinfo: ERROR: Module {name} not found.")
        path = f"/lib/modules/{kernel}/updates/dkms/{name}.ko"
        return Finished(0, f"{ {'version': self.modules[kernel], 'filename': path}[field] }\n", "")

    def _mokutil(self, argv: Sequence[str]) -> Finished:
        words = self.keys.get(argv[2], "is not enrolled")
        return Finished(0 if words == "is not enrolled" else 1, f"{argv[2]} {words}\n", "")
