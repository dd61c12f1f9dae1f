"""The slow base of the image: a Debian root, as a tar file in the cache.

It holds what a freshly installed server has and roles rely on (systemd, sshd, python3, sudo), no documentation.
"""

import subprocess
from pathlib import Path

from .machine import apt_proxy_options, mirror, suite
from .places import cache
from .tools import BedError, digest, say

INCLUDE = "ca-certificates,dbus,iproute2,kmod,openssh-server,procps,python3,python3-apt,sudo,systemd,systemd-sysv"
OPTIONS = [
    "--variant=minbase",
    f"--include={INCLUDE}",
    '--aptopt=Apt::Install-Recommends "false"',
    # A root that can be made again needs no fsync per file.
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
]


def rootfs_key(codename: str) -> str:
    """The digest of what decides the root's content, except the archive's state on the day."""
    return digest(codename, *OPTIONS)


def rootfs(codename: str) -> Path:
    """The tar file, built when the cache lacks it (about a minute)."""
    tar = cache() / "rootfs" / f"{codename}-{rootfs_key(codename)}.tar"
    if tar.is_file():
        return tar
    say(f"builds a Debian {codename} root (about a minute, once)")
    tar.parent.mkdir(parents=True, exist_ok=True)
    fresh = tar.with_suffix(".new.tar")
    source = f"deb {mirror(suite())} {codename} main"
    proxies = [f"--aptopt={line}" for line in apt_proxy_options()]
    argv = ["mmdebstrap", "--quiet", *OPTIONS, *proxies, codename, str(fresh), source]
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        fresh.unlink(missing_ok=True)
        said = "\n      ".join(done.stderr.strip().splitlines()[-8:])
        raise BedError(f"mmdebstrap {codename}: exit status {done.returncode}, wanted 0", said)
    return fresh.rename(tar)
