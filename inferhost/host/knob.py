"""A knob is one value of the machine without a file: a power limit, a kernel parameter, a governor.

Each kind of knob says how it is observed, written and judged; the loops over knobs are here, once: record, apply,
verify, restore. A write is never believed: what follows it is another observation, and that makes the verdict. A
knob is written only while its original stands in the baseline on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import Report
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict


class Unusable(Exception):
    """An observation or a write failed in a way that has a verdict. A `failure` is told as a problem too."""

    hint = ""

    def __init__(self, verdict: str, cause: str, evidence: str, failure: bool) -> None:
        self.verdict = verdict
        self.cause = cause
        self.evidence = evidence
        self.failure = failure
        super().__init__(evidence)


class Knob:
    """One value: where it is kept in verdicts (`setting`) and in the baseline (`key`), and what it should be."""

    section = ""
    gives_back = False
    """Whether the plan asks for nothing here, so that a written original is forgotten."""

    def __init__(self, setting: str, key: str, wanted: Any) -> None:
        self.setting = setting
        self.key = key
        self.wanted = wanted

    def observe(self) -> Any:
        """The present value, in the knob's own unit; raises `Unusable`."""
        raise NotImplementedError

    def original(self) -> Any:
        """What stood here before us, for the baseline; raises `Unusable`."""
        return self.observe()

    def write(self) -> None:
        """Asks for the wanted value; success means nothing yet. Raises `Unusable`."""
        raise NotImplementedError

    def obstacle(self) -> Unusable | None:
        """Why a write cannot work, as far as that shows without trying: the same answer in check mode."""
        return None

    def context(self) -> dict[str, str]:
        """What to know beside the original when it is put back."""
        return {}

    def outlived(self, record: Record) -> str:
        """Why this record is of something that is not here any more, so that it is no original; empty where it is."""
        return ""

    def shown(self, value: Any) -> Any:
        """A value in the unit that people use."""
        return value

    def told(self, value: Any) -> Any:
        """A value as a diff shows it: what cannot be read back is not shown as if it stood."""
        return self.shown(value)

    def judge(self, before: Any, found: Any) -> Verdict:
        """The verdict on `found`; `before` is what stood there before our write, or None when we wrote nothing."""
        if found == self.wanted:
            return self.verdict(found, "held", "none", "read back")
        if before is None:
            return self.verdict(found, "overridden", "other_writer", "read back; not what the plan says")
        if found == before:
            return self.verdict(found, "ignored", "unexplained", "the write was accepted, the value stayed")
        return self.verdict(found, "clamped", "unexplained", f"the write was accepted, it was {self.shown(before)}")

    def is_back(self, verdict: Verdict) -> bool:
        """Whether this verdict on a restored original lets it be forgotten."""
        return verdict.verdict == "held"

    def verdict(self, found: Any, verdict: str, cause: str, evidence: str) -> Verdict:
        """A verdict on this knob, in the unit that people use."""
        return Verdict(self.setting, self.shown(self.wanted), self.shown(found), verdict, cause, evidence)


def originals(
    knobs: Iterable[Knob], baseline: Baseline, unread: Callable[[str], None] | None = None
) -> dict[str, Record]:
    """What stands in each knob before us, by key; knobs that cannot be read have no original and are not written.

    `unread` is told of those, where nothing that follows would.
    """
    found: dict[str, Record] = {}
    for knob in knobs:
        if knob.key not in baseline:
            try:
                found[knob.key] = Record(knob.section, knob.original(), knob.context())
            except Unusable as error:
                if unread is not None:
                    unread(f"{knob.setting}: {error.verdict}, not recorded; {error.evidence}")
    return found


def forget_outlived(knobs: Iterable[Knob], baseline: Baseline, report: Report) -> None:
    """Makes room for new originals: what stands where the old ones are outlived was not written by us."""
    gone = [knob for knob in knobs if knob.key in baseline and knob.outlived(baseline[knob.key])]
    for knob in gone:
        report.note(f"{knob.setting}: {knob.outlived(baseline[knob.key])}; what is there now is recorded instead")
    baseline.drop([knob.key for knob in gone], report.check)


def apply_knobs(knobs: Iterable[Knob], baseline: Baseline, report: Report) -> None:
    """Writes what differs, in order, and says what each knob then holds."""
    for knob in knobs:
        try:
            _apply(knob, baseline, report)
        except Unusable as error:
            tell(knob, error, report)


def verify_knobs(knobs: Iterable[Knob], report: Report) -> None:
    """Says what each knob holds and writes nothing."""
    for knob in knobs:
        found: Any = None
        try:
            found = knob.observe()
            obstacle = None if found == knob.wanted else knob.obstacle()
            if obstacle is not None:
                raise obstacle
            report.verdicts.append(knob.judge(None, found))
        except Unusable as error:
            tell(knob, error, report, found)


def restore_knobs(knobs: Iterable[Knob], baseline: Baseline, report: Report) -> None:
    """Puts each original (the knob's `wanted`) back, proves it, and then forgets the proven ones.

    A crash before they are forgotten is harmless: the next revert finds them in place.
    """
    proven = []
    for knob in knobs:
        apply_knobs([knob], baseline, report)
        verdict = report.verdicts[-1]
        if knob.is_back(verdict) or (report.check and verdict.verdict == "unverified"):
            proven.append(knob.key)
        elif verdict.verdict in ("unsupported", "unverified"):  # told as no drift; but it is not put back either
            message = f"not put back: {verdict.evidence}"
            hint = "kept on record; repair the cause and revert again"
            report.problems.append(Problem(knob.setting, message, hint, "not-restored"))
    baseline.drop(proven, report.check)


def tell(knob: Knob, error: Unusable, report: Report, found: Any = None) -> None:
    """The failure as a verdict, and as a problem where it is one; `found` where it was observed before."""
    report.verdicts.append(knob.verdict(found, error.verdict, error.cause, error.evidence))
    if error.failure:
        report.problems.append(Problem(knob.setting, error.evidence, error.hint, "not-written"))


def _apply(knob: Knob, baseline: Baseline, report: Report) -> None:
    before = knob.observe()
    if before == knob.wanted:
        report.verdicts.append(knob.judge(None, before))
        return
    obstacle = knob.obstacle()
    if obstacle is not None:
        tell(knob, obstacle, report, before)
        return
    if report.check:
        report.change(knob.setting, knob.told(before), knob.told(knob.wanted))
        report.verdicts.append(knob.verdict(before, "unverified", "none", "check mode: not written"))
        return
    if knob.key not in baseline:
        raise Unusable("refused", "unexplained", "not written: its original is not on record", True)
    try:
        knob.write()
        found = knob.observe()
    except Unusable:
        _changed_all_the_same(knob, before, report)
        raise
    if found != before:
        report.change(knob.setting, knob.told(before), knob.told(found))
    report.verdicts.append(knob.judge(before, found))


def _changed_all_the_same(knob: Knob, before: Any, report: Report) -> None:
    """A failed call may have written: what shows of it is a change like any other."""
    with contextlib.suppress(Unusable):
        found = knob.observe()
        if found != before:
            report.change(knob.setting, knob.told(before), knob.told(found))
