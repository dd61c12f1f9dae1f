"""The simulated cards of the host tests: the simulator, built once, and the state that NVML calls reach."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pathlib
import subprocess
from collections.abc import Iterator

TESTS = pathlib.Path(__file__).resolve().parents[2]
PERSONALITY = TESTS / "simulator" / "personalities" / "rtx-pro-6000-blackwell-workstation.txt"
UUID = "GPU-5a1b6000-2bb1-4000-8000-000000000001"
SECOND_UUID = "GPU-5a1b6000-2bb1-4000-8000-000000000002"
P4 = TESTS / "simulator" / "personalities" / "tesla-p4.txt"
P4_UUID = "GPU-5a1b6000-1bb3-4000-8000-000000000001"
SECOND_CARD = f"""
[gpu]
uuid = {SECOND_UUID} | assumed | test
pci_bus_id = 00000000:0B:00.0 | assumed | test
"""


def built_simulator() -> pathlib.Path:
    """The simulator, built once per checkout and loaded, so that `libnvidia-ml.so.1` is this one by its name."""
    build = TESTS / "simulator" / "build"
    build.mkdir(exist_ok=True)
    with open(build / ".lock", "w") as lock:  # several test runs share one checkout
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", "all", f"BUILD={build}"], cwd=TESTS / "simulator", check=True)
    ctypes.CDLL(str(build / "libnvidia-ml.so.1"))
    return build


def without_sessions() -> None:
    """Ends what was left open in NVML by an end that a process of its own would not outlive."""
    library = ctypes.CDLL("libnvidia-ml.so.1")
    while library.nvmlShutdown() == 0:
        pass


@contextlib.contextmanager
def simulator_state(folder: pathlib.Path) -> Iterator[None]:
    """The simulated machine that NVML calls of this process reach."""
    before = os.environ.get("INFERHOST_SIM_DIR")
    os.environ["INFERHOST_SIM_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["INFERHOST_SIM_DIR"]
        else:
            os.environ["INFERHOST_SIM_DIR"] = before
