"""The verb `fetch`: every model of the plan is on the host, whole, proven and read-only to the service.

What is proven is not asked for again, so a second run needs no network. The room is looked at before the first byte.
Files that somebody else put there are taken when their checksum is right, and never written over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

from inferhost.host.machine import Machine
from inferhost.host.models.kept import Kept, as_found, changed_files, place, read_kept, write_kept
from inferhost.host.models.quantise import quantise
from inferhost.host.models.remote import (
    Remote,
    TransientError,
    opened,
    read_token,
    repository_files,
    store_files,
)
from inferhost.host.models.transfer import GIB, PAUSE_S, TRIES, Job, Progress, bring, hashed, part_bytes
from inferhost.host.record.baseline import Baseline, Record, read_baseline
from inferhost.host.record.lock import FETCH_LOCK, locked
from inferhost.host.report import HostError, NothingTouched, Report
from inferhost.schema.plan import Model, Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

SPARE_BYTES = 256 << 20
"""What stays free beside the models: a full disk harms more than it serves."""
T = TypeVar("T")


def source_of(model: Model) -> str:
    """What a model is fetched from, as one text: another one means that it has to be looked at again."""
    words = [model.source, model.endpoint or "", model.location, model.revision or "", *model.files]
    return " ".join([*words, model.sha256 or ""])


def fetch(machine: Machine, plan: Plan, report: Report) -> None:
    """Brings each model; one that fails does not keep the others from coming."""
    if "models" not in plan.manage:
        report.note("section models is not managed on this host: untouched")
        return
    with contextlib.nullcontext() if report.check else locked(machine, lock=FETCH_LOCK):
        baseline = _recorded(machine, plan, report)
        for model in plan.models:
            setting = f"models.{model.name}"
            try:
                _bring_model(machine, model, baseline, report)
                if model.quantise is not None:
                    quantise(machine, model, report)
            except HostError as error:
                report.problems.append(error.problem)
                verdict = Verdict(setting, "whole", "not whole", "refused", "unexplained", error.problem.message)
                report.verdicts.append(verdict)
                continue
            found, cause = ("held", "none") if not report.check else ("unverified", "none")
            evidence = "its checksum was right" if model.source != "here" or model.sha256 else "it is there"
            report.verdicts.append(Verdict(setting, "whole", "whole", found, cause, evidence))


def _recorded(machine: Machine, plan: Plan, report: Report) -> Baseline:
    """The record, with what stood at each place; on most hosts it was made before."""
    baseline = read_baseline(machine)
    new = {key: found for key, found in model_records(machine, plan).items() if key not in baseline}
    if new and not report.check:
        with locked(machine):
            baseline = read_baseline(machine)
            baseline.add(new, report.check)
    return baseline


def _bring_model(machine: Machine, model: Model, baseline: Baseline, report: Report) -> None:
    path, setting = model.fetched_path, f"models.{model.name}"
    kept = read_kept(machine).get(path)
    is_done = kept is not None and kept.complete and kept.source == source_of(model)
    if kept is not None and is_done and not changed_files(machine, path, kept):
        return
    if not machine.exists(path) and model.source == "here":
        message = f"{path} is not on this host"
        raise NothingTouched(Problem("inferhost_models_path", message, "copy it there first", "not-there"))
    if model.source == "here" and model.sha256 is None:
        return
    before = "not proven" if machine.exists(path) else "absent"
    report.change(setting, before, f"{model.location or path}{'@' if model.revision else ''}{model.revision or ''}")
    if report.check:
        return
    progress = Progress(model.name, None, report.progress)
    token = read_token(machine, model)
    files = _retried(lambda: listed(machine, model, token), model, progress, machine)
    ours = kept.ours if kept is not None else _is_new(baseline, path)
    _bring_files(machine, model, files, token, report, ours=ours)


def listed(machine: Machine, model: Model, token: str | None) -> list[Remote]:
    """The files of the model at its source."""
    if model.source == "hub":
        found = repository_files(model, token)
        if model.sha256 is not None and found[0].sha256 not in (None, model.sha256):
            message = f"found {model.sha256}, the hub says {found[0].sha256}"
            raise NothingTouched(Problem("inferhost_models_sha256", message, "one of the two is another file", "sha"))
        return found
    if model.source == "store":
        return store_files(machine, model)
    if model.source == "address":
        with opened(model.location, token, model) as answer:
            length = getattr(answer, "headers", {}).get("Content-Length", "")
        return [Remote("", model.location, int(length) if length.isdigit() else None, model.sha256, None)]
    size = os.stat(machine.at(model.fetched_path)).st_size
    return [Remote("", "", size, model.sha256, None)]


def _bring_files(
    machine: Machine, model: Model, files: list[Remote], token: str | None, report: Report, *, ours: bool
) -> None:
    path = model.fetched_path
    kept = read_kept(machine).get(path) or Kept("", False, ours, {})
    stale = set(changed_files(machine, path, kept))
    proven = {name: one for name, one in kept.files.items() if name not in stale}
    progress = Progress(model.name, sum(f.size_bytes or 0 for f in files) or None, report.progress)
    for file in files:
        where = place(path, file.name)
        if file.name in proven and _still_wanted(file, proven[file.name].sha256, kept, model):
            progress.add(file.size_bytes or 0, fetched=False)
            continue
        proven.pop(file.name, None)
        if machine.exists(where):
            if file.size_bytes in (None, os.stat(machine.at(where)).st_size):
                sha256, wrong = hashed(machine, where, file, progress)
                if not wrong:
                    proven[file.name] = as_found(machine, where, sha256)
                    continue
            if not ours or model.source == "here":
                hint = "move it away, or name another inferhost_models_path"
                message = f"{where} is there with another content, and was not put there by inferhost"
                raise HostError(Problem("inferhost_models_path", message, hint, "not-ours"))
    missing = [f for f in files if f.name not in proven]
    _has_room(machine, model, missing)
    for file in missing:
        where = place(path, file.name)
        progress.tell(f"{where}: {(file.size_bytes or 0) / GIB:.2f} GiB to fetch")
        sha256 = bring(Job(machine, model, token, progress), file, where)
        proven[file.name] = as_found(machine, where, sha256)
        _keep(machine, path, Kept(source_of(model), False, ours, proven))
    wanted = {f.name for f in files}
    for name in (
        sorted(set(kept.files) - wanted) if ours else ()
    ):  # of another revision: engines read all that lies there
        machine.remove_file(place(path, name))
    _keep(machine, path, Kept(source_of(model), True, ours, {n: f for n, f in proven.items() if n in wanted}))


def _still_wanted(file: Remote, sha256: str, kept: Kept, model: Model) -> bool:
    """Whether a proven file is the one of this source: by checksum, or because the source is the same."""
    if file.sha256 is not None:
        return file.sha256 == sha256
    return kept.source == source_of(model)


def _keep(machine: Machine, path: str, one: Kept) -> None:
    write_kept(machine, {**read_kept(machine), path: one})


def _is_new(baseline: Baseline, path: str) -> bool:
    """Whether nothing stood there before us."""
    key = f"model:{path}"
    return key in baseline and baseline[key].found is None


def _has_room(machine: Machine, model: Model, missing: list[Remote]) -> None:
    """Refuses before the first byte what would not fit."""
    path = model.fetched_path
    there = sum(part_bytes(machine, place(path, f.name)) for f in missing)
    needs = sum(f.size_bytes or 0 for f in missing) - there
    if model.quantise is not None:  # what is made is not larger than what it is made of
        needs += sum(f.size_bytes or 0 for f in missing)
    room_problem = no_room(machine, path, needs)
    if missing and room_problem is not None:
        raise NothingTouched(room_problem)


def no_room(machine: Machine, path: str, needs_bytes: int) -> Problem | None:
    """What to say where so many bytes do not fit below a path."""
    folder = path
    while not os.path.isdir(machine.at(folder)):
        folder = os.path.dirname(folder)
    found = os.statvfs(machine.at(folder))
    free = found.f_bavail * found.f_frsize
    if needs_bytes + SPARE_BYTES <= free:
        return None
    message = f"{needs_bytes / GIB:.2f} GiB are to be fetched, and {folder} has {free / GIB:.2f} GiB free"
    hint = f"make room there, or name another place ({SPARE_BYTES >> 20} MiB stay free)"
    return Problem("inferhost_models_path", message, hint, "no-room")


def _retried(ask: Callable[[], T], model: Model, progress: Progress, machine: Machine) -> T:
    """The answer of the far side, asked again while it is busy."""
    for attempt in range(1, TRIES + 1):
        try:
            return ask()
        except TransientError as error:
            said = str(error)
            if attempt < TRIES:
                progress.tell(f"{said}; asked again ({attempt} of {TRIES - 1})")
                machine.clock.sleep(PAUSE_S)
    option = {"hub": "endpoint", "address": "address"}.get(model.source, "source")
    raise HostError(
        Problem(f"inferhost_models_{option}", f"{said}, {TRIES} times", "is it reachable from here?", "fetch")
    )


def model_records(machine: Machine, plan: Plan) -> dict[str, Record]:
    """Whether something stands at each place, before we put anything there."""
    found = {}
    for model in plan.models:
        for path in {model.path, model.fetched_path}:
            found[f"model:{path}"] = Record("models", "present" if machine.exists(path) else None, {})
    return found
