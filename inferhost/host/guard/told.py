"""What the guard tells Prometheus: which cards it holds, in a file of its own, when that changes.

Written beside the watch, because a disk may keep its writer waiting for longer than a hot card has. The guard waits
for no lock: where another inferhost holds it, the file follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from inferhost.host.guard import latch
from inferhost.host.guard.latch import Hold
from inferhost.host.machine import Machine
from inferhost.host.record.baseline import read_baseline
from inferhost.host.report import HostError, RecordUnusable
from inferhost.host.watch import textfile
from inferhost.host.watch.textfile import Sample
from inferhost.schema.plan import Plan

FILE = textfile.GUARDED
LATCHED = "inferhost_gpu_guard_latched"
NOT_DOWN = "inferhost_gpu_guard_not_brought_down"
READABLE = "inferhost_guard_record_readable"
HELP = {
    LATCHED: "Whether the guard holds a card at its safe state because it was too hot.",
    NOT_DOWN: "Whether the guard holds a card of which it lowered nothing that the card drew.",
    READABLE: "Whether the guard can read what is on record; without that, no card is given back to the plan.",
}
AGAIN_S = 5.0
"""How soon a write that failed is tried again."""
WAIT_S = 5.0
"""How long an ending guard waits for its last write."""


class Told:
    """The file, and whether it says what is so."""

    def __init__(self, machine: Machine, plan: Plan, failed: Callable[[str], None]) -> None:
        self._machine, self._plan, self._failed = machine, plan, failed
        self._told: Sequence[Sample] = ()
        self._again_s = 0.0
        self._writer: threading.Thread | None = None

    def tell(self, now: Sequence[Sample]) -> None:
        """What there is to tell; nothing happens where the file says so already."""
        now_s = self._machine.clock.now_s()
        if now == self._told or now_s < self._again_s or (self._writer and self._writer.is_alive()):
            return
        self._told = now
        self._writer = threading.Thread(target=self._write, args=(now, now_s), name=FILE, daemon=True)
        self._writer.start()

    def finish(self, now: Sequence[Sample]) -> None:
        """The last word, with a short wait for it."""
        self._join()
        self._again_s = 0.0
        self.tell(now)
        self._join()

    def _join(self) -> None:
        if self._writer:
            self._writer.join(WAIT_S)

    def _write(self, now: Sequence[Sample], now_s: float) -> None:
        path = textfile.path_of(self._machine, self._plan, FILE)
        try:
            if path is not None and self._is_installed():
                textfile.write(self._machine, path, textfile.text(now, HELP), lock_wait_s=0.0)
        except HostError as error:
            self._told, self._again_s = (), now_s + AGAIN_S
            self._failed(f"{error.problem.path} {error.problem.message}; trying again")

    def _is_installed(self) -> bool:
        """Without a record there is nothing of ours here, or not any more; one that cannot be read is one."""
        try:
            return read_baseline(self._machine).on_disk
        except RecordUnusable:
            return True


def samples(holds: Mapping[str, Hold], readable: bool) -> list[Sample]:
    """What the file says of these cards, by UUID, and of the record."""
    held = {uuid: hold.state == latch.LATCHED for uuid, hold in holds.items()}
    found: list[Sample] = [(LATCHED, {"gpu": uuid}, float(held[uuid])) for uuid in holds]
    found += [(NOT_DOWN, {"gpu": uuid}, float(held[uuid] and bool(holds[uuid].left))) for uuid in holds]
    return [*found, (READABLE, {}, float(readable))] if holds else []
