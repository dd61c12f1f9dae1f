"""One simulated machine per test: the built library, its command line, and real nvidia-ml-py in a process of its own.

The binding opens `libnvidia-ml.so.1` by name, so every look through NVML is a process with LD_LIBRARY_PATH set.
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PERSONALITY = HERE / "personalities" / "rtx-pro-6000-blackwell-workstation.txt"

# What a script finds ready: `gpu` is the first card, `code(f, ...)` the NVML code of a call, `show` ends the look.
PRELUDE = """
import ctypes, json, os, sys, time
from pynvml import *
def code(function, *arguments):
    try:
        function(*arguments)
    except NVMLError as error:
        return error.value
    return 0
def show(value):
    print(json.dumps(value), flush=True)
"""
OPENED = "nvmlInit(); gpu = nvmlDeviceGetHandleByIndex(0)\n"


class Machine:
    """A folder of simulator state and the two ways to reach it."""

    def __init__(self, build: Path, folder: Path) -> None:
        self.build = build
        self.folder = folder
        self.environment = {**os.environ, "INFERHOST_SIM_DIR": str(folder), "LD_LIBRARY_PATH": str(build)}

    def attempt(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run `inferhost-sim`, whatever it answers."""
        command = [str(self.build / "inferhost-sim"), *map(str, words)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def do(self, *words: object) -> str:
        """Run `inferhost-sim`; it must succeed."""
        done = self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def settings(self, gpu: int = 0) -> dict:
        return json.loads(self.do("dump"))["gpus"][gpu]

    def everything(self, gpu: int = 0) -> dict:
        return json.loads(self.do("dump", "--all"))["gpus"][gpu]

    def start(self, script: str, opened: bool = True) -> subprocess.Popen[str]:
        """A process that runs `script` over the real binding."""
        text = PRELUDE + (OPENED if opened else "") + textwrap.dedent(script)
        return subprocess.Popen(
            [sys.executable, "-c", text],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def nvml(self, script: str, opened: bool = True):
        """What `show` printed in a process that then ended."""
        out, err = self.start(script, opened).communicate(timeout=60)
        assert out, err
        return json.loads(out.splitlines()[-1])

    def under_load(self, seconds: float = 30) -> dict:
        self.do("load", "on")
        self.do("advance", seconds)
        return self.everything()


@pytest.fixture(scope="session")
def build() -> Path:
    folder = HERE / "build"
    folder.mkdir(exist_ok=True)
    with open(folder / ".lock", "w") as lock:  # several test runs share one checkout
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", "all", f"BUILD={folder}"], cwd=HERE, check=True)
    return folder


@pytest.fixture
def bare(build: Path) -> Iterator[Machine]:
    """No personality chosen yet. Not under tmp_path: other users cannot enter that, and NVML is for every user."""
    with tempfile.TemporaryDirectory(prefix="inferhost-sim-") as folder:
        os.chmod(folder, 0o755)
        yield Machine(build, Path(folder) / "sim")


@pytest.fixture
def sim(bare: Machine) -> Machine:
    bare.do("init", PERSONALITY)
    return bare


@pytest.fixture
def pair(bare: Machine, tmp_path: Path) -> Machine:
    """Two cards of the same model."""
    second = """
[gpu]
uuid = GPU-5a1b6000-2bb1-4000-8000-000000000002 | assumed | test
pci_bus_id = 00000000:0B:00.0 | assumed | test
"""
    text = PERSONALITY.read_text() + second
    (tmp_path / "pair.txt").write_text(text)
    bare.do("init", tmp_path / "pair.txt")
    return bare
