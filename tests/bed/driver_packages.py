"""A signed package archive of stand-ins: the driver's package names and dependencies, and next to nothing inside.

The module is a real ELF file whose only content is its version, put where dkms would have built it, so that kmod
answers for it. What a stand-in cannot show (a build, a loaded module) is in `make test-slow` or was not run.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence

KERNEL = "6.1.0-99-amd64"
OLD, NEW = "535.261.03", "535.309.01"
UBUNTU = "580.95.05"
MODULE_FOLDER = f"/lib/modules/{KERNEL}/updates/dkms"
# As dkms does: a module for every kernel that has its headers, and a key to sign it with, which no purge takes away.
BUILD = """#!/bin/sh
set -e
for build in /lib/modules/*/build; do
    kernel=$(basename "$(dirname "$build")")
    [ -d "$build" ] || continue
    mkdir -p "/lib/modules/$kernel/updates/dkms"
    cp /usr/share/%(package)s/%(module)s.ko "/lib/modules/$kernel/updates/dkms/"
    depmod "$kernel"
done
[ -f /var/lib/dkms/mok.key ] && exit 0
mkdir -p /var/lib/dkms
echo stand-in > /var/lib/dkms/mok.pub
umask 077
echo stand-in > /var/lib/dkms/mok.key
"""
REMOVE = """#!/bin/sh
for folder in /lib/modules/*/updates/dkms; do
    [ -d "$folder" ] || continue
    rm -f "$folder/%(module)s.ko"
    rmdir --ignore-fail-on-non-empty "$folder" "$(dirname "$folder")" 2>/dev/null || true
    depmod "$(basename "$(dirname "$(dirname "$folder")")")"
done
"""
PERSISTENCED_UNIT = """[Unit]
Description=NVIDIA Persistence Daemon
StopWhenUnneeded=true
[Service]
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose
"""
FABRIC_MANAGER_UNIT = """[Unit]
Description=NVIDIA fabric manager service
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


@dataclasses.dataclass(frozen=True)
class Package:
    """One stand-in: its control fields, its files by path, and its maintainer scripts by name."""

    name: str
    version: str
    depends: str = ""
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    scripts: dict[str, str] = dataclasses.field(default_factory=dict)
    conflicts: str = ""


def debian(driver: str, revision: str) -> list[Package]:
    """Debian 12's names and dependencies, as its archive has them."""
    version = f"{driver}-{revision}"
    return [
        _module(
            "nvidia-kernel-dkms", version, driver, "nvidia-current", "nvidia-kernel-support, firmware-nvidia-gsp"
        ),
        Package("nvidia-kernel-support", version),
        Package("firmware-nvidia-gsp", version),
        Package("libnvidia-ml1", version),
        Package("nvidia-smi", version, f"libnvidia-ml1 (= {version})"),
        Package("libcuda1", version, f"libnvidia-ptxjitcompiler1 (= {version})"),
        Package("libnvidia-ptxjitcompiler1", version),
    ]


def debian_rest(kernel: str = KERNEL) -> list[Package]:
    """What has a version of its own: the daemon and the kernel's headers."""
    build = {f"/lib/modules/{kernel}/build/Makefile": b"# stand-in\n"}
    return [
        Package("nvidia-persistenced", "535.171.04-1~deb12u1"),
        Package(f"linux-headers-{kernel}", "6.1.999-1", files=build),
        Package("linux-headers-amd64", "6.1.999-1", f"linux-headers-{kernel}"),
    ]


def ubuntu() -> list[Package]:
    """Ubuntu 24.04's names for both modules, of which only one can be there, and the fabric manager; with units."""
    version = f"{UBUNTU}-0ubuntu0.24.04.1"
    daemon = {
        "/usr/lib/systemd/system/nvidia-persistenced.service": PERSISTENCED_UNIT.encode(),
        "/usr/bin/nvidia-persistenced": b"#!/bin/sh\nexec sleep infinity\n",
    }
    fabric = {"/usr/lib/systemd/system/nvidia-fabricmanager.service": FABRIC_MANAGER_UNIT.encode()}
    kernel = {f"/lib/modules/{KERNEL}/build/Makefile": b"# stand-in\n"}
    return [
        Package(
            "nvidia-headless-580-server-open", version, "nvidia-dkms-580-server-open, nvidia-compute-utils-580-server"
        ),
        _module("nvidia-dkms-580-server-open", version, UBUNTU, "nvidia", "", conflicts="nvidia-dkms-580-server"),
        Package("nvidia-headless-580-server", version, "nvidia-dkms-580-server, nvidia-compute-utils-580-server"),
        _module("nvidia-dkms-580-server", version, UBUNTU, "nvidia", "", conflicts="nvidia-dkms-580-server-open"),
        Package("nvidia-compute-utils-580-server", version, files=daemon),
        Package("nvidia-utils-580-server", version, conflicts="nvidia-utils-580"),
        Package("nvidia-utils-580", version),
        Package("nvidia-driver-580-open", version, "nvidia-utils-580"),
        Package("nvidia-fabricmanager-580", version, files=fabric),
        Package(f"linux-headers-{KERNEL}", "6.8.999-1", files=kernel),
        Package("linux-headers-generic", "6.8.999-1", f"linux-headers-{KERNEL}"),
    ]


def archive(folder: pathlib.Path, suites: list[str], components: list[str], packages: Sequence[Package]) -> bytes:
    """A tar file of the archive, signed by a key of its own; `folder/key.asc` is the public one."""
    root = folder / "archive"
    index = [_packed(package, root) for package in packages]
    for suite in suites:
        dists = root / "dists" / suite
        sums = []
        for name in components:
            path = dists / name / "binary-amd64" / "Packages"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(index) if (suite, name) == (suites[0], components[0]) else "")
            sums.append(f" {_sha256(path)} {path.stat().st_size} {path.relative_to(dists)}")
        release = ["Origin: stand-in", f"Codename: {suite}", f"Suite: {suite}", "Architectures: amd64"]
        release += [f"Components: {' '.join(components)}", "Date: Sat, 01 Jan 2000 00:00:00 UTC", "SHA256:", *sums]
        (dists / "Release").write_text("\n".join(release) + "\n")
        _sign(folder, dists)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(root, arcname=".")
    return packed.getvalue()


def flat_archive(folder: pathlib.Path, below: str, packages: Sequence[Package]) -> bytes:
    """The same without suites, as NVIDIA's toolkit repository is laid out: packages and index in one folder."""
    root = folder / "flat"
    place = root / below
    place.mkdir(parents=True, exist_ok=True)
    index = [_packed(package, place) for package in packages]
    (place / "Packages").write_text("\n".join(index))
    path = place / "Packages"
    release = ["Origin: stand-in", "Architectures: amd64", "Date: Sat, 01 Jan 2000 00:00:00 UTC", "SHA256:"]
    (place / "Release").write_text("\n".join([*release, f" {_sha256(path)} {path.stat().st_size} Packages"]) + "\n")
    _sign(folder, place)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(root, arcname=".")
    return packed.getvalue()


def library(soname: str) -> bytes:
    """An empty shared library of that name."""
    return _compiled("int nothing;", "-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{soname}")


def _compiled(source: str, *options: str) -> bytes:
    with tempfile.NamedTemporaryFile() as compiled:
        argv = ["cc", "-x", "c", *options, "-o", compiled.name, "-"]
        subprocess.run(argv, input=source.encode(), capture_output=True, check=True)
        return pathlib.Path(compiled.name).read_bytes()


def _module(name: str, version: str, driver: str, module: str, depends: str, *, conflicts: str = "") -> Package:
    content = _compiled(f'char v[] __attribute__((section(".modinfo"))) = "version={driver}";', "-c")
    named = {"package": name, "module": module}
    scripts = {"postinst": BUILD % named, "prerm": REMOVE % named}
    return Package(name, version, depends, {f"/usr/share/{name}/{module}.ko": content}, scripts, conflicts)


def _packed(package: Package, root: pathlib.Path) -> str:
    """The package as a file of the archive's pool, and its paragraph of the index."""
    tree = root.parent / "trees" / f"{package.name}_{package.version}"
    control = [f"Package: {package.name}", f"Version: {package.version}", "Architecture: amd64"]
    control += ["Maintainer: nobody <nobody@example.org>", "Description: stand-in"]
    control += [f"Depends: {package.depends}"] if package.depends else []
    control += [f"Conflicts: {package.conflicts}"] if package.conflicts else []
    (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (tree / "DEBIAN/control").write_text("\n".join(control) + "\n")
    for name, text in package.scripts.items():
        (tree / "DEBIAN" / name).write_text(text)
        os.chmod(tree / "DEBIAN" / name, 0o755)
    for path, content in package.files.items():
        file = tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.chmod(file, 0o755 if content.startswith(b"#!") else 0o644)
    (root / "pool").mkdir(parents=True, exist_ok=True)
    deb = root / "pool" / f"{package.name}_{package.version}_amd64.deb"
    argv = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(deb)]
    subprocess.run(argv, check=True, capture_output=True)
    file_fields = [f"Filename: pool/{deb.name}", f"Size: {deb.stat().st_size}", f"SHA256: {_sha256(deb)}"]
    return "\n".join([*control, *file_fields]) + "\n"


def _sign(folder: pathlib.Path, dists: pathlib.Path) -> None:
    home = folder / "gnupg"
    gpg = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--yes",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
    ]
    if not home.exists():
        home.mkdir(mode=0o700)
        subprocess.run([*gpg, "--quick-generate-key", "stand-in", "ed25519", "sign"], check=True, capture_output=True)
        public = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
        (folder / "key.asc").write_bytes(public)
    argv = [*gpg, "--clearsign", "--output", str(dists / "InRelease"), str(dists / "Release")]
    subprocess.run(argv, check=True, capture_output=True)
    # Its agent would stay and watch its folder; a machine has 128 such watchers for all, and systemd needs some.
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, capture_output=True)


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
