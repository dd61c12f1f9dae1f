"""What the host program answers: what changed, what differs, and a verdict with evidence per setting.

Accepted is not effective: a verdict is what was observed, never what a call returned.
"""

from __future__ import annotations

import dataclasses
from typing import Any

VERDICTS = (
    "held", "clamped", "ignored", "overridden", "refused", "unsupported", "not_applicable", "pending", "unverified",
)  # fmt: skip
DRIFT = frozenset({"ignored", "clamped", "overridden", "refused"})
CAUSES = (
    "power_cap", "thermal", "power_brake", "hypervisor", "memory_pstate", "other_writer", "driver_reload",
    "no_interface", "read_only", "needs_driver", "needs_reboot", "needs_load", "indistinguishable", "unexplained",
    "none",
)  # fmt: skip

EXIT_AS_WANTED = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_DRIFT = 3
EXIT_NO_DRIVER = 4
EXIT_RECORD_UNUSABLE = 5
EXIT_LOCKED = 6
EXIT_PENDING = 7
EXIT_NOT_DONE = 8
EXIT_CODES = {
    EXIT_AS_WANTED: "as wanted",
    EXIT_BUG: "a bug in inferhost",
    EXIT_BAD_INPUT: "bad input, nothing was touched",
    EXIT_DRIFT: "a setting is not held, or could not be written",
    EXIT_NO_DRIVER: "no driver, for a command that is about NVML alone",
    EXIT_RECORD_UNUSABLE: "the record of what was here before (baseline.json) is unusable, nothing was touched",
    EXIT_LOCKED: "another inferhost is at work",
    EXIT_PENDING: "something is pending, e.g. the driver is not there yet",
    EXIT_NOT_DONE: "it could not be carried out, or not wholly: what needs it must not follow",
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found for one setting. `setting` is e.g. `gpu.GPU-1234.power_limit_w` or `sysctl.vm.swappiness`."""

    setting: str
    wanted: Any
    found: Any
    verdict: str
    cause: str
    evidence: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS or self.cause not in CAUSES:
            raise ValueError(f"{self.setting}: {self.verdict} ({self.cause}) is not among the pinned words")


@dataclasses.dataclass(frozen=True)
class Change:
    """One difference between what was there and what is (in check mode: would be) there."""

    setting: str
    before: str
    after: str


@dataclasses.dataclass(frozen=True)
class Result:
    """The whole answer; printed as one JSON document on stdout."""

    changed: bool
    diff: tuple[Change, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    facts: dict[str, Any]


def exit_code(verdicts: tuple[Verdict, ...]) -> int:
    """Drift beats pending, pending beats success."""
    found = {v.verdict for v in verdicts}
    if found & DRIFT:
        return EXIT_DRIFT
    return EXIT_PENDING if "pending" in found else EXIT_AS_WANTED
