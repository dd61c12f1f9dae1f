"""A container as a Quadlet file: podman's generator makes a systemd unit of it.

Only keys that podman 4.4 knows; what came later is given as options of `podman run`.
"""

from __future__ import annotations

import json

from inferhost.planner.launch import quoting
from inferhost.planner.service.surroundings import SLICE_VARIABLE, Entries
from inferhost.schema.container import Container
from inferhost.schema.plan import UNIT_DIRECTORY, Service
from inferhost.schema.units import unit_text

FILE = "/etc/containers/systemd/{name}.container"


def files(
    service: Service, container: Container, environment: dict[str, str], unit: Entries
) -> list[tuple[str, str]]:
    """The one file, with its path."""
    executable, *arguments = container.command
    memlock = "-1" if service.limit_memlock == "infinity" else service.limit_memlock
    options = [
        "--pull=never",
        f"--entrypoint={executable}",
        f"--workdir={container.working_directory}",
        f"--ulimit=nofile={service.limit_nofile}:{service.limit_nofile}",
        f"--ulimit=memlock={memlock}:{memlock}",
        "--pids-limit=0",  # podman's own is 2048, which threads of many cores and cards reach
        "--tmpfs=/tmp:exec,mode=1777",
        "--security-opt=label=disable",  # the key for it writes a form that podman documents nowhere
        f"--stop-timeout={container.stop_s}",
        f"--health-cmd={json.dumps(list(container.health))}",
        "--health-interval=30s",
        f"--health-start-period={container.health_start_s}s",
    ]
    options += [f"--cpuset-cpus={container.cpus}"] if container.cpus else []
    # Its value is the unit's own; the device's name below is filled in from it by systemd.
    options += [f"--env={SLICE_VARIABLE}"] if service.slice else []
    options += ["--ipc=host"] if container.host_ipc else []
    options += [f"--shm-size={container.shared_memory_mib}m"] if container.shared_memory_mib else []
    own: Entries = [
        ("Container", "Image", container.image),
        ("Container", "ContainerName", container.name),
        ("Container", "Exec", quoting.exec_start(arguments)),
        # It becomes an option of a command line, where a dollar sign means something too.
        *(("Container", "Environment", quoting.exec_start([f"{n}={v}"])) for n, v in sorted(environment.items())),
        ("Container", "User", str(container.user)),
        ("Container", "Group", str(container.user)),
        ("Container", "Network", "host"),
        ("Container", "ReadOnly", "true"),
        ("Container", "DropCapability", "all"),
        ("Container", "NoNewPrivileges", "true"),
        *(("Container", "AddDevice", device) for device in container.devices),
        *(("Container", "Volume", _literal(":".join(mount))) for mount in container.mounts),
        *(("Container", "PodmanArgs", quoting.exec_start([option])) for option in options),
    ]
    before = [entry for entry in unit if entry[0] == "Unit"]
    after = [entry for entry in unit if entry[0] == "Service"]
    entries = [*before, *own, *after, ("Install", "WantedBy", "multi-user.target")]
    return [(container.file, unit_text(entries, f"{UNIT_DIRECTORY}/{service.unit}.d/50-local.conf"))]


def _literal(text: str) -> str:
    """Text that ends up in an ExecStart as it is."""
    return text.replace("%", "%%").replace("$", "$$")
