"""The CPU frequency governor, per CPU in sysfs and one line in the report.

Applies only where the kernel owns the frequency: a guest has no cpufreq folder, and that is no failure. Governors
differ by driver (intel_pstate in active mode knows performance and powersave only), so the wanted one is checked
against the CPU's own list before it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from inferhost.host.baseline import Baseline, Record
from inferhost.host.knob import Knob, Unusable, apply_knobs, restore_knobs, verify_knobs
from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.host.sysctl import write_kernel_value
from inferhost.schema.result import Verdict

ROOT = "/sys/devices/system/cpu"
SETTING = "cpu.governor"


class Governor(Knob):
    """The governor of one CPU."""

    section = "cpu"

    def __init__(self, machine: Machine, cpu: int, wanted: str) -> None:
        super().__init__(SETTING, f"cpu:{cpu}:governor", wanted)
        self.machine = machine
        self.cpufreq = f"{ROOT}/cpu{cpu}/cpufreq"

    def observe(self) -> str:
        found = self.machine.read_text(f"{self.cpufreq}/scaling_governor")
        if found is None:
            raise Unusable("not_applicable", "no_interface", f"no {self.cpufreq}/scaling_governor", False)
        return found.strip()

    def obstacle(self) -> Unusable | None:
        known = self.machine.read_text(f"{self.cpufreq}/scaling_available_governors")
        if known is not None and self.wanted not in known.split():
            return Unusable("unsupported", "no_interface", f"this kernel offers {known.strip()}", False)
        if not self.machine.writable(f"{self.cpufreq}/scaling_governor"):
            return Unusable(
                "unsupported", "read_only", f"{self.cpufreq}/scaling_governor is not writable here", False
            )
        return None

    def write(self) -> None:
        write_kernel_value(self.machine, f"{self.cpufreq}/scaling_governor", self.wanted)


def cpus(machine: Machine) -> list[int]:
    """The numbers of the CPUs whose frequency this kernel governs."""
    numbers = sorted(int(n[3:]) for n in machine.entries(ROOT) if n.startswith("cpu") and n[3:].isdigit())
    return [n for n in numbers if machine.exists(f"{ROOT}/cpu{n}/cpufreq/scaling_governor")]


def knobs(machine: Machine, wanted: str | None) -> list[Knob]:
    """One knob per CPU; none where the plan leaves the governor alone."""
    return [] if wanted is None else [Governor(machine, cpu, wanted) for cpu in cpus(machine)]


def apply_governor(machine: Machine, wanted: str | None, baseline: Baseline, report: Report) -> None:
    """Writes the governor where it differs."""
    own = Report(report.check)
    apply_knobs(knobs(machine, wanted), baseline, own)
    _merge(own, report, machine, wanted)


def verify_governor(machine: Machine, wanted: str | None, report: Report) -> None:
    """Says which governors are in force."""
    own = Report(report.check)
    verify_knobs(knobs(machine, wanted), own)
    _merge(own, report, machine, wanted)


def restore_governor(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """Puts each CPU's own governor back; `records` by "0:governor". A CPU that is gone has nothing to restore."""
    found, present = [], set(cpus(machine))
    for name, record in records.items():
        number = int(name.partition(":")[0])
        if number in present:
            found.append(Governor(machine, number, str(record.found)))
        else:
            report.note(f"cpu {number}: is offline or gone; its governor was {record.found}")
            baseline.drop([f"cpu:{name}"], report.check)
    own = Report(report.check)
    restore_knobs(sorted(found, key=lambda k: int(k.key.split(":")[1])), baseline, own)
    _merge(own, report, machine, None)


def _merge(own: Report, report: Report, machine: Machine, wanted: str | None) -> None:
    """Many CPUs with one outcome are one line."""
    for change, count in _counted(own.changes):
        report.change(f"{change.setting} ({count} CPUs)", change.before, change.after)
    for verdict, count in _counted(own.verdicts):
        evidence = f"{verdict.evidence} on {count} CPUs"
        report.verdicts.append(
            Verdict(SETTING, verdict.wanted, verdict.found, verdict.verdict, verdict.cause, evidence)
        )
    report.problems.extend(dict.fromkeys(own.problems))
    if wanted is not None and not own.verdicts:
        cause = "hypervisor" if is_virtual(machine) else "no_interface"
        evidence = f"no cpufreq under {ROOT}: the frequency is not this kernel's to govern"
        report.verdicts.append(Verdict(SETTING, wanted, None, "not_applicable", cause, evidence))


def is_virtual(machine: Machine) -> bool:
    """Whether the CPU says that a hypervisor is below."""
    flags = next((x for x in (machine.read_text("/proc/cpuinfo") or "").splitlines() if x.startswith("flags")), "")
    return "hypervisor" in flags.split()


def _counted(items: Iterable[object]) -> list[tuple[Any, int]]:
    counts: dict[object, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return list(counts.items())
