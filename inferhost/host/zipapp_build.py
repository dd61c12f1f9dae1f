"""Builds the host program: one zipapp of this package's host part, its schema and NVIDIA's pynvml.py.

Runs on the controller. The same sources give the same bytes on every machine: sorted members, one fixed time, one
mode, and no compression, because compressed bytes differ between versions of zlib. The action plugin compares hashes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pathlib
import stat
import zipfile

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
SHEBANG = b"#!/usr/bin/env python3\n"
TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say
SCHEMA_MODULES = ("__init__", "container", "document", "parts", "plan", "problems", "result", "units")
CONTROLLER_ONLY = ("zipapp_build.py",)

MAIN = '''\
"""The entry of the zipapp. Old syntax on purpose: an old Python must live to read the message."""
import sys

if sys.version_info < (3, 9):
    sys.stderr.write("error: python: found %d.%d, wanted 3.9 or newer\\n" % sys.version_info[:2])
    sys.exit(2)

import zipimport


class Importer(zipimport.zipimporter):
    """Python's own compiles each module twice, once only to name its file: half of what a start would cost."""

    def get_filename(self, fullname):
        name = self.archive + "/" + self.prefix + fullname.rpartition(".")[2]
        return name + ("/__init__.py" if self.is_package(fullname) else ".py")


sys.path_hooks.insert(0, Importer)
sys.path_importer_cache.clear()

from inferhost.host.cli import main

sys.exit(main(sys.argv[1:]))
'''


def build(target: pathlib.Path) -> str:
    """Writes the zipapp, executable, and returns its sha256 in hexadecimal."""
    content = zipapp_bytes()
    target.write_bytes(content)
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return hashlib.sha256(content).hexdigest()


def zipapp_bytes() -> bytes:
    """The zipapp, the same for the same sources."""
    packed = io.BytesIO()
    packed.write(SHEBANG)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(members().items()):
            entry = zipfile.ZipInfo(name, TIME)
            entry.create_system = 3  # unix, whatever builds it
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def members() -> dict[str, bytes]:
    """Every file of the zipapp by its name in there."""
    host = PACKAGE / "host"
    sources = [PACKAGE / "__init__.py", *(PACKAGE / "schema" / f"{name}.py" for name in SCHEMA_MODULES)]
    sources += [path for path in host.rglob("*.py") if path.name not in CONTROLLER_ONLY]
    sources += [path for path in (host / "units").iterdir() if path.is_file()]
    found = {str(path.relative_to(PACKAGE.parent)): path.read_bytes() for path in sources}
    return {**found, "__main__.py": MAIN.encode(), "pynvml.py": _pynvml()}


def _pynvml() -> bytes:
    found = importlib.util.find_spec("pynvml")
    if found is None or found.origin is None:
        raise FileNotFoundError("pynvml.py is not installed here; it comes with nvidia-ml-py: make setup")
    return pathlib.Path(found.origin).read_bytes()
