"""Being asked to stop, as a question instead of an interruption: what was begun is brought to its end first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

ASKED = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stopping(asked: tuple[signal.Signals, ...] = ASKED) -> Iterator[Callable[[], bool]]:
    """Whether one of these signals came since."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in asked}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
