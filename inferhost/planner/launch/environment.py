"""The environment of an engine: our few variables, and the wish's after the placebo rule.

A variable that nothing in the service reads, that was removed or renamed, that the engine overwrites, that says the
same as a flag of the plan, or whose value does harm is refused with what to use instead. One that the catalogue does
not know is passed on and said so, unless its name belongs to another engine or to a list that is complete. Secrets
are refused: the plan is readable, and a value in it would be copied everywhere.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, EnvironmentRow, FlagRow, VariableRow
from inferhost.planner.launch.flags import OPTION_OF, concept_of
from inferhost.planner.launch.secret_names import names_a_secret
from inferhost.planner.launch.uncounted import uncounted_problem
from inferhost.planner.launch.unknown_settings import unknown_setting
from inferhost.planner.machine.mps import PIPE_DIRECTORY, PIPE_VARIABLE, mps_variable_problem, pipe_reason, with_mps
from inferhost.planner.reasons import instead, reason
from inferhost.planner.request import Instance, Request
from inferhost.schema.document import shown
from inferhost.schema.plan import Pending, Reason
from inferhost.schema.problems import InputError, Problem, near

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CACHE_ROOT = "/var/cache/inferhost"


def engine_environment(
    request: Request, instance: Instance, engine: EngineRow, catalogue: Catalogue
) -> tuple[dict[str, str], list[Reason], list[Pending]]:
    """The variables with their reasons, or `InputError` with every refused one."""
    values, reasons = _defaults(request, instance, engine)
    wished: dict[str, Any] = instance.wish.table("inferhost_service_env")
    problems: list[Problem] = []
    pending = _card_pending(request, instance)
    for name, value in sorted(wished.items()):
        row = catalogue.env.get(name)
        problem = variable_problem(
            name, value, request=request, instance=instance, engine=engine, catalogue=catalogue
        )
        if problem:
            problems.append(problem)
            continue
        values[name] = str(value)
        setting = f"env.{instance.name}.{name}"
        reasons = [r for r in reasons if r.setting != setting]
        flag = catalogue.flags_by_variable(engine).get(name)
        own = catalogue.engine_table(engine).variables.get(name)
        reasons.append(_wished_reason(setting, str(value), row, instance, same=flag or own))
        unknown = selection_only(name, engine, catalogue)
        if unknown:
            pending.append(Pending(setting, "a look into the engine's source", unknown))
    if problems:
        raise InputError(problems)
    return dict(sorted(values.items())), reasons, pending


def _card_pending(request: Request, instance: Instance) -> list[Pending]:
    """Cards that are named by number until discovery has read their UUIDs."""
    cards = request.hardware.gpus
    if instance.slice is not None or len(cards) < 2 or all(cards[number].uuid for number in instance.gpus):
        return []
    setting = f"env.{instance.name}.CUDA_VISIBLE_DEVICES"
    return [Pending(setting, "the UUIDs of the cards", "a number means another card once the slots change")]


def variable_problem(
    name: str,
    value: object,
    *,
    request: Request,
    instance: Instance,
    engine: EngineRow,
    catalogue: Catalogue,
) -> Problem | None:
    """Why a variable of the wish is refused, or nothing. Never shows the value of what may be a secret."""
    path = instance.path(f"env.{name}")
    row, flag = catalogue.env.get(name), catalogue.flags_by_variable(engine).get(name)
    own = catalogue.engine_table(engine).variables.get(name)
    if not NAME.fullmatch(name):
        return Problem(path, "is no name of an environment variable", "letters, digits and _", "environment")
    if any(known.secret for known in (row, flag, own) if known is not None) or names_a_secret(name):
        hint = "a secret belongs into a credential file, for example with LoadCredential= in 50-local.conf"
        return Problem(path, "looks like a secret, and the plan is no place for one", hint, "secret")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).isprintable():
        return Problem(path, f"found {shown(value)}, wanted one line of text", 'quote it: "1"', "environment")
    uncounted = uncounted_problem((name, *(flag.names if flag else ())), str(value), engine, catalogue, path=path)
    if flag is not None:
        return _flag_problem(flag, engine, instance, path) or uncounted
    if row is None and own is not None:
        return _own_problem(own, engine, path) or uncounted
    if row is None:
        return _unknown_problem(name, engine, instance, catalogue, path=path)
    if row.read_by == ("mps",):
        return mps_variable_problem(name, request, path)
    if name == "CUDA_VISIBLE_DEVICES":
        return _card_problem(str(value), request, instance, path)
    return _row_problem(value, row, engine, path) or uncounted


def selection_only(name: str, engine: EngineRow, catalogue: Catalogue) -> str | None:
    """Why nobody can say whether a variable is read, or nothing where the catalogue knows it."""
    if name in catalogue.env or name in _own_names(engine, catalogue):
        return None
    if _prefix(name, engine) is not None:
        return f"the catalogue has only a selection of the variables of {engine.engine} {engine.version}"
    return "the catalogue does not know this variable"


def _own_names(engine: EngineRow, catalogue: Catalogue) -> set[str]:
    """The variables that the engine's own sources read."""
    table = catalogue.engine_table(engine)
    return {*table.variables, *table.flags_by_variable}


def _own_problem(own: VariableRow, engine: EngineRow, path: str) -> Problem | None:
    """A variable of the engine's own table that this version no longer reads."""
    if own.status == "real":
        return None
    return Problem(path, f"is not read by {engine.engine} {engine.version}", instead(own.replacement), "placebo")


def _row_problem(value: object, row: EnvironmentRow, engine: EngineRow, path: str) -> Problem | None:
    """What the catalogue's row says against a variable or its value."""
    program = f"{engine.engine} {engine.version}"
    if row.status != "real":
        why = {
            "placebo": "is read by no program",
            "renamed": "has another name",
            "removed": "was removed",
            "harmful": f"does harm: {row.effect}",
        }[row.status]
        return Problem(path, why, instead(row.replacement), "placebo")
    if not set(row.read_by) & set(engine.reads_environment_of):
        readers = ", ".join(row.read_by)
        return Problem(path, f"is read by {readers}, which is no part of {program}", "remove it", "placebo")
    if engine.engine in row.overwritten_by:
        what = row.overwritten_by[engine.engine]
        return Problem(path, f"has no effect: {program} overwrites it with {what}", "remove it", "placebo")
    for pattern, why in row.harmful_values.items():
        if fnmatch.fnmatchcase(str(value), pattern):
            ours = next((d.value for d in engine.environment if d.name == row.key), None)
            hint = "leave it out" if ours is None else "leave it to the plan, which sets one that lasts"
            hint = f"leave it to the plan: {ours}" if ours is not None and "{" not in ours else hint
            return Problem(path, f"found {shown(value)}: {why}", hint, "harmful")
    return None


def _flag_problem(flag: FlagRow, engine: EngineRow, instance: Instance, path: str) -> Problem | None:
    """A variable that says the same as a flag: the flag wins, so what the plan's command line says stays."""
    name, concept = flag.names[0], concept_of(flag, engine)
    if flag.status == "unchecked":
        found = f"brings arguments to {engine.engine} {engine.version} that nobody checked"
        return Problem(path, found, instead(flag.replacement), "unchecked-flag")
    if concept in OPTION_OF:
        hint = f"use {instance.path(OPTION_OF[concept])}"
        return Problem(path, f'says the same as "{name}", which the plan decides', hint, "planned-flag")
    if concept is not None:
        hint = f'"{name}" in {instance.path("extra_args")}'
        return Problem(path, f'says the same as "{name}", which the memory budget has to know', hint, "planned-flag")
    switches = {switch.arguments[0] for switch in engine.switches}
    given = {word.partition("=")[0] for word in instance.wish.words("inferhost_service_extra_args")}
    if (switches | given) & set(flag.names):
        found = f'has no effect: "{name}" stands in the command line and wins'
        return Problem(path, found, "remove it", "placebo")
    return None


def _unknown_problem(
    name: str, engine: EngineRow, instance: Instance, catalogue: Catalogue, *, path: str
) -> Problem | None:
    """A variable without a row, which is refused where something tells that the engine does not read it."""
    program = f"{engine.engine} {engine.version}"
    own = {*_own_names(engine, catalogue), *catalogue.env}
    upper = name.upper()
    if upper != name and (upper in own or _prefix(upper, engine) is not None):
        found = f"is not read by {program}: names of variables are case-sensitive"
        return Problem(path, found, f'did you mean "{upper}"?' if upper in own else f"write {upper}", "placebo")
    for old, new in engine.old_prefixes.items():
        if name.startswith(old) and new + name.removeprefix(old) in own:
            return Problem(path, "has another name", f"use {new}{name.removeprefix(old)}", "placebo")
    prefix = _prefix(name, engine)
    if prefix is not None and engine.variable_prefixes[prefix]:
        known = [other for other in own if other.startswith(prefix) and _readable(other, engine, catalogue)]
        hint = near(name, sorted(known)) or "remove it"
        return Problem(path, f"is not read by {program}", hint, "placebo")
    for other in catalogue.engines.values():
        if prefix is None and other.engine != engine.engine and _prefix(name, other) is not None:
            found = f"is read by {other.engine}, which is no part of {program}"
            return Problem(path, found, "remove it", "placebo")
    unknown = selection_only(name, engine, catalogue)
    return unknown_setting(instance, path, f"is not known: {unknown}") if unknown else None


def _prefix(name: str, engine: EngineRow) -> str | None:
    """The longest beginning of the engine's own variables that a name has."""
    found = [prefix for prefix in engine.variable_prefixes if name.startswith(prefix)]
    return max(found, key=len, default=None)


def _readable(name: str, engine: EngineRow, catalogue: Catalogue) -> bool:
    """Whether a hint may name a variable: no row says that it is not read or carries a secret."""
    rows = (catalogue.env.get(name), catalogue.engine_table(engine).variables.get(name))
    return all(row.status == "real" and not row.secret for row in rows if row is not None)


def _card_problem(value: str, request: Request, instance: Instance, path: str) -> Problem | None:
    """A card that the host does not have, or that is not one for which the plan was made."""
    cards = request.hardware.gpus
    if instance.slice is not None:
        found = "is decided on the host, where the slice has its UUID"
        return Problem(path, found, f"leave it out, and name the slice in {instance.path('gpus')}", "one-card")
    entries = [entry.strip() for entry in value.split(",")]
    for entry in entries:
        number = int(entry) if entry.isascii() and entry.isdigit() and len(entry) < 4 else None
        by_uuid = entry.startswith("GPU-") and any(g.uuid is None or g.uuid.startswith(entry) for g in cards)
        if not by_uuid and (number is None or number >= len(cards)):
            known = ", ".join(gpu.uuid or str(n) for n, gpu in enumerate(cards))
            return Problem(path, f'found "{entry}", which is no card of inferhost_hardware.gpus', f"known: {known}")
    if len(entries) == len(instance.gpus) and all(
        entry == str(number) or (entry.startswith("GPU-") and (cards[number].uuid or entry).startswith(entry))
        for entry, number in zip(entries, instance.gpus, strict=True)
    ):
        return None
    planned = ", ".join(f"gpus[{number}]" for number in instance.gpus)
    found = f'found "{value}", and the plan is made for {planned}'
    return Problem(path, found, f"leave it out, and name the cards in {instance.path('gpus')}", "one-card")


def _defaults(request: Request, instance: Instance, engine: EngineRow) -> tuple[dict[str, str], list[Reason]]:
    cache = f"{CACHE_ROOT}/{instance.name}"
    values: dict[str, str] = {}
    reasons: list[Reason] = []
    for default in engine.environment:
        values[default.name] = default.value.replace("{cache}", cache)
        reasons.append(
            reason(
                f"env.{instance.name}.{default.name}", values[default.name], default.because,
                f"catalogue:engines/{engine.key}#environment", gain=default.gain, disruption="engine restart",
            )
        )  # fmt: skip
    if with_mps(request):
        values[PIPE_VARIABLE] = PIPE_DIRECTORY
        reasons.append(pipe_reason(instance))
    uuids = [request.hardware.gpus[number].uuid for number in instance.gpus]
    known = all(uuids)
    if instance.slice is not None:
        return values, reasons  # its UUID is known on the host only, see planner.service.unit
    if known or len(request.hardware.gpus) > 1:
        values["CUDA_VISIBLE_DEVICES"] = ",".join(
            str(uuid if known else number) for uuid, number in zip(uuids, instance.gpus, strict=True)
        )
        because = "the card by its UUID, which no renumbering changes" if known else (
            "by number in PCI order: a UUID is not known yet"
        )  # fmt: skip
        reasons.append(
            reason(
                f"env.{instance.name}.CUDA_VISIBLE_DEVICES", values["CUDA_VISIBLE_DEVICES"], because,
                "wish:inferhost_hardware", gain="no speed: the right card", disruption="engine restart",
            )
        )  # fmt: skip
    return values, reasons


def _wished_reason(
    setting: str, value: str, row: EnvironmentRow | None, instance: Instance, *, same: FlagRow | VariableRow | None
) -> Reason:
    if isinstance(same, FlagRow):
        because, gain = f"the wish sets it: it says the same as {same.names[0]}", "unknown"
    elif row is None and same is not None:
        because, gain = f"the wish sets it: read in {same.source}", "unknown"
    elif row is None:
        because, gain = (
            "the wish sets it; the catalogue does not know it, so nobody checked that it is read",
            "unknown",
        )
    elif row.default == value:
        because, gain = "the wish sets it", "none: this is its default"
    else:
        because, gain = f"the wish sets it: {row.effect}", "unknown"
    return reason(setting, value, because, instance.source("env"), gain=gain, disruption="engine restart")
