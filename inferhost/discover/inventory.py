"""Hardware and wish from what a host said: what it is made of, and a wish that keeps what it does now.

Unknown stays unknown. A card's memory is what CUDA gives a program, less what the desktop holds of it at the moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import GpuRow
from inferhost.imports.judge import SURROUNDINGS, Finding
from inferhost.imports.launch import Launch, recognised
from inferhost.imports.wish import PREFIX, pinned, wished
from inferhost.planner.machine.card_wishes import CARDS

LIBRARY_PREFIXES = ("CUDA_", "NCCL_", "TORCH", "PYTORCH_", "TRITON_", "HF_", "NVIDIA_", "OMP_", "CUBLAS")
"""Variables that somebody set for the engine; everything else in a process's environment came with its session."""


def hardware(facts: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """The hardware document; a card that the catalogue does not know keeps its name, and the plan refuses it."""
    cpu, engines, switches = facts["cpu"], facts.get("container_engines", []), facts.get("nvswitches", 0)
    return {
        "gpus": [_gpu(gpu, catalogue) for gpu in facts["gpus"]],
        "cpu": {
            "sockets": cpu["sockets"] or 1,
            "cores": cpu["cores"] or cpu["threads"] or 1,
            "numa_nodes": cpu["numa_nodes"],
            "cpufreq": cpu["cpufreq"],
            "scaling_driver": cpu["scaling_driver"],
            "energy_performance_preferences": cpu["energy_performance_preferences"],
            **({"node_cpus": cpu["node_cpus"]} if cpu["numa_nodes"] > 1 else {}),
        },
        "memory_mib": facts["memory_mib"] or 0,
        "virtualization": facts["virtualization"] or "none",
        "os": facts["os"] or "unknown",
        "driver_version": facts["driver_version"],
        **({"container_engines": engines} if engines else {}),
        **({"nvswitches": switches} if switches else {}),
    }


def card_row(gpu: Mapping[str, Any], catalogue: Catalogue) -> GpuRow | None:
    """The catalogue's row: by PCI device id, and by NVML's name where several cards share one."""
    rows = [row for row in catalogue.gpus.values() if gpu["pci_device_id"] in row.pci_device_ids]
    named = [row for row in rows if row.name == gpu["name"]]
    return next(iter(named or rows), None)


def launches(facts: Mapping[str, Any]) -> list[tuple[Launch, Mapping[str, Any]]]:
    """Every engine that runs, one per unit: the process that was launched, not the workers that it started."""
    found: dict[str, tuple[Launch, Mapping[str, Any]]] = {}
    for process in facts["processes"]:
        where = process["unit"] or f"process {process['pid']}"
        launch = recognised(process["words"], where, process["directory"])
        if launch is not None and where not in found:
            own = {**process["environment"], **launch.env}
            found[where] = (
                Launch(
                    where,
                    launch.engine,
                    launch.program,
                    launch.words,
                    {name: value for name, value in own.items() if _meant(name)},
                    user=process["user"],
                    directory=process["directory"],
                ),
                process,
            )
    return list(found.values())


def wish(facts: Mapping[str, Any], catalogue: Catalogue) -> tuple[dict[str, Any], list[tuple[Launch, list[Finding]]]]:
    """The wish that keeps what the host does now, and what became of each flag and variable of its engines."""
    values: dict[str, Any] = {}
    findings: list[tuple[Launch, list[Finding]]] = []
    running = launches(facts)
    services: dict[str, dict[str, Any]] = {}
    adopted = []
    for launch, process in running:
        found, service = wished(_known_only(launch, catalogue), catalogue)
        findings.append((launch, found))
        name = "main" if len(running) == 1 else _instance(launch.place)
        services[name] = service
        if process["adoptable"]:
            adopted.append(process["unit"])
    if facts["simulated"]:
        values["inferhost_simulated"] = True
    if not running:
        values["inferhost_manage"] = ["gpu", "cpu"]
    values.update(_settings(facts, catalogue))
    if len(services) == 1:
        values.update({f"{PREFIX}{key}": value for key, value in services.popitem()[1].items()})
    elif services:
        values[f"{PREFIX}instances"] = services
    if adopted:
        values[f"{PREFIX}adopt"] = adopted
    return values, findings


def _gpu(gpu: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    row = card_row(gpu, catalogue)
    return {
        "model": row.key if row else (gpu["name"] or f"pci-{gpu['pci_device_id']}").lower().replace(" ", "-"),
        "uuid": gpu["uuid"],
        "pci_device_id": gpu["pci_device_id"],
        "memory_mib": memory_mib(gpu, row),
        "power_min_w": gpu["power_min_w"],
        "power_default_w": gpu["power_default_w"],
        "power_max_w": gpu["power_max_w"],
        "numa_node": gpu["numa_node"],
        "pci_address": gpu["pci_bus_id"],
    }


def memory_mib(gpu: Mapping[str, Any], row: GpuRow | None) -> int:
    """What a program of ours can have of the card, in MiB; 0 where neither driver nor catalogue knows."""
    known = [gpu["memory_mib"], row.memory_under_cuda_mib if row else None, row.memory_mib if row else None]
    sizes = [size for size in known if size]
    return max(0, min(sizes) - int(gpu["display_mib"])) if sizes else 0


def _settings(facts: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """How cards and kernel are set now, as wishes; a power limit that is not that of all cards is said of each."""
    found: dict[str, Any] = {}
    own = [gpu for gpu in facts["gpus"] if gpu["power_limit_w"] not in (None, gpu["power_default_w"])]
    if len(own) == len(facts["gpus"]) and len({gpu["power_limit_w"] for gpu in own}) == 1:
        found["inferhost_gpu_power_limit"] = str(own[0]["power_limit_w"])
    elif own:
        found[CARDS] = {gpu["uuid"] or gpu["pci_bus_id"]: {"power_limit": str(gpu["power_limit_w"])} for gpu in own}
    persistence = {gpu["persistence_mode"] for gpu in facts["gpus"]}
    if persistence == {False}:
        found["inferhost_gpu_persistence_mode"] = False
    found["inferhost_cpu_governor"] = "leave"
    found["inferhost_cpu_numa_balancing"] = "leave"
    if facts["swappiness"] is not None:
        found["inferhost_cpu_swappiness"] = facts["swappiness"]
    return found


def _meant(name: str) -> bool:
    return name not in SURROUNDINGS and name.isupper()


def _known_only(launch: Launch, catalogue: Catalogue) -> Launch:
    """The launch with those variables of its process that somebody set for the engine."""
    engine = pinned(launch.engine, catalogue)
    prefixes = (*LIBRARY_PREFIXES, *engine.variable_prefixes)
    known = {*catalogue.env, *catalogue.flags_by_variable(engine)}
    env = {n: v for n, v in launch.env.items() if n in known or n.startswith(prefixes)}
    return Launch(
        launch.place, launch.engine, launch.program, launch.words, env, user=launch.user, directory=launch.directory
    )


def _instance(place: str) -> str:
    plain = "".join(c if c.isalnum() else "-" for c in place.partition(".service")[0].lower())
    return plain.strip("-")[:32] or "main"
