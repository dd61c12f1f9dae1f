"""One QEMU process: its command line, its monitor, its end.

Saving and loading a machine's memory needs the same devices on both sides, so every start goes through `start`; only
the disk file, the forwarded port and the folder for sockets differ. TCG, never KVM: a saved memory has to load on
every machine, and nested KVM is often half a KVM.
"""

import contextlib
import json
import os
import select
import signal
import socket
from pathlib import Path

from bedlib.tools import BedError, output_of

SNAPSHOT = "ready"
# One node per socket. The engine is bound to one of them, so each has to hold it with its model.
NODE_MIB = 768
# With TCG's default CPU, an AMD of family 15, acpi-cpufreq says "No such device"; with this one it loads.
HARDWARE = [
    "-accel", "tcg,thread=multi",
    "-cpu", "max,vendor=GenuineIntel,family=6,model=94",
    "-smp", "2,sockets=2",
    "-m", str(2 * NODE_MIB),
    "-object", f"memory-backend-ram,id=m0,size={NODE_MIB}M",
    "-object", f"memory-backend-ram,id=m1,size={NODE_MIB}M",
    "-numa", "node,nodeid=0,cpus=0,memdev=m0",
    "-numa", "node,nodeid=1,cpus=1,memdev=m1",
    "-nodefaults", "-no-user-config", "-display", "none",
    "-device", "virtio-rng-pci",
]  # fmt: skip
# mitigations=off: page-table isolation would be emulated too, and nothing here tests it.
KERNEL_LINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off quiet systemd.show_status=false"
STOP_LIMIT_S = 20


def version() -> str:
    """QEMU's own version line: another one may not read a saved memory."""
    return output_of(["qemu-system-x86_64", "--version"]).splitlines()[0]


def start(boot: Path, disk: Path, run: Path, port: int, saved: bool) -> None:
    """Start a machine on `disk` in the background: from its saved memory, or by a cold boot.

    `boot` has kernel, initrd and P-states; `run` gets pid, monitor socket and serial log; ssh listens on loopback.
    """
    run.mkdir(parents=True, exist_ok=True)
    argv = [
        "qemu-system-x86_64", *HARDWARE,
        "-kernel", str(boot / "vmlinuz"), "-initrd", str(boot / "initrd.img"), "-append", KERNEL_LINE,
        "-acpitable", f"file={boot / 'pstates.aml'}",
        "-drive", f"file={disk},format=qcow2,if=virtio,discard=unmap,cache=unsafe",
        "-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=n0,romfile=",
        "-serial", f"file:{run / 'serial.log'}",
        "-qmp", f"unix:{run / 'qmp'},server=on,wait=off",
        "-pidfile", str(run / "pid"), "-daemonize",
        *(["-loadvm", SNAPSHOT] if saved else []),
    ]  # fmt: skip
    output_of(argv)


def monitor(run: Path, line: str) -> None:
    """Give the machine's monitor one command; it is silent when all went well."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(run / "qmp"))
        with connection.makefile("rw") as stream:
            stream.readline()
            ask(stream, "qmp_capabilities")
            answer = ask(stream, "human-monitor-command", {"command-line": line})
    if answer.strip():
        raise BedError(f"QEMU {line}: {answer.strip()}")


def ask(stream, command: str, arguments: dict[str, str] | None = None) -> str:
    """One QMP command and its answer; events in between do not count."""
    stream.write(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
    stream.flush()
    for text in stream:
        said = json.loads(text)
        if "error" in said:
            raise BedError(f"QEMU {command}: {said['error']['desc']}")
        if "return" in said:
            return said["return"] or ""
    raise BedError(f"QEMU {command}: the monitor hung up")


def stop(run: Path) -> None:
    """End the machine of `run` without asking its kernel; none is fine.

    Waits on a process descriptor: /proc forgets the command line of a dying process before its port is free.
    """
    pid = process(run)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid), "rb") as handle:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(handle.fileno(), number)
            if select.select([handle], [], [], STOP_LIMIT_S)[0]:
                return
        raise BedError(f"process {pid}: QEMU does not end, wanted it gone")


def process(run: Path) -> int | None:
    """The process id of the QEMU that belongs to `run`, or None; a reused id is not taken for it."""
    try:
        pid = int((run / "pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if str(run / "pid").encode() in words else None
