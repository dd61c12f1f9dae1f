"""Writes every golden plan and table from its wish: `python -m tests.golden.renew`.

Every host of every inventory has one, so that what is tested is what is used; Ansible itself says what a host's
variables are. Further folders with a `wish.json` of their own hold what no inventory has.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from inferhost import catalogue, planner, table
from inferhost.schema import document

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
LANDSCAPES = sorted(path.parent for path in ROOT.glob("inventories/*/hosts.yml"))
ANSIBLE_INVENTORY = pathlib.Path(sys.executable).parent / "ansible-inventory"


@functools.cache
def inventory_wishes() -> dict[str, dict[str, Any]]:
    """All `inferhost_*` variables of every host of every inventory, by host."""
    found: dict[str, dict[str, Any]] = {}
    for landscape in LANDSCAPES:
        listed = subprocess.run(
            [ANSIBLE_INVENTORY, "--list", "--inventory", landscape],
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            capture_output=True,
            text=True,
            check=True,
        )
        for host, values in json.loads(listed.stdout)["_meta"]["hostvars"].items():
            if host in found:
                raise ValueError(f"{host} stands in two inventories")
            found[host] = {key: value for key, value in values.items() if key.startswith("inferhost_")}
    return found


def wish(host: str) -> dict[str, Any]:
    """The host's wish: from its inventory, else from its golden folder."""
    if host in inventory_wishes():
        return inventory_wishes()[host]
    return dict(json.loads((HERE / host / "wish.json").read_text(encoding="utf-8")))


def outputs(host: str) -> dict[str, str]:
    """What belongs into a host's folder."""
    plan = planner.plan(wish(host), host, catalogue.load())
    return {"plan.json": document.text(plan), "table.txt": table.render_plan(document.plain(plan))}


def hosts() -> list[str]:
    """Every host of the inventories, and those whose folder holds a wish of its own."""
    return sorted({*inventory_wishes(), *(path.parent.name for path in HERE.glob("*/wish.json"))})


def main() -> int:
    for host in hosts():
        for name, text in outputs(host).items():
            path = HERE / host / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
                print(f"renewed: {path.relative_to(HERE)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
