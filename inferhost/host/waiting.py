"""Nobody waits without a word: while a block takes long, a line every few seconds says what is waited for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

EVERY_S = 5.0


@contextlib.contextmanager
def told(say: Callable[[str], None], what: str, every_s: float = EVERY_S) -> Iterator[None]:
    """Says `what`, and for how long by now, as often as the block gives cause to."""
    ended, began_s = threading.Event(), time.monotonic()

    def go_on() -> None:
        while not ended.wait(every_s):
            say(f"{what}, {time.monotonic() - began_s:.0f} s by now")

    teller = threading.Thread(target=go_on, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
