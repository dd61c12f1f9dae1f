"""A model made of the fetched one with llama-quantize: into a part, proven, then renamed, like a fetch."""

from __future__ import annotations

import contextlib
import os
import subprocess

from inferhost.host.machine import Machine
from inferhost.host.models.kept import Kept, as_found, changed_files, read_kept, write_kept
from inferhost.host.models.remote import Remote
from inferhost.host.models.transfer import MODE, Progress, hashed, part_of
from inferhost.host.report import HostError, Report
from inferhost.schema.plan import Model
from inferhost.schema.problems import Problem

EVERY_S = 5.0
WORDS = 3
"""Lines of the program that a failure shows."""


def quantise(machine: Machine, model: Model, report: Report) -> None:
    """The file of the planned type; `HostError` with the program's own words where it is not made."""
    task = model.quantise
    if task is None:
        return
    fetched = read_kept(machine).get(model.fetched_path)
    origin = next(iter(fetched.files.values())).sha256 if fetched and fetched.files else "found"
    source = f"quantise {task.type} {origin} {task.sha256 or ''}"
    kept = read_kept(machine).get(model.path)
    if kept is not None and kept.source == source and not changed_files(machine, model.path, kept):
        return
    ours = kept.ours if kept is not None else not machine.exists(model.path)
    if not ours:
        message = f"{model.path} is there, and was not made by inferhost"
        raise HostError(Problem("inferhost_models_path", message, "move it away, or name another path", "not-ours"))
    report.change(f"models.{model.name}.quantise", "absent" if kept is None else "not proven", task.type)
    if report.check:
        return
    progress = Progress(model.name, None, report.progress)
    _run(machine, model, progress)
    part = part_of(model.path)
    sha256, wrong = hashed(machine, part, Remote("", "", None, task.sha256, None), progress)
    if wrong:
        _discard(machine, part)
        hint = "the type or the program's version differs from the one that gave that checksum"
        raise HostError(Problem("inferhost_models_quantised_sha256", f"{model.path}: {wrong}", hint, "checksum"))
    os.chmod(machine.at(part), MODE)
    machine.before_write(f"rename {model.path}")
    os.replace(machine.at(part), machine.at(model.path))
    found = Kept(source, True, True, {"": as_found(machine, model.path, sha256)})
    write_kept(machine, {**read_kept(machine), model.path: found})


def _run(machine: Machine, model: Model, progress: Progress) -> None:
    """llama-quantize to its end, saying every few seconds how far the file is."""
    task, part = model.quantise, part_of(model.path)
    if task is None:
        return
    machine.make_directories(os.path.dirname(model.path))
    machine.before_write(f"make {model.path}")
    argv = [machine.at(task.program), machine.at(task.fetched_path), machine.at(part), task.type]
    progress.tell(f"{task.type} is made of {task.fetched_path}")
    log = f"{machine.at(part)}.log"
    try:
        with open(log, "w+b") as said:
            try:
                running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
            except OSError as error:
                message = f"{task.program}: {error.strerror}"
                hint = "install llama.cpp-tools, or name the program"
                raise HostError(Problem("inferhost_models_quantise_program", message, hint, "quantise")) from error
            while True:
                try:
                    code = running.wait(EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    size = os.path.getsize(machine.at(part)) if machine.exists(part) else 0
                    progress.tell(f"{size / 2**30:.2f} GiB made")
            said.seek(0)
            lines = said.read().decode("utf-8", "replace").strip().splitlines()
        if code != 0:
            _discard(machine, part)
            words = " | ".join(lines[-WORDS:])
            message = f"{task.program} ended with {code}: {words}"
            hint = f"is {task.fetched_path} a GGUF file of 16 or 32 bit, and is there room?"
            raise HostError(Problem("inferhost_models_quantise", message, hint, "quantise"))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(log)


def _discard(machine: Machine, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(machine.at(path))
