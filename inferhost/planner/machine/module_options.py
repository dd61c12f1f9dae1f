"""Options of the nvidia kernel module, under the placebo rule: what the module does not read is refused.

They stand in one file for modprobe, under every name that distributions give the module, and count when it is loaded
next. Source: catalogue table `module_options`.
"""

from __future__ import annotations

import re

from inferhost.catalogue import Catalogue
from inferhost.catalogue.module_option_row import ModuleOptionRow
from inferhost.planner.reasons import instead, reason
from inferhost.planner.request import Request
from inferhost.schema.document import shown
from inferhost.schema.plan import File, Reason
from inferhost.schema.problems import InputError, Problem, near

OPTION = "inferhost_driver_module_options"
PATH = "/etc/modprobe.d/inferhost-nvidia.conf"
NUMBER = re.compile(r"0|[1-9][0-9]{0,9}|0x[0-9A-Fa-f]{1,8}")
TEXT = re.compile(r"[A-Za-z0-9_./:;,=+-]{1,200}")
MODULES = ("nvidia", "nvidia-current", "nvidia-current-open")
"""What distributions call the module; options of a module that is not there do nothing."""

Options = tuple[tuple[str, str, str], ...]


def module_options(request: Request, catalogue: Catalogue) -> Options:
    """Name, shown name and value of each, by name; `InputError` for every one that the module does not read."""
    problems: list[Problem] = []
    found = []
    for name, value in sorted(request.wish.table(OPTION).items()):
        row, path = catalogue.module_options.get(name), f"{OPTION}.{name}"
        if row is None:
            real = [key for key, known in catalogue.module_options.items() if known.status == "real"]
            hint = near(name, real) or "remove it; the names begin with NVreg_"
            problems.append(Problem(path, "is no option of the nvidia kernel module", hint, "placebo"))
        elif row.status != "real":
            why = "has another name" if row.status == "renamed" else "is not read for these cards"
            problems.append(Problem(path, why, instead(row.replacement), "placebo"))
        else:
            problems += _value_problems(value, row, path)
            found.append((name, row.shown_as, str(value)))
    if problems:
        raise InputError(problems)
    return tuple(found)


def module_options_file(options: Options, notice: str) -> tuple[File, ...]:
    """The file for modprobe, or none."""
    if not options:
        return ()
    words = " ".join(f"{name}={value}" for name, _, value in options)
    lines = "".join(f"options {module} {words}\n" for module in MODULES)
    return (File(PATH, "driver", "0644", f"# {notice}\n{lines}", None, "reboot"),)


def module_option_reasons(options: Options, catalogue: Catalogue) -> list[Reason]:
    """What each does, as far as anybody says."""
    found = []
    for name, _, value in options:
        row = catalogue.module_options[name]
        gain = "none: this is its default" if _same(value, row.default) else "unknown"
        source = f"catalogue:module_options/{name}#effect"
        because = f"the wish sets it: {row.effect}"
        found.append(reason(f"driver.option.{name}", value, because, source, gain=gain, disruption="reboot"))
    if options:
        because = "modprobe hands them to the module when it is loaded"
        names = ", ".join(name for name, _, _ in options)
        found.append(reason(f"files.{PATH}", names, because, f"wish:{OPTION}", gain="unknown", disruption="reboot"))
    return found


def _value_problems(value: object, row: ModuleOptionRow, path: str) -> list[Problem]:
    text = "" if isinstance(value, (bool, dict, list)) else str(value)
    wanted = NUMBER if row.kind == "number" else TEXT
    if wanted.fullmatch(text) and (row.kind == "text" or int(text, 0 if "x" in text else 10) < 2**32):
        return []
    kinds = {"number": "a whole number below 4294967296", "text": "text without spaces and quotes"}
    return [Problem(path, f"found {shown(value)}, wanted {kinds[row.kind]}", 'for example "1"', "module-option")]


def _same(value: str, default: str | None) -> bool:
    return default is not None and value.isdigit() and int(value) == int(default)
