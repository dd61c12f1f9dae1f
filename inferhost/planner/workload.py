"""What kind of work an engine is for, as values that stand in for what the wish leaves open.

Latency and throughput pull apart: more requests at once share one read of the weights and each gets slower, and a
long prompt's chunk holds up every answer that is being written. Whatever the wish sets itself wins.
"""

from __future__ import annotations

import dataclasses

OPTION = "workload"


@dataclasses.dataclass(frozen=True)
class Workload:
    """One kind of work; `None` leaves the default, or the engine's own choice.

    Source: formula `engine.workload`.
    """

    because: str
    max_sequences: int | None = None
    batched_tokens: int | None = None


OPTIONS = ("max_sequences", "batched_tokens")
"""What a workload may stand in for."""

WORKLOADS = {
    "interactive": Workload(
        "few requests at once and short prefill chunks, so that nobody who is being answered waits long", 4, 2048
    ),
    "balanced": Workload("the defaults, which neither side suffers from"),
    "bulk": Workload("many requests at once: all of them share each read of the weights, and nobody waits", 64),
}
