"""Hints for a model, card or engine version that the catalogue does not know: what is near, and where all are listed.

A model of another size is no replacement, however alike the names are, so the size in a model's name counts first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from inferhost.catalogue import Catalogue

SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])")
SAME_SIZE_RATIO = 1.5
"""Up to this many times larger or smaller is the same class: 7B and 8B are, 8B and 14B are not."""

LISTED = "docs/catalogue.md lists the known ones, and a row in inferhost/catalogue/{table}.json adds one"


def near_models(key: str, catalogue: Catalogue) -> str:
    """The known models of about the size that a name says, likest name first; any size where it says none."""
    size = SIZE.search(key)
    known = list(catalogue.models)
    if size:
        billions = float(size[1])
        sizes = {name: row.parameters / 1e9 for name, row in catalogue.models.items()}
        known = [n for n, b in sizes.items() if billions and max(b / billions, billions / b) <= SAME_SIZE_RATIO]
    return _hint(_likest(key, known, 0.0 if size else 0.6), "models")


def near_cards(key: str, catalogue: Catalogue) -> str:
    """The known cards with the likest names."""
    return _hint(_likest(key, list(catalogue.gpus), 0.6), "gpus")


def listed(table: str) -> str:
    """Where the rows of a table are listed, and how one is added."""
    return LISTED.format(table=table) + ("; inferhost model PATH prints it" if table == "models" else "")


def _likest(key: str, known: Sequence[str], least_ratio: float) -> list[str]:
    return difflib.get_close_matches(key, known, n=3, cutoff=least_ratio)


def _hint(names: Sequence[str], table: str) -> str:
    near = f"near it: {', '.join(names)}; " if names else ""
    return near + listed(table)
