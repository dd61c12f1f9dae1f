"""Which hosts plan an engine version that is behind the catalogue's: `inferhost outdated`.

The catalogue's pinned row of an engine is the newest version that somebody read. A host whose wish names another one
is listed with what it would move to; the upgrade goes beside, because each version has a folder of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inferhost.catalogue import Catalogue


def behind(plans: Mapping[str, Mapping[str, Any]], catalogue: Catalogue) -> Iterator[tuple[str, ...]]:
    """Host, instance, engine, planned version and the catalogue's, for each engine that is behind."""
    newest = {row.engine: row.version for row in catalogue.engines.values() if row.pinned}
    for host, plan in sorted(plans.items()):
        for service in plan["service"]:
            engine, version = service["engine"], service["engine_version"]
            if newest.get(engine, version) != version:
                yield host, service["instance"], engine, version, newest[engine]


def report(plans: Mapping[str, Mapping[str, Any]], catalogue: Catalogue) -> str:
    """The list as a person reads it."""
    rows = [("HOST", "INSTANCE", "ENGINE", "PLANNED", "CATALOGUE"), *behind(plans, catalogue)]
    if len(rows) == 1:
        return f"{len(plans)} planned, none behind the catalogue\n"
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)
