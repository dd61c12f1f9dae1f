"""The import as a person reads it: a table of findings as YAML comments, then the wish, so that it can be a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from inferhost.imports.judge import VERDICTS, Finding
from inferhost.imports.launch import Mistake
from inferhost.table import cell

WIDTH = 116
NAME_WIDTH = 34


def render_findings(title: str, findings: Sequence[Finding], mistakes: Sequence[Mistake]) -> str:
    """The table, worst first; every line fits into a YAML comment."""
    told = [f.verdict for f in findings] + [m.verdict for m in mistakes]
    counts = {v: told.count(v) for v in VERDICTS}
    lines = [f"{title}: {', '.join(f'{n} {v}' for v, n in counts.items() if n) or 'nothing to judge'}"]
    for verdict in VERDICTS:
        found = [m for m in mistakes if m.verdict == verdict]
        rows = [(f"{m.place}: {m.found}", m.because, m.instead, "") for m in found]
        rows += [
            (f"{f.name} {f.value}".strip(), f.because, f.instead, f.source) for f in findings if f.verdict == verdict
        ]
        if rows:
            lines += ["", verdict]
            lines += [line for row in rows for line in _row(*row)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def render_wish(wish: dict[str, Any]) -> str:
    """The wish as YAML."""
    return yaml.safe_dump(wish, sort_keys=False, allow_unicode=True, width=WIDTH)


def commented(text: str) -> str:
    """The text as YAML comments."""
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())


def _row(name: str, because: str, instead: str, source: str) -> list[str]:
    cells = [because] + ([f"-> {instead}"] if instead else []) + ([f"source: {source}"] if source else [])
    right = [line for text in cells for line in cell(text, WIDTH - NAME_WIDTH - 3)]
    left = cell(name, NAME_WIDTH)
    height = max(len(left), len(right))
    padded = [side + [""] * (height - len(side)) for side in (left, right)]
    return [f"  {a:<{NAME_WIDTH}} {b}" for a, b in zip(*padded, strict=True)]
