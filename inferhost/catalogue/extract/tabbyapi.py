"""TabbyAPI: every field of its pydantic config models is a flag and an environment variable.

`common/args.py` makes `--field-name` of each, always with a value; `common/tabby_config.py` reads
`TABBY_SECTION_FIELD`. Types are checked by pydantic after that, so a switch is written `--vision true`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from inferhost.catalogue.extract.entries import Flag, Interface, choice_words
from inferhost.catalogue.extract.environment import merged, read_in_python
from inferhost.catalogue.extract.python_source import Module, Package

MODELS = "common.config_models"


def interface(sources: list[pathlib.Path]) -> Interface:
    """What `main.py` reads; the source is the repository's folder."""
    package = Package(sources[0])
    module = package.module(MODELS)
    if module is None:
        raise FileNotFoundError(f"{sources[0]} has no {MODELS}: give the folder that holds common/")
    flags = tuple(_flags(package, module))
    read = read_in_python(package, ".", "TABBY_")
    return Interface(flags, tuple(merged(read)))


def _flags(package: Package, module: Module) -> Iterator[Flag]:
    whole = package.find(module, "TabbyConfigModel")
    for section, (where, node) in package.fields(whole).items() if whole else ():
        model = next((h.cls for h in package.hints(where, node.annotation) if h.cls is not None), None)
        for name, (at, field) in package.fields(model).items() if model else ():
            if name.startswith("_"):
                continue
            hints = [hint for hint in package.hints(at, field.annotation) if hint.kind != "None"]
            kinds = {hint.kind for hint in hints}
            literal = hints[0].values if kinds == {"Literal"} else ()
            choices = choice_words([v for h in hints for v in h.values]) if literal else None
            kind = next(iter(kinds)) if len(kinds) == 1 else None
            yield Flag(
                (f"--{name.replace('_', '-')}",),
                at.at(field),
                takes="several" if kind == "list" else "one",
                type=kind if kind in ("int", "float", "bool") else None,
                choices=choices,
                variables=(f"TABBY_{section}_{name}".upper(),),
            )
