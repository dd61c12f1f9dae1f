"""A real llama-server, unpacked from Debian packages and checked against the catalogue's row `llama.cpp`.

Debian carries llama.cpp from forky on only, so the packages come with their whole closure, libc included, and the
server runs on an older suite through its own loader (image/llama-server). Nothing is installed on this machine.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

from .machine import mirror, suite
from .places import ENGINES, IMAGE_FILES, cache
from .tools import REFUSED, BedError, digest, output_of, say

# The code name, not "testing": this archive folder stays, and freezes, when forky becomes stable.
ENGINE_SUITE = "forky"
PACKAGE = "llama.cpp-tools"
PROGRAMS = ("llama-server", "llama-quantize")
LAUNCHER = IMAGE_FILES / "llama-server"


def wanted_engine() -> tuple[str, int]:
    """Version and build of llama.cpp that the catalogue describes."""
    try:
        rows = json.loads(ENGINES.read_text())["rows"]
        row = next(row for row in rows if row["key"] == "llama.cpp")
        return str(row["version"]), int(row["build"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as found:
        raise BedError(
            f"inferhost/catalogue/engines.json: {type(found).__name__}, "
            "wanted a row llama.cpp with version and build",
            code=REFUSED,
        ) from found


def engine_root() -> Path:
    """A folder with lib/ and bin/, downloaded when the cache lacks it, of the catalogue's version."""
    version, build = wanted_engine()
    root = cache() / "engine" / digest(ENGINE_SUITE, PACKAGE, LAUNCHER, version, str(build))
    if root.is_dir():
        return root
    fresh = root.with_name(f"{root.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    say(f"downloads {PACKAGE} from Debian {ENGINE_SUITE} (about 20 MB, once)")
    unpack(download(), fresh)
    check_version(fresh, version, build)
    return fresh.rename(root)


def download() -> list[Path]:
    """The .deb files of the server and all it needs, through the machine's own apt settings and mirror."""
    apt = cache() / "apt"
    shutil.rmtree(apt / "cache", ignore_errors=True)
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    # An empty dpkg status makes apt fetch the closure as if nothing were installed.
    (apt / "status").write_text("")
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources = apt / "sources.list"
    sources.write_text(f"deb [signed-by={keyring}] {mirror(suite())} {ENGINE_SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "Dir::State::status": apt / "status",
        "APT::Sandbox::User": "root",
        # The machine may throw packages away after use (container images do).
        "APT::Keep-Downloaded-Packages": "true",
        "Binary::apt::APT::Keep-Downloaded-Packages": "true",
    }
    argv = ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    output_of([*argv, "update"], what=f"apt-get update ({ENGINE_SUITE})")
    fetch = ["install", "-y", "--no-install-recommends", "--download-only", PACKAGE]
    output_of([*argv, *fetch], what=f"apt-get install --download-only {PACKAGE}")
    return sorted((apt / "cache" / "archives").glob("*.deb"))


def unpack(packages: list[Path], root: Path) -> None:
    """Flatten what the server needs into root/lib and root/bin.

    ggml searches its CPU plug-ins beside /proc/self/exe, which is the loader here, so all lie in one folder.
    """
    scratch = root / "unpacked"
    scratch.mkdir(parents=True)
    for package in packages:
        output_of(["dpkg-deb", "-x", str(package), str(scratch)])
    library, program = root / "lib", root / "bin"
    library.mkdir()
    program.mkdir()
    for found in sorted(scratch.glob("usr/lib/*-linux-gnu*/**/*.so*")):
        if "gconv" not in found.parts and "security" not in found.parts:
            shutil.copy2(found, library / found.name, follow_symlinks=False)
    loader = next(library.glob("ld-linux-*.so.*"))
    (library / "ld.so").symlink_to(loader.name)
    for name in PROGRAMS:
        shutil.copy2(scratch / "usr/bin" / name, program / f"{name}.bin")
        shutil.copy2(LAUNCHER, program / name)
    shutil.rmtree(scratch)


def check_version(root: Path, version: str, build: int) -> None:
    """Refuse a server that is not the one whose flags the catalogue lists."""
    argv = [str(root / "bin" / "llama-server"), "--version"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    found = re.search(r"version: (\S+) \(build (\d+)", done.stdout)
    if not found or (found[1], int(found[2])) != (version, build):
        said = f"{found[1]} build {found[2]}" if found else repr(done.stdout[-200:])
        raise BedError(
            f"llama-server of Debian {ENGINE_SUITE}: {said}, wanted {version} build {build}",
            "the row llama.cpp of inferhost/catalogue/engines.json has to follow what Debian ships now",
        )
