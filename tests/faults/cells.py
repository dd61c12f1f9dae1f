"""Counts the cells of the fault tests, so that a run says how many it tried and how many passed."""

from __future__ import annotations

import os
from collections import Counter

SLOW = bool(os.environ.get("INFERHOST_SLOW"))
"""Set by `make test-slow`: every cell instead of a fixed part of them."""

RUN: Counter[str] = Counter()
PASSED: Counter[str] = Counter()


def judged(matrix: str, wrong: list[str]) -> list[str]:
    """One cell of a matrix, with what was wrong in it."""
    RUN[matrix] += 1
    PASSED[matrix] += not wrong
    return wrong


def told() -> list[str]:
    """One line per matrix that was run."""
    part = "all of them" if SLOW else "the rest: make test-slow"
    return [f"{name}: {RUN[name]} cells run, {PASSED[name]} passed ({part})" for name in sorted(RUN)]
