"""Where a secret is to be seen on this host: the arguments of processes, the journal, files that others can read.

`key_scan.py PATH [SECONDS]`: looks for the line that PATH holds; prints the places as JSON. With SECONDS it looks at
arguments again and again for so long, and at the rest once. The secret itself is never an argument of this program,
nor of one that it starts. Runs on a sandbox host as root.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

KEY = pathlib.Path(sys.argv[1]).read_bytes().strip()
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
ROOTS = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")
OTHERS = 65534


def in_arguments() -> set:
    found = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                words = pathlib.Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue
            if KEY in words:
                found.add("arguments of " + words.split(b"\0")[0].decode("utf-8", "replace"))
    return found


def in_journal() -> set:
    said = subprocess.run(["journalctl", "--no-pager", "-o", "export"], capture_output=True, check=True).stdout
    return {"journal"} if KEY in said else set()


def in_files_for_others() -> set:
    """As somebody who has no right of their own here; the credentials of units are among what is tried."""
    walker = (
        "import os,sys\nkey=sys.stdin.buffer.read()\n"
        "for root in sys.argv[1:]:\n"
        "  for folder,_,names in os.walk(root):\n"
        "    for name in names:\n"
        "      path=os.path.join(folder,name)\n"
        "      try:\n"
        "        small = os.path.isfile(path) and os.path.getsize(path) < 1 << 24\n"
        "        if small and key in open(path, 'rb').read(): print(path)\n"
        "      except OSError: pass\n"
    )
    argv = ["setpriv", f"--reuid={OTHERS}", f"--regid={OTHERS}", "--clear-groups", "--", "python3", "-c", walker]
    said = subprocess.run([*argv, *ROOTS], input=KEY, capture_output=True, check=True).stdout.decode()
    return {f"file {path}" for path in said.splitlines()}


END = time.monotonic() + SECONDS
FOUND = in_arguments()
while time.monotonic() < END:
    FOUND |= in_arguments()
    time.sleep(0.02)
print(json.dumps(sorted(FOUND | in_journal() | in_files_for_others())))
