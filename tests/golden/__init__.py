"""Plans that the planner made. The planner itself is the controller's and needs a newer Python than hosts have."""

import json
import pathlib

from inferhost.schema.plan import Plan, read_plan


def golden_plan(name: str) -> Plan:
    """The plan of one of the folders here."""
    return read_plan(json.loads((pathlib.Path(__file__).parent / name / "plan.json").read_text(encoding="utf-8")))
