"""What a unit writes into the journal: one line per card, and one for each thing that is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator

from inferhost.host.report import Report
from inferhost.schema.result import Verdict

CARD = "gpu."
SETTLED = ("held", "not_applicable", "unsupported")


def lines(report: Report) -> Iterator[str]:
    """The report in few lines; the cards first, in the order of the plan."""
    cards: dict[str, list[Verdict]] = {}
    for verdict in report.verdicts:
        if verdict.setting.startswith(CARD):
            cards.setdefault(verdict.setting[len(CARD) :].rpartition(".")[0], []).append(verdict)
    for uuid, verdicts in cards.items():
        yield f"{uuid}: {'; '.join(_setting(v) for v in verdicts)}"
    for verdict in report.verdicts:
        if not verdict.setting.startswith(CARD) and verdict.verdict not in SETTLED:
            yield f"{_setting(verdict)}, {verdict.evidence}"
    for note in report.notes:
        yield f"note: {note}"
    for problem in report.problems:
        yield from problem.lines()


def _setting(verdict: Verdict) -> str:
    name = verdict.setting.rpartition(".")[2] if verdict.setting.startswith(CARD) else verdict.setting
    if verdict.verdict == "held":
        return f"{name} {verdict.wanted} held"
    cause = "" if verdict.cause == "none" else f" ({verdict.cause})"
    found = "" if verdict.found in (None, verdict.wanted) else f", found {verdict.found}"
    return f"{name} {verdict.wanted} {verdict.verdict}{cause}{found}"
