"""Who is on this host already: processes that hold a card's memory, and programs that listen on a port.

Reads NVML, /proc/net and /proc/PID only. A process is named by the unit that it runs in, because that is what a
person can stop; one that cannot be seen from here (another container's) is told by its number alone.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Iterator

from inferhost.host.gpu.nvml import Card, Nvml
from inferhost.host.machine import Machine
from inferhost.host.service.processes import HIDDEN, SECRET

LISTENING = "0A"  # Source: linux include/net/tcp_states.h (TCP_LISTEN)
INFORMATION = "/proc/driver/nvidia/gpus"
MINOR = re.compile(r"^GPU UUID:\s+(\S+)$.*^Device Minor:\s+(\d+)$", re.MULTILINE | re.DOTALL)
"""Which node is which card's. Source: NVIDIA/open-gpu-kernel-modules kernel-open/nvidia/nv-procfs.c."""
UNIT = re.compile(r"([^/\s]+\.(?:service|scope))(?=/|$)")


@dataclasses.dataclass(frozen=True)
class Occupant:
    """A process by what a person knows of it. `unit` is the deepest service or scope that it runs in."""

    pid: int
    words: tuple[str, ...]
    unit: str | None
    of_user: bool  # runs under a user's own service manager

    @property
    def adoptable(self) -> bool:
        """Whether it runs in a unit of the system that can be stopped, disabled and given back."""
        return self.unit is not None and self.unit.endswith(".service") and not self.of_user

    @property
    def name(self) -> str:
        """The program, without its folder."""
        return os.path.basename(self.words[0]) if self.words else "unnamed"

    def shown(self) -> str:
        """Program, number and unit."""
        return f"{self.name} (process {self.pid}{f', {self.unit}' if self.unit else ''})"


@dataclasses.dataclass(frozen=True)
class Listener:
    """A TCP port that somebody listens on. `everywhere` is every address of the host."""

    address: str
    port: int
    pid: int | None

    @property
    def everywhere(self) -> bool:
        return ipaddress.ip_address(self.address).is_unspecified


def occupant(machine: Machine, pid: int) -> Occupant | None:
    """The process, or None where it is not to be seen from here. What may be a secret is hidden."""
    found = machine.read_text(f"/proc/{pid}/cmdline")
    if found is None:
        return None
    groups = machine.read_text(f"/proc/{pid}/cgroup") or ""
    lines = [x for x in groups.splitlines() if x.startswith("0::") or ":name=systemd:" in x]
    units = UNIT.findall("\n".join(lines))
    words = [word for word in found.split("\0") if word]
    return Occupant(pid, without_secrets(words), units[-1] if units else None, "user@" in "".join(lines))


def card_holders(nvml: Nvml, card: Card) -> Iterator[tuple[int, int]]:
    """Process number and MiB of everything that computes on a card; what draws the desktop is not among it."""
    for pid, used_bytes in nvml.compute_processes(card):
        yield pid, (used_bytes or 0) // 2**20


def card_places(machine: Machine) -> dict[str, tuple[str, str]]:
    """The bus id and the device node in /dev of each card, by UUID, as far as the driver's own list names them."""
    found = {}
    for address in machine.entries(INFORMATION):
        match = MINOR.search(machine.read_text(f"{INFORMATION}/{address}/information") or "")
        if match:
            found[match[1]] = (address, f"nvidia{match[2]}")
    return found


def held_open(machine: Machine) -> list[str]:
    """The UUIDs of the cards that a program holds open, as the persistence daemon does: the driver stays there.

    Source: README of NVIDIA's driver, "Using the nvidia-persistenced Utility".
    """
    nodes = {f"/dev/{node}": uuid for uuid, (_, node) in card_places(machine).items()}
    pids = [int(name) for name in machine.entries("/proc") if name.isdigit()] if nodes else []
    return sorted({nodes[link] for pid in pids for link in _links(machine, pid) if link in nodes})


def listeners(machine: Machine) -> list[Listener]:
    """Every TCP port in use, with its process where /proc shows it."""
    owners: dict[str, int] = {}
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (machine.read_text(table) or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == LISTENING:
                owners = owners or _socket_owners(machine)
                address, _, port = fields[1].rpartition(":")
                found.append(Listener(_address(address), int(port, 16), owners.get(fields[9])))
    return found


def _address(text: str) -> str:
    """An address as the kernel prints it: words of four bytes in the order of the machine."""
    raw = bytes.fromhex(text)
    plain = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    return str(ipaddress.ip_address(plain))


def _socket_owners(machine: Machine) -> dict[str, int]:
    """Socket inode to process, for the processes that we may look into."""
    owners: dict[str, int] = {}
    for pid in (name for name in machine.entries("/proc") if name.isdigit()):
        for link in _links(machine, int(pid)):
            if link.startswith("socket:["):
                owners.setdefault(link[len("socket:[") : -1], int(pid))
    return owners


def _links(machine: Machine, pid: int) -> list[str]:
    """What the open files of a process point to; none where it is gone or nobody lets us look."""
    folder = machine.at(f"/proc/{pid}/fd")
    try:
        return [os.readlink(os.path.join(folder, name)) for name in os.listdir(folder)]
    except PermissionError:
        return as_owner(machine, pid, ["ls", "-l", f"/proc/{pid}/fd"]).split()
    except OSError:
        return []


def as_owner(machine: Machine, pid: int, argv: list[str]) -> str:
    """The output of a command run as the user of a process.

    In a container root lacks CAP_SYS_PTRACE and cannot look into processes of others; their own user can.
    """
    status = (machine.read_text(f"/proc/{pid}/status") or "").splitlines()
    ids = {line[:3]: line.split()[1] for line in status if line.startswith(("Uid:", "Gid:"))}
    if len(ids) < 2 or os.geteuid() != 0:
        return ""
    own = ["setpriv", f"--reuid={ids['Uid']}", f"--regid={ids['Gid']}", "--clear-groups", "--"]
    return machine.command([*own, *argv]).stdout


def without_secrets(words: list[str]) -> tuple[str, ...]:
    """The words with the values of secret flags hidden, in either form: `--api-key X` and `--api-key=X`."""
    found: list[str] = []
    secret = False
    for word in words:
        flag, sign, _ = word.partition("=")
        if secret and not word.startswith("-"):
            found.append(HIDDEN)
        elif sign and SECRET.search(flag):
            found.append(f"{flag}={HIDDEN}")
        else:
            found.append(word)
        secret = not sign and word.startswith("-") and bool(SECRET.search(word)) and not _takes_a_path(word)
    return tuple(found)


def _takes_a_path(flag: str) -> bool:
    return flag.endswith(("-file", "-path", "-dir"))
