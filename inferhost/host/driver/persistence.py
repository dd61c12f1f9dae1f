"""Whether the packaged daemon keeps the driver loaded: asked of each card, not of its unit.

Where the GPU section is managed its own verdict says it, so this one is for a host whose driver alone is managed.
"""

from __future__ import annotations

from inferhost.host.gpu.nvml import NvmlError, open_nvml
from inferhost.host.machine import Machine
from inferhost.schema.plan import DriverPackages, Plan
from inferhost.schema.result import Verdict

UNIT = "nvidia-persistenced.service"


def persistence_verdicts(machine: Machine, plan: Plan, install: DriverPackages) -> list[Verdict]:
    """One verdict per card, or one that waits for the driver."""
    if not install.persistence or "gpu" in plan.manage:
        return []
    try:
        with open_nvml(machine.before_write) as nvml:
            if nvml.simulated():  # the section never manages a simulated card, so this is not its driver
                return [_unread("pending", "needs_driver", "a simulator answers for NVML")]
            found = {card.uuid: nvml.persistence_mode(card) for card in nvml.cards()}
    except NvmlError as error:
        return [_unread(error.verdict, error.cause, error.evidence)]
    return [_verdict(uuid, on) for uuid, on in found.items()]


def _unread(verdict: str, cause: str, evidence: str) -> Verdict:
    return Verdict("driver.persistence", "on", None, verdict, cause, evidence)


def _verdict(gpu_uuid: str, on: bool) -> Verdict:
    setting = f"driver.persistence.{gpu_uuid}"
    if on:
        return Verdict(setting, "on", "on", "held", "none", "read back from the card")
    evidence = f"off, so the card forgets its limits when idle: systemctl restart {UNIT}, and read its journal"
    return Verdict(setting, "on", "off", "ignored", "unexplained", evidence)
