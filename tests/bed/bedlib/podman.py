"""Podman with storage, network and run folder of its own, and the workarounds that this machine needs, no others.

Nothing here touches the machine's own containers, images, networks or locks. Every call is repeatable: a namespace
that vanished with a session or a reboot is made again, or found again while a container still lives in it.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .machine import Machine, filesystem_of, observe_machine
from .places import cache, run_folder
from .tools import REFUSED, BedError, locked, output_of, write_if_different

# Joins a private mount namespace, puts cgroup2 alone on /sys/fs/cgroup, and ends; the namespace stays, pinned by a
# file. Never mount it with -o nsdelegate: the option sits on the superblock that the whole machine shares.
CGROUP2_ONLY = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"


def runtime_for(machine: Machine) -> str:
    """crun, podman's default, unless this machine breaks it.

    crun 1.8.1 raises RLIMIT_MEMLOCK for its device filter and dies without CAP_SYS_RESOURCE; runc does not.
    Source: /sys/fs/cgroup in hybrid mode and a root without that capability, Debian 12, seen 2026.
    """
    return "crun" if machine.may_raise_limits and machine.unified_cgroup else "runc"


def containers_conf(machine: Machine, graph: Path, run: Path) -> str:
    """The text of containers.conf for this machine."""
    containers: list[str] = []
    if not machine.pids_controller:
        # runc fails on writing pids.max where cgroup2 has no pids controller.
        containers.append("pids_limit = 0")
    if not machine.may_raise_limits:
        # Podman asks for its own high defaults; without CAP_SYS_RESOURCE only values below our hard limits pass.
        containers.append('default_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]')
    manager = "systemd" if machine.unified_cgroup and machine.systemd else "cgroupfs"
    engine = [
        f'cgroup_manager = "{manager}"',
        f'runtime = "{runtime_for(machine)}"',
        'events_logger = "file"',
        # The default, shared memory, is one segment for all podmans of the machine.
        'lock_type = "file"',
        f'tmp_dir = "{run}/libpod"',
        f'static_dir = "{graph}/libpod"',
        f'volume_path = "{graph}/volumes"',
    ]
    network = [
        'network_backend = "netavark"',
        f'network_config_dir = "{graph}/networks"',
        # The same on Debian 12 and 13, for firewall.py; podman 4.3 knows nothing else and ignores the key.
        'firewall_driver = "iptables"',
    ]
    sections = {"containers": containers, "engine": engine, "network": network}
    return "".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items())


def storage_conf(graph: Path, run: Path) -> str:
    """The text of storage.conf: overlay, or plain copies where the cache itself lies on an overlay (a container)."""
    driver = "vfs" if filesystem_of(graph) == "overlay" else "overlay"
    return f'[storage]\ndriver = "{driver}"\ngraphroot = "{graph}"\nrunroot = "{run}/storage"\n'


class Podman:
    """Podman on this cache."""

    def __init__(self) -> None:
        self.machine = observe_machine()
        self.graph = cache() / "containers"
        self.run = run_folder()
        # Podman keys address leases and firewall chains by the network's name, for all storages together.
        self.network = f"inferhost-{self.run.name}"
        self.bridge = f"bed-{self.run.name}"
        if not self.machine.unified_cgroup and not self.machine.root:
            raise BedError("/sys/fs/cgroup: hybrid or version 1, wanted cgroup2 alone", "run as root", REFUSED)
        conf, storage = self.run / "containers.conf", self.run / "storage.conf"
        self.graph.mkdir(parents=True, exist_ok=True)
        with locked(self.run / "lock"):
            write_if_different(conf, containers_conf(self.machine, self.graph, self.run))
            write_if_different(storage, storage_conf(self.graph, self.run))
            self.prefix = [] if self.machine.unified_cgroup else join_namespace(self.run / "ns", self.graph)
        self.env = {**os.environ, "CONTAINERS_CONF": str(conf), "CONTAINERS_STORAGE_CONF": str(storage)}

    def command(self, *arguments: str) -> list[str]:
        """The whole command line; it still needs `env`."""
        return [*self.prefix, "podman", *arguments]

    def output(self, *arguments: str) -> str:
        """What podman prints, without the last newline; a failure becomes a BedError."""
        return output_of(self.command(*arguments), env=self.env, what=f"podman {arguments[0]}").strip()

    def succeeds(self, *arguments: str) -> bool:
        """Whether podman answers yes (exit status 0), for its questions."""
        argv = self.command(*arguments)
        return subprocess.run(argv, env=self.env, capture_output=True, check=False).returncode == 0

    def ensure_network(self) -> None:
        """A bridge of our own, with a name and a subnet that no other storage chooses.

        Podman 4.3 cannot name the bridge, hence the edit of the network's file.
        """
        with locked(self.run / "lock"):
            if self.succeeds("network", "exists", self.network):
                return
            self.output("network", "create", "--disable-dns", "--subnet", subnet_of(self.run.name), self.network)
            file = self.graph / "networks" / f"{self.network}.json"
            described = json.loads(file.read_text())
            described["network_interface"] = self.bridge
            write_if_different(file, json.dumps(described, indent=2))

    def remove_network(self) -> None:
        """Remove the network, and the bridge that a killed container left behind."""
        if self.succeeds("network", "exists", self.network):
            self.output("network", "rm", "--force", self.network)
        if Path("/sys/class/net", self.bridge).exists():
            output_of(["ip", "link", "delete", self.bridge])

    def release(self) -> None:
        """Drop all images and end the mount namespace, so that the storage is an ordinary folder again."""
        self.output("rmi", "--all", "--force")
        namespace = self.run / "ns"
        if filesystem_of(namespace / "mnt") == "nsfs":
            output_of(["umount", str(namespace / "mnt")])
        if filesystem_of_mount(namespace):
            output_of(["umount", str(namespace)])


def subnet_of(cache_digest: str) -> str:
    """A private subnet that differs from cache to cache, away from podman's 10.88 and 10.89."""
    first, second = bytes.fromhex(cache_digest)[:2]
    return f"10.{96 + first % 64}.{second}.0/24"


def join_namespace(folder: Path, graph: Path) -> Sequence[str]:
    """The command prefix that enters this cache's mount namespace, made or found again first."""
    pin = folder / "mnt"
    if filesystem_of(pin) != "nsfs":
        folder.mkdir(exist_ok=True)
        pin.touch()
        if filesystem_of_mount(folder) == "":
            # A mount namespace can only be pinned below a private mount, and / is shared under systemd.
            output_of(["mount", "--bind", str(folder), str(folder)])
            output_of(["mount", "--make-private", str(folder)])
        survivor = container_monitor(graph)
        if survivor:
            output_of(["mount", "--bind", f"/proc/{survivor}/ns/mnt", str(pin)])
        else:
            output_of(["unshare", f"--mount={pin}", "--propagation", "private", "sh", "-c", CGROUP2_ONLY])
    # Without --wdns a relative path would start at / inside.
    return ["nsenter", f"--mount={pin}", f"--wdns={os.getcwd()}"]


def filesystem_of_mount(folder: Path) -> str:
    """The filesystem type when `folder` itself is a mount point, else nothing."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4] == str(folder):
            return line.partition(" - ")[2].split()[0]
    return ""


def container_monitor(graph: Path) -> int | None:
    """The process id of a conmon of this cache, which keeps an unpinned namespace alive."""
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"conmon") and any(word.startswith(bytes(graph) + b"/") for word in words):
            return int(cmdline.parent.name)
    return None
