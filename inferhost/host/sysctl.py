"""Live kernel parameters under /proc/sys. Their files are placed by Ansible or NixOS; here is the running kernel.

Values are compared without regard to tabs and blanks, because the kernel answers lists with tabs. In a container
/proc/sys is read-only: a value that differs is then `unsupported`, `read_only`, and never written by force.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from inferhost.host.baseline import Baseline, Record
from inferhost.host.knob import Knob, Unusable, restore_knobs
from inferhost.host.machine import Machine
from inferhost.host.report import Report, reason

ROOT = "/proc/sys"


class Sysctl(Knob):
    """One kernel parameter, as text with single blanks."""

    section = "cpu"

    def __init__(self, machine: Machine, name: str, wanted: str) -> None:
        super().__init__(f"sysctl.{name}", f"sysctl:{name}", _words(wanted))
        self.machine = machine
        self.path = sysctl_path(name)

    def observe(self) -> str:
        if ".." in self.path.split("/"):
            raise Unusable("refused", "none", "not the name of a kernel parameter", True)
        try:
            found = self.machine.read_bytes(self.path)
        except OSError as error:  # a directory, or write-only like vm.compact_memory
            raise Unusable("unsupported", "no_interface", f"{self.path}: {reason(error)}", False) from error
        if found is None:
            raise Unusable("unsupported", "no_interface", f"this kernel has no {self.path}", False)
        return _words(found.decode("utf-8", "replace"))

    def obstacle(self) -> Unusable | None:
        if self.machine.writable(self.path):
            return None
        return Unusable("unsupported", "read_only", f"{self.path} is not writable here", False)

    def context(self) -> dict[str, str]:
        return {"writable": "yes" if self.machine.writable(self.path) else "no"}

    def write(self) -> None:
        write_kernel_value(self.machine, self.path, self.wanted)


def write_kernel_value(machine: Machine, path: str, value: str) -> None:
    """Writes one procfs or sysfs value, or `Unusable` with what the kernel's answer means."""
    try:
        machine.write_kernel(path, value)
    except OSError as error:
        evidence = f'{path}: the kernel refused "{value}": {reason(error)}'
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise Unusable("unsupported", "read_only", evidence, False) from error
        raise Unusable("refused", "unexplained", evidence, True) from error


def sysctl_path(name: str) -> str:
    """Where a parameter lives; dots and slashes change places as in sysctl(8) when a dot comes first."""
    first = next((c for c in name if c in "./"), ".")
    return f"{ROOT}/{name.translate(str.maketrans('./', '/.')) if first == '.' else name}"


def knobs(machine: Machine, wanted: Mapping[str, str]) -> list[Knob]:
    """The plan's kernel parameters, in the order of their names."""
    return [Sysctl(machine, name, value) for name, value in sorted(wanted.items())]


def restore_sysctl(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """Puts recorded values back. What was read-only when it was recorded was never ours, and is only forgotten."""
    ours: list[Knob] = []
    for name, record in sorted(records.items()):
        knob = Sysctl(machine, name, _text(record.found))
        if record.context.get("writable") == "no" and knob.obstacle() is not None:
            report.note(f"{knob.setting}: not writable here, so never changed by us")
            baseline.drop([knob.key], report.check)
        else:
            ours.append(knob)
    restore_knobs(ours, baseline, report)


def _text(found: Any) -> str:
    return "" if found is None else str(found)


def _words(value: str) -> str:
    return " ".join(value.split())
