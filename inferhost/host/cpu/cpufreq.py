"""The frequency governor and the energy performance preference: per CPU in sysfs, one line each in the report.

Both apply only where the kernel owns the frequency: a guest has no cpufreq folder, and that is no failure. What a
CPU offers differs by driver, so the wanted word is checked against the CPU's own list before it is written. The
governor is always written first: intel_pstate and amd_pstate in active mode force the preference to `performance`
under the governor `performance` and refuse another one, and amd_pstate leaves it there when the governor goes. So
whoever may write a governor records the preference too, and puts it back after the governor.
Source: formula `cpu.energy_performance_preference`.
"""

from __future__ import annotations

from collections.abc import Mapping

from inferhost.host.cpu.kernel_knob import KernelKnob, absent, keep_offline, merge_alike, owned, restore_kernel_knobs
from inferhost.host.knob import Knob, Unusable, apply_knobs, verify_knobs
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import Report
from inferhost.schema.plan import FORCING_DRIVERS, PERFORMANCE, Cpu

ROOT = "/sys/devices/system/cpu"
DRIVER = "scaling_driver"
"""What a record's context calls the frequency driver that its word was recorded of."""


class CpuFrequencyKnob(KernelKnob):
    """One word of one CPU; its kinds name themselves in records, and their two files in sysfs."""

    key_name = ""
    attribute = ""
    offered = ""

    def __init__(self, machine: Machine, cpu: int, wanted: str) -> None:
        self.cpu = cpu
        self.folder = f"{ROOT}/cpu{cpu}/cpufreq"
        path, setting = f"{self.folder}/{self.attribute}", f"cpu.{self.key_name}"
        super().__init__(machine, path, setting, f"cpu:{cpu}:{self.key_name}", wanted)
        self.place = f"{ROOT}/cpu*/cpufreq/{self.attribute}"

    def driver(self) -> str:
        """Who gives the words their meaning: `powersave` is the lowest clock of one driver, any clock of another."""
        return (self.machine.read_text(f"{self.folder}/scaling_driver") or "").strip()

    def context(self) -> dict[str, str]:
        return {**super().context(), DRIVER: self.driver()}

    def outlived(self, record: Record) -> str:
        before, now = record.context.get(DRIVER), self.driver()
        another = before and now and now != before
        return f"{record.found} was a word of {before}, and {now} governs now" if another else ""

    def observe(self) -> str:
        found = self.machine.read_text(self.path)
        if found is None:
            evidence = f"{self.driver() or 'this kernel'} has no {self.attribute}"
            raise Unusable("unsupported", "no_interface", evidence, False)
        return found.strip()

    def obstacle(self) -> Unusable | None:
        known = self.machine.read_text(f"{self.folder}/{self.offered}") if self.owner is None else None
        if known is not None and self.wanted not in known.split() and not self.wanted.isdigit():
            return Unusable("unsupported", "no_interface", f"this kernel offers {known.strip()}", False)
        return super().obstacle()


class Governor(CpuFrequencyKnob):
    """The governor of one CPU."""

    key_name = "governor"
    attribute = "scaling_governor"
    offered = "scaling_available_governors"


class Preference(CpuFrequencyKnob):
    """What one CPU trades for energy, a word or a number from 0 to 255; `governor` is the one that it will have."""

    key_name = "energy_performance_preference"
    attribute = "energy_performance_preference"
    offered = "energy_performance_available_preferences"

    def __init__(self, machine: Machine, cpu: int, wanted: str, governor: str | None) -> None:
        super().__init__(machine, cpu, wanted)
        self.governor = governor

    def outlived(self, record: Record) -> str:
        """Never: the word is the processor's own register, which keeps ours when another driver takes over.

        Source: linux Documentation/admin-guide/pm/intel_pstate.rst, Energy vs Performance Hints.
        """
        return ""

    def obstacle(self) -> Unusable | None:
        if self.owner is not None:
            return super().obstacle()
        driver = self.driver()
        governor = self.governor or (self.machine.read_text(f"{self.folder}/{Governor.attribute}") or "").strip()
        if driver in FORCING_DRIVERS and governor == PERFORMANCE and self.wanted not in (PERFORMANCE, "0"):
            evidence = f"{driver} forces {PERFORMANCE} under the governor {PERFORMANCE}, and refuses {self.wanted}"
            return Unusable("refused", "other_writer", evidence, True)
        return super().obstacle()


KINDS = (Governor, Preference)
"""In the order of writing."""


def cpus(machine: Machine) -> list[int]:
    """The numbers of the CPUs whose frequency this kernel governs."""
    numbers = sorted(int(n[3:]) for n in machine.entries(ROOT) if n.startswith("cpu") and n[3:].isdigit())
    return [n for n in numbers if machine.exists(f"{ROOT}/cpu{n}/cpufreq/{Governor.attribute}")]


def knobs(machine: Machine, wanted: Cpu) -> list[Knob]:
    """One knob per CPU and planned word; none for what the plan leaves alone."""
    governor, preference, found = wanted.governor, wanted.energy_performance_preference, cpus(machine)
    planned: list[CpuFrequencyKnob] = [Governor(machine, cpu, governor) for cpu in found if governor is not None]
    planned += [Preference(machine, cpu, preference, governor) for cpu in found if preference is not None]
    return owned(machine, planned)


def touched(machine: Machine, wanted: Cpu) -> list[Knob]:
    """What writing the plan may change, to be recorded: with a governor the preference moves as well."""
    planned = knobs(machine, wanted)
    if wanted.governor is None or wanted.energy_performance_preference is not None:
        return planned
    return [*planned, *(Preference(machine, cpu, "", None) for cpu in cpus(machine))]


def apply_frequency(machine: Machine, wanted: Cpu, baseline: Baseline, report: Report) -> None:
    """Writes the words that differ."""
    own = Report(report.check)
    apply_knobs(knobs(machine, wanted), baseline, own)
    _merge(own, report, machine, wanted)


def verify_frequency(machine: Machine, wanted: Cpu, report: Report) -> None:
    """Says which words are in force."""
    own = Report(report.check)
    verify_knobs(knobs(machine, wanted), own)
    _merge(own, report, machine, wanted)


def restore_frequency(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """Puts each CPU's own words back; `records` by "0:governor". An offline CPU's stay on record.

    Words that the kernel does not have any more went with the driver that had them, and are forgotten.
    """
    found: list[tuple[CpuFrequencyKnob, Record]] = []
    for name, record in records.items():
        knob = _original(machine, name, records)
        if machine.exists(knob.path):
            found.append((knob, record))
        elif not machine.exists(knob.folder) and cpus(machine):
            keep_offline(knob, knob.cpu, report)
        else:
            report.note(f"cpu {knob.cpu}: has no {knob.key_name} now; it was {record.found}")
            baseline.drop([knob.key], report.check)
    own = Report(report.check)
    order = [kind.key_name for kind in KINDS]
    found.sort(key=lambda pair: (order.index(pair[0].key_name), pair[0].cpu))
    for remark in restore_kernel_knobs(found, baseline, own):
        report.note(remark)
    _merge(own, report, machine, Cpu(None))


def _original(machine: Machine, name: str, records: Mapping[str, Record]) -> CpuFrequencyKnob:
    number, _, key_name = name.partition(":")
    cpu, wanted = int(number), str(records[name].found)
    if key_name == Governor.key_name:
        return Governor(machine, cpu, wanted)
    governor = records.get(f"{cpu}:{Governor.key_name}")
    return Preference(machine, cpu, wanted, None if governor is None else str(governor.found))


def _merge(own: Report, report: Report, machine: Machine, wanted: Cpu) -> None:
    """Many CPUs with one outcome are one line."""
    merge_alike(own, report)
    planned = {} if own.verdicts else {kind.key_name: getattr(wanted, kind.key_name) for kind in KINDS}
    evidence = f"no cpufreq under {ROOT}: the frequency is not this kernel's to govern"
    for name, word in planned.items():
        if word is not None:
            report.verdicts.append(absent(machine, f"cpu.{name}", word, evidence))
