"""An engine in a container, as its host sees it: image and description before it starts, its first process after.

The container's own engine is asked, never a file of it. What starts and stops the container is its unit.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping

from inferhost.host.machine import Machine
from inferhost.host.record.placed import placed_files
from inferhost.host.report import HostError, Report
from inferhost.host.waiting import told
from inferhost.schema.container import Container
from inferhost.schema.plan import Plan, Service
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict
from inferhost.schema.units import CONTAINED

MODE, IMAGE = "inferhost_service_mode", "inferhost_service_image"
GENERATOR = "/usr/libexec/podman/quadlet"
GENERATED = "/run/systemd/generator"


def containers(plan: Plan) -> list[tuple[Service, Container]]:
    """The instances that run in containers."""
    services = plan.service if "service" in plan.manage else ()
    return [(service, service.container) for service in services if service.container is not None]


def first_process(machine: Machine, service: Service, state: Mapping[str, str]) -> str:
    """The number of the engine's process: the unit's, or the first one of its container; "0" where none runs."""
    if service.container is None:
        return state.get("MainPID", "0")
    return _inspected(machine, service.container, "{{.State.Pid}}") or "0"


def units_of(machine: Machine, service: Service) -> set[str]:
    """The units in which an instance's processes run; docker puts a container into a scope of its own."""
    if service.container is None or service.container.engine != "docker":
        return {service.unit}
    number = _inspected(machine, service.container, "{{.Id}}")
    return {service.unit, f"docker-{number}.scope"} if number else {service.unit}


def is_of_ours(machine: Machine, unit: str) -> bool:
    """Whether a unit is the scope of a container of ours, also of one that the plan no longer has."""
    if not unit.startswith("docker-"):
        return False
    number = unit.removeprefix("docker-").removesuffix(".scope")
    done = machine.command(["docker", "inspect", "--type", "container", "--format", "{{.Name}}", number])
    return done.code == 0 and done.stdout.strip().removeprefix("/").startswith(CONTAINED)


def is_generated(state: Mapping[str, str]) -> bool:
    """Whether systemd has the unit from podman's generator: it cannot be enabled or disabled, only stopped."""
    return state.get("FragmentPath", "").startswith(GENERATED)


def container_problems(machine: Machine, plan: Plan) -> Iterator[Problem]:
    """What keeps a container from running, before anything is placed."""
    for _, container in containers(plan):
        brought = plan.runtime is not None and plan.runtime.engine == container.engine
        if machine.command([container.engine, "--version"]).code != 0 and not brought:
            message = f"{container.mode} wants {container.engine}, which is not on this host"
            yield Problem(MODE, message, "inferhost_manage with runtime installs it", "container-engine")
        elif container.mode == "compose" and not brought and _no_compose(machine):
            message = "docker compose does not answer"
            yield Problem(MODE, message, "install it: docker-compose-plugin, or docker-compose of Debian", "compose")


def bring_images(machine: Machine, plan: Plan, report: Report) -> None:
    """Every image is on the host, and every description is read by its engine, while what serves goes on serving."""
    for service, container in containers(plan):
        setting = f"service.{service.instance}.container.image"
        if machine.command([container.engine, "image", "inspect", container.image]).code != 0:
            report.change(setting, "absent", container.image)
            if report.check:
                continue
            with told(report.progress, f"{setting}: {container.engine} pull {container.image}"):
                _run(machine, [container.engine, "pull", "--quiet", container.image], IMAGE)
        said = f"{container.engine} image inspect"
        report.verdicts.append(Verdict(setting, container.image, container.image, "held", "none", said))
        _read_description(machine, plan, container)


def _read_description(machine: Machine, plan: Plan, container: Container) -> None:
    """The container's own engine reads the file that will be placed, in a folder of its own."""
    content = next(file.content for file in placed_files(plan, ["service"]) if file.path == container.file)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, os.path.basename(container.file))
        with open(path, "wb") as file:
            file.write(content)
        if container.mode == "compose":
            argv = ["docker", "compose", "--file", path, "config", "--quiet"]
        else:
            argv = ["env", f"QUADLET_UNIT_DIRS={folder}", GENERATOR, "-dryrun"]
        _run(machine, argv, MODE)


def _run(machine: Machine, argv: list[str], option: str) -> None:
    machine.before_write(" ".join(argv[:3]))
    done = machine.command(argv)
    if done.code != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.code}"])[-1]
        hint = "what serves now goes on; repair the cause and run again"
        raise HostError(Problem(option, f"{' '.join(argv[:3])}: {said}", hint, "container"))


def _inspected(machine: Machine, container: Container, form: str) -> str:
    done = machine.command([container.engine, "inspect", "--type", "container", "--format", form, container.name])
    return done.stdout.strip() if done.code == 0 else ""


def _no_compose(machine: Machine) -> bool:
    return machine.command(["docker", "compose", "version"]).code != 0
