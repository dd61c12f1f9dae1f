#!/usr/bin/env python3
"""Describes what only a kernel can say: governors, live kernel parameters, the engine's process. One JSON document.

Runs on the virtual host as root, shares no code with what it observes, and decides nothing. Parameters that move by
themselves stand in VOLATILE with their reason.
"""

import glob
import json
import os
import subprocess
import sys

UNIT = "inferhost-serve@main.service"

VOLATILE = {
    "fs.aio-nr": "counts requests",
    "fs.dentry-state": "counts cache entries",
    "fs.file-nr": "counts open files",
    "fs.inode-nr": "counts cache entries",
    "fs.inode-state": "counts cache entries",
    "fs.quota.allocated_dquots": "counts quota entries",
    "fs.quota.cache_hits": "counts quota entries",
    "fs.quota.drops": "counts quota entries",
    "fs.quota.free_dquots": "counts quota entries",
    "fs.quota.lookups": "counts quota entries",
    "fs.quota.reads": "counts quota entries",
    "fs.quota.syncs": "counts file system syncs",
    "fs.quota.writes": "counts quota entries",
    "kernel.ns_last_pid": "the last process id",
    "kernel.pty.nr": "counts terminals",
    "kernel.random.boot_id": "made anew at each boot",
    "kernel.random.entropy_avail": "a level",
    "kernel.random.uuid": "made anew at each read",
}


def governors() -> dict:
    """Governor and frequency bounds by CPU, as the kernel reads them back."""
    found = {}
    for folder in sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq")):
        names = ("scaling_driver", "scaling_governor", "scaling_min_freq", "scaling_max_freq")
        found[folder.split("/")[-2]] = {name: read(f"{folder}/{name}") for name in names}
    return found


def frequencies_khz() -> dict:
    """The frequency that the driver set last, by CPU; it moves with the load under schedutil."""
    folders = sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq"))
    return {folder.split("/")[-2]: int(read(f"{folder}/scaling_cur_freq")) for folder in folders}


def sysctl() -> dict:
    """Every readable kernel parameter by its dotted name."""
    found = {}
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            path = os.path.join(folder, name)
            key = os.path.relpath(path, "/proc/sys").replace("/", ".")
            # Tables of network devices and of programs' formats come and go with those, not with us.
            if key not in VOLATILE and not key.startswith("fs.binfmt_misc."):
                try:
                    found[key] = read(path)
                except OSError:
                    continue
    return found


def engine() -> dict:
    """The engine's main process as /proc shows it; empty when there is none."""
    pid = output("systemctl", "show", "--property=MainPID", "--value", UNIT).strip()
    if pid in ("", "0"):
        return {}
    status = dict(line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines())
    environment = read(f"/proc/{pid}/environ").split("\0")
    return {
        "argv": read(f"/proc/{pid}/cmdline").split("\0")[:-1],
        "environment": dict(word.split("=", 1) for word in environment if "=" in word),
        "limits": limits(read(f"/proc/{pid}/limits")),
        "memory_policies": sorted({line.split()[1] for line in read(f"/proc/{pid}/numa_maps").splitlines()}),
        "mounts": mounts(read(f"/proc/{pid}/mountinfo")),
        "beside_it": beside_the_engine(),
        "pid": int(pid),
        "status": {name: value.strip() for name, value in status.items()},
    }


def beside_the_engine() -> dict:
    """What a process gets that joins the engine's control group: devices and addresses are shut out there.

    No file of /proc shows these two, so it is tried, as root: an error's name, or "none".
    """
    group = output("systemctl", "show", "--property=ControlGroup", "--value", UNIT).strip()
    tried = {
        "null": "open('/dev/null', 'rb').read(1)",
        "disk": "open('/dev/vda', 'rb').read(1)",
        "loopback": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "outside": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.2.2', 9))",
    }
    members, found = f"/sys/fs/cgroup{group}/cgroup.procs", {}
    for name, attempt in tried.items():
        # systemd writes a dash in a slice's name as \\x2d, so the path goes in as a literal.
        script = (
            f"import os, socket\nopen({members!r}, 'w').write(str(os.getpid()))\n"
            f"try:\n    {attempt}\n    print('none')\nexcept OSError as error:\n    print(type(error).__name__)"
        )
        found[name] = output("python3", "-c", script).strip()
    return found


def limits(text: str) -> dict:
    """Soft and hard limit by name; the table's columns have fixed widths."""
    rows = text.splitlines()
    soft, hard, unit = (rows[0].index(word) for word in ("Soft Limit", "Hard Limit", "Units"))
    return {row[:soft].strip(): [row[soft:hard].strip(), row[hard:unit].strip()] for row in rows[1:]}


def mounts(text: str) -> list:
    """Mount point, options of the mount and of its file system, and root within that, in mount order."""
    rows = [line.split() for line in text.splitlines()]
    return [{"at": r[4], "options": r[5].split(","), "root": r[3], "file_system": r[-1].split(",")} for r in rows]


def nodes() -> dict:
    """The CPUs of each NUMA node, in the kernel's list form."""
    folders = sorted(glob.glob("/sys/devices/system/node/node[0-9]*"))
    return {folder[len("/sys/devices/system/node/node") :]: read(f"{folder}/cpulist") for folder in folders}


def read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip("\n")


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def main() -> None:
    document = {
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "engine": engine(),
        "frequencies_khz": frequencies_khz(),
        "governors": governors(),
        "nodes": nodes(),
        "sysctl": sysctl(),
    }
    json.dump(document, sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main()
