"""`inferhost import`: reads one source on this machine and prints what becomes of it, and the wish.

Nothing is run and nothing is written: the output is a file of variables whose comments say what was found.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from inferhost import catalogue
from inferhost.imports.containers import read_compose, read_dockerfile, read_manifest
from inferhost.imports.launch import Launch, Mistake, Source
from inferhost.imports.report import commented, render_findings, render_wish
from inferhost.imports.settings import read_settings
from inferhost.imports.shell import read_script
from inferhost.imports.unit import UNIT_FOLDERS, read_unit
from inferhost.imports.wish import PREFIX, wished
from inferhost.schema.problems import InputError, Problem

SOURCES = {
    "unit": "a systemd unit: its name on this machine, or a file; drop-ins beside it are read too",
    "script": "a shell script",
    "compose": "a Compose file",
    "dockerfile": "a Dockerfile",
    "manifest": "Kubernetes manifests",
    "tabbyapi": "TabbyAPI's config.yml",
}


def add_command(commands: Any) -> None:
    """The command's grammar."""
    command = commands.add_parser("import", help="turn an existing launch of an engine into a wish; runs nothing")
    source = command.add_mutually_exclusive_group(required=True)
    for name, text in SOURCES.items():
        source.add_argument(f"--{name}", metavar="NAME|FILE" if name == "unit" else "FILE", help=text)
    command.add_argument("--engine", help="whose flags these are, where the file names no program")
    command.set_defaults(run=run_import)


def run_import(options: argparse.Namespace) -> str:
    """The findings as comments and the wish, or `InputError` where no launch of an engine was found."""
    kind = next(name for name in SOURCES if getattr(options, name) is not None)
    where = getattr(options, kind)
    return imported(source_of(kind, where), where, options.engine)


def imported(source: Source, where: str, engine: str | None = None) -> str:
    """The text for one source. Several launches become instances, named by where they stand."""
    known = catalogue.load()
    launches = list(source.launches)
    if not launches and engine and (source.words or source.env):
        launches = [Launch(where, engine, words=source.words, env=source.env)]
    if engine is not None and engine not in {row.engine for row in known.engines.values()}:
        names = ", ".join(sorted({row.engine for row in known.engines.values()}))
        raise InputError([Problem("--engine", f'found "{engine}", wanted one of {names}')])
    gpu = {f"inferhost_gpu_{key}": value for key, value in source.gpu.items()}
    if not launches and gpu:
        return commented(render_findings(where, [], source.mistakes)) + "---\n" + render_wish(gpu)
    if not launches:
        text = commented(render_findings(where, [], source.mistakes)) if source.mistakes else ""
        hint = "name the file that starts the engine; where it names no program, --engine says whose flags these are"
        raise InputError([Problem(where, f"holds no launch of a known engine{_indented(text)}", hint, "no-launch")])
    parts, instances = [], {}
    for number, launch in enumerate(launches):
        findings, wish = wished(launch, known)
        title = f"{launch.place}: {launch.engine}"
        parts.append(commented(render_findings(title, findings, source.mistakes if not number else ())))
        instances[instance_name(launch, number)] = wish
    shared = [name for name, wish in instances.items() if "gpus" not in wish]
    if len(shared) > 1:
        because = "no launch names its cards, so the plan starts each at the first one"
        told = Mistake(where, "harmful", ", ".join(shared), because, f"{PREFIX}gpus for each, or _memory_share")
        parts.append(commented(render_findings("instances", [], [told])))
    if len(instances) == 1:
        whole = {f"{PREFIX}{key}": value for wish in instances.values() for key, value in wish.items()}
    else:
        whole = {f"{PREFIX}instances": instances}
    return "\n".join(parts) + "---\n" + render_wish({**whole, **gpu})


def source_of(kind: str, where: str) -> Source:
    """What a file on this machine holds."""
    if kind == "unit":
        return _unit(where)
    path = pathlib.Path(where)
    text = _text(path)
    if kind == "script":
        return read_script(text, where, directory=str(path.resolve().parent))
    if kind == "compose":
        return read_compose(text, where, lambda name: _read(path.parent / name), str(path.resolve().parent))
    reader = {"dockerfile": read_dockerfile, "manifest": read_manifest, "tabbyapi": read_settings}[kind]
    return reader(text, where)


def instance_name(launch: Launch, number: int) -> str:
    """A name for an instance, from the Compose service where there is one."""
    name = launch.place.rpartition("services.")[2] if "services." in launch.place else ""
    plain = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[:32]
    return plain or ("main" if number == 0 else f"launch-{number + 1}")


def _unit(where: str) -> Source:
    if "/" in where or pathlib.Path(where).is_file():
        files = [pathlib.Path(where)]
    else:
        name = where if where.endswith(".service") else f"{where}.service"
        files = [f for f in (pathlib.Path(folder) / name for folder in UNIT_FOLDERS) if f.is_file()][:1]
        if not files:
            raise InputError(
                [Problem("--unit", f'found no unit "{name}" in {", ".join(UNIT_FOLDERS)}', "name its file")]
            )
    names = {files[0].name}
    folders = [files[0].parent, *(pathlib.Path(f) for f in UNIT_FOLDERS if "/" not in where)]
    dropins = {d.name: d for folder in reversed(folders) for n in names for d in (folder / f"{n}.d").glob("*.conf")}
    if "[Service]" not in _text(files[0]):
        hint = "a unit's file or name, for example sglang.service; a shell script is read with --script"
        raise InputError([Problem(where, "is no unit of a service: it has no section [Service]", hint, "no-unit")])
    texts = [_text(files[0]), *(_text(d) for _, d in sorted(dropins.items()))]
    return read_unit(texts, where, lambda path: _read(pathlib.Path(path)))


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError([Problem(str(path), f"cannot be read: {error.strerror}", "", "unreadable")]) from error


def _read(path: pathlib.Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _indented(text: str) -> str:
    return "".join(f"\n  {line}" for line in text.splitlines())
