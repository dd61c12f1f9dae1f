"""An engine that compiles kernels when it runs is not fetched for a host without the compilers."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import pytest

from inferhost.host.service.toolchain import PACKAGES
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.test_host_engines import wanting

FILES = {"cc": "bin/gcc", "c++": "bin/c++", "Python.h": "include/Python.h", "nvcc": "cuda/bin/nvcc"}
INTERPRETER = """#!/bin/sh
shift; code=$1; shift
exec {python} -c "import sysconfig; sysconfig.get_path = lambda *_: '{folder}/include'
$code" "$@"
"""


def compiling(host: FakeHost, folder: pathlib.Path, *there: str) -> FakeHost:
    """The host with an engine that wants every tool, of which these are there; nothing of this machine is found."""
    for word in there:
        tool = folder / FILES[word]
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    python = folder / "python"
    python.write_text(INTERPRETER.format(python=sys.executable, folder=folder))
    python.chmod(0o755)
    wanting(host, "file:///x", python=str(python))
    (service,) = host.plan.service
    env = {service.instance: {"PATH": f"{folder}/bin", "CUDA_HOME": f"{folder}/cuda"}}
    service = dataclasses.replace(service, compiles_with=tuple(FILES))
    host.plan = dataclasses.replace(host.plan, service=(service,), env=env)
    return host


def test_with_all_of_them_it_is_placed(host: FakeHost, tmp_path: pathlib.Path):
    answer = compiling(host, tmp_path, *FILES).run("install")
    assert answer.code == 0, answer.prose


@pytest.mark.parametrize("lacking", FILES)
def test_what_is_missing_is_named_before_anything_is_placed(host: FakeHost, tmp_path: pathlib.Path, lacking: str):
    compiling(host, tmp_path, *(word for word in FILES if word != lacking))
    before = host.snapshot()
    answer = host.run("install")
    what, package = PACKAGES[lacking]
    assert answer.code == 2
    assert answer.problems == [
        {
            "path": "inferhost_service_engine_install",
            "message": f"{host.plan.service[0].engine} compiles kernels when it runs, and this host lacks {what}",
            "hint": f"install {package}; or inferhost_service_mode: quadlet or compose, whose image has them",
            "id": "compiler",
        }
    ]
    assert {k: v for k, v in host.snapshot().items() if k != "/run/inferhost"} == before
