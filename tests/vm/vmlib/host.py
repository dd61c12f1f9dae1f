"""One virtual host: start it from a saved memory, reach it over ssh, boot it again, remove it.

A host is up when systemd says `running` and the operator can log in, as in the container bed.
"""

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bedlib.container import ssh_command
from bedlib.places import run_folder
from bedlib.tools import REFUSED, BedError, output_of

from . import qemu
from .disk import vm_cache

# A boot takes about half a minute on two quiet cores. Emulation shares them with whatever else the machine does.
LOGIN_LIMIT_S = 600


def run_of(name: str) -> Path:
    """The folder of a host's process: pid, monitor, serial log, port."""
    return run_folder() / "vm" / name


def disk_of(name: str) -> Path:
    """The host's own disk, on the cache's file system because it holds the memory too."""
    return vm_cache() / "hosts" / f"{name}.qcow2"


def begin(name: str, boot: Path, port: int, saved: bool) -> None:
    """Start the host on the disk that is already in place, and wait until the operator can log in."""
    run = run_of(name)
    qemu.start(boot, disk_of(name), run, port, saved)
    (run / "port").write_text(str(port))
    (run / "boot").write_text(str(boot))
    until_login(name)


def until_login(name: str) -> None:
    """Wait for a login; a QEMU that died meanwhile is named with the last words of its serial line."""
    run, argv = run_of(name), [*ssh_command(port_of(name)), "true"]
    end = time.monotonic() + LOGIN_LIMIT_S
    while subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        if qemu.process(run) is None or time.monotonic() > end:
            what = "QEMU ended" if qemu.process(run) is None else f"no login after {LOGIN_LIMIT_S} s"
            raise BedError(f"{name}: {what}", "\n      ".join(serial_lines(run)[-8:]))
        time.sleep(0.2)


def until_running(name: str) -> None:
    """Wait until systemd has started everything; a failed unit is named."""
    argv = [*ssh_command(port_of(name)), f"timeout {LOGIN_LIMIT_S} systemctl is-system-running --wait"]
    state = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    if state != "running":
        failed = root_output(name, "systemctl", "--failed", "--plain", "--no-legend")
        raise BedError(f"{name}: systemd is {state or 'silent'}, wanted running", failed)


def set_clock(name: str) -> None:
    """Bring the guest's clock from the hour of its snapshot to today's."""
    root_output(name, "date", "--utc", "--set", f"@{time.time():.0f}")


def reboot(name: str) -> None:
    """Boot the host's kernel again (a cold boot) and wait until it is usable."""
    boot_id = root_output(name, "cat", "/proc/sys/kernel/random/boot_id")
    # The connection may end before the answer, so its exit status says nothing.
    subprocess.run([*ssh_command(port_of(name)), "sudo systemctl reboot"], check=False, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LOGIN_LIMIT_S
    while True:
        until_login(name)
        try:
            if root_output(name, "cat", "/proc/sys/kernel/random/boot_id") != boot_id:
                break
        except BedError:
            pass  # it went down between the login and the question
        if time.monotonic() > end:
            raise BedError(f"{name}: still the same boot after {LOGIN_LIMIT_S} s")
        time.sleep(1)
    until_running(name)


def boot_own(name: str) -> None:
    """Boot the host with the kernel and the initrd of its own disk (a cold boot), as a boot loader would."""
    run, port = run_of(name), port_of(name)
    own = run / "own"
    own.mkdir(exist_ok=True)
    # Read before it is written: a host that boots its own kernel again copies the file onto itself.
    (own / "pstates.aml").write_bytes((Path((run / "boot").read_text()) / "pstates.aml").read_bytes())
    for file in ("vmlinuz", "initrd.img"):
        argv = [*ssh_command(port), as_root(["cat", f"/{file}"])]
        (own / file).write_bytes(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    subprocess.run([*ssh_command(port), "sudo systemctl poweroff"], check=False, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LOGIN_LIMIT_S
    while qemu.process(run) is not None:
        if time.monotonic() > end:
            raise BedError(f"{name}: still on after {LOGIN_LIMIT_S} s")
        time.sleep(0.2)
    begin(name, own, port, saved=False)
    until_running(name)


def down(name: str) -> None:
    """Remove the host with its disk; none of that name is fine."""
    qemu.stop(run_of(name))
    shutil.rmtree(run_of(name), ignore_errors=True)
    disk_of(name).unlink(missing_ok=True)


def port_of(name: str) -> int:
    """The loopback port of a host that is up."""
    try:
        return int((run_of(name) / "port").read_text())
    except FileNotFoundError as found:
        raise BedError(f"{name}: no such virtual host", "vm up NAME SSH_PORT starts one", REFUSED) from found


def root_output(name: str, *argv: str) -> str:
    """What a command prints as root on the host."""
    return output_of([*ssh_command(port_of(name)), as_root(argv)], what=f"{name}: {shlex.join(argv)}")


def as_root(argv: Sequence[str]) -> str:
    """The line that the operator's shell gets for a command that runs as root, word for word."""
    return shlex.join(["sudo", *argv])


def serial_lines(run: Path) -> list[str]:
    """What the kernel and systemd wrote to the serial line."""
    log = run / "serial.log"
    return log.read_text(errors="replace").splitlines() if log.is_file() else []
