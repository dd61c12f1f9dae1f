"""What `nvidia-smi` in a script or a unit sets on the cards, as `inferhost_gpu_*` variables.

Source of the options: nvidia-smi(1), "Device modification options" and "Clocks".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from inferhost.imports.launch import Mistake
from inferhost.schema.wish import GPU_HOST_WIDE

OPTIONS = {
    "-pl": "power_limit",
    "--power-limit": "power_limit",
    "-pm": "persistence_mode",
    "--persistence-mode": "persistence_mode",
    "-lgc": "graphics_clock_lock",
    "--lock-gpu-clocks": "graphics_clock_lock",
    "-lmc": "memory_clock_lock",
    "--lock-memory-clocks": "memory_clock_lock",
    "-ac": "application_clocks",
    "--applications-clocks": "application_clocks",
    "-c": "compute_mode",
    "--compute-mode": "compute_mode",
    "-e": "ecc",
    "--ecc-config": "ecc",
    "-mig": "mig",
    "--multi-instance-gpu": "mig",
}
RESETS = {
    "-rgc": "graphics_clock_lock",
    "--reset-gpu-clocks": "graphics_clock_lock",
    "-rmc": "memory_clock_lock",
    "--reset-memory-clocks": "memory_clock_lock",
}
NOT_TAKEN = ("-lmcd", "--lock-memory-clocks-deferred")
"""Options that set something for which a wish has no option."""
RANGE = re.compile(r"(\d+)(?:,(\d+))?")
MODES = {"0": "default", "2": "prohibited", "3": "exclusive_process"}
ADDRESS = re.compile(r"(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])")
CARDS = "cards"


def card_settings(words: Sequence[str], place: str) -> tuple[dict[str, Any], list[Mistake]]:
    """The options of a wish that a command line amounts to, without `inferhost_gpu_`, and a line on each.

    What is for the cards after -i alone is in `cards`, by UUID or PCI address; a number means no card for long.
    """
    start = next((n for n, w in enumerate(words[:3]) if w.rpartition("/")[2] == "nvidia-smi"), len(words))
    if not words[start + 1 : start + 2] or not words[start + 1].startswith("-"):
        return {}, []  # no call, or one of a subcommand, whose options mean other things
    found: dict[str, Any] = {}
    told: list[Mistake] = []
    flat = [part for w in words for part in (w.split("=", 1) if w.startswith("--") else [w])]
    pairs = list(zip(flat, [*flat[1:], ""], strict=True))
    chosen = [card for name, value in pairs if name in ("-i", "--id") for card in value.split(",")]
    for name, value in pairs:
        option = OPTIONS.get(name) or RESETS.get(name)
        taken = "unlocked" if name in RESETS else _value(option, value) if option else None
        text = f"nvidia-smi {name}" + ("" if name in RESETS else f" {value}")
        if option and taken is not None and chosen and option not in GPU_HOST_WIDE:
            take_over(found, {CARDS: {key: {option: taken} for key in map(_key, chosen) if key}})
            for card in chosen:
                verdict, because, instead = _of_card(card, option, taken)
                shown = text.replace("nvidia-smi", f"nvidia-smi -i {card}")
                told.append(Mistake(place, verdict, shown, because, instead))
        elif option and taken is not None:
            found[option] = taken
            because = (
                "the wish speaks of every card of the host, not of the one after -i"
                if chosen
                else "an option of the wish"
            )
            told.append(Mistake(place, "kept", text, because, f"inferhost_gpu_{option}: {_shown(taken)}"))
        elif option:
            because = "its value is not known here, so it is not in the wish"
            told.append(Mistake(place, "harmful", text, because, f"write inferhost_gpu_{option} by hand"))
        elif name in NOT_TAKEN:
            because = "a wish has no option for it, so it is not in the wish"
            told.append(Mistake(place, "harmful", text, because, "keep this command in a script of your own"))
    return found, told


def take_over(found: dict[str, Any], later: Mapping[str, Any]) -> None:
    """What a later command sets, on top: one for every card takes the place of those for single ones."""
    cards = found.get(CARDS, {})
    for option, value in later.items():
        if option == CARDS:
            for card, own in value.items():
                cards.setdefault(card, {}).update(own)
            continue
        found[option] = value
        for own in cards.values():
            own.pop(option, None)
    cards = {card: own for card, own in cards.items() if own}
    found.pop(CARDS, None)
    found.update({CARDS: cards} if cards else {})


def _key(card: str) -> str | None:
    """A card of -i as the wish names it; None for a number."""
    address = ADDRESS.fullmatch(card)
    if address:
        return f"{int(address[1] or '0', 16):04x}:{address[2].lower()}"
    return card if card.startswith("GPU-") else None


def _of_card(card: str, option: str, value: str | int | bool) -> tuple[str, str, str]:
    """Verdict, reason and what to write for an option that is for one card alone."""
    key, told = _key(card), f"{option}: {_shown(value)}"
    if key:
        return "kept", "for this card alone", f'inferhost_gpu_cards: {{"{key}": {{{told}}}}}'
    because = f'a wish has no name for card "{card}": a number is another card once one is added or lost'
    where = f"with the UUID that nvidia-smi -L shows for it; where the host has one card: inferhost_gpu_{told}"
    return "harmful", f"{because}; it is not in the wish", f"inferhost_gpu_cards: {{UUID: {{{told}}}}}, {where}"


def _value(option: str, value: str) -> str | int | bool | None:
    if option == "power_limit":
        return round(float(value)) if re.fullmatch(r"\d+(\.\d+)?", value) else None
    if option == "persistence_mode":
        return {"1": True, "enabled": True, "0": False, "disabled": False}.get(value.lower())
    if option == "compute_mode":
        mode = MODES.get(value, value.lower())
        return mode if mode in MODES.values() else None
    if option == "ecc":
        return {"1": "on", "0": "off"}.get(value)
    if option == "mig":
        return {"0": "whole", "disabled": "whole"}.get(value.lower())  # how it was divided stands in other calls
    found = RANGE.fullmatch(value)
    if found is None or (option == "application_clocks" and not found[2]):
        return None
    return value if option == "application_clocks" else value.replace(",", "-")


def _shown(value: str | int | bool) -> str:
    return str(value).lower()
