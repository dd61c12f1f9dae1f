"""T1: the package of the host program is the zipapp that Ansible ships: its build script is run here, without Nix."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile

import pynvml
import pytest

from inferhost import __version__
from inferhost.host.zipapp_build import zipapp_bytes
from tests.nix import tiers

pytestmark = pytest.mark.tier("T1")


@pytest.fixture(scope="module")
def package():
    return tiers.evaluate(tiers.HERE / "package.nix", libPath=tiers.nixpkgs_lib())


def test_the_package_names_the_version_and_the_locked_pynvml(package):
    assert package["name"] == f"inferhost-{__version__}"
    lock = (tiers.ROOT / "requirements.lock").read_text()
    version, digest = re.search(r"WHEEL-nvidia_ml_py-([0-9.]+)-([0-9a-f]{64})", package["script"]).groups()
    assert f"nvidia-ml-py=={version} \\\n    --hash=sha256:{digest}" in lock


def test_the_build_gives_the_bytes_that_ansible_ships(package, tmp_path):
    wheel = tmp_path / "wheel.zip"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(pynvml.__file__, "pynvml.py")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").symlink_to(sys.executable)
    (tools / "makeWrapper").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$2"\n')
    (tools / "makeWrapper").chmod(0o755)
    script = re.sub(r"WHEEL-\S+", str(wheel), package["script"])
    script = re.sub(r"/nix/store/\S+-inferhost\b", str(tiers.ROOT / "inferhost"), script)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "out": str(tmp_path / "out")}
    subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "out/share/inferhost/inferhost.pyz").read_bytes() == zipapp_bytes()
    wrapper = (tmp_path / "out/bin/inferhost").read_text().split("\n")
    assert wrapper[0] == "PYTHON/bin/python3"
    assert wrapper[4:8] == ["--prefix", "LD_LIBRARY_PATH", ":", "/run/opengl-driver/lib"]
