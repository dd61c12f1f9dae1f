"""SFLLM: plain `add_argument` calls in two files."""

from __future__ import annotations

import pathlib

from inferhost.catalogue.extract.entries import Interface, flag_of_call
from inferhost.catalogue.extract.environment import merged, read_in_python
from inferhost.catalogue.extract.python_source import Package, calls

FILES = ("sfllm.server_args", "sfllm.serving.app")


def interface(sources: list[pathlib.Path]) -> Interface:
    """What `app.py` reads; the source is the repository's folder `python`."""
    package = Package(sources[0])
    modules = [package.module(name) for name in FILES]
    if None in modules:
        raise FileNotFoundError(f"{sources[0]} has no {' or '.join(FILES)}: give the folder that holds sfllm/")
    flags = [flag_of_call(package, m, call) for m in modules if m for call in calls(m.tree, "add_argument")]
    return Interface(tuple(flags), tuple(merged(read_in_python(package, "sfllm", "SFLLM_"))))
