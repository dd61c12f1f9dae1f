"""Which card of this host an entry of the plan means: by UUID, or the n-th with a PCI device id in PCI order.

A number moves when a card drops out, and then means its neighbour. So what was recorded of a card carries the number
that it had, and from then on the number means that UUID. A card that nobody is recorded for may take the place of one
that is gone (it was replaced), but only while every card of the host answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inferhost.host.gpu.nvml import Card, Nvml
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Record, read_baseline
from inferhost.host.report import HostError
from inferhost.schema.plan import Gpu, Plan
from inferhost.schema.problems import Problem

SELECTED_AS = "selected_as"
"""What a record's context calls the number that the card had: `2BB1[0]`."""
MISSING = "gpu-missing"
"""The id of the problem that a card of the plan is not there."""


def chosen_cards(plan: Plan, nvml: Nvml, machine: Machine, cards: Sequence[Card]) -> list[Card | None]:
    """The card of each entry of the plan, None for one that is not there."""
    recorded = _recorded(machine)
    return [_chosen(entry, cards, recorded, all_answer=not nvml.unreadable) for entry in plan.gpus]


def selected_cards(plan: Plan, nvml: Nvml, machine: Machine) -> list[Card]:
    """The cards that the plan means, as far as they are there."""
    return [card for card in chosen_cards(plan, nvml, machine, nvml.cards()) if card is not None]


def meant_cards(plan: Plan, nvml: Nvml, machine: Machine) -> set[str] | None:
    """The UUIDs of all cards that the plan means, here or not; None while nobody knows one of them."""
    here, recorded = chosen_cards(plan, nvml, machine, nvml.cards()), _recorded(machine)
    numbers = [_number(pci_device_id(entry.select.pci_device_id), entry.select.ordinal) for entry in plan.gpus]
    found = {
        card.uuid if card is not None else entry.select.uuid or recorded.get(number)
        for entry, card, number in zip(plan.gpus, here, numbers)
    }
    return None if None in found else {uuid for uuid in found if uuid is not None}


def missing_cards(plan: Plan, nvml: Nvml, machine: Machine) -> dict[int, Problem]:
    """The plan's cards that this host does not have now, by their number in the plan."""
    cards = nvml.cards()
    gone = [number for number, card in enumerate(chosen_cards(plan, nvml, machine, cards)) if card is None]
    return {number: missing(plan.gpus[number], number, cards, nvml) for number in gone}


def missing(gpu: Gpu, number: int, cards: Sequence[Card], nvml: Nvml) -> Problem:
    """What is here instead of the card that the plan means."""
    if gpu.select.uuid is not None:
        wanted = gpu.select.uuid
    else:
        wanted = f"card {gpu.select.ordinal} with PCI device id {gpu.select.pci_device_id}"
    here = ", ".join(f"{c.name} {c.pci_device_id} {c.uuid}" for c in cards) or "no card"
    lost = "".join(f"; {error.evidence}" for error in nvml.unreadable)
    return Problem(
        f"inferhost_hardware.gpus[{number}]",
        f"found {here}{lost}, wanted {wanted}",
        "was a card moved or replaced? What is there now is shown by: inferhost facts",
        MISSING,
    )


def twice(card: Card, number: int, other: int) -> Problem:
    """Two entries of the plan that mean one card, as can be where one has a UUID and the other has none."""
    message = f"means {card.name} {card.uuid}, as gpus[{other}] does already"
    hint = "give each card its uuid, as shown by: inferhost facts"
    return Problem(f"inferhost_hardware.gpus[{number}]", message, hint, "same-card")


def numbered(gpu: Gpu) -> dict[str, str]:
    """What a record's context says of the entry that a card was chosen by; nothing where that was its UUID."""
    if gpu.select.uuid is not None:
        return {}
    return {SELECTED_AS: _number(pci_device_id(gpu.select.pci_device_id), gpu.select.ordinal)}


def card_name(gpu: Gpu) -> str:
    """A card of the plan in verdicts, while nobody has asked it who it is."""
    return gpu.select.uuid or f"{gpu.select.pci_device_id}[{gpu.select.ordinal}]"


def known_names(plan: Plan, machine: Machine) -> list[str]:
    """Each card of the plan in verdicts while it does not answer: as it was recorded, so that its name stays."""
    recorded = _recorded(machine)
    numbers = [_number(pci_device_id(entry.select.pci_device_id), entry.select.ordinal) for entry in plan.gpus]
    return [e.select.uuid or recorded.get(number) or card_name(e) for e, number in zip(plan.gpus, numbers)]


def pci_device_id(text: str) -> str:
    """The four digits of a PCI device id, from "2BB1", "10DE:2BB1" or NVML's "0x2BB110DE"."""
    digits = text.upper().replace("0X", "")
    return digits.rpartition(":")[2] if ":" in digits else digits[:4]


def _chosen(gpu: Gpu, cards: Sequence[Card], recorded: Mapping[str, str], *, all_answer: bool) -> Card | None:
    uuid = gpu.select.uuid or recorded.get(_number(pci_device_id(gpu.select.pci_device_id), gpu.select.ordinal))
    for card in cards:
        if card.uuid == uuid:
            return card
    if gpu.select.uuid is not None:
        return None
    if not all_answer:  # nobody knows where the silent one stands in the row
        return None
    own_id, present = pci_device_id(gpu.select.pci_device_id), {card.uuid for card in cards}
    known = sum(recorded.get(_number(own_id, lower)) in present for lower in range(gpu.select.ordinal))
    strangers = [c for c in cards if c.pci_device_id == own_id and c.uuid not in recorded.values()]
    place = gpu.select.ordinal - known
    return strangers[place] if 0 <= place < len(strangers) else None


def _number(device_id: str, ordinal: int) -> str:
    return f"{device_id}[{ordinal}]"


def recorded_keys(machine: Machine) -> dict[str, Record]:
    """What the record has of cards; nothing where it cannot be read: others say so."""
    try:
        baseline = read_baseline(machine)
    except HostError:
        return {}
    return {key: baseline[key] for key in baseline if key.startswith("gpu:")}


def _recorded(machine: Machine) -> dict[str, str]:
    """The UUID of each card that a record has by a number."""
    contexts = [record.context for record in recorded_keys(machine).values()]
    return {found[SELECTED_AS]: found["uuid"] for found in contexts if SELECTED_AS in found}
