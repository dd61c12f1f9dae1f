"""What the guard tells Prometheus: which cards it holds, in a file of its own, when that changes.

Written beside the watch, because a disk may keep its writer waiting for longer than a hot card has. The guard waits
for no lock: where another inferhost holds it, the file follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from inferhost.host.machine import Machine
from inferhost.host.record.baseline import read_baseline
from inferhost.host.report import HostError
from inferhost.host.watch import textfile
from inferhost.schema.plan import Plan

FILE = textfile.GUARDED
LATCHED = "inferhost_gpu_guard_latched"
HELP = {LATCHED: "Whether the guard holds a card at its safe state because it was too hot."}
AGAIN_S = 5.0
"""How soon a write that failed is tried again."""
WAIT_S = 5.0
"""How long an ending guard waits for its last write."""


class Told:
    """The file, and whether it says what is so."""

    def __init__(self, machine: Machine, plan: Plan, failed: Callable[[str], None]) -> None:
        self._machine, self._plan, self._failed = machine, plan, failed
        self._told: Mapping[str, bool] = {}
        self._again_s = 0.0
        self._writer: threading.Thread | None = None

    def tell(self, latched: Mapping[str, bool]) -> None:
        """Whether each card is held, by UUID; nothing happens where the file says so already."""
        now_s = self._machine.clock.now_s()
        if latched == self._told or now_s < self._again_s or (self._writer and self._writer.is_alive()):
            return
        self._told = latched
        self._writer = threading.Thread(target=self._write, args=(latched, now_s), name=FILE, daemon=True)
        self._writer.start()

    def finish(self, latched: Mapping[str, bool]) -> None:
        """The last word, with a short wait for it."""
        self._join()
        self._again_s = 0.0
        self.tell(latched)
        self._join()

    def _join(self) -> None:
        if self._writer:
            self._writer.join(WAIT_S)

    def _write(self, latched: Mapping[str, bool], now_s: float) -> None:
        path = textfile.path_of(self._machine, self._plan, FILE)
        samples = [(LATCHED, {"gpu": uuid}, float(held)) for uuid, held in latched.items()]
        try:
            # Without a record there is nothing of ours here, or not any more.
            if path is not None and read_baseline(self._machine).on_disk:
                textfile.write(self._machine, path, textfile.text(samples, HELP), lock_wait_s=0.0)
        except HostError as error:
            self._told, self._again_s = {}, now_s + AGAIN_S
            self._failed(f"{error.problem.path} {error.problem.message}; trying again")
