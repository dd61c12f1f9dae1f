"""Which container engine a host gets, and how its containers get the cards: by a CDI specification, nothing else.

The section is opt-in (`runtime` in `inferhost_manage`). An engine that the host has is kept. NVIDIA's older way, a
hook that adds devices behind the engine's back, is never set up: its containers lose their cards when systemd
reloads its units. An engine that does not know CDI is therefore refused with one that does.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.runtime_row import RuntimeRow
from inferhost.planner.machine.driver_packages import PASSED_OVER, PIN_PRIORITY, is_os
from inferhost.planner.reasons import reason
from inferhost.planner.request import HARDWARE, Request, read_instances
from inferhost.schema.container import Runtime
from inferhost.schema.plan import UNIT_DIRECTORY, Dropin, File, Reason
from inferhost.schema.problems import InputError, Problem

SECTION = "runtime"
OPTION = "inferhost_runtime_"
NOTICE = "Placed by inferhost; put your own settings into a file of your own."
CDI_UNIT = "inferhost-cdi.service"
CDI_SPEC = "/run/cdi/nvidia.yaml"
"""Where the toolkit's own unit writes it too, so that a device never stands in two files of one folder."""
FIRST_WITH_CDI = {"docker": (25,), "podman": (4, 1)}
"""Source: formula `runtime.cdi`."""
QUADLET = (4, 4)
"""The first podman that makes units of `.container` files. Source: formula `runtime.quadlet`."""
NEWEST = "newest"
DAEMON = {"docker": "docker.service", "podman": None}
OWN_KEYS: dict[str, dict[str, Any]] = {"docker": {"features": {"cdi": True}}, "podman": {}}
"""What an engine has to be told in its configuration file."""
SOURCES_PATH = "/etc/apt/sources.list.d/inferhost-toolkit.sources"
PIN_PATH = "/etc/apt/preferences.d/inferhost-toolkit"
TOOLKIT_VERSION = re.compile(r"[0-9]+(\.[0-9]+){2}(-[0-9A-Za-z.+~]+)?")
REPO_PATH = "/etc/yum.repos.d/inferhost-toolkit.repo"
KEY_PATHS = {"apt": "/etc/apt/keyrings/inferhost-toolkit", "dnf": "/etc/pki/rpm-gpg/inferhost-toolkit"}


@dataclasses.dataclass(frozen=True)
class RuntimeSection:
    """What the section installs and places, with its reasons."""

    runtime: Runtime | None = None
    files: tuple[File, ...] = ()
    dropins: tuple[Dropin, ...] = ()
    reasons: tuple[Reason, ...] = ()


def runtime_section(request: Request, catalogue: Catalogue) -> RuntimeSection:
    """The engine and the toolkit, or `InputError` with what the host's distribution could bring instead.

    Nothing on NixOS, whose configuration has both.
    """
    if not request.manages(SECTION) or request.hardware.os.startswith("nixos"):
        return RuntimeSection()
    rows = [row for row in catalogue.runtimes.values() if any(is_os(request.hardware.os, os) for os in row.os)]
    if not rows:
        known = ", ".join(sorted({os for row in catalogue.runtimes.values() for os in row.os}))
        message = f'found "{request.hardware.os}", the runtime section knows the packages of {known}'
        hint = "leave runtime out of inferhost_manage and install docker or podman by hand"
        raise InputError([Problem(f"{HARDWARE}.os", message, hint)])
    engine, version, why = _chosen(request, rows)
    row = next((row for row in rows if row.engine == engine), rows[0])
    present = present_engines(request).get(engine)
    problems = [*_cdi_problems(engine, version, rows, present is not None), *_address_problems(request)]
    problems += _version_problems(request, row)
    if problems:
        raise InputError(problems)
    key, wanted = (request.wish.text(f"{OPTION}toolkit_{part}") for part in ("repository_key", "version"))
    runtime = Runtime(
        engine=engine,
        version=version,
        family=row.family,
        packages=() if present else (*row.packages, *(row.compose if _composes(request) else ())),
        toolkit=row.toolkit,
        key=KEY_PATHS[row.family] + key[-4:] if key else None,
        unit=DAEMON[engine],
        cdi_spec=CDI_SPEC,
        daemon=OWN_KEYS[engine],
        toolkit_version=_packaged(wanted),
        toolkit_pinned=row.toolkit_pinned,
        tools=row.tools,
    )
    files, dropins = _files(request, row, runtime), _dropins(runtime)
    return RuntimeSection(runtime, files, dropins, tuple(_reasons(row, runtime, why, files, dropins)))


def _composes(request: Request) -> bool:
    """Whether an engine of the plan runs with Docker Compose."""
    return request.manages("service") and any(one.text("mode") == "compose" for one in read_instances(request))


def version_numbers(text: str) -> tuple[int, ...]:
    """`26.1.5+dfsg1` as numbers that compare rightly."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def present_engines(request: Request) -> dict[str, str]:
    """The engines that discovery found, with their versions."""
    pairs = (entry.partition(" ") for entry in request.hardware.container_engines)
    return {name: version for name, _, version in pairs if name in FIRST_WITH_CDI}


def _chosen(request: Request, rows: list[RuntimeRow]) -> tuple[str, str, str]:
    """Engine, version and why: the one asked for, else the one that is there, else the distribution's better one."""
    present, wanted = present_engines(request), request.wish.text(OPTION + "engine")
    brought = {row.engine: row.version for row in rows}
    if wanted != "auto":
        if wanted not in present and wanted not in brought:
            others = " or ".join([*present, *brought])
            message = f'found "{wanted}", which {request.hardware.os} does not bring and the host does not have'
            raise InputError([Problem(OPTION + "engine", message, f"use {others}")])
        return wanted, present.get(wanted, brought.get(wanted, "")), "the wish sets it"
    for engine, version in present.items():
        if version_numbers(version) >= FIRST_WITH_CDI[engine]:
            return engine, version, "the host has it already"
    if present:
        engine, version = next(iter(present.items()))
        return engine, version, "the host has it already"
    best = next(row for row in rows if row.preferred)
    return best.engine, best.version, f"the engine of {request.hardware.os} that serves best; the host has none"


def _cdi_problems(engine: str, version: str, rows: list[RuntimeRow], is_present: bool) -> list[Problem]:
    if version_numbers(version) >= FIRST_WITH_CDI[engine]:
        return []
    first = ".".join(str(part) for part in FIRST_WITH_CDI[engine])
    able = [row.engine for row in rows if version_numbers(row.version) >= FIRST_WITH_CDI[row.engine]]
    others = [name for name in able if name != engine]
    newer = f"a {engine} of {first} or later" + (", then discover again" if is_present else "")
    hint = f"{OPTION}engine: {others[0]}; or install {newer}" if others else f"install {newer}"
    where = "is installed" if is_present else "is what the distribution has"
    message = f"{engine} {version} {where}, and it knows no CDI: {engine} {first} is the first that does"
    return [Problem(OPTION + "engine", message, hint, "no-cdi")]


def _address_problems(request: Request) -> list[Problem]:
    url, key = (request.wish.text(f"{OPTION}toolkit_repository_{part}") for part in ("url", "key"))
    problems = []
    if url and not re.fullmatch(r"(https?|file)://?[^\s@]+", url):
        hint = "https://MIRROR/FOLDER, the folder above stable, without a password"
        message = f'found "{url}", wanted an address'
        problems.append(Problem(OPTION + "toolkit_repository_url", message, hint))
    if bool(url) != bool(key):
        empty = "key" if url else "url"
        hint = "set both, or neither where the host's own package sources have the toolkit"
        problems.append(Problem(f"{OPTION}toolkit_repository_{empty}", "is empty, and the other is not", hint))
    if key and not key.endswith((".asc", ".gpg")):
        message = f'found "{key}", wanted a file that ends in .asc or .gpg'
        problems.append(Problem(OPTION + "toolkit_repository_key", message, ".asc is the readable form"))
    return problems


def _version_problems(request: Request, row: RuntimeRow) -> list[Problem]:
    option, text = OPTION + "toolkit_version", request.wish.text(OPTION + "toolkit_version")
    if text == NEWEST:
        return []
    if row.family == "dnf":
        hint = "newest: it is locked when first installed; a mirror that holds one version pins that one"
        return [Problem(option, f'found "{text}", but {row.key} installs what its repository holds', hint)]
    if not TOOLKIT_VERSION.fullmatch(text):
        hint = "as the package's version begins, such as 1.20.1"
        return [Problem(option, f'found "{text}", wanted newest or a version', hint)]
    return []


def _packaged(wanted: str) -> str | None:
    """A version of the wish as its packages have it, in any packaging where the wish names none; None: the newest."""
    if wanted == NEWEST:
        return None
    return wanted if "-" in wanted else f"{wanted}-*"


def _files(request: Request, row: RuntimeRow, runtime: Runtime) -> tuple[File, ...]:
    found = [File(f"{UNIT_DIRECTORY}/{CDI_UNIT}", SECTION, "0644", None, CDI_UNIT, "none")]
    url, version = request.wish.text(OPTION + "toolkit_repository_url").rstrip("/"), runtime.toolkit_version
    if version:
        pins = (
            f"Package: {name}\nPin: version {version}\nPin-Priority: {PIN_PRIORITY}\n" for name in row.toolkit_pinned
        )
        found.append(File(PIN_PATH, SECTION, "0644", f"# {NOTICE}\n" + "\n".join(pins), None, "none"))
    if url and row.family == "apt":
        lines = ["Types: deb", f"URIs: {url}/{row.toolkit_folder}", f"Suites: {' '.join(row.toolkit_suites)}"]
        text = "\n".join([f"# {NOTICE}", *lines, f"Signed-By: {runtime.key}"]) + "\n"
        found.append(File(SOURCES_PATH, SECTION, "0644", text, None, "none"))
    elif url:
        lines = ["[inferhost-toolkit]", "name=NVIDIA Container Toolkit", f"baseurl={url}/{row.toolkit_folder}"]
        lines += ["enabled=1", "gpgcheck=1", PASSED_OVER, f"gpgkey=file://{runtime.key}"]
        found.append(File(REPO_PATH, SECTION, "0644", "\n".join([f"# {NOTICE}", *lines]) + "\n", None, "none"))
    return tuple(found)


def _dropins(runtime: Runtime) -> tuple[Dropin, ...]:
    """The daemon starts its containers at boot, so the specification comes before it."""
    if runtime.unit is None:
        return ()
    return (Dropin(runtime.unit, SECTION, (("Unit", "Wants", CDI_UNIT), ("Unit", "After", CDI_UNIT)), "none"),)


def _reasons(
    row: RuntimeRow, runtime: Runtime, why: str, files: tuple[File, ...], dropins: tuple[Dropin, ...]
) -> list[Reason]:
    source, by_cdi, runs = f"catalogue:runtimes/{row.key}", "formula:runtime.cdi", "it runs in containers at all"
    packages = list(runtime.packages) or "kept"
    brought = "the distribution's" if runtime.packages else f"{runtime.engine} {runtime.version} is there"
    cdi = "names the driver's files and devices to the engine; made again at each boot and engine start"
    held = "what writes the specification changes only when the plan does: pinned where it is named, and held"
    told, before = "docker reads CDI specifications when told to", "a container at boot needs the specification"
    found = [
        ("runtime.engine", runtime.engine, why, f"wish:{OPTION}engine"),
        ("runtime.packages", packages, brought, f"{source}#packages"),
        ("runtime.toolkit", list(runtime.toolkit), "writes the CDI specification", f"{source}#toolkit"),
        ("runtime.toolkit_version", runtime.toolkit_version or NEWEST, held, f"wish:{OPTION}toolkit_version"),
        ("runtime.cdi_spec", runtime.cdi_spec, cdi, by_cdi),
    ]
    found += [(f"runtime.daemon.{key}", value, told, by_cdi) for key, value in runtime.daemon.items()]
    placed = {
        f"{UNIT_DIRECTORY}/{CDI_UNIT}": (cdi, by_cdi),
        PIN_PATH: ("its version moves only when the plan does", f"wish:{OPTION}toolkit_version"),
    }
    for file in files:
        from_there = ("the toolkit comes from there", f"wish:{OPTION}toolkit_repository_url")
        because, where = placed.get(file.path, from_there)
        found.append((f"files.{file.path}", file.package_file or file.path, because, where))
    for dropin in dropins:
        found += [(f"dropins.{dropin.unit}.{key}", value, before, by_cdi) for _, key, value in dropin.entries]
    return [reason(setting, value, because, where, gain=runs) for setting, value, because, where in found]
