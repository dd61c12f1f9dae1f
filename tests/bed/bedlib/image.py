"""The image of the sandbox hosts, in three layers keyed by their inputs: Debian root, engine, and what changes often.

A change of the simulator rebuilds the last layer only (seconds); the first two take a minute and stay in the cache.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .engine import engine_root
from .machine import suite
from .places import BED, IMAGE_FILES, PROJECT, SIMULATOR, cache, ssh_key
from .podman import Podman
from .rootfs import rootfs, rootfs_key
from .tools import REFUSED, BedError, digest, locked, output_of, say

# The card of a host that names none, and where the host has all of them.
PERSONALITY = "rtx-pro-6000-blackwell-workstation"
PERSONALITIES_THERE = "/usr/local/share/inferhost-sim"
REPOSITORY = "localhost/inferhost"
MODEL_SCRIPT = BED / "tiny_gguf.py"


def personalities() -> list[str]:
    """The names of the cards that can be simulated."""
    return sorted(path.stem for path in (SIMULATOR / "personalities").glob("*.txt"))


def image(podman: Podman, codename: str = "") -> str:
    """The tag of the target image, of the machine's own suite unless named, built when the cache lacks it."""
    with locked(cache() / "lock"):
        ensure_key()
        release = codename or suite()
        base = base_image(podman, release)
        tag = f"{REPOSITORY}/target:{release}-{target_key(base)}"
        if not podman.succeeds("image", "exists", tag):
            build_target(podman, base, tag)
        return tag


def base_image(podman: Podman, release: str) -> str:
    """The tag of the Debian root with the engine, built when missing."""
    root_tag = f"{REPOSITORY}/root:{release}-{rootfs_key(release)}"
    engine = engine_root()
    inputs = (IMAGE_FILES / "Containerfile.base", IMAGE_FILES / "prepare-base")
    tag = f"{REPOSITORY}/base:{release}-{digest(root_tag, engine.name, *inputs)}"
    if podman.succeeds("image", "exists", tag):
        return tag
    if not podman.succeeds("image", "exists", root_tag):
        tar = rootfs(release)
        say("imports the Debian root")
        podman.output("import", "--quiet", str(tar), root_tag)
    say("adds the engine and the operator")
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        context = Path(folder)
        for name in ("bin", "lib"):
            shutil.copytree(engine / name, context / name, symlinks=True)
        shutil.copy2(IMAGE_FILES / "prepare-base", context)
        build(podman, tag, "Containerfile.base", context, f"ROOTFS={root_tag}")
    return tag


def target_key(base: str) -> str:
    """The digest of everything that the last layer is made of."""
    inputs = (IMAGE_FILES / "Containerfile.target", IMAGE_FILES / "prepare-target", MODEL_SCRIPT)
    return digest(base, PERSONALITY, *inputs, public_key(), *simulator_inputs())


def simulator_inputs() -> list[str | Path]:
    """Names and files of the simulator's sources and personalities, without anything built."""
    inputs: list[str | Path] = []
    for file in sorted(p for p in SIMULATOR.rglob("*") if p.is_file()):
        name = file.relative_to(SIMULATOR)
        if name.suffix in {".c", ".h", ".map", ".json", ".conf", ".txt"} or name.name == "Makefile":
            inputs += [name.as_posix(), file]
    return inputs


def build_target(podman: Podman, base: str, tag: str) -> None:
    """Compile the simulator, generate the model, and put both with the key on the base."""
    say("adds the simulated GPU, the model and the key")
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        context = Path(folder)
        target_context(context)
        build(podman, tag, "Containerfile.target", context, f"BASE={base}", f"PERSONALITY={PERSONALITY}")


def target_context(context: Path) -> None:
    """Fill an empty folder with what the last layer takes; the virtual machine takes the same."""
    shutil.copy2(model(), context / "tiny-random.gguf")
    shutil.copy2(IMAGE_FILES / "prepare-target", context)
    (context / "authorized_keys").write_text(public_key())
    simulator = context / "simulator"
    simulator.mkdir()
    output_of(["make", "-C", str(SIMULATOR), f"BUILD={simulator}", "all"], what="make -C tests/simulator")
    shutil.copytree(SIMULATOR / "personalities", simulator / "personalities")


def build(podman: Podman, tag: str, containerfile: str, context: Path, *arguments: str) -> None:
    """One podman build; layers without a name of their own are not kept."""
    words = [word for argument in arguments for word in ("--build-arg", argument)]
    file = str(IMAGE_FILES / containerfile)
    podman.output("build", "-q", "--no-cache", "--force-rm", *words, "-t", tag, "-f", file, str(context))


def model() -> Path:
    """The tiny model, generated when the cache lacks it; its bytes depend on the script alone."""
    target = cache() / "models" / f"tiny-random-{digest(MODEL_SCRIPT)}.gguf"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        python = model_python()
        output_of([python, str(MODEL_SCRIPT), str(target)], what="tiny_gguf.py")
    return target


def model_python() -> str:
    """A Python that has gguf and numpy: INFERHOST_PYTHON, the project's .venv, or this one."""
    candidates = [os.environ.get("INFERHOST_PYTHON", ""), str(PROJECT / ".venv" / "bin" / "python"), sys.executable]
    for python in candidates:
        if (
            python
            and shutil.which(python)
            and subprocess.run(
                [python, "-c", "import gguf, numpy"], stderr=subprocess.DEVNULL, check=False
            ).returncode
            == 0
        ):
            return python
    raise BedError(
        "no Python with gguf and numpy found, wanted one for tiny_gguf.py",
        "run make setup, or name a Python in INFERHOST_PYTHON",
        REFUSED,
    )


def ensure_key() -> None:
    """Make the ssh key of this cache once."""
    key = ssh_key()
    if not key.is_file():
        key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        output_of(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "inferhost-bed", "-f", str(key)])


def public_key() -> str:
    """The line for authorized_keys."""
    return ssh_key().with_suffix(".pub").read_text()
