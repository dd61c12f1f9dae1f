"""Which card a name means, and how much memory programs see on it.

Names come from logs, with or without vendor and series; the catalogue is asked first, then what was printed on cards
that it does not have. Memory is what CUDA reports, which is 4 to 7 % less than the label.
"""

from __future__ import annotations

import dataclasses
import re

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import GpuRow
from inferhost.planner.names import card_memory_gb, chip_named

GIB = 2**30
LABEL = re.compile(r"(\d+)\s*gb")
LABEL_SHARE = 0.965
"""What CUDA reports of a label, at the least."""
INLINE_ECC_SHARE = 1 / 16
"""What check bits take of it where they live in the same memory."""


@dataclasses.dataclass(frozen=True)
class Card:
    """One card of the case: memory as CUDA reports it, and as nvidia-smi does."""

    name: str
    total_bytes: int
    total_mib: float
    compute_capability: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class SeenCard:
    """A card that is not in the catalogue, with the memory that programs printed on it."""

    pattern: str
    under_cuda_gib: float
    total_mib: int
    compute_capability: tuple[int, int]


SEEN_CARDS = (
    SeenCard(r"\bt4\b", 14.58, 15360, (7, 5)),
    SeenCard(r"v100.*16", 15.77, 16384, (7, 0)),
    SeenCard(r"v100", 31.74, 32768, (7, 0)),
    SeenCard(r"\ba10g?\b", 22.06, 23028, (8, 6)),
    SeenCard(r"\ba(6000|40)\b", 47.4, 49140, (8, 6)),
    SeenCard(r"6000 ada", 47.4, 49140, (8, 9)),
    SeenCard(r"\bl40\b", 44.3, 46068, (8, 9)),
    SeenCard(r"\bh20\b", 95.0, 97871, (9, 0)),
    SeenCard(r"a100.*40|40gb class", 39.4, 40960, (8, 0)),
    SeenCard(r"a100", 79.1, 81920, (8, 0)),
    SeenCard(r"h100", 79.1, 81559, (9, 0)),
    SeenCard(r"\bb200\b", 178.3, 183359, (10, 0)),
    SeenCard(r"mi300x", 191.5, 196608, (9, 4)),
    SeenCard(r"rtx pro 6000", 95.0, 97887, (12, 0)),
    SeenCard(r"3090", 23.55, 24576, (8, 6)),
)
"""Least memory printed per card. Source: kv-cases.md 2."""


def named_card(name: str, given: float | None, catalogue: Catalogue) -> Card | None:
    """The card: memory as given, in GiB, else as this card has printed it; nothing where neither is known."""
    words = name.lower()
    row = catalogue_card(words, catalogue)
    sold_gb = _sold_gb(words, catalogue)
    seen = next((card for card in SEEN_CARDS if re.search(card.pattern, words) and _is_sold(card, sold_gb)), None)
    if row is not None and row.memory_under_cuda_mib is not None:
        major, minor = row.compute_capability.split(".")
        total_mib: float = row.memory_mib or round((row.memory_label_gb or 0) * 1024)
        card = Card(name, row.memory_under_cuda_mib * 2**20, total_mib, (int(major), int(minor)))
    elif seen is not None:
        card = Card(name, round(seen.under_cuda_gib * GIB), seen.total_mib, seen.compute_capability)
    else:
        if given is None and sold_gb is None:
            return None
        total_mib = (sold_gb or given or 0) * 1024
        chip = chip_named(words, catalogue)
        major, minor = (chip.compute_capability if chip else "8.0").split(".")
        inline = INLINE_ECC_SHARE if chip is not None and chip.inline_ecc else 0.0
        under_cuda = (LABEL_SHARE - inline) * total_mib * 2**20
        card = Card(name, round(under_cuda), total_mib, (int(major), int(minor)))
    return card if given is None else dataclasses.replace(card, total_bytes=round(given * GIB))


def _is_sold(card: SeenCard, sold_gb: float | None) -> bool:
    """Whether a card sold with that memory can be this one: check bits take a fifteenth."""
    return sold_gb is None or abs(card.total_mib / (1024 * sold_gb) - 1) < 0.08


def _sold_gb(name: str, catalogue: Catalogue) -> float | None:
    """The memory that a name says, else that of the card; a size that is part of the card's own name says nothing."""
    chip, label = chip_named(name, catalogue), LABEL.search(name)
    sold = card_memory_gb(chip, catalogue) if chip is not None else None
    own = chip is not None and any(label and label[0] in known.lower() for known in chip.names)
    return float(label[1]) if label and not (own and sold) else sold


def catalogue_card(name: str, catalogue: Catalogue) -> GpuRow | None:
    """The catalogue's card of this name; nothing where the name has another size than that card is sold with."""
    chip = chip_named(name, catalogue)
    row = catalogue.gpus.get(chip.key) if chip is not None else None
    size = LABEL.search(name)
    if row is None or (size and row.memory_label_gb is not None and float(size[1]) != row.memory_label_gb):
        return None
    return row
