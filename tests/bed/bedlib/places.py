"""Where things lie: the checkout, the cache outside it, and this boot's run folder.

The cache keeps what is slow to make (rootfs, engine, container storage, key, model); the run folder keeps what dies
with the boot (mount namespace, podman's locks). Two caches never share a run folder, and neither is podman's own.
"""

import os
import shutil
from pathlib import Path

from .tools import digest

BED = Path(__file__).resolve().parent.parent
PROJECT = BED.parent.parent
IMAGE_FILES = BED / "image"
SIMULATOR = BED.parent / "simulator"
ENGINES = PROJECT / "inferhost" / "catalogue" / "engines.json"


def cache() -> Path:
    """The cache: INFERHOST_CACHE, or .cache/inferhost in the home folder."""
    chosen = os.environ.get("INFERHOST_CACHE")
    return Path(chosen).absolute() if chosen else Path.home() / ".cache" / "inferhost"


def run_folder() -> Path:
    """This boot's folder of this cache; emptied when it stems from an earlier boot.

    Podman notices a reboot by an empty tmpfs. Where /run is an ordinary disk it would believe that its
    containers still run, so the boot id decides instead. The name is short because unix sockets lie below it.
    """
    base = Path("/run") if os.geteuid() == 0 else Path(os.environ.get("XDG_RUNTIME_DIR", f"/tmp/ih-{os.geteuid()}"))
    folder = base / "inferhost-bed" / digest(str(cache()))[:8]
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    mark = folder / "boot_id"
    if not mark.is_file() or mark.read_text() != boot_id:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        mark.write_text(boot_id)
    return folder


def ssh_key() -> Path:
    """The private key that opens the operator's account on every host of this cache."""
    return cache() / "ssh" / "id_ed25519"
