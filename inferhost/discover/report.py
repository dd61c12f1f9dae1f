"""What was found, what a plan would make of it, and the most that this can give: prose for a person, on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.discover.inventory import card_row, launches, memory_mib
from inferhost.discover.passthrough import controlled_elsewhere, prerequisites
from inferhost.planner import plan
from inferhost.schema import document
from inferhost.schema.problems import InputError
from inferhost.table import shown

TUNING = ("gpus[", "cpu.", "sysctl.", "adopt.")
"""What a person tunes; the rest of a plan is what an engine is told."""
NOTHING = "nothing was changed on {host}"


def render_found(host: str, facts: Mapping[str, Any], catalogue: Catalogue) -> str:
    """Cards, driver, machine and everything that serves or computes."""
    lines = [f"FOUND on {host}"]
    for number, gpu in enumerate(facts["gpus"]):
        row = card_row(gpu, catalogue)
        name = gpu["name"] or (row.name if row else f"PCI device {gpu['pci_device_id']}, unknown to the catalogue")
        uuid = gpu["uuid"] or "UUID unknown without a driver"
        lines.append(f"  gpus[{number}]: {name} ({uuid}), {memory_mib(gpu, row)} MiB for an engine")
        if gpu["display_mib"]:
            lines.append(f"    the desktop holds {gpu['display_mib']} MiB of it, which are subtracted")
        if gpu["power_limit_w"] is not None:
            default = f", {gpu['power_default_w']} by default" if gpu["power_default_w"] else ""
            lines.append(
                f"    power limit {gpu['power_limit_w']} W{default}; persistence {shown(gpu['persistence_mode'])}"
            )
    if not facts["gpus"]:
        lines.append("  no NVIDIA card on the PCI bus")
    simulated = " (simulated)" if facts["simulated"] else ""
    lines.append(f"  driver: {facts['driver_version'] or 'none that answers'}{simulated}")
    cpu = facts["cpu"]
    lines.append(
        f"  {facts['os']}, {cpu['model'] or 'unknown processor'}, {cpu['threads']} threads, "
        f"{cpu['numa_nodes']} NUMA node(s), {facts['memory_mib']} MiB"
    )
    lines += [f"  {line}" for line in controlled_elsewhere(facts)]
    lines += [f"  passthrough, {line}" for line in prerequisites(facts)]
    return "\n".join([*lines, *_serving(facts)]) + "\n"


def _serving(facts: Mapping[str, Any]) -> list[str]:
    running = launches(facts)
    lines = []
    for launch, process in running:
        ports = ", ".join(str(port) for port in process["ports"]) or "not seen"
        lines.append(f"  serving: {launch.engine} in {launch.place} as {process['user']}, port {ports}")
        if not process["adoptable"]:
            lines.append("    it runs in no service of the system: stop it by hand before site.yml")
    known = {process["unit"] for _, process in running} | {process["pid"] for _, process in running}
    for process in facts["processes"]:
        if process["gpu_memory_mib"] and process["unit"] not in known and process["pid"] not in known:
            words = " ".join(process["words"][:3])
            lines.append(f"  computing: process {process['pid']} ({words}) holds {process['gpu_memory_mib']} MiB")
    if not facts["root"]:
        lines.append("  seen without root: who listens and what others run is not known in full")
    return lines or ["  serving: nothing that is known"]


def render_plan(host: str, wish: Mapping[str, Any], hardware: Mapping[str, Any], catalogue: Catalogue) -> str:
    """What a plan of this wish would set, with the most that each setting can give; or why there is none."""
    try:
        made = document.plain(plan({**wish, "inferhost_hardware": hardware}, host, catalogue))
    except InputError as error:
        lines = ["WOULD NOT PLAN yet: repair this in the files below", *(f"  {x}" for x in str(error).splitlines())]
        return "\n".join(lines) + "\n"
    lines = ["WOULD PLAN, and gain at most"]
    said = [r for r in made["reasons"] if r["setting"].startswith(TUNING)]
    said = [r for r in said if r["value"] is not None or "at most" in r["gain"]]
    lines += [f"  {r['setting']} = {shown(r['value'])}: {r['gain']}" for r in said]
    lines.append(f"  and {len(made['reasons']) - len(said)} more, which the plan shows with their reasons")
    for name, speed in made["roofline"].items():
        ceiling = speed.get("ceiling_tok_s_max_clock")
        if ceiling is not None:
            expected = speed["expected_tok_s"] or "unknown: a part of the model is in host memory"
            lines.append(f"  {name}: at most {ceiling} tok/s for one request, expected {expected}")
            lines.append(f"    {speed['conclusion']}")
        for lever in speed.get("levers", ()):
            lines.append(f"    {lever['lever']}: {lever['effect']}")
    lines += [f"  pending: {item['setting']} needs {item['needs']}" for item in made["pending"]]
    return "\n".join(lines) + "\n"
