"""The environment of an engine: our few variables, and the wish's after the placebo rule.

A variable that nothing in the service reads, that was removed or renamed, that the engine overwrites, or whose
value does harm is refused with what to use instead. One that the catalogue does not know is passed on and said
so. Secrets are refused: the plan is readable, and a value in it would be copied everywhere.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, EnvironmentRow
from inferhost.planner.reasons import instead, reason
from inferhost.planner.request import Instance, Request
from inferhost.schema.document import shown
from inferhost.schema.plan import Pending, Reason
from inferhost.schema.problems import InputError, Problem

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_NAME = re.compile(r".*(_TOKEN|_KEY|_SECRET|PASSWORD)", re.IGNORECASE)
CACHE_ROOT = "/var/cache/inferhost"


def engine_environment(
    request: Request, instance: Instance, engine: EngineRow, catalogue: Catalogue
) -> tuple[dict[str, str], list[Reason], list[Pending]]:
    """The variables with their reasons, or `InputError` with every refused one."""
    values, reasons = _defaults(request, instance, engine)
    wished: dict[str, Any] = instance.wish.table("inferhost_service_env")
    problems: list[Problem] = []
    pending: list[Pending] = []
    for name, value in sorted(wished.items()):
        path = instance.path(f"env.{name}")
        row = environment_row(name, catalogue)
        problem = variable_problem(name, value, row, engine, path)
        if problem:
            problems.append(problem)
            continue
        values[name] = str(value)
        setting = f"env.{instance.name}.{name}"
        reasons = [r for r in reasons if r.setting != setting]
        reasons.append(_wished_reason(setting, str(value), row, instance))
        if row is None:
            pending.append(
                Pending(setting, "a look into the engine's source", "the catalogue does not know this variable")
            )
    if problems:
        raise InputError(problems)
    return dict(sorted(values.items())), reasons, pending


def environment_row(name: str, catalogue: Catalogue) -> EnvironmentRow | None:
    """The catalogue's row of a variable; a row whose key ends in `*` covers all that begin alike."""
    exact = catalogue.env.get(name)
    if exact is not None:
        return exact
    return next((r for k, r in catalogue.env.items() if k.endswith("*") and name.startswith(k[:-1])), None)


def variable_problem(
    name: str, value: object, row: EnvironmentRow | None, engine: EngineRow, path: str
) -> Problem | None:
    """Why a variable of the wish is refused, or nothing. Never shows the value of what may be a secret."""
    program = f"{engine.engine} {engine.version}"
    if not NAME.fullmatch(name):
        return Problem(path, "is no name of an environment variable", "letters, digits and _", "environment")
    if (row.secret if row else False) or SECRET_NAME.fullmatch(name):
        hint = "a secret belongs into a credential file, for example with LoadCredential= in 50-local.conf"
        return Problem(path, "looks like a secret, and the plan is no place for one", hint, "secret")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).isprintable():
        return Problem(path, f"found {shown(value)}, wanted one line of text", 'quote it: "1"', "environment")
    if row is None:
        return None
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
            ours = next((d.value for d in engine.environment if d.name == name), None)
            hint = "leave it out" if ours is None else "leave it to the plan, which sets one that lasts"
            hint = f"leave it to the plan: {ours}" if ours is not None and "{" not in ours else hint
            return Problem(path, f"found {shown(value)}: {why}", hint, "harmful")
    return None


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
    uuid = request.hardware.gpus[0].uuid
    several = len(request.hardware.gpus) > 1
    if uuid is not None or several:
        values["CUDA_VISIBLE_DEVICES"] = uuid or "0"
        because = "the card by its UUID, which no renumbering changes" if uuid else (
            "the first card in PCI order; its UUID is not known yet"
        )  # fmt: skip
        if several:
            because += "; several cards for one engine are not built yet, so the others stay idle"
        reasons.append(
            reason(
                f"env.{instance.name}.CUDA_VISIBLE_DEVICES", values["CUDA_VISIBLE_DEVICES"], because,
                "wish:inferhost_hardware", gain="no speed: the right card", disruption="engine restart",
            )
        )  # fmt: skip
    return values, reasons


def _wished_reason(setting: str, value: str, row: EnvironmentRow | None, instance: Instance) -> Reason:
    if row is None:
        because, gain = (
            "the wish sets it; the catalogue does not know it, so nobody checked that it is read",
            "unknown",
        )
    elif row.default == value:
        because, gain = "the wish sets it", "none: this is its default"
    else:
        because, gain = f"the wish sets it: {row.effect}", "unknown"
    return reason(setting, value, because, instance.source("env"), gain=gain, disruption="engine restart")
