"""Live kernel parameters under /proc/sys. Their files are placed by Ansible or NixOS; here is the running kernel.

Values are compared without regard to tabs and blanks, because the kernel answers lists with tabs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferhost.host.cpu.kernel_knob import KernelKnob, owned, restore_kernel_knobs
from inferhost.host.knob import Knob, Unusable
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import Report, reason

ROOT = "/proc/sys"


class Sysctl(KernelKnob):
    """One kernel parameter, as text with single blanks."""

    def __init__(self, machine: Machine, name: str, wanted: str) -> None:
        super().__init__(machine, sysctl_path(name), f"sysctl.{name}", f"sysctl:{name}", _words(wanted))

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


def sysctl_path(name: str) -> str:
    """Where a parameter lives; dots and slashes change places as in sysctl(8) when a dot comes first."""
    first = next((c for c in name if c in "./"), ".")
    return f"{ROOT}/{name.translate(str.maketrans('./', '/.')) if first == '.' else name}"


def knobs(machine: Machine, wanted: Mapping[str, str]) -> list[Knob]:
    """The plan's kernel parameters, in the order of their names."""
    return owned(machine, [Sysctl(machine, name, value) for name, value in sorted(wanted.items())])


def restore_sysctl(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """Puts recorded values back."""
    ours = [(Sysctl(machine, name, _text(record.found)), record) for name, record in sorted(records.items())]
    for remark in restore_kernel_knobs(ours, baseline, report):
        report.note(remark)


def _text(found: Any) -> str:
    return "" if found is None else str(found)


def _words(value: str) -> str:
    return " ".join(value.split())
