"""Which values of the cards have an original on record: only those are brought down, so that a revert finds it there.

A record that cannot be read any more takes nothing away: what stood on it when it last could be read still does, and
lowering a limit destroys no original. A guard that never read it knows of none.
"""

from __future__ import annotations

from collections.abc import Callable

from inferhost.host.machine import Machine
from inferhost.host.record.baseline import read_baseline
from inferhost.host.report import HostError


class Originals:
    """The keys of the record, as last read; `problem` is why they could not be read now, else empty."""

    def __init__(self, machine: Machine, began: Callable[[str], None], ended: Callable[[str], None]) -> None:
        """`began` and `ended` are told when the record cannot be read, and when it can again."""
        self._machine, self._began, self._ended = machine, began, ended
        self._keys: frozenset[str] | None = None
        self.problem = ""
        self.look()

    def look(self) -> None:
        """Reads the record again."""
        try:
            self._keys, self.problem = frozenset(read_baseline(self._machine)), ""
        except HostError as error:
            self.problem = f"the record cannot be read: {error.problem.path} {error.problem.message}"
            known = "what it said before counts" if self._keys is not None else "no card is brought down"
            self._began(f"{self.problem}; {known}; {error.problem.hint}")
        else:
            self._ended("the record can be read again")

    def has(self, uuid: str, key_name: str = "", *, unread: bool = False) -> bool:
        """Whether an original of this card is on record, this one or any; `unread` where it was never read."""
        self.look()
        if self._keys is None:
            return unread
        return any(key.startswith(f"gpu:{uuid}:{key_name}") for key in self._keys)

    def why_not(self) -> str:
        """Why `has` said no."""
        return self.problem or "its original is not on record"
