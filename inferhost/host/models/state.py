"""What can be said of the models without fetching: refusals before anything is placed, verdicts, and going back.

A revert forgets; it deletes only what was fetched or made by us, and only where a purge is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from inferhost.host.machine import Machine
from inferhost.host.models.fetch import no_room, source_of
from inferhost.host.models.kept import KEPT, Kept, changed_files, place, read_kept, write_kept
from inferhost.host.models.remote import read_token
from inferhost.host.models.transfer import GIB, part_bytes, part_of
from inferhost.host.record.baseline import Baseline
from inferhost.host.report import HostError, Report
from inferhost.host.service.account import uid_of
from inferhost.schema.plan import Model, Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict


def model_problems(machine: Machine, plan: Plan) -> Iterator[Problem]:
    """What a fetch would be refused for, as far as it can be told without the network."""
    for model in plan.models:
        if model.source == "here" and not machine.exists(model.fetched_path):
            hint = "copy it there first, or say where it comes from with inferhost_models_source"
            yield Problem("inferhost_models_path", f"{model.fetched_path} is not on this host", hint, "not-there")
        if model.source == "store" and not machine.exists(model.location):
            hint = "is the store mounted?"
            yield Problem("inferhost_models_store_path", f"{model.location} is not on this host", hint, "not-there")
        if model.quantise is not None and not machine.exists(model.quantise.program):
            message, hint = f"{model.quantise.program} is not on this host", "Debian has it in llama.cpp-tools"
            yield Problem("inferhost_models_quantise_program", message, hint, "not-there")
        try:
            read_token(machine, model)
        except HostError as error:
            yield error.problem
        if model.expected_bytes and model.source not in ("here",) and not machine.exists(model.fetched_path):
            problem = no_room(machine, model.path, model.expected_bytes - part_bytes(machine, model.fetched_path))
            if problem is not None:
                yield problem


def brings(plan: Plan, path: str) -> bool:
    """Whether the models section brings what an engine opens at this path."""
    places = [model.path for model in plan.models if model.source != "here" or model.quantise is not None]
    return "models" in plan.manage and any(path == p or path.startswith(f"{p}/") for p in places)


def verify_models(machine: Machine, plan: Plan, report: Report) -> None:
    """Whether each model is whole and proven, and nobody but root can write it."""
    kept = read_kept(machine)
    users = {uid: s.user for s in plan.service if (uid := uid_of(machine, s.user)) is not None}
    for model in plan.models:
        for path in sorted({model.path, model.fetched_path}):
            setting = f"models.{model.name}" + ("" if path == model.path else ".fetched")
            report.verdicts.append(_whole(machine, model, path, kept.get(path), setting))
            if path in kept and kept[path].ours:
                report.verdicts.append(_read_only(machine, path, kept[path], users, setting))


def _whole(machine: Machine, model: Model, path: str, kept: Kept | None, setting: str) -> Verdict:
    wanted = "whole"
    if not machine.exists(path):
        return Verdict(setting, wanted, "absent", "overridden", "other_writer", f"{path} is not there")
    if kept is None or (path == model.fetched_path and (not kept.complete or kept.source != source_of(model))):
        if model.source == "here" and model.sha256 is None and path == model.fetched_path:
            return Verdict(setting, wanted, wanted, "held", "none", f"{path} is there; no checksum was given")
        return Verdict(setting, wanted, "not proven", "overridden", "unexplained", f"{path}: run inferhost fetch")
    changed = changed_files(machine, path, kept)
    if changed:
        names = ", ".join(name or path for name in changed[:3])
        return Verdict(
            setting, wanted, f"{len(changed)} files changed", "overridden", "other_writer", f"size or time: {names}"
        )
    size = sum(f.size_bytes for f in kept.files.values())
    evidence = f"{len(kept.files)} files, {size / GIB:.2f} GiB, as when their checksums were right"
    return Verdict(setting, wanted, wanted, "held", "none", evidence)


def _read_only(machine: Machine, path: str, kept: Kept, users: Mapping[int, str], setting: str) -> Verdict:
    for name in sorted(kept.files):
        where = place(path, name)
        try:
            status = os.stat(machine.at(where))
        except OSError:
            continue
        if status.st_mode & 0o022 or status.st_uid in users:
            who = users.get(status.st_uid, "others")
            evidence = f"{where}: mode {status.st_mode & 0o777:04o}, writable by {who}"
            return Verdict(f"{setting}.read_only", True, False, "overridden", "other_writer", evidence)
    return Verdict(f"{setting}.read_only", True, True, "held", "none", "owner and mode of each file")


def restore_models(
    machine: Machine, sections: Sequence[str], purge: bool, baseline: Baseline, report: Report
) -> set[str]:
    """Forgets the models; returns the paths at which nothing stands then."""
    gone: set[str] = set()
    kept = read_kept(machine)
    for path, record in baseline.of("model", sections).items():
        mine = kept.pop(path, None)
        gone |= _drop_parts(machine, path, mine, report)
        if purge and record.found is None and mine is not None and mine.ours:
            gone |= _purge(machine, path, mine, report)
        elif machine.exists(path):
            why = "was here before us" if record.found is not None else "inferhost_models_purge deletes it"
            report.note(f"{path}: left where it is ({why})")
        baseline.drop([f"model:{path}"], report.check)
    if not report.check and machine.exists(KEPT):
        write_kept(machine, kept)
    return gone


def _drop_parts(machine: Machine, path: str, kept: Kept | None, report: Report) -> set[str]:
    """Half-fetched files are nobody's models."""
    found = [part_of(place(path, name)) for name in (kept.files if kept else {"": None})]
    if os.path.isdir(machine.at(path)) and not os.path.islink(machine.at(path)):
        for folder, _, names in os.walk(machine.at(path)):
            inner = os.path.relpath(folder, machine.at(path))
            found += [
                os.path.normpath(os.path.join(path, inner, name))
                for name in names
                if name.endswith(".inferhost-part")
            ]
    there = {part for part in found if machine.exists(part)}
    for part in sorted(there):
        report.change(part, "present", "absent")
        if not report.check:
            machine.remove_file(part)
    return there


def _purge(machine: Machine, path: str, kept: Kept, report: Report) -> set[str]:
    """Deletes what we fetched, and the folders that are empty then."""
    gone = set()
    for name in sorted(kept.files):
        where = place(path, name)
        if machine.exists(where):
            report.change(where, "present", "absent")
            if not report.check:
                machine.remove_file(where)
            gone.add(where)
    if "" in kept.files:
        return gone
    for folder, _, _ in os.walk(machine.at(path), topdown=False):
        where = os.path.normpath(os.path.join(path, os.path.relpath(folder, machine.at(path))))
        if any(os.path.join(where, name) not in gone for name in machine.entries(where)):
            report.note(f"{where}: holds files that are not ours; left")
            continue
        if not report.check:
            machine.remove_directory(where)
        gone.add(where)
    return gone
