"""Which cards each engine instance gets, how much of them, and who starts first.

Placed by the wish alone, before any engine is chosen: an instance names its cards by their number in
`inferhost_hardware.gpus`, and without a word gets the first ones. Instances on one card share its memory and start
one after the other, by name, because engines measure what is free when they start. Nothing here computes bytes.
"""

from __future__ import annotations

import dataclasses

from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.machine.mig import MIG, Layout
from inferhost.planner.request import HARDWARE, INSTANCES, Instance, Request, read_instances
from inferhost.schema.problems import InputError, Problem

SHARE = "memory_share"
NO_SLICE = "no-such-slice"


def placed_instances(request: Request, divided: tuple[Layout | None, ...]) -> tuple[Instance, ...]:
    """Every instance with its cards and its share of them, by name, or `InputError` with the problems of all."""
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
        try:
            placed.append(_placed(request, instance, divided))
        except InputError as error:
            problems += error.problems
    if not problems:
        problems = _share_problems(placed)
    if problems:
        raise InputError(problems)
    shares = {instance.name: _share(instance, placed) for instance in placed}
    return tuple(_ordered(number, placed, shares) for number in range(len(placed)))


def parallel_problems(
    instance: Instance, engine: EngineRow, model: ModelRow, rows: tuple[GpuRow, ...], request: Request
) -> list[Problem]:
    """Why the engine cannot split the model over the cards of the instance.

    Source: formula `engine.tensor_parallel`.
    """
    size = instance.tensor_parallel_size
    if size == 1:
        return []
    path = instance.path("tensor_parallel_size" if instance.integer("tensor_parallel_size") else "gpus")
    if "tensor_parallel_size" not in engine.flags:
        found = f"found {size} cards, and {engine.engine} {engine.version} is planned for one"
        hint = "one card per instance, or sglang or vllm with a checkpoint in safetensors over several"
        if "gpu_layers" in engine.flags:
            hint += f"; {instance.path('gpu_layers')}: auto leaves in host memory what one card does not hold"
        return [Problem(path, found, hint, "tensor-parallel")]
    problems = []
    kinds = {(rows[n].key, request.hardware.gpus[n].memory_mib) for n in instance.gpus}
    if len(kinds) > 1:
        shown = " and ".join(sorted(f"{key} with {mib} MiB" for key, mib in kinds))
        hint = "cards of one model and size: the slowest and smallest one would hold the others back"
        problems.append(Problem(path, f"found unequal cards: {shown}", hint, "tensor-parallel"))
    heads, kv_heads = model.query_heads, model.kv_heads
    if heads is None:
        hint = "one card, until a row of inferhost/catalogue/models.json says it"
        problems.append(Problem(path, f"found {size}, and {model.key}'s query heads are not known", hint))
    elif not divides(model, size):
        fitting = [n for n in range(2, 65) if divides(model, n)]
        hint = f"{', '.join(map(str, [1, *fitting]))} for this model"
        found = f"found {size}, which does not divide the {heads} query heads and {kv_heads} KV heads of {model.key}"
        problems.append(Problem(path, found, hint, "tensor-parallel"))
    return problems


def divides(model: ModelRow, size: int) -> bool:
    """Whether so many cards can share out the heads of a model. Source: formula `engine.tensor_parallel`."""
    heads, kv_heads = model.query_heads, model.kv_heads
    return heads is not None and not heads % size and (not kv_heads % size or not size % kv_heads)


def _placed(request: Request, instance: Instance, divided: tuple[Layout | None, ...]) -> Instance:
    """The instance on its cards, or on one slice of a divided card; `InputError` for what is not there."""
    words = instance.wish.words("inferhost_service_gpus")
    card, sign, part = (words[0] if len(words) == 1 else "").partition("/")
    asked = instance
    if sign:
        whole = {**instance.wish.values, "inferhost_service_gpus": [card]}
        asked = dataclasses.replace(instance, wish=dataclasses.replace(instance.wish, values=whole))
    gpus, problems = _gpus(request, asked)
    if problems:
        raise InputError(problems)
    cut = [number for number in gpus if divided[number]]
    if not sign and not cut:
        return dataclasses.replace(instance, gpus=gpus)
    number, path = (cut or gpus)[0], instance.path("gpus")
    slices = divided[number] or ()
    if not slices:
        found = f'found "{words[0]}", and gpus[{number}] is not divided'
        raise InputError([Problem(path, found, f"{number}, or divide it with {MIG}", NO_SLICE)])
    known = ", ".join(f"{number}/{one.number} ({one.profile})" for one in slices)
    if len(gpus) > 1 or (not sign and words):
        found = f"found {', '.join(words) or f'{len(gpus)} cards'}, and {MIG} divides gpus[{number}]"
        raise InputError([Problem(path, found, f"one of {known}: a program sees one slice", NO_SLICE)])
    wanted = int(part) if part.isascii() and part.isdigit() and len(part) < 4 else -1 if sign else 0
    if not 0 <= wanted < len(slices):
        raise InputError([Problem(path, f'found "{words[0]}", which is no slice', f"one of {known}", NO_SLICE)])
    return dataclasses.replace(instance, gpus=gpus, slice=slices[wanted])


def _gpus(request: Request, instance: Instance) -> tuple[tuple[int, ...], list[Problem]]:
    """The numbers of the instance's cards, or what is wrong with them."""
    words, size = instance.wish.words("inferhost_service_gpus"), instance.integer("tensor_parallel_size")
    count = len(request.hardware.gpus)
    path, known = instance.path("gpus"), f"0 to {count - 1}" if count > 1 else "0"
    if not 0 <= size <= count:
        hint = f"at most {count}, or 0 for all cards of {path}"
        found = f"found {size}, and {HARDWARE}.gpus names {count}"
        return (), [Problem(instance.path("tensor_parallel_size"), found, hint, "tensor-parallel")]
    if words == ("all",):
        words = tuple(str(number) for number in range(count))
    problems = [
        Problem(path, f'found "{word}", which is no card of {HARDWARE}.gpus', f"{known}, or all", "no-such-card")
        for word in words
        if not (word.isascii() and word.isdigit() and len(word) < 4 and int(word) < count)
    ]
    if problems:
        return (), problems
    numbers = tuple(int(word) for word in words) or tuple(range(size or 1))
    if len(set(numbers)) < len(numbers):
        shown = ", ".join(words)
        return (), [Problem(path, f"found {shown}, with a card named twice", "name each card once", "card-twice")]
    if size and size != len(numbers):
        found = f"found {size}, and {path} names {len(numbers)}"
        hint = f"{len(numbers)}, or 0, which means all of them"
        return (), [Problem(instance.path("tensor_parallel_size"), found, hint, "tensor-parallel")]
    return numbers, []


Place = tuple[int, int | None]
"""A card, or a slice of one: what instances share."""


def _places(instance: Instance) -> list[Place]:
    return [(number, instance.slice.number if instance.slice else None) for number in instance.gpus]


def _on_card(placed: list[Instance], place: Place) -> list[Instance]:
    return [instance for instance in placed if place in _places(instance)]


def _share_problems(placed: list[Instance]) -> list[Problem]:
    """Shares that are no percentage, and cards whose shares add up to more than they have."""
    problems = []
    for instance in placed:
        percent = instance.integer(SHARE)
        if not 0 <= percent <= 100:
            hint = "for example 50; 0 is an equal part"
            problems.append(Problem(instance.path(SHARE), f"found {percent}, wanted 0 to 100", hint, "memory-share"))
    places = dict.fromkeys(place for instance in placed for place in _places(instance))
    for place in () if problems else places:
        here, number = _on_card(placed, place), place[0]
        given = sum(instance.integer(SHARE) for instance in here)
        unset = sum(not instance.integer(SHARE) for instance in here)
        if given > 100 or (given == 100 and unset):
            last = [i for i in here if i.integer(SHARE)][-1]
            shown = ", ".join(f"{i.name} {i.integer(SHARE) or 'unset'}" for i in here)
            hint = f"at most {max(1, 100 - given + last.integer(SHARE) - unset)} for {last.name}"
            found = f"the shares of gpus[{number}] leave nothing for some: {shown} percent"
            problems.append(Problem(last.path(SHARE), found, hint, "memory-share"))
    return problems


def _share(instance: Instance, placed: list[Instance]) -> float:
    """How much of each of its cards an instance may take: what it asks for, else the least equal part."""
    if instance.integer(SHARE):
        return instance.integer(SHARE) / 100
    parts = []
    for place in _places(instance):
        here = _on_card(placed, place)
        left = 100 - sum(other.integer(SHARE) for other in here)
        parts.append(left / 100 / sum(not other.integer(SHARE) for other in here))
    return min(parts)


def _ordered(number: int, placed: list[Instance], shares: dict[str, float]) -> Instance:
    """The instance with its share, and what starts before and after it on its cards."""
    instance = placed[number]
    mine = _places(instance)
    before = tuple(other.name for other in placed[:number] if set(mine) & set(_places(other)))
    later = [sum(shares[o.name] for o in placed[number + 1 :] if place in _places(o)) for place in mine]
    return dataclasses.replace(instance, share=shares[instance.name], later_share=min(later), after=before)
