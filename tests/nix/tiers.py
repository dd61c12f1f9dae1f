"""How deep the Nix code can be tested on this machine, and how to ask Nix.

T0 needs Nix itself. T1 needs nixpkgs' `lib` (NIXPKGS_LIB=DIR, or NIXPKGS), T2 a whole nixpkgs (NIXPKGS=DIR), T3 also
KVM and a store to build in. A tier that cannot run is skipped and named at the end; REQUIRE_NIX_TIERS=T0,T1 makes
that a failure.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/nix"
TIERS = {
    "T0": "nix/lib/plan.nix on every golden plan",
    "T1": "the modules under nixpkgs' module system",
    "T2": "the examples as whole NixOS configurations",
    "T3": "the virtual machine with the simulated GPU",
}
CONFIG = "build-users-group =\nexperimental-features = nix-command flakes\nsubstituters =\nsandbox = false\n"


class NixError(Exception):
    """Nix refused; the text is what it said."""


def missing(tier: str) -> str:
    """Why a tier cannot run here; empty where it can."""
    if not shutil.which("nix-instantiate"):
        return "no nix-instantiate on PATH: install nix-bin"
    if tier in ("T2", "T3") and not os.environ.get("NIXPKGS"):
        return "NIXPKGS names no checkout of nixpkgs"
    if tier == "T1" and nixpkgs_lib() is None:
        return "neither NIXPKGS_LIB nor NIXPKGS names a checkout with nixpkgs' lib"
    if tier == "T3" and not os.access("/dev/kvm", os.W_OK):
        return "no /dev/kvm"
    if tier == "T3" and not (pathlib.Path(os.environ["NIXPKGS"]) / "pkgs/top-level").is_dir():
        return "NIXPKGS has no packages to build a machine of"
    return ""


def required() -> set[str]:
    """The tiers that must not be skipped."""
    named = {word.strip() for word in os.environ.get("REQUIRE_NIX_TIERS", "").split(",") if word.strip()}
    if named - set(TIERS):
        raise ValueError(f"REQUIRE_NIX_TIERS: found {', '.join(sorted(named))}, wanted some of {', '.join(TIERS)}")
    return named


def nixpkgs_lib() -> pathlib.Path | None:
    """The folder `lib` of nixpkgs, whether its own or its parent's name was given."""
    for given in (os.environ.get("NIXPKGS_LIB"), os.environ.get("NIXPKGS")):
        if given:
            folder = pathlib.Path(given)
            return folder / "lib" if (folder / "lib" / "modules.nix").exists() else folder
    return None


def evaluate(
    file: pathlib.Path, attribute: str = "", store: pathlib.Path | None = None, **arguments: pathlib.Path
) -> Any:
    """The value of a Nix file, or of an attribute of it, called with paths; writes into the given store or none."""
    where = ["--store", str(store), "--read-write-mode"] if store else ["--store", "dummy://"]
    command = ["nix-instantiate", *where, "--eval", "--strict", "--json", str(file)]
    command += ["--attr", attribute] if attribute else []
    for name, path in arguments.items():
        command += ["--arg", name, str(path)]
    return json.loads(_ran(command))


def parse(file: pathlib.Path) -> None:
    """Nothing, or `NixError` where a file is not Nix."""
    _ran(["nix-instantiate", "--parse", str(file)])


def _ran(command: list[str]) -> str:
    environment = {**os.environ, "NIX_CONFIG": CONFIG}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NixError(done.stderr)
    return done.stdout
