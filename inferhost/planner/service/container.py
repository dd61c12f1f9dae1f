"""The container that an engine runs in, where the wish asks for one: what it is given, and the files that say so.

Arguments, variables, address and port are those of a process of the host, so gate, drain and balancer know no
difference. Cards come by their CDI names, the image by its digest. `quadlet` and `compose` write down what is decided
here; a unit of its own starts and stops the container in both.
"""

from __future__ import annotations

import dataclasses
import re

from inferhost.catalogue.install_row import InstallRow
from inferhost.catalogue.rows import EngineRow, GpuRow
from inferhost.planner.launch import quoting
from inferhost.planner.machine.mps import PIPE_DIRECTORY, with_mps
from inferhost.planner.machine.runtime import FIRST_WITH_CDI, QUADLET, present_engines, version_numbers
from inferhost.planner.reasons import reason
from inferhost.planner.request import HARDWARE, Instance, Request
from inferhost.planner.service import compose, key, quadlet
from inferhost.planner.service.surroundings import (
    BEFORE_CONTAINER,
    COMPOSE,
    CONTAINER_USER,
    ON_HOST,
    RESTART,
    SLICE_VARIABLE,
    WARM_FILE,
    Entries,
    card_node,
    needs,
    node_cpus,
    own_slice,
    stop,
    wall,
)
from inferhost.schema.container import Container, Runtime
from inferhost.schema.parts import gguf_parts
from inferhost.schema.plan import File, Reason, Service
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.units import CONTAINED

CPU_LIST = re.compile(r"(\d+(-\d+)?(,\d+(-\d+)?)*)?")
IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}")
ENGINE_OF = {"quadlet": "podman", COMPOSE: "docker"}
FIRST = {"quadlet": QUADLET, COMPOSE: FIRST_WITH_CDI["docker"]}
HEALTH = ("curl", "--noproxy", "*", "--fail", "--silent", "--output", "/dev/null")
"""Past any proxy: docker and podman hand their containers the host's, and none of those reaches this address."""
GAIN = "none: it runs in a container as on the host"


def contained(instance: Instance) -> bool:
    """Whether the instance runs in a container."""
    return instance.text("mode") != ON_HOST


def build_command(row: InstallRow, card: GpuRow) -> str:
    """What builds the image of an engine for this card, up to the base images, which a person picks by digest; empty
    where there is no such file, or it has no code for the card.

    Source: formula `container.build`.
    """
    digits = int(card.compute_capability.replace(".", ""))
    fitting = [target for target in row.build_targets if target // 10 == digits // 10 and target <= digits]
    if not row.build_argument or (row.build_targets and not fitting):
        return ""
    name, form = row.build_argument
    digits = max(fitting, default=digits)
    value = form.format(digits=digits, variant="a" if digits >= 120 else "")
    words = [f"--build-arg {name}={value}", f"--build-arg REVISION={row.commit or 'COMMIT'}"]
    bases = "--build-arg BUILD_IMAGE=CUDA-DEVEL@sha256:... --build-arg RUN_IMAGE=CUDA-RUNTIME@sha256:..."
    return f"podman build --format docker -f containers/{row.key}.Containerfile {' '.join(words)} {bases} ."


def container_problems(
    request: Request, instance: Instance, row: InstallRow, runtime: Runtime | None, card: GpuRow
) -> list[Problem]:
    """What is wrong with mode and image together, and with what a container cannot have."""
    mode, image, path = instance.text("mode"), instance.text("image"), instance.path
    if not contained(instance):
        hint = "quadlet for podman, compose for docker; or leave the image out"
        found = f'found "{image}", and {path("mode")} is unit, which runs no container'
        return [Problem(path("image"), found, hint, "container")] if image else []
    problems = []
    if not IMAGE.fullmatch(image):
        named = (row.image or f"localhost/{row.key}").partition(":")[0]
        found = f'found "{image}", wanted an image by digest' if image else "is required in a container"
        hint = f"{named}@sha256:DIGEST; podman image inspect --format '{{{{.Digest}}}}' says it of what was pulled"
        command = build_command(row, card)
        hint += f"; or {command}" if command else ""
        problems.append(Problem(path("image"), found, hint, "no-digest"))
    if request.hardware.os.startswith("nixos"):
        problems.append(Problem(path("mode"), f'found "{mode}", which NixOS is not given here', "unit", "container"))
    else:
        problems += _engine_problems(request, instance, runtime)
    if instance.text("engine_install") != "given":
        found = f'found "{instance.text("engine_install")}", and the engine comes in an image'
        problems.append(Problem(path("engine_install"), found, "leave it out", "container"))
    if instance.sets("user"):
        found = f'found "{instance.text("user")}", and a container runs as {CONTAINER_USER}, which needs no account'
        problems.append(Problem(path("user"), found, "leave it out", "container"))
    if instance.slice is None and not _named_cards(request, instance):
        found = "has several cards without a UUID, and numbers mean other cards inside a container"
        hint = "inferhost discover writes the UUIDs"
        problems.append(Problem("inferhost_hardware.gpus", found, hint, "container"))
    if ":" in instance.text("model_path"):
        found = f'found "{instance.text("model_path")}", and a colon ends the path of a mount'
        problems.append(Problem(path("model_path"), found, "a path without one", "container"))
    for number, cpus in enumerate(request.hardware.cpu.node_cpus or ()):
        if not CPU_LIST.fullmatch(cpus):
            where, found = f"{HARDWARE}.cpu.node_cpus[{number}]", f'found "{cpus}", wanted a list of CPUs'
            problems.append(Problem(where, found, "as the kernel writes it, for example 0-9,20-29", "cpus"))
    if mode == COMPOSE and instance.wish.words("inferhost_service_allow_from"):
        found = "is a filter of the unit, and docker runs its containers outside of it"
        problems.append(Problem(path("allow_from"), found, "quadlet, unit, or a firewall of yours", "container"))
    return problems


def in_container(
    request: Request,
    instance: Instance,
    engine: EngineRow,
    row: InstallRow,
    *,
    entry: Service,
    environment: dict[str, str],
    before: tuple[Service, ...],
) -> tuple[Service, tuple[File, ...], list[Reason]]:
    """The service in its container, the files that describe it, and the reasons of both."""
    mode, name = instance.text("mode"), f"{CONTAINED}{instance.name}"
    writer = compose if mode == COMPOSE else quadlet
    stop_s = engine.stop_timeout_s
    cache, runtime_directory = f"/var/cache/inferhost/{instance.name}", f"/run/{name}"
    mounts = [*((path, path, "ro") for path in gguf_parts(entry.model_path)), (cache, cache, "rw")]
    if with_mps(request):
        mounts.append((PIPE_DIRECTORY, PIPE_DIRECTORY, "rw"))
    if instance.text(key.OPTION):
        mounts.append((f"{runtime_directory}/{key.CREDENTIAL}", key.credential_path(instance, entry.unit), "ro"))
    url = entry.probe.url.removesuffix(engine.probe_path)
    container = Container(
        mode=mode,
        engine=ENGINE_OF[mode],
        name=name,
        file=writer.FILE.format(name=name),
        image=instance.text("image"),
        command=key.command(engine, instance, entry.argv),
        user=CONTAINER_USER,
        devices=tuple(f"nvidia.com/gpu={name}" for name in _card_names(request, instance)),
        mounts=tuple(mounts),
        working_directory=cache,
        shared_memory_mib=None if with_mps(request) else row.image_shared_memory_mib,
        host_ipc=with_mps(request),
        health=(*HEALTH, url + engine.health_path),
        health_start_s=entry.probe.wait_s,
        stop_s=stop_s,
        cpus=node_cpus(request, instance),
    )
    service = dataclasses.replace(entry, check_argv=(), container=container)
    unit, reasons = _around(request, instance, engine, service, container, before=before)
    files = tuple(
        File(path, "service", "0644", text, None, RESTART)
        for path, text in writer.files(service, container, environment, unit)
    )
    because = f"describes the container to {container.engine}, or starts it: {entry.engine} {entry.engine_version}"
    reasons += [
        reason(f"files.{file.path}", container.name, because, instance.source("mode"), gain=GAIN, disruption=RESTART)
        for file in files
    ]
    return service, files, [*reasons, *_reasons(request, instance, engine, row, container)]


def _around(
    request: Request, instance: Instance, engine: EngineRow, entry: Service, container: Container,
    *, before: tuple[Service, ...],
) -> tuple[Entries, list[Reason]]:  # fmt: skip
    """What the container's unit has around it, in both modes."""
    where = f"service.{instance.name}.container.unit"
    entries, reasons = needs(request, instance, where, before)
    entries = [*BEFORE_CONTAINER, ("Unit", "Wants", WARM_FILE.replace("@.", f"@{instance.name}.")), *entries]
    own = f"-m 0700 -o {container.user} -g {container.user}"
    entries.append(("Service", "ExecStartPre", f"/usr/bin/install -d {own} {container.working_directory}"))
    path = instance.text(key.OPTION)
    if path:
        folder = f"/run/{container.name}"
        entries.append(("Service", "RuntimeDirectory", container.name))
        entries.append(("Service", "RuntimeDirectoryMode", "0700"))
        copy = ["/usr/bin/install", "-m", "0400", "-o", str(container.user), path, f"{folder}/{key.CREDENTIAL}"]
        entries.append(("Service", "ExecStartPre", quoting.exec_start(copy)))
    parts = [own_slice(instance, entry, where), stop(instance, entry, engine, where)]
    if container.mode != COMPOSE:  # docker's containers are no part of the unit
        parts.insert(1, wall(instance, entry, where))
    for found, why in parts:
        entries, reasons = entries + found, reasons + why
    return entries, reasons


def _engine_problems(request: Request, instance: Instance, runtime: Runtime | None) -> list[Problem]:
    """Why the host's container engine cannot run it."""
    mode = instance.text("mode")
    wanted, first = ENGINE_OF[mode], FIRST[mode]
    there = present_engines(request)
    versions = {runtime.engine: runtime.version, **there} if runtime is not None else there
    least = ".".join(str(number) for number in first)
    if wanted not in versions:
        found = f'found "{mode}", and this host has no {wanted}'
        others = [other for other, engine in ENGINE_OF.items() if engine in versions]
        ways = " or ".join([*others, ON_HOST])
        hint = f"inferhost_manage with runtime, and inferhost_runtime_engine: {wanted}; or {ways}"
        return [Problem(instance.path("mode"), found, hint, "container-engine")]
    if version_numbers(versions[wanted]) < first:
        found = f'found "{mode}", and {wanted} {versions[wanted]} is too old: {least} is the first that can'
        return [Problem(instance.path("mode"), found, f"{wanted} {least} or later, or {ON_HOST}", "container-engine")]
    return []


def _named_cards(request: Request, instance: Instance) -> bool:
    cards = request.hardware.gpus
    return len(cards) == 1 or all(cards[number].uuid for number in instance.gpus)


def _card_names(request: Request, instance: Instance) -> list[str]:
    """The cards as a CDI specification calls them: by UUID, or the number of the only one; a slice by the UUID that
    the unit reads when it starts."""
    if instance.slice is not None:
        return [f"${{{SLICE_VARIABLE}}}"]
    return [request.hardware.gpus[number].uuid or str(number) for number in instance.gpus]


def _cpus_because(request: Request, instance: Instance, container: Container) -> str:
    """Why a container has the CPUs that it has."""
    node = card_node(request, instance)
    if node is None:
        return "all of them: one node, or no common one known of its cards"
    if container.cpus is None:
        return f"not kept on node {node} of its card: {HARDWARE}.cpu.node_cpus names no CPU of it, discover would"
    return f"the card hangs on node {node}: the engine's threads stay there, and so does the memory that they ask for"


def _reasons(
    request: Request, instance: Instance, engine: EngineRow, row: InstallRow, container: Container
) -> list[Reason]:
    """Why the container is given what it is given."""
    installs = f"catalogue:installs/{engine.key}"
    shared = "what its processes pass to each other; it is a limit and takes nothing by itself"
    if container.host_ipc:
        shared = "shared with the MPS daemon"
    rows = (
        ("mode", container.mode, instance.origin("mode"), instance.source("mode")),
        ("engine", container.engine, f"{container.mode} is run by it", instance.source("mode")),
        ("image", container.image, "by digest: no registry can change what runs", "formula:container.digest"),
        ("user", container.user, "no account, no capability, read-only image", "formula:container.user"),
        ("devices", list(container.devices), "by CDI: a reload of systemd takes no card away", "formula:runtime.cdi"),
        ("mounts", [" ".join(mount) for mount in container.mounts],
         "the weights read-only, the compiled kernels kept; nothing else of the host", "formula:container.user"),
        ("shared_memory_mib", container.shared_memory_mib, shared if row.image_shared_memory_mib else "one process",
         f"{installs}#image_shared_memory_mib"),
        ("host_ipc", container.host_ipc, "MPS wants one IPC namespace with its daemon" if container.host_ipc else
         "its own", "formula:container.mps"),
        ("health", " ".join(container.health), "the gate proves tokens", "formula:container.health"),
        ("network", "host", "address and port are those of the arguments", "formula:container.network"),
        ("selinux", "label=disable", "where SELinux is on, a label of its own can read no weights and use no card",
         "formula:container.selinux"),
        ("cpus", container.cpus, _cpus_because(request, instance, container), "formula:container.cpus"),
        ("stop_s", container.stop_s, engine.stop_because, f"catalogue:engines/{engine.key}#stop_timeout_s"),
    )  # fmt: skip
    where = f"service.{instance.name}.container"
    return [
        reason(f"{where}.{name}", value, because, source, gain=GAIN, disruption=RESTART)
        for name, value, because, source in rows
    ]


def refuse_container(
    request: Request, instance: Instance, row: InstallRow, runtime: Runtime | None, card: GpuRow
) -> None:
    """`InputError` with everything that keeps the instance from running as it is asked to."""
    problems = container_problems(request, instance, row, runtime, card)
    if problems:
        raise InputError(problems)
