"""The saved machines from which hosts start, in two layers above the disk, each a qcow2 with a memory inside.

`booted` is the machine after its one cold boot. `ready` is `booted` with what the container image gets in its last
layer as well: key, model and simulated GPU. A change of the simulator renews `ready` only.
"""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from bedlib.container import refuse_taken_port, ssh_command
from bedlib.image import PERSONALITY, target_context, target_key
from bedlib.tools import BedError, digest, locked, output_of, say

from . import host, qemu
from .disk import disk, vm_cache

# The bed's builder needs a host of its own, on a port of its own, and only while the lock is held.
BUILDER = "builder"
BUILDER_PORT = int(os.environ.get("INFERHOST_VM_BUILD_PORT", "22399"))


def up(name: str, port: int) -> None:
    """Replace the virtual host `name` by a fresh one whose sshd listens on 127.0.0.1:port."""
    with locked(vm_cache() / "lock"):
        boot = disk()
        saved = ready(boot)
        host.down(name)
        refuse_taken_port(port)
        copy_disk(saved, host.disk_of(name))
    try:
        host.begin(name, boot, port, saved=True)
        host.set_clock(name)
    except BaseException:
        host.down(name)
        raise


def image() -> Path:
    """The newest layer, built when the cache lacks it."""
    with locked(vm_cache() / "lock"):
        return ready(disk())


def ready(boot: Path) -> Path:
    """The machine that hosts start from; an earlier one of the same booted machine is removed."""
    base = booted(boot)
    key = target_key(base.stem)
    done = vm_cache() / f"{base.stem}-ready-{key}.qcow2"
    if not done.is_file():
        say("adds the simulated GPU and the model to the booted machine")
        copy_disk(base, host.disk_of(BUILDER))
        build(boot, done, saved=True, finish=add_target)
        for old in vm_cache().glob(f"{base.stem}-ready-*.qcow2"):
            if old != done:
                old.unlink()
    return done


def booted(boot: Path) -> Path:
    """The machine after its cold boot."""
    # A saved memory loads into the same devices only, and those stand in qemu.py.
    key = digest(boot.name, qemu.version(), Path(qemu.__file__))
    done = vm_cache() / f"booted-{key}.qcow2"
    if not done.is_file():
        say("boots the machine once (half a minute or more)")
        fresh = host.disk_of(BUILDER)
        fresh.parent.mkdir(parents=True, exist_ok=True)
        output_of(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(boot / "disk.raw"), "-F", "raw", str(fresh)])
        build(boot, done, saved=False, finish=lambda: None)
    return done


def build(boot: Path, done: Path, saved: bool, finish: Callable[[], None]) -> None:
    """Start the builder on its disk, let `finish` change it, save its memory and keep the disk as `done`."""
    refuse_taken_port(BUILDER_PORT)
    try:
        host.begin(BUILDER, boot, BUILDER_PORT, saved)
        host.until_running(BUILDER)
        finish()
        host.root_output(BUILDER, "sync")
        qemu.monitor(host.run_of(BUILDER), f"savevm {qemu.SNAPSHOT}")
        qemu.stop(host.run_of(BUILDER))
        host.disk_of(BUILDER).rename(done)
    finally:
        host.down(BUILDER)


def add_target() -> None:
    """Do in the machine what Containerfile.target does in the image."""
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        target_context(context)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(context / "tiny-random.gguf", "srv/models/tiny-random.gguf", filter=owned_by_root)
            archive.add(context / "authorized_keys", "home/operator/.ssh/authorized_keys", filter=owned_by_root)
            archive.add(context / "simulator", "tmp/simulator", filter=owned_by_root)
            archive.add(context / "prepare-target", "tmp/prepare-target", filter=owned_by_root)
    send(packed.getvalue(), "sudo tar -x -C /")
    host.root_output(BUILDER, "/tmp/prepare-target", PERSONALITY)
    host.root_output(BUILDER, "rm", "-r", "/tmp/simulator", "/tmp/prepare-target")


def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member without the builder's own user."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def send(content: bytes, command: str) -> None:
    """Run a command on the builder with `content` on its input."""
    argv = [*ssh_command(BUILDER_PORT), command]
    done = subprocess.run(argv, input=content, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise BedError(f"{command}: exit status {done.returncode}, wanted 0", done.stderr.decode().strip())


def copy_disk(source: Path, target: Path) -> None:
    """A private copy; the saved memory of a qcow2 cannot be shared through a backing file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def clean(images: bool) -> None:
    """Remove every virtual host of this cache, and the layers too when asked."""
    for disk_file in (vm_cache() / "hosts").glob("*.qcow2"):
        host.down(disk_file.stem)
    if images:
        shutil.rmtree(vm_cache(), ignore_errors=True)
