"""Writes every golden plan and table from its wish: `python -m tests.golden.renew`.

The wishes of hosts that have an inventory are copied from there first, so that what is tested is what is used.
"""

import json
import pathlib
import sys

import yaml

from inferhost import catalogue, planner, table
from inferhost.schema import document

HERE = pathlib.Path(__file__).parent
INVENTORIES = HERE.parents[1] / "inventories"
FROM_INVENTORY = {
    "gb200": ("esxi/host_vars/gb200",),
    "sandbox-gb200": ("sandbox/group_vars/gb200.yml", "sandbox/host_vars/sandbox-gb200"),
}


def inventory_wish(host: str) -> dict[str, object]:
    """All `inferhost_*` variables of a host, later files over earlier ones."""
    found: dict[str, object] = {}
    for name in FROM_INVENTORY[host]:
        path = INVENTORIES / name
        for file in [path] if path.is_file() else sorted(path.glob("*.yml")):
            found |= yaml.safe_load(file.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key.startswith("inferhost_")}


def outputs(folder: pathlib.Path) -> dict[str, str]:
    """What belongs into a host's folder."""
    host = folder.name
    if host in FROM_INVENTORY:
        wish = inventory_wish(host)
    else:
        wish = json.loads((folder / "wish.json").read_text(encoding="utf-8"))
    plan = planner.plan(wish, host, catalogue.load())
    return {
        "wish.json": json.dumps(wish, indent=2, sort_keys=True) + "\n",
        "plan.json": document.text(plan),
        "table.txt": table.render_plan(document.plain(plan)),
    }


def hosts() -> list[pathlib.Path]:
    return sorted(path.parent for path in HERE.glob("*/wish.json"))


def main() -> int:
    for folder in hosts():
        for name, text in outputs(folder).items():
            path = folder / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                print(f"renewed: {path.relative_to(HERE)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
