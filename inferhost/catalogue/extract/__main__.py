"""Writes the table of what one engine version reads; `--check` compares with the table that is there."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable

from inferhost.catalogue.extract import llama_cpp, sfllm, sglang, tabbyapi, table, vllm
from inferhost.catalogue.extract.entries import Interface
from inferhost.catalogue.reader import FOLDER
from inferhost.schema.problems import InputError

READERS: dict[str, Callable[[list[pathlib.Path]], Interface]] = {
    "llama.cpp": llama_cpp.interface,
    "sfllm": sfllm.interface,
    "sglang": sglang.interface,
    "tabbyapi": tabbyapi.interface,
    "vllm": vllm.interface,
}
NOTES = FOLDER / "engine_notes.json"
TABLES = FOLDER / "engine_tables"


def main(words: list[str] | None = None) -> int:
    """0: written, or as written before; 2: bad input, nothing written; 3: `--check` found a difference."""
    parser = argparse.ArgumentParser(prog="python -m inferhost.catalogue.extract", description=__doc__)
    parser.add_argument("engine", choices=sorted(READERS))
    parser.add_argument(
        "source", nargs="+", type=pathlib.Path,
        help="the unpacked package or repository; of llama.cpp the text of llama-server --help, then its source tree",
    )  # fmt: skip
    parser.add_argument("--version", required=True, help="as the engine's catalogue row names it")
    parser.add_argument("--origin", help="what a reader needs to find the source; by default ENGINE VERSION")
    parser.add_argument("--variables-origin", help="the same for variables, where they were read elsewhere")
    parser.add_argument("--to", type=pathlib.Path, default=TABLES, help="the folder of the tables")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the table differs")
    given = parser.parse_args(words)
    origin = given.origin or f"{given.engine} {given.version}"
    head = {"engine": given.engine, "version": given.version, "origin": origin}
    head["variables_origin"] = given.variables_origin or origin
    try:
        notes = json.loads(NOTES.read_text(encoding="utf-8"))["rows"]
        merged = table.merge(READERS[given.engine](given.source), notes, given.engine)
    except (InputError, FileNotFoundError) as error:
        print(error if isinstance(error, InputError) else f"error: {error}", file=sys.stderr)
        return 2
    for name in merged.unused:
        print(f"note without use in {given.version}: {name}", file=sys.stderr)
    name = f"{given.engine}-{given.version}.json"
    if given.check:
        with tempfile.TemporaryDirectory() as folder:
            table.write(pathlib.Path(folder, name), head, merged)
            same = pathlib.Path(folder, name).read_bytes() == (given.to / name).read_bytes()
        print(f"{name}: {'as the source says' if same else 'differs from the source'}", file=sys.stderr)
        return 0 if same else 3
    given.to.mkdir(exist_ok=True)
    table.write(given.to / name, head, merged)
    print(f"{given.to / name}: {len(merged.flags)} flags, {len(merged.variables)} variables", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
