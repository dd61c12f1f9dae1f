"""Which driver packages a host gets: repository, branch, version and kernel module, for hosts that ask for it.

The section is opt-in (`driver` in `inferhost_manage`). A repository that holds no branch for the cards is refused
with the one that does, before any host is touched. The files keep the versions where they are (a pin, and unattended
upgrades kept off) and nouveau out of the way.
"""

from __future__ import annotations

import dataclasses
import re

from inferhost.catalogue import Catalogue
from inferhost.catalogue.driver_row import DriverRow
from inferhost.catalogue.rows import GpuRow
from inferhost.planner.machine.driver import driver_version
from inferhost.planner.machine.fabric import (
    FABRIC_MANAGER,
    LOADS_UMAD,
    fabric_dropins,
    fabric_packages,
    fabric_problems,
    fabric_tools,
    fabric_why,
)
from inferhost.planner.machine.module_options import (
    Options,
    module_option_reasons,
    module_options,
    module_options_file,
)
from inferhost.planner.reasons import reason
from inferhost.planner.request import HARDWARE, Request
from inferhost.schema.plan import Driver, DriverPackages, Dropin, File, Reason, Service
from inferhost.schema.problems import InputError, Problem

SECTION = "driver"
OPTION = "inferhost_driver_"
OPEN_FOR_ALL = 560
"""From this branch on the open module is NVIDIA's advice wherever it runs. Source: formula `driver.modules`."""
NOTICE = "Placed by inferhost; put your own settings into a file of your own."
NOUVEAU_PATH = "/etc/modprobe.d/inferhost-nouveau.conf"
UNATTENDED_PATH = "/etc/apt/apt.conf.d/51inferhost-driver"
PIN_PATH = "/etc/apt/preferences.d/inferhost-driver"
PIN_PRIORITY = 1000
"""The least at which apt also goes back to an older version."""
SOURCES_PATH = "/etc/apt/sources.list.d/inferhost-driver.sources"
REPO_PATH = "/etc/yum.repos.d/inferhost-driver.repo"
PASSED_OVER = "skip_if_unavailable=1"
"""dnf does nothing at all for anybody where a source without this does not answer. Source: dnf.conf(5)."""
KEY_PATHS = {"apt": "/etc/apt/keyrings/inferhost-driver", "dnf": "/etc/pki/rpm-gpg/inferhost-driver"}
PERSISTENCED = "nvidia-persistenced.service"
VERSION = re.compile(r"[0-9]{3}(\.[0-9]{1,4}){1,2}(-[0-9A-Za-z.+~]+)?")


@dataclasses.dataclass(frozen=True)
class DriverSection:
    """What the section installs and places, with its reasons; nothing of it on NixOS, which has its own driver."""

    install: DriverPackages | None
    files: tuple[File, ...]
    dropins: tuple[Dropin, ...]
    reasons: list[Reason]


NOTHING = DriverSection(None, (), (), [])


def driver_section(
    request: Request, rows: tuple[GpuRow, ...], asked: Driver, services: tuple[Service, ...], catalogue: Catalogue
) -> DriverSection:
    """The packages for these cards, or `InputError` with what the host's repositories could drive instead."""
    if not request.manages(SECTION) or request.hardware.os.startswith("nixos"):
        return NOTHING
    if request.wish.flag("inferhost_simulated") or not rows:
        found = "a simulated card" if rows else "no card"
        hint = "leave driver out of inferhost_manage"
        raise InputError([Problem("inferhost_manage", f"found driver for {found}, which needs none", hint)])
    row = _repository(request, rows, catalogue)
    branch = _branch(request, rows, row, catalogue)
    problems = [*_engine_problems(branch, services, catalogue), *_address_problems(request, row)]
    version, version_problems = _version(request, rows, row, branch)
    kind, kind_problems = _kernel_module(request, asked, branch)
    problems += version_problems + kind_problems + fabric_problems(request, rows, row)
    options: Options = ()
    try:
        options = module_options(request, catalogue)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    fabric_manager = fabric_packages(request, rows, row)
    names = [*(row.packages_open if kind == "open" else row.packages_proprietary), *fabric_manager]
    stream = row.module_stream_open if kind == "open" else row.module_stream_proprietary
    install = DriverPackages(
        family=row.family,
        branch=str(branch),
        version=version,
        kernel_module=kind,
        packages=tuple(name.replace("{branch}", str(branch)) for name in names),
        pinned=row.pinned,
        module_stream=stream.replace("{branch}", str(branch)) if stream else None,
        headers=row.headers,
        headers_for_kernel=row.headers_for_kernel,
        key=_key_path(request, row),
        reboot=request.wish.flag(OPTION + "reboot"),
        persistence=request.wish.flag("inferhost_gpu_persistence_mode"),
        units=(FABRIC_MANAGER,) if fabric_manager else (),
        signed=tuple(_signed(name, branch, kind) for name in row.signed),
        may_replace=request.wish.flag(OPTION + "replace_packages"),
        tools=(*row.tools, *fabric_tools(request, rows, row)),
        module_options=options,
        components=row.components,
    )
    files = _files(request, row, install)
    dropins = (*_dropins(request, row), *fabric_dropins(request, rows))
    reasons = [*_reasons(request, row, install, files, dropins), *module_option_reasons(options, catalogue)]
    return DriverSection(install, (*files, *module_options_file(options, NOTICE)), dropins, reasons)


def _signed(name: str, branch: int, kind: str) -> str:
    """A package of modules that the distribution signed, whose kernel the host knows."""
    return name.replace("{branch}", str(branch)).replace("{open}", "-open" if kind == "open" else "")


def can_drive(branch: int, rows: tuple[GpuRow, ...]) -> bool:
    """Whether some version of the branch runs every card: open modules have a first one, old cards a last one."""
    return not any(_obstacle(branch, card) for card in rows)


def _obstacle(branch: int, card: GpuRow) -> str:
    """Why a branch cannot run a card; empty where it can."""
    first, last = card.first_open_driver, card.last_driver_branch
    if card.kernel_module == "open" and first and branch < driver_version(first)[0]:
        return f"{card.key} needs branch {driver_version(first)[0]} or later, with the open kernel module"
    if last and branch > last:
        return f"branch {last} is the last for {card.key}"
    return ""


def _repository(request: Request, rows: tuple[GpuRow, ...], catalogue: Catalogue) -> DriverRow:
    found, wanted = request.hardware.os, request.wish.text(OPTION + "repository")
    known = [row for row in catalogue.drivers.values() if any(is_os(found, os) for os in row.os)]
    if not known:
        all_known = ", ".join(sorted({os for row in catalogue.drivers.values() for os in row.os}))
        hint = "leave driver out of inferhost_manage and install the driver by hand"
        message = f'found "{found}", the driver section knows the packages of {all_known}'
        raise InputError([Problem(f"{HARDWARE}.os", message, hint)])
    row = next((row for row in known if row.repository == wanted), None)
    if row is None:
        message = f'found "{wanted}", but the driver of {found} comes from {known[0].repository} only'
        raise InputError([Problem(OPTION + "repository", message, f"use {known[0].repository}")])
    return row


def _branch(request: Request, rows: tuple[GpuRow, ...], row: DriverRow, catalogue: Catalogue) -> int:
    option, text = OPTION + "branch", request.wish.text(OPTION + "branch")
    if text != "auto":
        known = (*row.branches, *row.branches_by_name)
        if not text.isdecimal() or int(text) not in known:
            held = ", ".join(str(branch) for branch in known)
            message = f'found "{text}", {row.key} is known to hold {held}'
            raise InputError([Problem(option, message, _other(request, rows, row, catalogue))])
        branches: tuple[int, ...] = (int(text),)
    else:
        branches = row.branches
    fitting = [branch for branch in branches if can_drive(branch, rows)]
    if fitting:
        return max(fitting)
    why = next(obstacle for card in rows if (obstacle := _obstacle(max(branches), card)))
    where = option if text != "auto" else OPTION + "repository"
    held = ", ".join(str(branch) for branch in branches)
    found = f'found "{text if text != "auto" else row.repository}", which for {row.os[0]} is branch {held}, but {why}'
    raise InputError([Problem(where, found, _other(request, rows, row, catalogue), "driver-branch")])


def _other(request: Request, rows: tuple[GpuRow, ...], row: DriverRow, catalogue: Catalogue) -> str:
    """What holds a branch for these cards: a branch of this repository, another one, or another distribution."""
    here = [branch for branch in row.branches if can_drive(branch, rows)]
    if here:
        return f"branch {max(here)} can"
    others = [r for r in catalogue.drivers.values() if any(can_drive(branch, rows) for branch in r.branches)]
    same = [r for r in others if any(is_os(request.hardware.os, os) for os in r.os)]
    if same:
        best = max(branch for branch in same[0].branches if can_drive(branch, rows))
        return f"{OPTION}repository: {same[0].repository} holds branch {best} for {row.os[0]}"
    return f"known to hold one: {', '.join(sorted(r.key for r in others)) or 'none'}"


def _version(
    request: Request, rows: tuple[GpuRow, ...], row: DriverRow, branch: int
) -> tuple[str | None, list[Problem]]:
    option, text = OPTION + "version", request.wish.text(OPTION + "version")
    if text == "newest":
        return row.last_version, []
    if row.family == "dnf":
        hint = "newest: it is locked when first installed; a mirror that holds one version pins that one"
        return None, [Problem(option, f'found "{text}", but {row.key} installs what its stream holds', hint)]
    if not VERSION.fullmatch(text) or driver_version(text.partition("-")[0])[0] != branch:
        hint = "as the package's version begins, such as 535.261.03"
        return None, [Problem(option, f'found "{text}", wanted newest or a version of branch {branch}', hint)]
    if row.last_version and driver_version(text.partition("-")[0]) > driver_version(row.last_version):
        return None, [Problem(option, f'found "{text}", {row.key} takes {row.last_version} at most', row.notes)]
    for card in rows:
        first = card.first_open_driver if card.kernel_module == "open" else None
        if first and driver_version(text.partition("-")[0]) < driver_version(first):
            return None, [
                Problem(option, f'found "{text}", {card.key} needs {first} or later', f"{first}, or newest")
            ]
    return text, []


def _kernel_module(request: Request, asked: Driver, branch: int) -> tuple[str, list[Problem]]:
    option, wanted = OPTION + "kernel_module", request.wish.text(OPTION + "kernel_module")
    if wanted == "auto":
        usual = "open" if branch >= OPEN_FOR_ALL else "proprietary"
        return (usual if asked.kernel_module == "either" else asked.kernel_module), []
    if asked.kernel_module not in ("either", wanted):
        message = f'found "{wanted}", but the cards need the {asked.kernel_module} kernel module'
        return wanted, [Problem(option, message, f"auto, or {asked.kernel_module}", "kernel-module")]
    return wanted, []


def _engine_problems(branch: int, services: tuple[Service, ...], catalogue: Catalogue) -> list[Problem]:
    """Engines that need a newer driver than the one that would be installed."""
    problems = []
    for entry in services:
        for row in catalogue.engines.values():
            least = row.min_driver_branch
            if (row.engine, row.version) == (entry.engine, entry.engine_version) and least and least > branch:
                message = f"{row.engine} {row.version} needs branch {least} or later, this would install {branch}"
                problems.append(Problem(OPTION + "branch", message, "another repository, or llama.cpp"))
    return problems


def _address_problems(request: Request, row: DriverRow) -> list[Problem]:
    url, key = (request.wish.text(OPTION + f"repository_{part}") for part in ("url", "key"))
    problems = []
    if url and not re.fullmatch(r"(https?|file)://?[^\s@]+", url):
        hint = "https://MIRROR/FOLDER, without a password; apt and dnf have files of their own for those"
        problems.append(Problem(OPTION + "repository_url", f'found "{url}", wanted an address', hint))
    if row.keyring is None:
        for part, given, what in (("url", url, "address"), ("key", key, "public key")):
            if not given:
                hint = "NVIDIA's driver installation guide names it; your own mirror of it works too"
                message = f"is empty, but {row.key} needs the repository's {what}"
                problems.append(Problem(OPTION + f"repository_{part}", message, hint))
    if key and not key.endswith((".asc", ".gpg")):
        message = f'found "{key}", wanted a file that ends in .asc or .gpg'
        problems.append(Problem(OPTION + "repository_key", message, ".asc is the readable form"))
    if key and not url:
        message = "is set, but there is no repository_url that it would be for"
        problems.append(Problem(OPTION + "repository_key", message, f"set {OPTION}repository_url too"))
    return problems


def _key_path(request: Request, row: DriverRow) -> str | None:
    key = request.wish.text(OPTION + "repository_key")
    return KEY_PATHS[row.family] + key[-4:] if key else None


def _files(request: Request, row: DriverRow, install: DriverPackages) -> tuple[File, ...]:
    found = [(NOUVEAU_PATH, f"# {NOTICE}\nblacklist nouveau\noptions nouveau modeset=0\n", "reboot")]
    url = request.wish.text(OPTION + "repository_url").rstrip("/")
    signed_by = install.key or row.keyring
    if row.family == "apt":
        version = f"{install.version or install.branch + '.'}*"
        pin = "\n".join(
            f"Package: {name}\nPin: version {version}\nPin-Priority: {PIN_PRIORITY}\n" for name in row.pinned
        )
        found.append((PIN_PATH, f"# {NOTICE}\n{pin}", "none"))
        patterns = "".join(f'  "{_pattern(name)}";\n' for name in row.pinned)
        found.append(
            (UNATTENDED_PATH, f"// {NOTICE}\nUnattended-Upgrade::Package-Blacklist {{\n{patterns}}};\n", "none")
        )
        if url:
            address = f"{url}/{row.folder}" if row.folder else url
            lines = ["Types: deb", f"URIs: {address}", f"Suites: {' '.join(row.suites)}"]
            lines += [f"Components: {' '.join(row.components)}"] if row.components else []
            lines.append(f"Signed-By: {signed_by}")
            found.append((SOURCES_PATH, f"# {NOTICE}\n" + "\n".join(lines) + "\n", "none"))
    elif url:
        text = f"[inferhost-driver]\nname=NVIDIA driver\nbaseurl={url}/{row.folder}\nenabled=1\ngpgcheck=1\n"
        text += f"{PASSED_OVER}\ngpgkey=file://{signed_by}\n"
        found.append((REPO_PATH, f"# {NOTICE}\n{text}", "none"))
    return tuple(File(path, SECTION, "0644", text, None, disruption) for path, text, disruption in found)


def _pattern(glob: str) -> str:
    """A package pattern as unattended-upgrades reads it: a regular expression from the name's beginning."""
    return glob.replace("*", ".*")


def _dropins(request: Request, row: DriverRow) -> tuple[Dropin, ...]:
    """Over the packaged unit, never a second one; only where it is started against the wish."""
    if row.persistenced_command is None or not request.wish.flag("inferhost_gpu_persistence_mode"):
        return ()
    entries = (
        ("Unit", "StopWhenUnneeded", "no"),
        ("Service", "ExecStart", ""),
        ("Service", "ExecStart", row.persistenced_command),
    )
    return (Dropin(PERSISTENCED, SECTION, entries, "none"),)


def _reasons(
    request: Request,
    row: DriverRow,
    install: DriverPackages,
    files: tuple[File, ...],
    dropins: tuple[Dropin, ...],
) -> list[Reason]:
    source = f"catalogue:drivers/{row.key}"
    kept = "a driver whose library is newer than its module does not start; versions move only when the plan does"
    newest = "the newest of the branch when first installed" if install.version is None else "one for all packages"
    origin = request.origin(OPTION + "branch")
    why = {
        NOUVEAU_PATH: ("nouveau would take the card first", "formula:driver.modules"),
        PIN_PATH: (kept, f"{source}#pinned"),
        UNATTENDED_PATH: (kept, f"{source}#pinned"),
        SOURCES_PATH: (request.origin(OPTION + "repository_url"), f"wish:{OPTION}repository_url"),
        REPO_PATH: (request.origin(OPTION + "repository_url"), f"wish:{OPTION}repository_url"),
    }
    found = [
        ("driver.install.branch", install.branch, f"{origin}; it drives every card", f"{source}#branches"),
        ("driver.install.version", install.version or "newest", newest, f"wish:{OPTION}version"),
        (
            "driver.install.packages",
            list(install.packages),
            f"the {install.kernel_module} module",
            f"{source}#source",
        ),
        *((f"files.{file.path}", file.path, *why[file.path]) for file in files),
    ]
    if install.units:
        found.append(("driver.install.units", list(install.units), *fabric_why(request)))
    without = "the packaged unit starts with --no-persistence-mode"
    over = {
        PERSISTENCED: ("StopWhenUnneeded", "no", without, f"{source}#persistenced_command"),
        FABRIC_MANAGER: ("Wants", LOADS_UMAD, "its switches are on InfiniBand", f"{source}#subnet_manager"),
    }
    for dropin in dropins:
        key, value, because, where = over[dropin.unit]
        found.append((f"dropins.{dropin.unit}.{key}", value, because, where))
    return [
        reason(
            setting,
            value,
            because,
            where,
            gain="the driver stays",
            disruption="reboot" if "install" in setting else "none",
        )
        for setting, value, because, where in found
    ]


def is_os(found: str, os: str) -> bool:
    """Whether a host's `os` is this distribution, whatever its point release."""
    return found == os or found.startswith(f"{os}.")
