"""Which slice of a divided card an engine gets: its UUID, in a file in /run that the engine's unit reads.

Nobody knows the UUID before the card is divided, and it may be another one after each start of the host. So the plan
names the slice by place, and the file is written when the card was divided: by `apply`, and at boot before the
engines start. Where it is missing, systemd starts no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inferhost.host.gpu.mig import Mig
from inferhost.host.gpu.nvml import NvmlError
from inferhost.host.knob import Knob
from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.schema.plan import SLICE_DIRECTORY, MigInstance, Plan, Service
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

VARIABLE = "CUDA_VISIBLE_DEVICES"


def apply_slices(machine: Machine, plan: Plan, knobs: Sequence[Knob], report: Report) -> None:
    """Writes what differs; a file whose slice is not there goes, so that no engine starts on another one."""
    for service, knob, instance in _sliced(plan, knobs):
        path, setting, wanted = service.slice_file, *_named(service, instance)
        found, uuid = machine.read_text(path), _uuid(setting, knob, instance, report)
        if uuid is not None and found == _line(uuid):
            report.verdicts.append(Verdict(setting, wanted, uuid, "held", "none", path))
        elif report.check:
            report.change(setting, "none" if found is None else "another one", wanted)
            said = "check mode: not written"
            report.verdicts.append(Verdict(setting, wanted, None, "unverified", "none", said))
        elif uuid is None:
            machine.remove_file(path)
            report.verdicts.append(_absent(setting, wanted, knob, report))
        else:
            machine.make_directories(SLICE_DIRECTORY)
            machine.replace_file(path, f"{_line(uuid)}\n".encode(), 0o644)
            report.change(setting, "none" if found is None else "another one", wanted)
            report.verdicts.append(Verdict(setting, wanted, uuid, "held", "none", path))


def verify_slices(machine: Machine, plan: Plan, knobs: Sequence[Knob], report: Report) -> None:
    """Whether each file names the slice that is there now."""
    for service, knob, instance in _sliced(plan, knobs):
        setting, wanted = _named(service, instance)
        uuid = _uuid(setting, knob, instance, report)
        if uuid is None:
            report.verdicts.append(_absent(setting, wanted, knob, report))
        elif machine.read_text(service.slice_file) == _line(uuid):
            report.verdicts.append(Verdict(setting, wanted, uuid, "held", "none", service.slice_file))
        else:
            evidence = f"{service.slice_file} does not name {uuid}; inferhost apply writes it"
            report.verdicts.append(Verdict(setting, wanted, None, "overridden", "driver_reload", evidence))


def slice_environment(machine: Machine, service: Service) -> dict[str, str]:
    """What the file adds to the engine's environment."""
    if service.slice is None:
        return {}
    name, _, value = (machine.read_text(service.slice_file) or "").partition("=")
    return {name: value} if value else {}


def remove_slices(machine: Machine, report: Report) -> None:
    """Takes the files away; they are ours alone, and would be gone with the next start."""
    names = machine.entries(SLICE_DIRECTORY)
    if not names and not machine.exists(SLICE_DIRECTORY):
        return
    report.change(SLICE_DIRECTORY, "present", "absent")
    if not report.check:
        for name in names:
            machine.remove_file(f"{SLICE_DIRECTORY}/{name}")
        machine.remove_directory(SLICE_DIRECTORY)


def _sliced(plan: Plan, knobs: Sequence[Knob]) -> Iterator[tuple[Service, Mig, MigInstance]]:
    """The engines on slices, with the knob of their card; one whose card does not answer has its verdict there."""
    for service in plan.service if "service" in plan.manage else ():
        if service.slice is not None:
            for knob in knobs:
                planned = knob.planned if isinstance(knob, Mig) else None
                if isinstance(knob, Mig) and planned is not None and planned.select == service.slice.gpu:
                    yield service, knob, (planned.mig or ())[service.slice.number]


def _named(service: Service, instance: MigInstance) -> tuple[str, str]:
    """The setting, and the slice as people write it."""
    return f"service.{service.instance}.slice", f"{instance.profile} at {instance.start}"


def _uuid(setting: str, knob: Mig, instance: MigInstance, report: Report) -> str | None:
    try:
        return knob.device_uuid(instance)
    except NvmlError as error:
        report.note(f"{setting}: {error.evidence}")
        return None


def _absent(setting: str, wanted: str, knob: Mig, report: Report) -> Verdict:
    """The slice is not there: the card waits for a restart, or could not be divided so."""
    if knob.waits:
        said = "the card is divided when the machine was restarted"
        return Verdict(setting, wanted, None, "pending", "needs_reboot", said)
    said = "the card has no such slice now"
    report.problems.append(Problem(setting, said, "the card's own verdict, mig, says why", "no-slice"))
    return Verdict(setting, wanted, None, "refused", "unexplained", said)


def _line(uuid: str) -> str:
    return f"{VARIABLE}={uuid}"
