"""The machine's disk: the bed's Debian root with a kernel, the engine and the operator, as one ext4 file system.

No boot loader: QEMU is handed kernel and initrd, which lie beside the disk, and the ACPI table with the P-states.
"""

import os
import shlex
import shutil
import tempfile
from pathlib import Path

from bedlib.engine import engine_root
from bedlib.image import ensure_key, public_key
from bedlib.machine import apt_proxy_options, mirror, suite
from bedlib.places import IMAGE_FILES, cache
from bedlib.rootfs import INCLUDE, OPTIONS
from bedlib.tools import REFUSED, BedError, digest, locked, output_of, say

VM_FILES = Path(__file__).resolve().parent.parent / "image"
DISK_SIZE = "6G"
# Where Containerfile.base puts the engine, and prepare-base looks for it.
ENGINE_FOLDER = "opt/llama.cpp"
WITH_KERNEL = "linux-image-amd64,udev"
# The guest has a disk, a network card and a serial line. Every path less is one less to unpack, boot past and hash.
DRIVERS_WITHOUT_DEVICE = ("gpu", "hwmon", "iio", "infiniband", "isdn", "media", "mtd", "net/ethernet", "net/wireless",
                          "scsi", "staging", "usb")  # fmt: skip
# nouveau and what it needs: there is no card for it either, but a test has to see that it stays out.
NOUVEAU_NEEDS = ("gpu/drm/*.ko", "gpu/drm/display/*", "gpu/drm/nouveau/*", "gpu/drm/ttm/*", "media/cec/core/*",
                 "media/rc/rc-core.ko")  # fmt: skip
ROOT_OPTIONS = [
    *(f"{option},{WITH_KERNEL}" if option == f"--include={INCLUDE}" else option for option in OPTIONS),
    *(f"--dpkgopt=path-exclude=*/lib/modules/*/kernel/drivers/{name}/*" for name in DRIVERS_WITHOUT_DEVICE),
    "--dpkgopt=path-exclude=*/lib/modules/*/kernel/sound/*",
    *(f"--dpkgopt=path-include=*/lib/modules/*/kernel/drivers/{name}" for name in NOUVEAU_NEEDS),
]


def vm_cache() -> Path:
    """The folder of the virtual machines in the bed's cache."""
    return cache() / "vm"


def disk() -> Path:
    """A folder with disk.raw, vmlinuz, initrd.img and pstates.aml, built when the cache lacks it."""
    refuse_other_machines()
    with locked(cache() / "lock"):
        ensure_key()
        engine = engine_root()
    inputs = (IMAGE_FILES / "prepare-base", VM_FILES, Path(__file__))
    key = digest(suite(), *ROOT_OPTIONS, engine.name, public_key(), *inputs)
    done = vm_cache() / f"disk-{suite()}-{key}"
    if done.is_dir():
        return done
    say(f"builds a Debian {suite()} disk with its own kernel (about a minute, once)")
    vm_cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=vm_cache()) as scratch:
        root, fresh = Path(scratch) / "root", Path(scratch) / "disk"
        fresh.mkdir()
        debian_root(root)
        furnish(root, engine)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy2(next((root / "boot").glob(f"{name}-*")), fresh / name)
        output_of(["iasl", "-p", str(fresh / "pstates"), str(VM_FILES / "pstates.asl")])
        image = fresh / "disk.raw"
        output_of(["truncate", "-s", DISK_SIZE, str(image)])
        output_of(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image)])
        return fresh.rename(done)


def refuse_other_machines() -> None:
    """Root, because a foreign root file system is made; x86-64, because the governors are acpi-cpufreq's."""
    if os.uname().machine != "x86_64":
        raise BedError(f"this machine is {os.uname().machine}, wanted x86_64", code=REFUSED)
    if os.geteuid() != 0:
        raise BedError(f"user id {os.geteuid()}, wanted root", "a Debian root file system is built", REFUSED)


def debian_root(root: Path) -> None:
    """Install the bed's packages and a kernel into the empty folder `root`."""
    # Before the kernel is unpacked, because the kernel's package makes the initrd.
    early = f'--essential-hook={shlex.quote(str(VM_FILES / "prepare-initrd"))} "$1"'
    proxies = [f"--aptopt={line}" for line in apt_proxy_options()]
    source = f"deb {mirror(suite())} {suite()} main"
    argv = ["mmdebstrap", "--quiet", "--format=directory", *ROOT_OPTIONS, early, *proxies, suite(), str(root), source]
    output_of(argv, what=f"mmdebstrap {suite()}")


def furnish(root: Path, engine: Path) -> None:
    """Add what the container image adds, and what only a machine with a kernel of its own needs."""
    for name in ("bin", "lib"):
        shutil.copytree(engine / name, root / ENGINE_FOLDER / name, symlinks=True)
    shutil.copy2(VM_FILES / "simulated-gpu.service", root / "etc/systemd/system")
    # A chroot is no running system: systemctl has to edit files and ask nobody.
    environment = {**os.environ, "SYSTEMD_OFFLINE": "1"}
    for script in (IMAGE_FILES / "prepare-base", VM_FILES / "prepare-vm"):
        shutil.copy2(script, root / "tmp")
        output_of(["chroot", str(root), f"/tmp/{script.name}"], env=environment, what=script.name)
        (root / "tmp" / script.name).unlink()
    keys = root / "home/operator/.ssh/authorized_keys"
    keys.parent.mkdir(mode=0o700)
    keys.write_text(public_key())
    keys.chmod(0o600)
    output_of(["chroot", str(root), "chown", "-R", "operator:", "/home/operator/.ssh"])
