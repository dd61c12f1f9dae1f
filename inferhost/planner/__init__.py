"""The planner: one pure function from wish, hardware and catalogue to the plan.

No I/O, no Ansible, no clock, no randomness: the same input gives the same bytes. Every setting of the plan has a
reason whose source exists, and a wish that cannot work is refused with all its problems at once.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from inferhost.catalogue import Catalogue
from inferhost.planner.balancer.section import BalancerSection, balancer_section, refuse_taken_port
from inferhost.planner.machine.base_units import base_units, metrics_folder
from inferhost.planner.machine.cpu import CpuSection, cpu_section
from inferhost.planner.machine.driver import cards, driver
from inferhost.planner.machine.driver_packages import DriverSection, driver_section
from inferhost.planner.machine.gpu import gpu_section
from inferhost.planner.machine.mig import layouts
from inferhost.planner.machine.models import model_section
from inferhost.planner.machine.mps import refuse_sharing
from inferhost.planner.machine.power import within_budget
from inferhost.planner.machine.runtime import runtime_section
from inferhost.planner.reasons import reason, resolve, setting_paths
from inferhost.planner.request import Instance, Request, read_request
from inferhost.planner.service.adoption import adopted_units
from inferhost.planner.service.instances import service_section
from inferhost.planner.service.placement import NO_SLICE, placed_instances
from inferhost.planner.service.surroundings import engine_is_bound
from inferhost.schema.plan import SCHEMA, SECTIONS, Cpu, Host, Plan, Reason, identified
from inferhost.schema.problems import InputError, Problem

__all__ = ["plan", "planned", "read_request", "resolve", "setting_paths"]

T = TypeVar("T")


def plan(wish_values: Mapping[str, Any], host_name: str, catalogue: Catalogue) -> Plan:
    """The plan of one host from all its `inferhost_*` variables, or `InputError` with every problem.

    The hardware is one of the variables (`inferhost_hardware`), so that the plan is a function of files in git.
    """
    return planned(read_request(wish_values), host_name, catalogue)


def planned(request: Request, host_name: str, catalogue: Catalogue) -> Plan:
    """The plan of one host whose wish and hardware were read already, or `InputError` with every problem."""
    problems: list[Problem] = []
    rows = _part(problems, lambda: cards(request.hardware, catalogue))
    replaced = _without_driver(request) if request.manages("driver") else request
    drivers = None if rows is None else _part(problems, lambda: driver(rows, replaced.hardware, catalogue))
    divided = None if rows is None else _part(problems, lambda: layouts(request, rows, catalogue))
    whole = divided or tuple(None for _ in request.hardware.gpus)
    gpus = (
        None
        if rows is None
        else _part(problems, lambda: within_budget(request, gpu_section(request, rows, whole, catalogue)))
    )
    instances = _part(problems, lambda: placed_instances(request, whole)) if request.manages("service") else ()
    _part(problems, lambda: refuse_sharing(request, instances or ()))
    cpu = _cpu(problems, request, instances or ())
    judged = replaced if drivers else _without_driver(request)
    runtime = _part(problems, lambda: runtime_section(request, catalogue))
    found_runtime = runtime.runtime if runtime else None
    service = _part(
        problems, lambda: service_section(judged, instances or (), rows, catalogue, runtime=found_runtime)
    )
    adopted = _part(problems, lambda: adopted_units(request)) if request.manages("service") else ((), [])
    balancer: BalancerSection | None = _part(problems, lambda: balancer_section(request))
    if balancer and service:
        _part(problems, lambda: refuse_taken_port(balancer.balancer, service.services))
    models = _part(problems, lambda: model_section(request, catalogue))
    section: DriverSection | None = None
    if rows is not None and drivers is not None:
        asked, services = drivers[0], service.services if service else ()
        section = _part(problems, lambda: driver_section(request, rows, asked, services, catalogue))
    metrics = _part(problems, lambda: metrics_folder(request)) or ("auto", [])
    if divided is None:  # a slice of a layout that is refused itself is no problem of its own
        problems = [problem for problem in problems if problem.id != NO_SLICE]
    if problems or rows is None or drivers is None or gpus is None or service is None or adopted is None:
        raise InputError(problems)
    if section is None or runtime is None or balancer is None or models is None:
        raise InputError(problems)
    reasons = [*drivers[1], *_untouched(request), *section.reasons, *runtime.reasons, *gpus[1]]
    pending = [*(() if section.install else drivers[2]), *gpus[2], *(cpu.pending if cpu else ()), *service.pending]
    reasons += [*(cpu.reasons if cpu else ()), *service.reasons, *adopted[1], *models[1]]
    own_files, own_reasons = base_units(request)
    reasons += [*own_reasons, *balancer.reasons, *metrics[1]]
    files = [*section.files, *runtime.files, *(cpu.files if cpu else ()), *service.files, *balancer.files, *own_files]
    return identified(
        Plan(
            schema=SCHEMA,
            plan_id="",
            wish_sha256=request.wish.sha256(),
            host=Host(host_name, request.wish.flag("inferhost_simulated")),
            manage=tuple(section for section in SECTIONS if request.manages(section)),
            driver=dataclasses.replace(
                drivers[0], version_found=request.hardware.driver_version, install=section.install
            ),
            gpus=gpus[0],
            cpu=cpu.cpu if cpu else Cpu(None),
            sysctl=cpu.sysctl if cpu else {},
            env=service.env,
            files=tuple(sorted(files, key=operator.attrgetter("path"))),
            dropins=(*section.dropins, *runtime.dropins, *service.dropins),
            service=service.services,
            budget=service.budget,
            roofline=service.roofline,
            reasons=tuple(sorted(reasons, key=operator.attrgetter("setting"))),
            pending=tuple(sorted(pending, key=operator.attrgetter("setting", "needs"))),
            models=models[0],
            adopt=adopted[0],
            balancer=balancer.balancer,
            runtime=runtime.runtime,
            spare_containers=request.wish.flag("inferhost_runtime_spare_containers"),
            metrics_folder=metrics[0],
        )
    )


def _part(problems: list[Problem], part: Callable[[], T]) -> T | None:
    """The part of the plan, or nothing once its problems are with the others."""
    try:
        return part()
    except InputError as error:
        problems += error.problems
        return None


def _without_driver(request: Request) -> Request:
    """The request for the engine's sake, once the found driver is refused anyway: one problem, said once."""
    return dataclasses.replace(request, hardware=dataclasses.replace(request.hardware, driver_version=None))


def _cpu(problems: list[Problem], request: Request, instances: tuple[Instance, ...]) -> CpuSection | None:
    if not request.manages("cpu"):
        return None
    bound = bool(instances) and all(engine_is_bound(request, instance) for instance in instances)
    return _part(problems, lambda: cpu_section(request, bound))


def _untouched(request: Request) -> list[Reason]:
    """One line per section that the wish leaves out, so that nobody takes silence for success."""
    because = "not in inferhost_manage: left untouched"
    return [
        reason(f"manage.{section}", "untouched", because, "wish:inferhost_manage", gain="none")
        for section in SECTIONS
        if not request.manages(section)
    ]
