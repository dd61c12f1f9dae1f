"""The engine instances: engine, environment, budget, command line and unit, every value with its reason.

Puts together what the other rooms of the planner decide, and collects their problems. Nothing here knows an
engine by name: flags, defaults and limits come from its catalogue row.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.launch.arguments import ExtraArguments, extra_arguments, selection_of_flags, unchecked_flags
from inferhost.planner.launch.command import Told, cache_reason, command_line, priority_problems
from inferhost.planner.launch.environment import engine_environment
from inferhost.planner.machine import cpu
from inferhost.planner.machine.gpu_modes import ecc_wish
from inferhost.planner.machine.mig import sliced_card
from inferhost.planner.memory.budget import Budget, card_bytes, fraction_pending, memory_budget
from inferhost.planner.memory.engine_rules import Demand
from inferhost.planner.memory.host_memory import (
    HostNeed,
    host_document,
    host_needs,
    host_pending,
    host_problems,
    lowered_because,
    own_limits,
)
from inferhost.planner.request import HARDWARE, INSTANCES, Instance, Request
from inferhost.planner.service import offload, unit
from inferhost.planner.service.alternatives import bits_hint, cards_hint, fitting_hint, offload_hint, room_hint
from inferhost.planner.service.attention import attention_problems, attention_reason
from inferhost.planner.service.container import contained, in_container, refuse_container
from inferhost.planner.service.engine import chosen_engine
from inferhost.planner.service.form import context_tokens, form_problems, model_row
from inferhost.planner.service.home import own_environment
from inferhost.planner.service.install import engine_install
from inferhost.planner.service.placement import parallel_problems
from inferhost.planner.speed.outlook import memory_lock_mhz, predicted
from inferhost.planner.speed.targets import asked_latencies
from inferhost.schema.container import Runtime
from inferhost.schema.plan import Dropin, File, Pending, Reason, Service
from inferhost.schema.problems import PORT_TAKEN, InputError, Problem

UNFIT = frozenset({"weights-do-not-fit", "context-does-not-fit"})
"""Problems that another engine may not have."""


@dataclasses.dataclass(frozen=True)
class ServiceSection:
    """What the section places, with its reasons; what belongs to one instance stands under its name."""

    services: tuple[Service, ...] = ()
    env: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    files: tuple[File, ...] = ()
    dropins: tuple[Dropin, ...] = ()
    budget: dict[str, Any] = dataclasses.field(default_factory=dict)
    roofline: dict[str, Any] = dataclasses.field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    pending: tuple[Pending, ...] = ()


def service_section(
    request: Request,
    instances: tuple[Instance, ...],
    rows: tuple[GpuRow, ...] | None,
    catalogue: Catalogue,
    *,
    runtime: Runtime | None = None,
) -> ServiceSection:
    """Everything about the instances, or `InputError` with every problem that can be told apart.

    Nothing can be told without a known card: the problem of the cards then stands alone.
    """
    if rows is None or not instances:
        return ServiceSection()
    problems: list[Problem] = []
    parts: list[_Part] = []
    for instance in instances:
        try:
            part = _part(request, instance, rows, catalogue, before=parts, engines=len(instances), runtime=runtime)
            parts.append(part)
        except InputError as error:
            problems += error.problems
    problems += _port_problems(instances, parts, catalogue)
    if not problems:
        needs = [need for part in parts for need in part.needs]
        problems += host_problems(request.hardware.memory_mib, needs, cpu.memlock_bytes(request))
    if problems:
        raise InputError(problems)
    shared, file_reasons = unit.files(parts[0].engine, any(part.dropin for part in parts))
    return ServiceSection(
        services=tuple(part.service for part in parts),
        env={part.instance.name: part.env for part in parts},
        files=(*shared, *(file for part in parts for file in part.files)),
        dropins=tuple(part.dropin for part in parts if part.dropin is not None),
        budget={part.instance.name: part.budget for part in parts},
        roofline={part.instance.name: part.roofline for part in parts},
        reasons=(*file_reasons, *(reason for part in parts for reason in part.reasons)),
        pending=tuple(pending for part in parts for pending in part.pending),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """What belongs to one instance."""

    instance: Instance
    engine: EngineRow
    service: Service
    env: dict[str, str]
    dropin: Dropin | None  # none in a container
    files: tuple[File, ...]
    budget: dict[str, Any]
    roofline: dict[str, Any]
    reasons: list[Reason]
    pending: list[Pending]
    needs: list[HostNeed]


def _part(
    request: Request,
    instance: Instance,
    rows: tuple[GpuRow, ...],
    catalogue: Catalogue,
    *,
    before: list[_Part],
    engines: int,
    runtime: Runtime | None,
) -> _Part:
    card, model = _card(instance, rows), _model(request, instance, catalogue)
    sized = _sized(request, instance, model, rows, catalogue)
    engine, extra, budget = sized.engine, sized.extra, sized.budget
    reasons, pending = [*sized.reasons], [*sized.pending]
    image = catalogue.installs[engine.key]
    refuse_container(request, instance, image, runtime, card)
    needs, lowered = _host_needs(request, instance, model, sized, catalogue, engines=engines)
    in_image = image.image_command if contained(instance) else ()
    argv, argv_reasons = command_line(instance, engine, model, budget, extra, further=lowered, in_image=in_image)
    own, own_reasons = own_environment(request, instance, argv[0], sized.env)
    env = {**own, **sized.env}
    reasons += own_reasons
    service, service_reasons = unit.service(request, instance, engine, model, budget=budget, argv=argv)
    install, install_reasons = engine_install(instance, engine, catalogue)
    tools = () if install is None or request.wish.flag("inferhost_simulated") else image.compiles_with
    service = dataclasses.replace(service, install=install, compiles_with=tools)
    reasons += install_reasons
    awaited, dropin = tuple(_awaited(instance, before)), None
    files: tuple[File, ...] = ()
    if contained(instance):
        service, files, placed_reasons = in_container(
            request, instance, engine, image, entry=service, environment=env, before=awaited
        )
    else:
        dropin, placed_reasons = unit.dropin(request, instance, service, env, engine, before=awaited)
    reasons += [*argv_reasons, *service_reasons, *placed_reasons]
    reasons += cache_reason(instance, engine, budget)
    reasons += attention_reason(instance, engine, model, card, argv=argv, catalogue=catalogue)
    pending += _pending(request, instance, engine, extra, catalogue)
    pending += host_pending(instance, request.hardware.memory_mib, needs)
    if budget.placement is None or budget.placement.whole(model):
        speed = predicted(request, instance, card, model, engine, budget=budget, catalogue=catalogue)
        roofline, pending = speed.roofline, pending + speed.pending
    else:
        roofline = offload.host_roofline(card, model, budget.placement, memory_lock_mhz(request, instance))
        pending += asked_latencies(instance, None)
    document = {**budget.document(), "host": host_document(request.hardware.memory_mib, needs)}
    return _Part(instance, engine, service, env, dropin, files, document, roofline, reasons, pending, needs)


def _host_needs(
    request: Request, instance: Instance, model: ModelRow, sized: _Sized, catalogue: Catalogue, *, engines: int
) -> tuple[list[HostNeed], list[Told]]:
    """What the engine takes of the host's memory, and which of its own limits it has to be told lower."""
    engine, host_mib = sized.engine, request.hardware.memory_mib
    needs = host_needs(
        instance, engine, model, sized.budget, words=sized.extra.words, env=sized.env, catalogue=catalogue
    )
    limits = own_limits(engine, host_mib, needs, engines, instance=instance)
    lowered = [
        Told(concept, round(need.value), lowered_because(need, host_mib), "formula:memory.host")
        for need in limits
        if need.flag is not None and need.value < (need.flag.default or 0)
        for concept, flag in engine.flags.items()
        if flag == need.flag.flag
    ]
    return [*needs, *limits], lowered


@dataclasses.dataclass(frozen=True)
class _Sized:
    """An engine that holds the model, and what was found out on the way."""

    engine: EngineRow
    extra: ExtraArguments
    budget: Budget
    env: dict[str, str]
    reasons: list[Reason]
    pending: list[Pending]


@dataclasses.dataclass(frozen=True)
class _Unfit:
    """The first engine that did not hold the model. What would fit is looked for only where no other one does."""

    error: InputError
    model: ModelRow
    engine: EngineRow
    demand: Demand
    cards: int  # of the host that are like the engine's, its own counted; 1 for a slice

    def refusal(self, card: GpuRow, instance: Instance, total_bytes: int, catalogue: Catalogue) -> InputError:
        """The refusal, with what would fit added to the problem of weights that do not."""
        model, engine, demand = self.model, self.engine, self.demand
        offers = [
            room_hint(model, engine, card, instance, total_bytes=total_bytes, demand=demand),
            fitting_hint(model, card, instance, total_bytes=total_bytes, demand=demand, catalogue=catalogue),
            cards_hint(model, engine, card, instance, total_bytes=total_bytes, demand=demand, cards=self.cards),
            bits_hint(model, engine, instance, total_bytes=total_bytes, demand=demand, catalogue=catalogue),
        ]
        if not any(offers):
            offers = [
                offload_hint(model, card, instance, total_bytes=total_bytes, demand=demand, catalogue=catalogue)
            ]
        offer = "; or ".join(text for text in offers if text)
        told = InputError(
            dataclasses.replace(p, hint=f"{offer}; or {p.hint}") if offer and p.id == "weights-do-not-fit" else p
            for p in self.error.problems
        )
        return offload.offered(told, total_bytes, model, engine, demand, instance=instance)


def _sized(
    request: Request, instance: Instance, model: ModelRow, rows: tuple[GpuRow, ...], catalogue: Catalogue
) -> _Sized:
    """The engine with its budget. Where the choice is the planner's, one that does not hold the model is passed over;
    when none holds it, the refusal is that of the first.
    """
    card = _card(instance, rows)
    total_bytes = card_bytes(
        request.hardware.gpus[instance.gpus[0]].memory_mib, card, ecc_wish(request.of_card(instance.gpus[0]))
    )
    unfit: dict[str, str] = {}
    first: _Unfit | None = None
    while True:
        try:
            engine, reasons = chosen_engine(request, instance, model, card, catalogue, unfit=unfit)
            problems = [
                *parallel_problems(instance, engine, model, rows, request),
                *priority_problems(instance, engine),
            ]
            if problems:
                raise InputError(problems)
            extra, (env, env_reasons, pending) = _checked_extras(request, instance, engine, catalogue)
            problems = attention_problems(instance, engine, model, card, words=extra.words, catalogue=catalogue)
            if problems:
                raise InputError(problems)
            demand = _demand(instance, model, extra, total_bytes)
        except InputError as error:
            raise (first.refusal(card, instance, total_bytes, catalogue) if first else error) from error
        cache = engine.kv_cache[instance.text("kv_cache_dtype")]
        try:
            budget = memory_budget(total_bytes, model, engine, cache, demand, instance=instance)
        except InputError as error:
            first = first or _Unfit(error, model, engine, demand, _like_its_card(request, instance, rows))
            if instance.text("engine") != "auto" or {p.id for p in error.problems} - UNFIT:
                raise first.refusal(card, instance, total_bytes, catalogue) from error
            unfit[engine.key] = f"{engine.engine} {engine.version}: {error.problems[0].message}"
            continue
        pending += fraction_pending(total_bytes, budget, model, engine, demand, instance=instance)
        return _Sized(engine, extra, budget, env, [*reasons, *env_reasons], pending)


def _card(instance: Instance, rows: tuple[GpuRow, ...]) -> GpuRow:
    """The card that the engine sees: a slice of a divided one looks like a smaller card."""
    row = rows[instance.gpus[0]]
    return sliced_card(row, instance.slice) if instance.slice else row


def _like_its_card(request: Request, instance: Instance, rows: tuple[GpuRow, ...]) -> int:
    """How many cards of the host are like those of the instance, which a slice has nothing of."""
    kinds = [(row.key, gpu.memory_mib) for row, gpu in zip(rows, request.hardware.gpus, strict=True)]
    return 1 if instance.slice else kinds.count(kinds[instance.gpus[0]])


def _awaited(instance: Instance, before: list[_Part]) -> list[Service]:
    """The engines to wait for that can prove themselves; one that answers no request can only be started first."""
    return [p.service for p in before if p.instance.name in instance.after and not p.engine.probe_needs]


def _port_problems(instances: tuple[Instance, ...], parts: list[_Part], catalogue: Catalogue) -> list[Problem]:
    """Instances that would listen on the same port, each with the next free one; also where one has no plan."""
    problems = []
    taken: dict[int, str] = {}
    known = {part.instance.name: part.service.port for part in parts}
    wished = {instance.name: known.get(instance.name) or _wished_port(instance, catalogue) for instance in instances}
    ports = {port for port in wished.values() if port}
    for instance in instances:
        name, port = instance.name, wished[instance.name]
        if port is None:
            continue
        if port in taken:
            free = next(number for number in range(port + 1, 65536 + len(ports)) if number not in ports)
            hint = f"{INSTANCES}.{name}.port: {free}"
            found = f'found {port} for "{name}", where "{taken[port]}" listens already'
            problems.append(Problem(instance.path("port"), found, hint, PORT_TAKEN))
            ports.add(free)
        taken.setdefault(port, name)
    return problems


def _wished_port(instance: Instance, catalogue: Catalogue) -> int | None:
    """The port of an instance that could not be planned: its own, or the usual one of the engine that it names."""
    engines = (row for row in catalogue.engines.values() if row.pinned and row.engine == instance.text("engine"))
    return instance.integer("port") or next((row.port for row in engines), None)


def _model(request: Request, instance: Instance, catalogue: Catalogue) -> ModelRow:
    """The model, with the problems of all single values collected before it is of use."""
    problems = form_problems(instance) + cpu.limit_problems(request)
    if instance.text("model"):
        try:
            model = model_row(instance, catalogue)
        except InputError as error:
            problems += error.problems
        else:
            if not problems:
                return model
    raise InputError(problems)


def _checked_extras(
    request: Request, instance: Instance, engine: EngineRow, catalogue: Catalogue
) -> tuple[ExtraArguments, tuple[dict[str, str], list[Reason], list[Pending]]]:
    """Further arguments and environment, with the problems of both together."""
    problems: list[Problem] = []
    extra, environment = None, None
    try:
        extra = extra_arguments(instance, engine, catalogue)
    except InputError as error:
        problems += error.problems
    try:
        environment = engine_environment(request, instance, engine, catalogue)
    except InputError as error:
        problems += error.problems
    if extra is None or environment is None:
        raise InputError(problems)
    return extra, environment


def _demand(instance: Instance, model: ModelRow, extra: ExtraArguments, total_bytes: int) -> Demand:
    """What the engine is asked for; on a shared card its fraction is the plan's to choose."""
    if instance.share < 1 and "memory_fraction" in extra.overrides:
        hint = f"use {instance.path('memory_share')}: the plan computes the fraction from the shares"
        found = f'"{instance.name}" has its card not for itself, and a memory fraction of its own'
        raise InputError([Problem(instance.path("extra_args"), found, hint, "memory-share")])
    placement, may_offload = offload.wanted_placement(instance, model)
    return Demand(
        context_tokens(instance, model),
        instance.integer("max_sequences"),
        extra.overrides.get("memory_fraction"),
        extra.overrides.get("batched_tokens", instance.workload.batched_tokens),
        extra.overrides.get("micro_batch"),
        tensor_parallel_size=instance.tensor_parallel_size,
        used_bytes=total_bytes - math.floor(total_bytes * instance.share),
        later_bytes=math.floor(total_bytes * instance.later_share),
        placement=placement,
        may_offload=may_offload,
        most_cache_tokens=extra.overrides.get("most_cache_tokens"),
    )


def _pending(
    request: Request, instance: Instance, engine: EngineRow, extra: ExtraArguments, catalogue: Catalogue
) -> list[Pending]:
    """What only the host can settle."""
    where = f"service.{instance.name}"
    found = []
    if request.hardware.driver_version is None and engine.min_driver_branch is not None:
        needs = f"driver branch {engine.min_driver_branch} or later"
        found.append(Pending(f"{where}.engine", needs, f"{HARDWARE}.driver_version is not known"))
    if engine.probe_needs:
        found.append(Pending(f"{where}.probe", engine.probe_needs, f"{engine.engine} answers no request without it"))
    for flag in unchecked_flags(extra.words, engine, catalogue):
        because = selection_of_flags(engine)
        found.append(Pending(f"{where}.argv.{flag}", "a look into the engine's source", because))
    return found
