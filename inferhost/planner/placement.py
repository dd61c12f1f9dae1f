"""Which cards each engine instance gets.

Placed by the wish alone, before any engine is chosen: an instance names its cards by their number in
`inferhost_hardware.gpus`, and without a word gets the first one. Nothing here computes memory.
"""

from __future__ import annotations

import dataclasses

from inferhost.planner.request import HARDWARE, INSTANCES, Instance, Request, read_instances
from inferhost.schema.problems import InputError, Problem


def placed_instances(request: Request) -> tuple[Instance, ...]:
    """Every instance with its cards, sorted by name, or `InputError` with the problems of all."""
    instances = read_instances(request)
    if not instances:
        hint = "name one, for example main: {}; for none, leave service out of inferhost_manage"
        raise InputError([Problem(INSTANCES, "names no instance", hint)])
    if not request.hardware.gpus:
        hint = "leave service out of inferhost_manage, or name the card there"
        raise InputError([Problem(f"{HARDWARE}.gpus", "is empty, and an engine needs a card", hint)])
    problems: list[Problem] = []
    placed = []
    for instance in instances:
        gpus, wrong = _gpus(request, instance)
        problems += wrong
        placed.append(dataclasses.replace(instance, gpus=gpus))
        for other in placed[:-1]:
            problems += _shared(request, instance, other, set(gpus) & set(other.gpus))
    if problems:
        raise InputError(problems)
    return tuple(placed)


def _gpus(request: Request, instance: Instance) -> tuple[tuple[int, ...], list[Problem]]:
    """The numbers of the instance's cards, or what is wrong with them."""
    words = instance.wish.words("inferhost_service_gpus")
    count = len(request.hardware.gpus)
    if words == ("all",):
        return tuple(range(count)), []
    path, known = instance.path("gpus"), f"0 to {count - 1}" if count > 1 else "0"
    problems = [
        Problem(path, f'found "{word}", which is no card of {HARDWARE}.gpus', f"{known}, or all", "no-such-card")
        for word in words
        if not (word.isascii() and word.isdigit() and len(word) < 4 and int(word) < count)
    ]
    if problems:
        return (), problems
    numbers = tuple(int(word) for word in words)
    if len(set(numbers)) < len(numbers):
        shown = ", ".join(words)
        return (), [Problem(path, f"found {shown}, with a card named twice", "name each card once", "card-twice")]
    return numbers or (0,), []


def _shared(request: Request, instance: Instance, other: Instance, both: set[int]) -> list[Problem]:
    """Two engines that would each take the whole of one card."""
    if not both:
        return []
    free = sorted(set(range(len(request.hardware.gpus))) - set(other.gpus))
    hint = f"{INSTANCES}.{instance.name}.gpus: [{free[0]}]" if free else "one engine per card, so far"
    found = f'"{instance.name}" would get gpus[{min(both)}], which "{other.name}" has already'
    return [Problem(instance.path("gpus"), found, hint, "card-taken")]
