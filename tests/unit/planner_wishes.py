"""Wishes and hardware for the planner's tests, by catalogue key alone, so that a test names only what it is about."""

from typing import Any

from inferhost import catalogue, planner
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError

CATALOGUE = catalogue.load()


def gpu(key: str, **own: Any) -> dict[str, Any]:
    """One card as discovery would describe it; unknown ranges stay unknown."""
    row = CATALOGUE.gpus[key]
    memory_mib = row.memory_mib or round((row.memory_label_gb or 0) * 1024 * 0.97)
    ranges = {name: getattr(row, name) for name in ("power_min_w", "power_default_w", "power_max_w")}
    plain = {"model": key, "uuid": None, "pci_device_id": row.pci_device_ids[0], "memory_mib": memory_mib}
    return {**plain, "numa_node": None, **ranges, **own}


def hardware(*gpus: dict[str, Any], **own: Any) -> dict[str, Any]:
    """A bare host with these cards and a driver that none of them refuses."""
    plain = {
        "gpus": list(gpus),
        "cpu": {"sockets": 1, "cores": 16, "numa_nodes": 1, "cpufreq": True},
        "memory_mib": 131072,
        "virtualization": "none",
        "os": "debian-13",
        "driver_version": "580.95.05",
    }
    return {**plain, **own}


def wish(card: str, model: str, **own: Any) -> dict[str, Any]:
    """A wish for one model on one card; keys of `own` are options without `inferhost_`."""
    plain = {
        "inferhost_hardware": hardware(gpu(card)),
        "inferhost_service_model": model,
        "inferhost_service_model_path": f"/srv/models/{model}",
        "inferhost_service_context_tokens": 2048,
    }
    return {**plain, **{f"inferhost_{name}": value for name, value in own.items()}}


def planned(values: dict[str, Any], host: str = "host") -> Plan:
    return planner.plan(values, host, CATALOGUE)


def refusal(values: dict[str, Any], known: catalogue.Catalogue = CATALOGUE) -> str:
    """The whole text with which a wish is refused."""
    try:
        planner.plan(values, "host", known)
    except InputError as error:
        return str(error)
    raise AssertionError("the wish was planned")
