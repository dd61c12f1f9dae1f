"""T0: every key of the plan is taken on both sides, or it is written down why not, and both are checked."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from inferhost.schema import document
from inferhost.schema.plan import Plan
from tests.golden import renew
from tests.nix import coverage, placed_by_roles, tiers
from tests.nix.coverage import HOST, KEYS, PLACED

HOST_SOURCE = "".join(path.read_text() for path in (tiers.ROOT / "inferhost/host").rglob("*.py"))
SCHEMA_SOURCE = (tiers.ROOT / "inferhost/schema/plan.py").read_text()


def rich_plan() -> dict[str, Any]:
    """A plan in which every list has an entry: keys of an empty list would be taken by nobody."""
    plans = [json.loads((renew.HERE / host / "plan.json").read_text()) for host in renew.hosts()]
    return next(
        p for p in plans if p["manage"] and not p["host"]["simulated"] and p["sysctl"] and p["cpu"]["governor"]
    )


PLAN = rich_plan()
SCHEMAS = dict(coverage.keys(document.json_schema(Plan)))


def changes(key: str) -> list[dict[str, Any]]:
    """The plan with another value of this key, one for each value that may matter."""
    found = coverage.others(coverage.found(PLAN, key), SCHEMAS[key])
    assert found, f"{key}: coverage.others has no second value for it"
    return [coverage.changed(PLAN, key, value) for value in found]


def listed(side: int, how: str) -> set[str]:
    return {key for key, sides in KEYS.items() if sides[side] == how}


def _placed(plan: dict[str, Any]) -> object:
    try:
        return placed_by_roles.files(plan)
    except Exception as error:  # whatever Ansible says of a plan that no planner makes
        return type(error)


def host_reads(key: str) -> bool:
    """Whether the host program, or a document class for it, reads an attribute of that name."""
    name = key.rpartition(".")[2].removesuffix("[]")
    return re.search(rf"\.{name}\b", HOST_SOURCE + SCHEMA_SOURCE) is not None


def test_every_key_of_the_plan_is_listed():
    """A new key? Say in coverage.py who takes it, and let nix/lib/plan.nix take it if it is to be placed."""
    assert set(SCHEMAS) == set(KEYS)


def test_every_key_is_taken_by_someone_or_has_a_reason():
    for key, sides in KEYS.items():
        assert all(side in (PLACED, HOST) or len(side) > 20 for side in sides), key


@pytest.mark.tier("T0")
def test_what_nixos_takes_is_what_is_listed(tmp_path):
    """Taken is a key of which some change changes what is placed, or is refused."""
    flat = [(key, plan) for key in KEYS for plan in changes(key)]
    plans = tmp_path / "plans.json"
    plans.write_text(json.dumps([PLAN, *(plan for _, plan in flat)]))
    before, *after = tiers.evaluate(tiers.HERE / "plans.nix", "attempts", given=plans)
    taken = {key for (key, _), now in zip(flat, after, strict=True) if now != before}
    assert taken == listed(1, PLACED)


def test_what_the_roles_place_is_what_is_listed():
    before = _placed(PLAN)
    assert {key for key in KEYS if any(_placed(plan) != before for plan in changes(key))} == listed(0, PLACED)


def test_what_the_host_program_is_said_to_read_it_reads():
    said = listed(0, HOST) | listed(1, HOST)
    assert {key for key in said if not host_reads(key)} == set()
