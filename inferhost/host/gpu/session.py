"""The plan's GPU settings while NVML is open, and what samples under load add to their verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from inferhost.host.gpu import load, selection
from inferhost.host.gpu.board import observe_boards
from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.clock_lock import GraphicsClockLock
from inferhost.host.gpu.natural import keep_natural
from inferhost.host.gpu.nvml import NO_DRIVER, NvmlError, open_nvml
from inferhost.host.gpu.sample import Series, take_samples
from inferhost.host.knob import Knob, tell, verify_knobs
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import BASELINE
from inferhost.host.record.lock import locked
from inferhost.host.report import DriverFailed, Locked, Report, WriteFailed
from inferhost.schema import document
from inferhost.schema.plan import Plan
from inferhost.schema.problems import Problem


@contextlib.contextmanager
def gpu_knobs(machine: Machine, plan: Plan, report: Report, *, whole: bool = False) -> Iterator[list[Knob]]:
    """The plan's GPU knobs while NVML is open; none, and every setting pending, where no driver answers.

    What does not fit its card is told, or with `whole` one `InputError`.
    """
    with contextlib.ExitStack() as stack:
        found: list[Knob] = []
        try:
            nvml = stack.enter_context(open_nvml(machine.before_write, machine.cards))
            found = selection.knobs(plan, nvml, machine, report, whole=whole)
        except NvmlError as error:
            if error.code not in NO_DRIVER:
                raise DriverFailed(Problem("nvml", error.evidence, error.hint, "nvml")) from error
            selection.waiting(machine, plan, error, report)
        yield found


def verify_under_load(machine: Machine, knobs: Sequence[Knob], seconds: float, report: Report) -> None:
    """Samples the cards of the knobs, judges each knob by them as well, and keeps what they show of the clocks."""
    found = [knob for knob in knobs if isinstance(knob, CardKnob)]
    if not found:
        return
    cards = {knob.card.uuid: knob.card for knob in found}
    series = {
        one.card.uuid: one for one in take_samples(found[0].nvml, cards.values(), seconds, load.HZ, machine.clock)
    }
    report.facts["samples"] = {uuid: document.plain(one.samples) for uuid, one in series.items()}
    answering = [(one.card, one.samples) for one in series.values() if one.error is None]
    observe_boards(machine, found[0].nvml, answering, report)
    for knob in found:
        one = series[knob.card.uuid]
        verify_knobs([knob], report)
        if one.error is not None:
            report.verdicts.pop()
            tell(knob, one.error, report)
        else:
            report.verdicts[-1] = knob.under_load(report.verdicts[-1], one.samples)
    if not report.check and machine.exists(BASELINE):
        try:
            with locked(machine):
                _keep(machine, found, series, report)
        except (Locked, WriteFailed) as error:
            text = "what the samples showed is not kept for later"
            report.note(f"{text}: {error.problem.path} {error.problem.message}")


def _keep(machine: Machine, knobs: Sequence[CardKnob], series: dict[str, Series], report: Report) -> None:
    verdicts = {verdict.setting: verdict for verdict in report.verdicts}
    for knob in knobs:
        if series[knob.card.uuid].error is None:
            try:
                knob.keep(verdicts[knob.setting])
            except NvmlError as error:
                report.note(f"{knob.setting}: its verdict is not kept; {error.evidence}")
    locked_cards = {knob.card.uuid for knob in knobs if isinstance(knob, GraphicsClockLock)}
    unlocked = [one for uuid, one in series.items() if uuid not in locked_cards and one.error is None]
    keep_natural(machine, knobs[0].nvml, unlocked, report)
