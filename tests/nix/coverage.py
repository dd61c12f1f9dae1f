"""Who takes what from the plan: for each key, Ansible's side and NixOS's side. A new key of the plan belongs here.

`PLACED` is checked by changing the key and watching what is placed, `HOST` by the host program's source. Any other
text is a reason why that side has nothing to do with the key, and that is checked too: changing it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from inferhost.schema import document
from inferhost.schema.container import Container, Runtime
from inferhost.schema.plan import Balancer, DriverPackages

PLACED = "placed"
HOST = "the host program reads it"
PEOPLE = "for people: it explains, and sets nothing"
RECORD = "for people: the same value stands in the drop-in or is asked by the probe"
PLANNED = "the planner has used it; what follows from it is in the plan"
NIX_ONLY = "the packages that follow from it are in driver.install; NixOS has no packages of a distribution"
FETCHED = "sudo inferhost fetch brings it on NixOS too; a store path is no place for weights"
NO_PACKAGES = "NixOS installs its own driver, see driver.kernel_module: there the plan names no packages"
RESTART = "NixOS restarts what changed; the roles leave that to the host program"

NO_CONTAINER = "the planner refuses containers on NixOS, which has no folder for Quadlet or Compose files of ours"
NO_ENGINE = "NixOS has its own options for engine and toolkit: there the plan names neither"

SOME_PACKAGES = DriverPackages("apt", "535", None, "proprietary", ("x",), ("x",), None, "x", "x", None, False)
SOME_BALANCER = Balancer("haproxy", "x", "x", "x", "x", "x", 1, None, None, 1, ())
SOME_CONTAINER = Container(
    "quadlet", "podman", "x", "/x", "x", ("x",), 1, ("x",), (("x", "x", "ro"),), "/x", None, False, ("x",), 1, 1
)
SOME_RUNTIME = Runtime("podman", "5.4.2", "apt", ("x",), ("x",), None, None, "/run/cdi/x", {})

KEYS: dict[str, tuple[str, str]] = {
    # key: (Ansible, NixOS)
    "schema": (HOST, "checked when the plan is read, see test_a_plan_that_cannot_be_trusted_is_refused"),
    "plan_id": (HOST, "checked when the plan is read, see test_a_plan_that_cannot_be_trusted_is_refused"),
    "wish_sha256": (PEOPLE, PLACED),
    "host.name": (HOST, PLACED),
    "host.simulated": (HOST, PLACED),
    "manage": (HOST, PLACED),
    "driver.kernel_module": (NIX_ONLY, PLACED),
    "driver.first_version": (NIX_ONLY, PLACED),
    "driver.last_branch": (NIX_ONLY, PLACED),
    "driver.version_found": (PEOPLE, "what another system had found; NixOS brings its own driver"),
    "driver.install": (HOST, NO_PACKAGES),
    "gpus[].model": (PEOPLE, PEOPLE),
    "gpus[].name": (PEOPLE, PEOPLE),
    "gpus[].select.uuid": (HOST, HOST),
    "gpus[].select.pci_device_id": (HOST, HOST),
    "gpus[].select.ordinal": (HOST, HOST),
    "gpus[].persistence_mode": (HOST, PLACED),
    "gpus[].power_limit_w": (HOST, HOST),
    "gpus[].graphics_clock_lock_mhz": (HOST, HOST),
    "gpus[].memory_clock_lock_mhz": (PLANNED, PLANNED),
    "gpus[].application_clocks_mhz": (HOST, HOST),
    "gpus[].compute_mode": (HOST, HOST),
    "gpus[].guard": (HOST, HOST),
    "gpus[].ecc": (HOST, HOST),
    "gpus[].mig": (HOST, HOST),
    "cpu.governor": (HOST, PLACED),
    "cpu.energy_performance_preference": (HOST, HOST),
    "cpu.idle_latency_us": (HOST, HOST),
    "sysctl": (HOST, PLACED),
    "env": (HOST, HOST),
    "files[].path": (PLACED, PLACED),
    "files[].section": (PLACED, "the plan holds no file of a section that is not managed"),
    "files[].mode": (PLACED, PLACED),
    "files[].content": (PLACED, PLACED),
    "files[].package_file": (PLACED, PLACED),
    "files[].disruption": (PEOPLE, RESTART),
    "dropins[].unit": (PLACED, PLACED),
    "dropins[].section": (PLACED, "the plan holds no drop-in of a section that is not managed"),
    "dropins[].entries": (PLACED, PLACED),
    "dropins[].disruption": (PEOPLE, RESTART),
    "service[].instance": (HOST, PLACED),
    "service[].unit": (HOST, PLACED),
    "service[].user": (HOST, PLACED),
    "service[].engine": (PEOPLE, PEOPLE),
    "service[].engine_version": (PEOPLE, PEOPLE),
    "service[].model": (PEOPLE, PEOPLE),
    "service[].model_path": (
        HOST,
        "refused by the roles where it is not there; NixOS cannot look before it switches",
    ),
    "service[].argv": (HOST, PLACED),
    "service[].host": (RECORD, PLACED),
    "service[].port": (RECORD, PLACED),
    "service[].context_tokens": (RECORD, RECORD),
    "service[].max_sequences": (RECORD, RECORD),
    "service[].limit_nofile": (HOST, HOST),
    "service[].limit_memlock": (HOST, HOST),
    "service[].probe.url": (HOST, HOST),
    "service[].probe.wait_s": (HOST, HOST),
    "service[].probe.body": (HOST, HOST),
    "service[].probe.warm_up_words": (HOST, HOST),
    "service[].probe.gpu_memory_mib": (HOST, HOST),
    "service[].probe.key_file": (HOST, HOST),
    "service[].slice": (HOST, HOST),
    "service[].container": (HOST, NO_CONTAINER),
    "service[].drain": (HOST, HOST),
    "service[].disruption": (PEOPLE, RESTART),
    "service[].install": (HOST, "NixOS takes the engine from services.inferhost.instances.NAME.package"),
    "service[].check_argv": (HOST, "refused by the roles; NixOS cannot ask an engine before it switches"),
    "service[].overruled_by": (HOST, "refused by the roles; NixOS cannot look at the host before it switches"),
    "service[].compiles_with": (
        HOST,
        "what pip brings needs it; NixOS takes the engine with all it needs as a package",
    ),
    "service[].upgrade_least_percent": (
        "roles/inferhost_service/tasks/upgrade.yml compares with it",
        "NixOS goes back to an earlier generation; there playbooks/upgrade.yml is not used",
    ),
    "models[].name": (HOST, FETCHED),
    "models[].path": (HOST, FETCHED),
    "models[].kind": (HOST, FETCHED),
    "models[].source": (HOST, FETCHED),
    "models[].location": (HOST, FETCHED),
    "models[].revision": (HOST, FETCHED),
    "models[].files": (HOST, FETCHED),
    "models[].endpoint": (HOST, FETCHED),
    "models[].sha256": (HOST, FETCHED),
    "models[].expected_bytes": (HOST, FETCHED),
    "models[].token_file": (HOST, FETCHED),
    "models[].quantise": (HOST, FETCHED),
    "metrics_folder": (HOST, HOST),
    "adopt": (HOST, "a unit of somebody else is turned off in the configuration that declares it"),
    "balancer": (HOST, "refused by the section's name: a balancer is for services.haproxy or services.nginx there"),
    "runtime": (HOST, NO_ENGINE),
    "spare_containers": (HOST, "a switch of NixOS reloads its units whatever the plan says"),
    "budget": (PEOPLE, PEOPLE),
    "roofline": (PEOPLE, PEOPLE),
    "reasons": (PEOPLE, PEOPLE),
    "pending": (PEOPLE, PEOPLE),
}

GROUPS = ("reasons", "pending")
"""Lists that are taken or left as a whole."""


def keys(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every key of the plan with its JSON schema, `[]` behind a list of mappings; `GROUPS` are not opened."""
    if "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from keys(inner, f"{path}.{name}" if path else name)
    elif "properties" in schema.get("items", {}) and path not in GROUPS:
        yield from keys(schema["items"], f"{path}[]")
    else:
        yield path, schema


def changed(plan: Any, key: str, value: Any) -> Any:
    """A copy of the plan with one key set in every entry that has it."""
    step, _, rest = key.partition(".")
    name = step.removesuffix("[]")
    copy = dict(plan)
    if not rest:
        copy[name] = value
    elif step.endswith("[]"):
        copy[name] = [changed(item, rest, value) for item in plan[name]]
    else:
        copy[name] = changed(plan[name], rest, value)
    return copy


def found(plan: Any, key: str) -> Any:
    """The value of a key in its first entry, or None where there is no entry."""
    for step in key.split("."):
        if plan is None:
            return None
        plan = plan[step.removesuffix("[]")]
        if step.endswith("[]"):
            plan = plan[0] if plan else None
    return plan


def others(value: Any, schema: Mapping[str, Any]) -> list[Any]:
    """Values that the schema allows and that differ; among them one of each kind that some reader tells apart."""
    words = ["x", "/etc/x", "0600", "cpu", "0.0.0.0", "either", "proprietary"]
    lists = [value[1:], [*value, value[0]]] if isinstance(value, list) and value else [["x"], [1500], []]
    tables = [{}, {**value, "x": "1"}] if isinstance(value, dict) else []
    tables.append({"gpu": {"uuid": None, "pci_device_id": "2335", "ordinal": 0}, "number": 0})
    tables.append({"url": "x", "metrics": [], "limit_s": 1})
    tables.append({"limit_c": 85, "resume_c": 75, "power_w": "min", "cool_down_s": 300})
    tables.append({"program": "x", "type": "x", "fetched_path": "x", "sha256": None})
    tables.append(
        {
            "kind": "pip",
            "prefix": "/x",
            "python": "x",
            "python_min": "3.10",
            "arguments": [],
            "repository": None,
            "commit": None,
        }
    )
    candidates = [
        *words,
        None,
        True,
        False,
        7,
        *lists,
        *tables,
        document.plain(SOME_PACKAGES),
        document.plain(SOME_BALANCER),
        document.plain(SOME_RUNTIME),
        document.plain(SOME_CONTAINER),
    ]
    check = jsonschema.Draft202012Validator(schema)
    return [c for c in candidates if check.is_valid(c) and (c, type(c)) != (value, type(value))]
