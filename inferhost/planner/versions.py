"""Engine versions as people write them, as numbers that compare: `0.8.5.post1`, `0.7.x`, `0.9/0.10`, `2026-08`.

A log names a version, a range or only a month. A range means its beginning, an `x` a late release of its series and
a month the release that was current then, because rules change with releases and not with months.
"""

from __future__ import annotations

import functools
import re

Version = tuple[int, int, int]

NEWEST: Version = (999, 0, 0)
LATE = 9
MONTH = re.compile(r"(20\d\d)-(\d\d)")
NUMBER = re.compile(r"(?<![\d.])(\d+)\.(\d+|\d*x)(?:\.(\d+|x))?")

RELEASES: dict[str, tuple[tuple[tuple[int, int], Version], ...]] = {
    "vllm": (
        ((2024, 3), (0, 3, 3)),
        ((2024, 6), (0, 4, 3)),
        ((2024, 8), (0, 5, 4)),
        ((2024, 10), (0, 6, 3)),
        ((2025, 2), (0, 7, 3)),
        ((2025, 5), (0, 8, 5)),
        ((2025, 7), (0, 9, 2)),
        ((2025, 9), (0, 10, 2)),
        ((2025, 11), (0, 11, 2)),
        ((2026, 1), (0, 14, 1)),
        ((2026, 4), (0, 19, 1)),
        ((2026, 5), (0, 21, 0)),
        ((2026, 6), (0, 23, 0)),
        ((2026, 7), (0, 26, 0)),
        ((2026, 11), (0, 33, 0)),
    ),
    "sglang": (
        ((2024, 9), (0, 2, 15)),
        ((2024, 11), (0, 3, 6)),
        ((2025, 3), (0, 4, 3)),
        ((2025, 5), (0, 4, 6)),
        ((2025, 7), (0, 4, 9)),
        ((2025, 9), (0, 5, 2)),
        ((2025, 10), (0, 5, 3)),
        ((2025, 12), (0, 5, 6)),
        ((2026, 2), (0, 5, 9)),
        ((2026, 5), (0, 5, 12)),
        ((2026, 7), (0, 5, 15)),
        ((2026, 9), (0, 5, 19)),
        ((2026, 10), (0, 5, 23)),
    ),
}
"""Month in which a release was published, as the files in its package are dated."""


@functools.cache
def version(engine: str, text: str) -> Version:
    """The version that a text names; the newest where it names none."""
    month = MONTH.search(text)
    if month and engine in RELEASES:
        when = (int(month[1]), int(month[2]))
        past = [found for published, found in RELEASES[engine] if published <= when]
        return past[-1] if past else RELEASES[engine][0][1]
    number = NUMBER.search(text)
    if number is None:
        return NEWEST
    return int(number[1]), _part(number[2]), _part(number[3] or "0")


def _part(digits: str) -> int:
    """`x` alone is late in its series, where most installations are; `2x` is the middle of the twenties."""
    return LATE if digits == "x" else int(digits.replace("x", "5"))
