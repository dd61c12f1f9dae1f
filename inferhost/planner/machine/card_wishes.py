"""What the wish says of single cards, on top of what it says of all: `inferhost_gpu_cards` by model, address or UUID.

A card takes the options of every key that means it, the more exact one last: model, PCI address, UUID.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferhost.schema.hardware import Hardware, HardwareGpu
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.wish import GPU_PREFIX, Wish, read_cards

CARDS = GPU_PREFIX + "cards"


def card_wishes(wish: Wish, hardware: Hardware) -> tuple[tuple[Wish, Mapping[str, str]], ...]:
    """The wish of each card, and by option the key of its own mapping where it has one; `InputError` for a key that
    means no card.
    """
    mappings, given = read_cards(wish), wish.table(CARDS)
    rest = set(mappings)
    found = []
    for card in hardware.gpus:
        values: dict[str, Any] = {}
        paths: dict[str, str] = {}
        for key in [key for name in names(card) for key in sorted(mappings) if compared(key) == compared(name)]:
            rest.discard(key)
            own = [GPU_PREFIX + str(option) for option in given[key]]
            values.update({option: mappings[key].values[option] for option in own})
            paths.update({option: f"{CARDS}.{key}.{option.removeprefix(GPU_PREFIX)}" for option in own})
        found.append((Wish({**wish.values, **values}) if paths else wish, paths))
    known = dict.fromkeys(name for card in hardware.gpus for name in names(card))
    problems = [
        Problem(f"{CARDS}.{key}", "is no card of inferhost_hardware", f"one of: {', '.join(known)}", "no-such-card")
        for key in sorted(rest)
    ]
    if problems:
        raise InputError(problems)
    return tuple(found)


def names(card: HardwareGpu) -> list[str]:
    """What a card is called, the least exact first."""
    return [name for name in (card.model, card.pci_address, card.uuid) if name is not None]


def compared(name: str) -> str:
    """A name as it is compared: NVML has eight digits of PCI domain where sysfs has four."""
    text = name.lower()
    return text[4:] if text.startswith("0000") and text.count(":") == 2 and len(text.partition(":")[0]) == 8 else text
