"""Verbs of the bed. Results go to stdout, progress and errors to stderr; 2 means refused with nothing touched."""

import argparse
import os
import shutil
import subprocess
from collections.abc import Sequence

from . import container
from .image import PERSONALITY, ensure_key, image, personalities
from .machine import SUITES, observe_machine
from .packages import install
from .places import cache, run_folder, ssh_key
from .podman import Podman
from .tools import exit_status

# What the bed itself put into the cache; other rooms may keep things there too.
OWNED = ("apt", "containers", "engine", "lock", "models", "rootfs", "ssh")


def main(arguments: Sequence[str]) -> int:
    """Run one verb; the exit status."""
    wish = parser().parse_args(arguments)
    return exit_status(lambda: perform(wish), "bed")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="bed", description="Throw-away sandbox hosts for demo and tests.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("install", help="install the Debian packages that are missing (root)")
    verbs.add_parser("image", help="build the image if needed, print its tag")
    start = verbs.add_parser("up", help="start the host afresh and wait until it is usable")
    start.add_argument("name")
    start.add_argument("port", type=port_number, metavar="SSH_PORT")
    start.add_argument("--personality", choices=personalities(), default=PERSONALITY, help="the simulated card")
    start.add_argument("--suite", choices=SUITES, default="", help="another Debian than this machine's own")
    start.add_argument("--nested", action="store_true", help="the host may run containers itself")
    for verb, text in (
        ("down", "remove the host"),
        ("ssh", "run a command as operator over ssh"),
        ("exec", "run a command as root without ssh"),
        ("ssh-config", "print an ssh configuration for the host"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("name")
        if verb in {"ssh", "exec"}:
            one.add_argument("command", nargs=argparse.REMAINDER)
    verbs.add_parser("key", help="print the path of the operator's private key")
    tidy = verbs.add_parser("clean", help="remove all hosts of the bed")
    tidy.add_argument("--images", action="store_true", help="and everything that the bed keeps in the cache")
    return top


def port_number(text: str) -> int:
    """The port, or the error that argparse shows."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}, wanted 1 to 65535")
    return int(text)


def perform(wish: argparse.Namespace) -> int:
    """Do what the verb says."""
    if wish.verb == "install":
        install(observe_machine())
        return 0
    if wish.verb == "key":
        ensure_key()
        print(ssh_key())
        return 0
    podman = Podman()
    if wish.verb == "image":
        print(image(podman))
    elif wish.verb == "up":
        container.up(podman, wish.name, wish.port, wish.personality, codename=wish.suite, nested=wish.nested)
    elif wish.verb == "down":
        container.down(podman, wish.name)
    elif wish.verb == "ssh-config":
        print(container.ssh_config(podman, wish.name))
    elif wish.verb == "ssh":
        argv = [*container.ssh_command(container.port_of(podman, wish.name)), *wish.command]
        return subprocess.run(argv, check=False).returncode
    elif wish.verb == "exec":
        container.refuse_unknown(podman, wish.name)
        argv = podman.command("exec", "-i", wish.name, *wish.command)
        return subprocess.run(argv, env=podman.env, check=False).returncode
    elif wish.verb == "clean":
        container.clean(podman)
        if wish.images:
            remove_cache(podman)
    return 0


def remove_cache(podman: Podman) -> None:
    """Delete what the bed keeps on disk and end its mount namespace."""
    podman.release()
    for name in OWNED:
        path = cache() / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(run_folder(), ignore_errors=True)
    if cache().is_dir() and not os.listdir(cache()):
        cache().rmdir()
