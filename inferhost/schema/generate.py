"""Writes everything that is derived from the roles' option list, the document classes and the catalogue.

`python -m inferhost.schema.generate` renews the files; with `--check` it names the stale ones and exits 1. The
hand-written sources are `roles/*/meta/argument_specs.yml` and the catalogue.
"""

import json
import pathlib
import re
import sys
from typing import Any

import yaml

from inferhost.catalogue import Catalogue, load
from inferhost.schema import advice, document
from inferhost.schema.plan import Plan
from inferhost.schema.result import Result

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "inferhost" / "schema"
NOTICE = "Generated from roles/*/meta/argument_specs.yml by `make generate`; do not edit"

MARKUP = re.compile(r"\b[A-Z]\(([^()]*)\)")


def main_options() -> dict[str, dict[str, Any]]:
    """Every option of every role's `main` entry point, with the role that owns it; sorted by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        role = path.parents[1].name
        specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        for name, option in (specs["main"].get("options") or {}).items():
            if name in found:
                raise ValueError(f"{name} is declared by {found[name]['role']} and by {role}")
            found[name] = {"role": role, **option, "description": " ".join(option["description"])}
    return dict(sorted(found.items()))


def outputs() -> dict[pathlib.Path, str]:
    """Every generated file with its text."""
    options = main_options()
    plain = {name: {**option, "description": _plain(option["description"], "")} for name, option in options.items()}
    files = {SCHEMA / "wish.json": _json({"comment": NOTICE, "options": plain})}
    for name, cls in (("plan", Plan), ("result", Result)):
        files[SCHEMA / f"{name}.schema.json"] = _json(document.json_schema(cls))
    for role in sorted({o["role"] for o in options.values()}):
        own = {n: o for n, o in options.items() if o["role"] == role}
        files[ROOT / "roles" / role / "defaults" / "main.yml"] = _defaults(own)
    files[ROOT / "docs" / "options.md"] = _reference(options)
    files[ROOT / "docs" / "catalogue.md"] = _catalogue(load())
    files[ROOT / "docs" / "tuning-advice.md"] = advice.page()
    return files


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _default_text(option: dict[str, Any]) -> str:
    return "required" if option.get("required") else json.dumps(option["default"])


def _defaults(options: dict[str, dict[str, Any]]) -> str:
    """A defaults file that sets nothing: defaults live in the specs, because a value here would hide there."""
    lines = ["---", f"# {NOTICE}.", "# It sets nothing: the defaults feed the planner from the specs."]
    for name, option in options.items():
        lines.append(f"# {name}: {_default_text(option)}")
    return "\n".join(lines) + "\n"


def _reference(options: dict[str, dict[str, Any]]) -> str:
    lines = ["# Options", "", f"{NOTICE}.", ""]
    for role in sorted({o["role"] for o in options.values()}):
        lines += [f"## {role}", "", "| option | type | default | what it does |", "|---|---|---|---|"]
        for name, option in options.items():
            if option["role"] == role:
                kind = " \\| ".join(option["choices"]) if option.get("choices") else option["type"]
                lines.append(f"| `{name}` | {kind} | `{_default_text(option)}` | {_plain(option['description'])} |")
        lines.append("")
    return "\n".join(lines)


def _plain(description: str, mark: str = "`") -> str:
    """A description without Ansible's markup: `C(x)` becomes the word between two marks."""
    return MARKUP.sub(lambda found: f"{mark}{found[1]}{mark}", description)


ENGINE_TABLES = """\
What an engine version reads stands in `inferhost/catalogue/engine_tables`, one file per version, written by
`python -m inferhost.catalogue.extract ENGINE SOURCE --version V`. SOURCE is the unpacked package: of vLLM the sdist,
of SGLang the wheel, of TabbyAPI the repository, of SFLLM its folder `python`, of llama.cpp a file with what
`llama-server --help` printed, then the source tree for the environment. Nothing of the engine is run. What sources
cannot tell (former names, secrets) stands in `engine_notes.json`, which is merged. The tests compare each table with
its source where that lies in `~/.cache/inferhost/engine-sources/ENGINE-VERSION` (llama.cpp's help there as
`help.txt`), and say so where it does not."""


FORMULAS = """\
What the planner computes with. A reason of a plan cites one as `formula:ID`, and `inferhost explain` tells it beside
the value. How far predictions were from published figures: [accuracy.md](accuracy.md)."""


def _catalogue(known: Catalogue) -> str:
    """What can be named in a wish, so that nobody has to read JSON for it."""
    lines = ["# Catalogue", "", "Generated from inferhost/catalogue/*.json by `make generate`; do not edit.", ""]
    lines += [
        "To add a GPU, a model or an engine version, add a row to `gpus.json`, `models.json` or `engines.json` in",
        "`inferhost/catalogue`: `rows.py` there explains each field, `source` says where it was read.",
        "",
    ]
    lines += ["## GPUs", "", "| model | name | memory | compute capability |", "|---|---|---|---|"]
    lines += [
        f"| `{row.key}` | {row.name} | {_known(row.memory_label_gb, ' GB')} | {row.compute_capability} |"
        for row in known.gpus.values()
    ]
    others = sorted(chip.names[0] for chip in known.chips.values() if chip.key not in known.gpus)
    lines += ["", f"Known to `inferhost estimate` alone, from `chips.json`: {', '.join(others)}."]
    lines += ["", "## Models", "", "| model | format | weights | parameters | context |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row.key}` | {row.format} | {'16 bit' if row.quantisation == 'none' else row.quantisation} "
        f"| {row.parameters / 1e9:.3g} B | {_known(row.context_max_tokens, ' tokens')} |"
        for row in known.models.values()
    ]
    lines += ["", "## Engines", "", ENGINE_TABLES, ""]
    lines += [
        "| engine | version | reads | least compute capability | flags | own variables |",
        "|---|---|---|---|---|---|",
    ]
    for row in known.engines.values():
        table = known.engine_table(row)
        lines.append(
            f"| `{row.engine}` | {row.version} | {', '.join(row.quantisations)} | {row.min_compute_capability} "
            f"| {len(table.flag_rows)} | {len({*table.variables, *table.flags_by_variable})} |"
        )
    lines += ["", "## Formulas", "", FORMULAS, "", "| formula | says | source |", "|---|---|---|"]
    for law in known.formulas.values():
        lines.append(f"| `{law.key}` | {_cell(law.statement)} | {_cell(law.source)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _known(number: float | None, unit: str) -> str:
    return "unknown" if number is None else f"{number:g}{unit}" if number < 10_000 else f"{number:.0f}{unit}"


def main(arguments: list[str]) -> int:
    stale = []
    for path, text in outputs().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT))
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for stale_path in stale:
        print(f"{'stale' if '--check' in arguments else 'renewed'}: {stale_path}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
