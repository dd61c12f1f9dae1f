"""Idle states of the processor: those that take longer to wake up than the plan allows are switched off, per CPU.

Each state of each CPU has a switch in sysfs, so what stood there before us is recorded and put back switch by switch.
The switches last until the next boot. A kernel without idle states, as in most guests, has none to switch.
Source: formula `cpu.idle_latency`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inferhost.host.cpu.cpufreq import ROOT
from inferhost.host.cpu.kernel_knob import KernelKnob, absent, keep_offline, merge_alike, owned, restore_kernel_knobs
from inferhost.host.knob import Knob, Unusable, apply_knobs, verify_knobs
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import Report
from inferhost.host.watch.writers import IDLE, IDLE_STATE
from inferhost.schema.plan import Cpu

KIND = "cpuidle"
NAME = "state"
"""What a record's context calls the idle state: another driver has other states under the same numbers."""
ON, OFF = "0", "1"
"""What `disable` of a state says. Source: Documentation/ABI/testing/sysfs-devices-system-cpu of the kernel."""


class IdleState(KernelKnob):
    """The switch of one idle state of one CPU."""

    def __init__(self, machine: Machine, cpu: int, state: int, wanted: str) -> None:
        self.folder = f"{ROOT}/cpu{cpu}/cpuidle/state{state}"
        self.name = machine.read_text(f"{self.folder}/name") or f"state{state}"
        setting, key = f"{IDLE_STATE}{self.name}", f"{KIND}:{cpu}:{state}"
        super().__init__(machine, f"{self.folder}/disable", setting, key, wanted)
        self.place = f"{ROOT}/cpu*/cpuidle/state{state}/disable"

    def observe(self) -> str:
        found = self.machine.read_text(self.path)
        if found is None:
            raise Unusable("unsupported", "no_interface", f"{self.place} cannot be read", False)
        return found.strip()

    def context(self) -> dict[str, str]:
        return {**super().context(), NAME: self.name}

    def outlived(self, record: Record) -> str:
        before = record.context.get(NAME, self.name)
        return "" if before == self.name else f"the switch on record was of {before}, which had this number then"

    def shown(self, value: Any) -> Any:
        return {ON: "on", OFF: "off"}.get(value, value)


def knobs(machine: Machine, wanted: Cpu) -> list[Knob]:
    """One switch per CPU and state; none where the plan leaves them alone."""
    if wanted.idle_latency_us is None:
        return []
    found = []
    for cpu, state in _states(machine):
        latency = (machine.read_text(f"{ROOT}/cpu{cpu}/cpuidle/state{state}/latency") or "").strip()
        if latency.isdigit():
            found.append(IdleState(machine, cpu, state, OFF if int(latency) > wanted.idle_latency_us else ON))
    return owned(machine, found)


def apply_idle(machine: Machine, wanted: Cpu, baseline: Baseline, report: Report) -> None:
    """Switches what differs."""
    own = Report(report.check)
    apply_knobs(knobs(machine, wanted), baseline, own)
    _told(machine, wanted, own, report)


def verify_idle(machine: Machine, wanted: Cpu, report: Report) -> None:
    """Says which states are on."""
    own = Report(report.check)
    verify_knobs(knobs(machine, wanted), own)
    _told(machine, wanted, own, report)


def restore_idle(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """Puts each switch back; `records` by "CPU:STATE". Those of an offline CPU stay on record.

    A state that the kernel does not have any more has nothing to put back.
    """
    found: list[tuple[KernelKnob, Record]] = []
    for name, record in records.items():
        cpu, _, state = name.partition(":")
        knob = IdleState(machine, int(cpu), int(state), str(record.found))
        if machine.exists(knob.path):
            found.append((knob, record))
        elif not machine.entries(f"{ROOT}/cpu{cpu}/{KIND}") and any(_states(machine)):
            keep_offline(knob, int(cpu), report)
        else:
            report.note(f"cpu {cpu}: has no idle state {state} now; its switch was {record.found}")
            baseline.drop([knob.key], report.check)
    own = Report(report.check)
    for remark in restore_kernel_knobs(found, baseline, own):
        report.note(remark)
    merge_alike(own, report)


def _states(machine: Machine) -> Iterator[tuple[int, int]]:
    """Every idle state of every CPU, by number."""
    for cpu in sorted(int(n[3:]) for n in machine.entries(ROOT) if n.startswith("cpu") and n[3:].isdigit()):
        names = machine.entries(f"{ROOT}/cpu{cpu}/cpuidle")
        yield from ((cpu, state) for state in sorted(int(n[5:]) for n in names if n[5:].isdigit()))


def _told(machine: Machine, wanted: Cpu, own: Report, report: Report) -> None:
    merge_alike(own, report)
    if wanted.idle_latency_us is not None and not own.verdicts:
        evidence = f"no cpuidle under {ROOT}: this kernel has no idle states to switch"
        report.verdicts.append(absent(machine, IDLE, wanted.idle_latency_us, evidence))
