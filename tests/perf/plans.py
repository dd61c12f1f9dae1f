"""What planning many hosts on one core costs, as `make perf` prints it.

Every host has a wish of its own: card, model, context, port, power and UUID differ, so that nothing is planned from
memory. Times are of the process, the catalogue is loaded before, and reading wish and hardware against their schema
is reported apart. Figures belong to the machine that printed them: compare the ratios.
"""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from inferhost import planner
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import CATALOGUE, wish

COUNTS = (100, 1000, 10_000)


def plannable() -> list[tuple[str, str]]:
    """Every card with every model that some engine serves there."""
    found = []
    for card, model in itertools.product(CATALOGUE.gpus, CATALOGUE.models):
        try:
            planner.plan(wish(card, model), "host", CATALOGUE)
        except InputError:
            continue
        found.append((card, model))
    return found


def wishes(count: int, pairs: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """`count` different wishes over the given pairs of card and model."""
    for number, (card, model) in zip(range(count), itertools.cycle(pairs), strict=False):
        values = wish(card, model, service_context_tokens=1024 + number % 1000, service_port=10_000 + number)
        values["inferhost_hardware"]["gpus"][0]["uuid"] = f"GPU-{number:08x}-0000-4000-8000-000000000000"
        yield values


def measured(count: int, pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """Milliseconds of reading and of planning one host, over `count` hosts."""
    given = list(wishes(count, pairs))
    started = time.process_time()
    requests = [planner.read_request(values) for values in given]
    read = time.process_time()
    plan_ids = {planner.planned(request, f"host-{n}", CATALOGUE).plan_id for n, request in enumerate(requests)}
    done = time.process_time()
    if len(plan_ids) != count:
        raise AssertionError(f"{count} hosts, but only {len(plan_ids)} different plans")
    return 1000 * (read - started) / count, 1000 * (done - read) / count


def main() -> int:
    pairs = plannable()
    print(f"{len(pairs)} pairs of card and model; one core; milliseconds of CPU per host")
    print(f"{'HOSTS':>8} {'READING':>10} {'PLANNING':>10} {'RATIO':>8}")
    first = None
    for count in COUNTS:
        reading, planning = measured(count, pairs)
        first = first or planning
        print(f"{count:>8} {reading:>10.3f} {planning:>10.3f} {planning / first:>8.2f}")
    print(f"RATIO is of planning one host to that with {COUNTS[0]} hosts: 1 means linear.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
