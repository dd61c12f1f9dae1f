"""How the engine gets onto the host: made by us in a folder that carries its version, or there already.

A version never replaces another one: an upgrade is made beside it, and the unit names the one that serves.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow
from inferhost.planner.reasons import reason
from inferhost.planner.request import Instance
from inferhost.schema.plan import Install, Reason
from inferhost.schema.problems import InputError, Problem

OPTION, INDEX, PYTHON = "engine_install", "engine_index", "engine_python"
GIVEN = "given"
RESTART = "engine restart"


def engine_install(
    instance: Instance, engine: EngineRow, catalogue: Catalogue
) -> tuple[Install | None, list[Reason]]:
    """The installation with its reason, None where the engine is there; `InputError` for one that cannot be."""
    kind, path = instance.text(OPTION), f"service.{instance.name}.install"
    row = catalogue.installs[engine.key]
    problems = list(_problems(instance, kind))
    offered = {"pip": bool(row.requirements), "source": bool(row.source_arguments)}
    if kind != GIVEN and not offered[kind]:
        ways = [name for name, there in offered.items() if there]
        hint = f"{instance.path(OPTION)}: {' or '.join([*ways, GIVEN])}"
        if row.package:
            hint += f"; Debian has it in {row.package}"
        if row.build_argument and row.repository:
            file = f"containers/{row.key}.Containerfile"
            hint += f"; or {instance.path('mode')}: quadlet or compose with an image of {file}"
        found = f'found "{kind}", and {engine.engine} {engine.version} does not come that way'
        problems.append(Problem(instance.path(OPTION), found, hint, "install"))
    if kind != GIVEN and instance.text("engine_path"):
        found = f"names an engine that is there, and {instance.path(OPTION)} wants one made"
        problems.append(Problem(instance.path("engine_path"), found, "leave one of the two out", "install"))
    if problems:
        raise InputError(problems)
    source = instance.source(OPTION)
    if kind == GIVEN:
        because = f"the engine is on the host already ({instance.origin(OPTION)})"
        return None, [reason(path, GIVEN, because, source, gain="none", disruption=RESTART)]
    index = instance.text(INDEX)
    arguments = row.requirements if kind == "pip" else row.source_arguments
    options = (*(("--pre",) if row.prerelease else ()), *(("--index-url", index) if index else ()))
    install = Install(
        kind=kind,
        prefix=row.prefix or "",
        python=instance.text(PYTHON) or "/usr/bin/python3",
        python_min=row.python_min or "3.10",
        arguments=(*options, *arguments),
        repository=row.repository if kind == "source" else None,
        commit=row.commit if kind == "source" else None,
    )
    because = f"{engine.engine} {engine.version} in a folder of its own: another version goes beside it"
    reasons = [reason(path, install.prefix, because, f"catalogue:installs/{engine.key}#prefix", disruption=RESTART)]
    return install, reasons


def _problems(instance: Instance, kind: str) -> list[Problem]:
    """What is wrong with the single options."""
    found = []
    index, python = instance.text(INDEX), instance.text(PYTHON)
    for option in (INDEX, PYTHON):
        if kind == GIVEN and instance.text(option):
            hint = f"{instance.path(OPTION)}: pip, or leave it out"
            found.append(Problem(instance.path(option), "is for an engine that is installed", hint, "install"))
    if python and not (python.startswith("/") and python.isprintable()):
        hint = "for example /usr/bin/python3.11"
        found.append(Problem(instance.path(PYTHON), f'found "{python}", wanted an absolute path', hint, "install"))
    try:
        parts = urlsplit(index)
    except ValueError:
        parts = urlsplit("x:")
    if index and (parts.scheme not in ("http", "https", "file") or not index.isprintable() or " " in index):
        found.append(Problem(instance.path(INDEX), "is no address of an index", "https://HOST/simple", "install"))
    elif parts.username or parts.password:
        hint = "put it into /root/.netrc, which pip reads, or /etc/pip.conf"
        found.append(
            Problem(instance.path(INDEX), "carries a secret, and the plan is no place for one", hint, "secret")
        )
    return found
