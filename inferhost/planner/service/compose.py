"""A container as a Compose file, and the systemd unit that runs it.

The file is JSON, which is YAML too: nothing in it depends on how a value is quoted. A dollar sign is doubled, because
Compose puts variables in its place; the UUID of a slice is such a variable, which the unit gives it.
"""

from __future__ import annotations

import json
from typing import Any

from inferhost.planner.service.key import CREDENTIAL
from inferhost.planner.service.surroundings import SLICE_VARIABLE, Entries
from inferhost.schema.container import Container
from inferhost.schema.plan import UNIT_DIRECTORY, Service
from inferhost.schema.units import unit_text

FILE = "/etc/inferhost/compose/{name}.yml"
SECRETS = "/run/secrets/"


def files(
    service: Service, container: Container, environment: dict[str, str], unit: Entries
) -> list[tuple[str, str]]:
    """The Compose file and the unit, with their paths."""
    document = _literal(_document(service, container, environment))
    if service.slice is not None:
        engine = document["services"]["engine"]
        engine["environment"][SLICE_VARIABLE] = f"${{{SLICE_VARIABLE}}}"
        engine["deploy"] = _cards(container)
    text = json.dumps(document, indent=1, ensure_ascii=False)
    notice = "# Placed by inferhost; it is written anew with each plan.\n"
    found = _unit(service, container, unit)
    return [(container.file, notice + text + "\n"), (f"{UNIT_DIRECTORY}/{service.unit}", found)]


def _unit(service: Service, container: Container, around: Entries) -> str:
    command = f"/usr/bin/docker compose --file {container.file}"
    steps = [entry for entry in around if entry[1] == "ExecStartPre"]
    rest = [entry for entry in around if entry[0] == "Service" and entry not in steps]
    entries: Entries = [
        *(entry for entry in around if entry[0] == "Unit"),
        ("Unit", "After", "docker.service"),
        ("Unit", "Requires", "docker.service"),
        # Whoever looks for files that changed finds the container's description too.
        ("Unit", "SourcePath", container.file),
        ("Service", "Type", "exec"),
        # A container that a crash of docker left behind would hold the port.
        ("Service", "ExecStartPre", f"-{command} down --timeout {container.stop_s}"),
        *steps,
        ("Service", "ExecStart", f"{command} up --no-color --no-log-prefix --exit-code-from engine"),
        *rest,
        ("Service", "ExecStop", f"{command} down --timeout {container.stop_s}"),
        ("Install", "WantedBy", "multi-user.target"),
    ]
    return unit_text(entries, f"{UNIT_DIRECTORY}/{service.unit}.d/50-local.conf")


def _cards(container: Container) -> dict[str, Any]:
    found = {"driver": "cdi", "device_ids": list(container.devices), "capabilities": ["gpu"]}
    return {"resources": {"reservations": {"devices": [found]}}}


def _literal(value: Any) -> Any:
    """The same with every dollar sign as a text's own."""
    if isinstance(value, dict):
        return {key: _literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_literal(one) for one in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def _document(service: Service, container: Container, environment: dict[str, str]) -> dict[str, Any]:
    memlock = -1 if service.limit_memlock == "infinity" else int(service.limit_memlock)
    secret = next((mount for mount in container.mounts if mount[1].startswith(SECRETS)), None)
    mounts = [mount for mount in container.mounts if mount != secret]
    executable, *arguments = container.command
    engine: dict[str, Any] = {
        "image": container.image,
        "pull_policy": "never",
        "container_name": container.name,
        "entrypoint": [executable],
        "command": arguments,
        "environment": dict(sorted(environment.items())),
        "user": f"{container.user}:{container.user}",
        "working_dir": container.working_directory,
        "network_mode": "host",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true", "label=disable"],
        "tmpfs": ["/tmp:exec,mode=1777"],
        "volumes": [
            {"type": "bind", "source": source, "target": target, "read_only": how == "ro"}
            for source, target, how in mounts
        ],
        "ulimits": {
            "nofile": {"soft": service.limit_nofile, "hard": service.limit_nofile},
            "memlock": {"soft": memlock, "hard": memlock},
        },
        "stop_grace_period": f"{container.stop_s}s",
        "healthcheck": {
            "test": ["CMD", *container.health],
            "interval": "30s",
            "start_period": f"{container.health_start_s}s",
        },
        "deploy": _cards(container),
    }
    if container.cpus:
        engine["cpuset"] = container.cpus
    if container.host_ipc:
        engine["ipc"] = "host"
    if container.shared_memory_mib:
        engine["shm_size"] = f"{container.shared_memory_mib}m"
    document: dict[str, Any] = {"name": container.name, "services": {"engine": engine}}
    if secret is not None:
        source, target, _ = secret
        engine["secrets"] = [{"source": CREDENTIAL, "target": target}]
        document["secrets"] = {CREDENTIAL: {"file": source}}
    return document
