"""Writes docs/nixos-options.md from the module's own options: `NIXPKGS_LIB=DIR python -m tests.nix.reference`."""

from __future__ import annotations

from tests.nix import tiers

TARGET = tiers.ROOT / "docs/nixos-options.md"


def text() -> str:
    """The reference, one row per option."""
    library = tiers.nixpkgs_lib()
    if library is None:
        raise SystemExit(f"error: {tiers.missing('T1')}")
    lines = [
        "# Options on NixOS",
        "",
        "Generated from nix/modules/options.nix by `NIXPKGS_LIB=DIR python -m tests.nix.reference`; do not edit.",
        "What to tune is said in the wish: [options.md](options.md).",
        "",
        "| option | type | default | what it does |",
        "|---|---|---|---|",
    ]
    for option in tiers.evaluate(tiers.HERE / "options.nix", libPath=library):
        words = " ".join(option["description"].split()).rstrip(".")
        lines.append(f"| `{option['name']}` | {option['type']} | `{option['default']}` | {words}. |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
