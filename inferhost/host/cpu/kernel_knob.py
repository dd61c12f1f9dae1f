"""One value that the running kernel shows as a file, in procfs or sysfs: written in place, read back, put back.

In a container these files are read-only: a value that differs is then `unsupported`, `read_only`, never written by
force, and never ours to restore.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Any

from inferhost.host.knob import Knob, Unusable, restore_knobs
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record, recorded_keys
from inferhost.host.report import Report, reason
from inferhost.host.watch.writers import Writer, daemons, owner_of
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

NEVER_APPLIED = (
    "not applied yet: nothing is on record of it, as of a CPU that came online since; inferhost apply sets it"
)


class KernelKnob(Knob):
    """A knob whose value is the text of one file; `place` is how evidence names it, alike for many CPUs."""

    section = "cpu"

    def __init__(self, machine: Machine, path: str, setting: str, key: str, wanted: str) -> None:
        super().__init__(setting, key, wanted)
        self.machine = machine
        self.path = self.place = path
        self.owner: Writer | None = None  # never written beside a daemon that does
        self.on_record = True

    def obstacle(self) -> Unusable | None:
        if self.owner is not None:
            evidence = f"{self.owner.shown()} writes it: stop and disable it, or leave this setting to it"
            return Unusable("refused", "other_writer", evidence, True)
        if self.machine.writable(self.path):
            return None
        return Unusable("unsupported", "read_only", f"{self.place} is not writable here", False)

    def judge(self, before: Any, found: Any) -> Verdict:
        if before is None and found != self.wanted and not self.on_record:
            return self.verdict(found, "overridden", "unexplained", NEVER_APPLIED)
        return super().judge(before, found)

    def context(self) -> dict[str, str]:
        return {"writable": "yes" if self.machine.writable(self.path) else "no"}

    def write(self) -> None:
        """Writes the value, or `Unusable` with what the kernel's answer means."""
        try:
            self.machine.write_kernel(self.path, self.wanted)
        except OSError as error:
            evidence = f'{self.place}: the kernel refused "{self.wanted}": {reason(error)}'
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise Unusable("unsupported", "read_only", evidence, False) from error
            raise Unusable("refused", "unexplained", evidence, True) from error


def owned(machine: Machine, knobs: Sequence[KernelKnob]) -> list[Knob]:
    """The knobs of a plan, each with the daemon that owns it here, and whether anything is on record of it."""
    known, recorded = daemons(machine) if knobs else [], recorded_keys(machine)
    for knob in knobs:
        knob.on_record = recorded is None or knob.key in recorded
        knob.owner = owner_of(knob.setting, known)
    return list(knobs)


def restore_kernel_knobs(
    originals: Sequence[tuple[KernelKnob, Record]], baseline: Baseline, report: Report
) -> list[str]:
    """Puts recorded values back, and returns remarks. What was read-only when recorded is only forgotten.

    So is what was recorded of something else: after it nothing was written, and what the boot gave stays.
    """
    ours: list[KernelKnob] = []
    remarks = []
    for knob, record in originals:
        if record.context.get("writable") == "no" and not knob.machine.writable(knob.path):
            remarks.append(f"{knob.setting}: not writable here, so never changed by us")
            baseline.drop([knob.key], report.check)
        elif knob.outlived(record):
            remarks.append(f"{knob.setting}: {knob.outlived(record)}; what is there now stays")
            baseline.drop([knob.key], report.check)
        else:
            ours.append(knob)
    known = daemons(ours[0].machine) if ours else []
    for knob in ours:
        owner = owner_of(knob.setting, known)
        if owner is not None:
            remarks.append(f"{knob.setting}: put back beside {owner.shown()}, whose own value comes with its restart")
    restore_knobs(ours, baseline, report)
    return remarks


def keep_offline(knob: KernelKnob, cpu: int, report: Report) -> None:
    """What an offline CPU had stays on record, and that is said: it has our value again when it comes back."""
    message = f"cpu {cpu} is offline; it was {knob.shown(knob.wanted)}"
    hint = "bring it online and revert again, or remove the key from the record by hand"
    report.problems.append(Problem(knob.key, message, hint, "cpu-offline"))
    report.verdicts.append(knob.verdict(None, "unverified", "none", f"{message}; kept on record"))


def absent(machine: Machine, setting: str, wanted: Any, evidence: str) -> Verdict:
    """The verdict on what this kernel does not have at all, as in most guests, where the hypervisor keeps it."""
    flags = next((x for x in (machine.read_text("/proc/cpuinfo") or "").splitlines() if x.startswith("flags")), "")
    cause = "hypervisor" if "hypervisor" in flags.split() else "no_interface"
    return Verdict(setting, wanted, None, "unsupported", cause, evidence)


def merge_alike(own: Report, report: Report) -> None:
    """What many CPUs have in common is one line of the report."""
    for change, count in _counted(own.changes):
        report.change(f"{change.setting} ({count} CPUs)", change.before, change.after)
    for verdict, count in _counted(own.verdicts):
        evidence = f"{verdict.evidence} on {count} CPUs"
        report.verdicts.append(
            Verdict(verdict.setting, verdict.wanted, verdict.found, verdict.verdict, verdict.cause, evidence)
        )
    report.problems.extend(dict.fromkeys(own.problems))


def _counted(items: Iterable[object]) -> list[tuple[Any, int]]:
    counts: dict[object, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return list(counts.items())
