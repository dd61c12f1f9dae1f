#!/usr/bin/env python3
"""Describes a host so that "everything went back" can be checked, not believed.

Without arguments: prints one JSON document with every path under /etc, /usr, /var/lib and /run (kind, mode, owner and
hash or target), the enabled units and the simulator's settings. `snapshot.py compare BEFORE AFTER` names every
difference and exits 1. What is left out stands in LEFT_OUT with its reason. Runs on the target's own Python.
"""

import hashlib
import json
import os
import stat
import subprocess
import sys

ROOTS = ("/etc", "/usr", "/var/lib", "/run")

LEFT_OUT = {
    "/run/systemd": "the service manager's own book-keeping of units, sessions and invocations",
    "/run/dbus": "a socket and a pid of the running bus",
    "/run/sudo": "sudo's time stamps: the tests themselves come in by sudo",
    "/run/log": "the journal grows by itself",
    "/run/user": "login sessions come and go with the tests' own ssh",
    "/run/utmp": "the list of who is logged in",
    "/run/shm": "a link into /dev, made at boot",
    "/run/lock": "lock files of running programs",
    "/run/mount": "util-linux' own tables of mounts",
    "/etc/.pwd.lock": "the lock file that every useradd leaves, held or not",
    "/etc/passwd-": "useradd's own backup of the previous file; /etc/passwd itself is compared",
    "/etc/group-": "as /etc/passwd-",
    "/etc/shadow-": "as /etc/passwd-",
    "/etc/gshadow-": "as /etc/passwd-",
    "/etc/subuid-": "as /etc/passwd-",
    "/etc/subgid-": "as /etc/passwd-",
    "/var/lib/inferhost-sim": "the simulated hardware itself; its settings are compared through its dump",
    "/var/lib/systemd": "random seed, timers and catalogue of the service manager",
    "/var/lib/private": "the service manager makes it when a unit with a state folder first runs",
}


def describe(path: str) -> list:
    """Kind, mode, owner and content of one path; no times, because a restored file is a new file."""
    found = os.lstat(path)
    entry = [stat.filemode(found.st_mode), found.st_uid, found.st_gid]
    if stat.S_ISLNK(found.st_mode):
        entry.append(os.readlink(path))
    elif stat.S_ISREG(found.st_mode):
        try:
            with open(path, "rb") as content:
                entry.append(hashlib.sha256(content.read()).hexdigest())
        except OSError as error:  # a name of a network namespace is a file that nobody can read
            entry.append(os.strerror(error.errno))
    return entry


def paths() -> dict:
    found = {}
    for root in ROOTS:
        for folder, names, files in os.walk(root):
            names[:] = [n for n in names if os.path.join(folder, n) not in LEFT_OUT]
            for name in names + files:
                path = os.path.join(folder, name)
                # Byte code is the interpreter's cache: whoever runs Python as root, the tests included, fills it.
                if path not in LEFT_OUT and "__pycache__" not in path:
                    found[path] = describe(path)
    return found


def command(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def snapshot() -> dict:
    # With --root it reads the links themselves: a busy host answers late on its bus.
    enabled = command("systemctl", "--root=/", "list-unit-files", "--state=enabled", "--no-legend", "--plain")
    simulator = json.loads(command("/usr/local/bin/inferhost-sim", "dump"))
    return {"paths": paths(), "enabled": sorted(enabled.split("\n")), "simulator": simulator}


def differences(before: dict, after: dict) -> list:
    lines = []
    for path in sorted(set(before["paths"]) | set(after["paths"])):
        old, new = before["paths"].get(path, "absent"), after["paths"].get(path, "absent")
        if old != new:
            lines.append(f"{path}: {old} -> {new}")
    for key in ("enabled", "simulator"):
        if before[key] != after[key]:
            lines.append(f"{key}: {before[key]} -> {after[key]}")
    return lines


def main(arguments: list) -> int:
    if arguments[:1] != ["compare"]:
        json.dump(snapshot(), sys.stdout, indent=1, sort_keys=True)
        return 0
    documents = []
    for name in arguments[1:3]:
        with open(name, encoding="utf-8") as document:
            documents.append(json.load(document))
    found = differences(*documents)
    print("\n".join(found) or f"nothing differs in {len(documents[0]['paths'])} paths")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
