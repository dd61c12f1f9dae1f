#!/usr/bin/env python3
"""A stand-in for nvidia-ctk: a CDI specification of the simulated driver, in the form of the real one.

Devices by number and by UUID and all of them, each with its node, behind which there is no driver; the library under
its versioned name and its soname, and the state that simulated cards keep, so that a program in a container sees the
same cards.
"""

import ctypes
import json
import os
import pathlib
import stat
import subprocess
import sys

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
LIBRARY = "/usr/local/lib/libnvidia-ml.so.1"
STATE = "/var/lib/inferhost-sim"
NVIDIA_MAJOR = 195
"""Source: linux Documentation/admin-guide/devices.txt."""


def driver_version() -> str:
    library, text = ctypes.CDLL(LIBRARY), ctypes.create_string_buffer(80)
    library.nvmlInit_v2()
    library.nvmlSystemGetDriverVersion(text, len(text))
    return text.value.decode()


def make_nodes(cards: list[str]) -> None:
    """The nodes that the driver's module would make, with its number, which nothing serves here."""
    for number, path in enumerate(cards):
        if not os.path.exists(path):
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(NVIDIA_MAJOR, number))


def make_links() -> None:
    """A link by its number to each node of a card that is there."""
    os.makedirs("/dev/char", exist_ok=True)
    for path in sorted(pathlib.Path("/dev").glob("nvidia[0-9]*")):
        number = path.stat().st_rdev
        link = pathlib.Path(f"/dev/char/{os.major(number)}:{os.minor(number)}")
        if not link.is_symlink():
            link.symlink_to(path)


def specification() -> str:
    found = json.loads(subprocess.run(["inferhost-sim", "dump"], check=True, capture_output=True).stdout)
    cards = [f"/dev/nvidia{number}" for number, _ in enumerate(found["gpus"])]
    named = {name: [cards[n]] for n, gpu in enumerate(found["gpus"]) for name in (str(n), gpu["uuid"])}
    lines = ["cdiVersion: 0.5.0", "kind: nvidia.com/gpu", "devices:"]
    for name, nodes in {**named, "all": cards}.items():
        lines += [f'- name: "{name}"', "  containerEdits:", f'    env: ["SIMULATED_GPU={name}"]', "    deviceNodes:"]
        lines += [f"    - path: {node}" for node in nodes]
    make_nodes(cards)
    lines += ["containerEdits:", '  env: ["NVIDIA_VISIBLE_DEVICES=void"]', "  mounts:"]
    for there in (f"{LIBRARIES}/libnvidia-ml.so.{driver_version()}", f"{LIBRARIES}/libnvidia-ml.so.1"):
        lines += [f"  - hostPath: {LIBRARY}", f"    containerPath: {there}", "    options: [ro, nosuid, nodev, bind]"]
    lines += [f"  - hostPath: {STATE}", f"    containerPath: {STATE}", "    options: [rw, nosuid, nodev, bind]"]
    return "\n".join(lines) + "\n"


if sys.argv[1:] == ["--version"]:
    print("NVIDIA Container Toolkit CLI version 1.20.1 (stand-in)")
elif sys.argv[1:] == ["system", "create-dev-char-symlinks"]:
    make_links()
elif sys.argv[1:3] == ["cdi", "generate"]:
    (output,) = [word.partition("=")[2] for word in sys.argv[3:] if word.startswith("--output=")]
    os.makedirs(os.path.dirname(output), exist_ok=True)
    with open(output, "w", encoding="utf-8") as file:
        file.write(specification())
else:
    sys.exit(f"nvidia-ctk stand-in: {sys.argv[1:]} is not known")
