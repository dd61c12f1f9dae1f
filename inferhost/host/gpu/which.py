"""Which card of this host an entry of the plan means: by UUID, or the n-th with a PCI device id in PCI order.

A number moves when a card drops out, and then means its neighbour. So what was recorded of a card carries the number
that it had, and from then on the number means that UUID. A card that nobody is recorded for may take the place of one
that is gone (it was replaced), and with it the number, but only while every card of the host answers, and while no
fewer such cards are here than places are open: else nobody knows which of them it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from inferhost.host.gpu.nvml import Card, Nvml
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import SELECTED_AS, Record, read_baseline
from inferhost.host.report import HostError
from inferhost.schema.plan import Gpu, Plan
from inferhost.schema.problems import Problem

SHOWN = "what is there now is shown by: inferhost facts"
GIVE = "give each card that is there its uuid in the hardware of this host, as shown by: inferhost facts"
MISSING = "gpu-missing"
"""The id of the problem that a card of the plan is not there."""


def chosen_cards(plan: Plan, nvml: Nvml, machine: Machine, cards: Sequence[Card]) -> list[Card | None]:
    """The card of each entry of the plan, None for one that is not there."""
    recorded = _recorded(machine)
    return [
        _chosen(entry, cards, recorded, all_answer=not nvml.unreadable, places=_places(plan, entry, cards, recorded))
        for entry in plan.gpus
    ]


def selected_cards(plan: Plan, nvml: Nvml, machine: Machine) -> list[Card]:
    """The cards that the plan means, as far as they are there."""
    return [card for card in chosen_cards(plan, nvml, machine, nvml.cards()) if card is not None]


def meant_cards(plan: Plan, nvml: Nvml, machine: Machine) -> set[str] | None:
    """The UUIDs of all cards that the plan means, here or not; None while nobody knows one of them."""
    here, recorded = chosen_cards(plan, nvml, machine, nvml.cards()), _recorded(machine)
    numbers = [_number(entry) for entry in plan.gpus]
    found = {
        card.uuid if card is not None else entry.select.uuid or recorded.get(number)
        for entry, card, number in zip(plan.gpus, here, numbers)
    }
    return None if None in found else {uuid for uuid in found if uuid is not None}


def missing_cards(plan: Plan, nvml: Nvml, machine: Machine) -> dict[int, Problem]:
    """The plan's cards that this host does not have now, by their number in the plan."""
    cards = nvml.cards()
    gone = [number for number, card in enumerate(chosen_cards(plan, nvml, machine, cards)) if card is None]
    return {number: missing(plan, number, cards, nvml, machine) for number in gone}


def missing(plan: Plan, number: int, cards: Sequence[Card], nvml: Nvml, machine: Machine) -> Problem:
    """What is here instead of the card that an entry of the plan means, and what the record knows of it."""
    gpu, recorded = plan.gpus[number], _recorded(machine)
    hint = "was a card moved or replaced? What is there now is shown by: inferhost facts"
    places, strangers = _places(plan, gpu, cards, recorded), len(_strangers(gpu, cards, recorded))
    if gpu.select.uuid is not None:
        wanted = gpu.select.uuid
    else:
        wanted = f"card {gpu.select.ordinal} with PCI device id {gpu.select.pci_device_id}"
        if _number(gpu) in recorded:
            wanted += f", by the record {recorded[_number(gpu)]}"
            hint = f"is it out for good? then {GIVE}; was it moved or replaced? {SHOWN}"
        elif 0 < strangers < places:
            wanted += f", and nobody knows which of {places} this one is"
            hint = f"wait until all of them are there, or {GIVE}"
    named = {uuid: f" (card {known.rpartition('[')[2][:-1]} by the record)" for known, uuid in recorded.items()}
    here = ", ".join(f"{c.name} {c.pci_device_id} {c.uuid}{named.get(c.uuid, '')}" for c in cards) or "no card"
    lost = "".join(f"; {error.evidence}" for error in nvml.unreadable)
    return Problem(
        f"inferhost_hardware.gpus[{number}]",
        f"found {here}{lost}, wanted {wanted}",
        hint,
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
    return {SELECTED_AS: _number(gpu)}


def card_name(gpu: Gpu) -> str:
    """A card of the plan in verdicts, while nobody has asked it who it is."""
    return gpu.select.uuid or f"{gpu.select.pci_device_id}[{gpu.select.ordinal}]"


def known_names(plan: Plan, machine: Machine) -> list[str]:
    """Each card of the plan in verdicts while it does not answer: as it was recorded, so that its name stays."""
    recorded = _recorded(machine)
    numbers = [_number(entry) for entry in plan.gpus]
    return [e.select.uuid or recorded.get(number) or card_name(e) for e, number in zip(plan.gpus, numbers)]


def pci_device_id(text: str) -> str:
    """The four digits of a PCI device id, from "2BB1", "10DE:2BB1" or NVML's "0x2BB110DE"."""
    digits = text.upper().replace("0X", "")
    return digits.rpartition(":")[2] if ":" in digits else digits[:4]


def _chosen(
    gpu: Gpu, cards: Sequence[Card], recorded: Mapping[str, str], *, all_answer: bool, places: int
) -> Card | None:
    uuid = gpu.select.uuid or recorded.get(_number(gpu))
    for card in cards:
        if card.uuid == uuid:
            return card
    if gpu.select.uuid is not None:
        return None
    strangers, present = _strangers(gpu, cards, recorded), {card.uuid for card in cards}
    if not all_answer or len(strangers) < places:  # nobody knows where the silent one stands in the row
        return None
    known = sum(recorded.get(_number(gpu, lower)) in present for lower in range(gpu.select.ordinal))
    place = gpu.select.ordinal - known
    return strangers[place] if 0 <= place < len(strangers) else None


def _strangers(gpu: Gpu, cards: Iterable[Card], recorded: Mapping[str, str]) -> list[Card]:
    """The cards of this entry's kind that no number is recorded for."""
    own_id = pci_device_id(gpu.select.pci_device_id)
    return [c for c in cards if c.pci_device_id == own_id and c.uuid not in recorded.values()]


def _places(plan: Plan, gpu: Gpu, cards: Iterable[Card], recorded: Mapping[str, str]) -> int:
    """How many entries of this one's kind wait for a card that no number is recorded for."""
    present, own_id = {card.uuid for card in cards}, pci_device_id(gpu.select.pci_device_id)
    alike = [entry for entry in plan.gpus if pci_device_id(entry.select.pci_device_id) == own_id]
    return sum(recorded.get(_number(entry)) not in present for entry in alike)


def _number(gpu: Gpu, ordinal: int | None = None) -> str:
    """This entry's number among its kind, or that of another one of the kind."""
    return f"{pci_device_id(gpu.select.pci_device_id)}[{gpu.select.ordinal if ordinal is None else ordinal}]"


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
