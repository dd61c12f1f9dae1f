"""Verbs of the virtual machine, as those of the container bed. Results on stdout, progress and errors on stderr."""

import argparse
import subprocess
from collections.abc import Sequence

from bedlib.cli import port_number
from bedlib.container import ssh_command
from bedlib.machine import observe_machine
from bedlib.packages import install
from bedlib.tools import exit_status

from . import golden, host

PACKAGES = {
    "qemu-system-x86": "runs the virtual machine",
    "qemu-utils": "makes its disks",
    "seabios": "its firmware",
    "acpica-tools": "compiles the table of P-states",
    "e2fsprogs": "makes its file system",
}


def main(arguments: Sequence[str]) -> int:
    """Run one verb; the exit status."""
    wish = parser().parse_args(arguments)
    return exit_status(lambda: perform(wish), "vm")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="vm", description="Throw-away virtual hosts with a kernel of their own.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("install", help="install the Debian packages that are missing (root)")
    verbs.add_parser("image", help="build the saved machine if needed, print its file")
    start = verbs.add_parser("up", help="start the host afresh and wait until it is usable")
    start.add_argument("name")
    start.add_argument("port", type=port_number, metavar="SSH_PORT")
    for verb, text in (
        ("down", "remove the host"),
        ("reboot", "boot the host again and wait until it is usable"),
        ("boot-own", "boot the host with the kernel and the initrd of its own disk"),
        ("ssh", "run a command as operator over ssh"),
        ("exec", "run a command as root"),
        ("log", "print what the host wrote to its serial line"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("name")
        if verb in {"ssh", "exec"}:
            one.add_argument("command", nargs=argparse.REMAINDER)
    tidy = verbs.add_parser("clean", help="remove all virtual hosts")
    tidy.add_argument("--images", action="store_true", help="and the saved machines in the cache")
    return top


def perform(wish: argparse.Namespace) -> int:
    """Do what the verb says."""
    if wish.verb == "install":
        install(observe_machine(), PACKAGES)
    elif wish.verb == "image":
        print(golden.image())
    elif wish.verb == "up":
        golden.up(wish.name, wish.port)
    elif wish.verb == "down":
        host.down(wish.name)
    elif wish.verb == "reboot":
        host.reboot(wish.name)
    elif wish.verb == "boot-own":
        host.boot_own(wish.name)
    elif wish.verb == "log":
        print("\n".join(host.serial_lines(host.run_of(wish.name))))
    elif wish.verb == "clean":
        golden.clean(wish.images)
    else:
        argv = ssh_command(host.port_of(wish.name))
        remote = host.as_root(wish.command) if wish.verb == "exec" else " ".join(wish.command)
        return subprocess.run([*argv, remote], check=False).returncode
    return 0
