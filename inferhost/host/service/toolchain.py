"""What an engine compiles its kernels with at run time and no index brings: looked for before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterator

from inferhost.host.machine import Machine
from inferhost.schema.plan import Install, Plan, Service
from inferhost.schema.problems import Problem

OPTION = "inferhost_service_engine_install"
PACKAGES = {
    "cc": ("a C compiler", "gcc"),
    "c++": ("a C++ compiler", "g++ (RHEL: gcc-c++)"),
    "Python.h": ("the interpreter's headers", "python3-dev (RHEL: python3-devel), of the interpreter's own version"),
    "nvcc": ("NVIDIA's compiler", "cuda-toolkit-13 from NVIDIA's repository"),
}
"""By the word of the plan: what it is, and what brings it."""

LOOK = """
import os, shutil, sys, sysconfig
env = os.environ
nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
cuda = env.get("CUDA_HOME") or env.get("CUDA_PATH") or os.path.dirname(os.path.dirname(nvcc))
there = {
    "cc": env.get("CC") or shutil.which("gcc") or shutil.which("clang"),
    "c++": shutil.which(env.get("CXX", "c++")),
    "Python.h": os.path.exists(sysconfig.get_path("include", "posix_prefix") + "/Python.h"),
    "nvcc": shutil.which(cuda + "/bin/nvcc"),
}
print(*(word for word in sys.argv[1:] if not there[word]))
"""
"""Looks as Triton and FlashInfer do. Source: Triton 3.9.0 triton/runtime/build.py; flashinfer-python 0.7.2.post1
flashinfer/jit/cpp_ext.py."""


def toolchain_problems(machine: Machine, plan: Plan, service: Service, install: Install) -> Iterator[Problem]:
    """What is missing, with what brings it; asked of the interpreter, in the engine's environment to come."""
    if not service.compiles_with:
        return
    given = [f"{name}={value}" for name, value in plan.env[service.instance].items()]
    done = machine.command(["/usr/bin/env", "-i", *given, install.python, "-c", LOOK, *service.compiles_with])
    missing = done.stdout.split()
    if done.code != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.code}"]
        yield Problem(OPTION, f"{install.python} cannot look for compilers: {said[-1]}", "repair it", "compiler")
    elif missing:
        what = ", ".join(PACKAGES[word][0] for word in missing)
        found = f"{service.engine} compiles kernels when it runs, and this host lacks {what}"
        packages = "; ".join(PACKAGES[word][1] for word in missing)
        hint = f"install {packages}; or inferhost_service_mode: quadlet or compose, whose image has them"
        yield Problem(OPTION, found, hint, "compiler")
