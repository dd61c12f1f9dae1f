"""Files that Ansible or NixOS places for us: what was there before, whether ours stand, and how to put theirs back.

The host program never writes a plan's file; it records what each path held before the first one was placed, compares
bytes and mode, and restores. Folders that were missing are recorded too, so that revert leaves none behind.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import pkgutil
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from inferhost.host.machine import PROGRAM, Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import HostError, NothingTouched, Report, reason
from inferhost.schema.plan import File, Plan
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.result import Verdict

DROPIN_MODE = 0o644


@dataclasses.dataclass(frozen=True)
class Placed:
    """One file as the plan wants it on disk."""

    path: str
    section: str
    mode: int
    content: bytes


def placed_files(plan: Plan, sections: Iterable[str]) -> list[Placed]:
    """The plan's files and drop-ins in these sections, sorted by path."""
    wanted, problems = set(sections), []
    found = [Placed(d.path, d.section, DROPIN_MODE, d.content.encode()) for d in plan.dropins if d.section in wanted]
    for number, file in enumerate(plan.files):
        if file.section in wanted:
            try:
                found.append(Placed(file.path, file.section, int(file.mode, 8), _content(file)))
            except (OSError, ValueError) as error:
                problems.append(Problem(f"files[{number}]", str(error), "", "plan-file"))
    if problems:
        raise InputError(problems, "plan")
    return sorted(found, key=lambda f: f.path)


def place(machine: Machine, path: str, content: bytes, mode: int, report: Report) -> None:
    """Our own file with this content and mode; written only when either differs."""
    found, found_mode = machine.read_bytes(path), machine.mode(path)
    if found == content and found_mode == mode:
        return
    if not report.check:
        machine.make_directories(os.path.dirname(path))
        machine.replace_file(path, content, mode)
    if found == content:
        report.change(f"{path} (mode)", f"{found_mode or 0:04o}", f"{mode:04o}")
    else:
        report.change(path, _text(path, found), _text(path, content))


def file_records(machine: Machine, files: Iterable[tuple[str, str]]) -> dict[str, Record]:
    """What stands now at each `(path, section)`, and which of their folders are missing, by baseline key."""
    found: dict[str, Record] = {}
    for path, section in files:
        found[f"file:{path}"] = Record(section, observe_file(machine, path), {})
        found.update(directory_records(machine, os.path.dirname(path), section))
    return found


def directory_records(machine: Machine, path: str, section: str) -> dict[str, Record]:
    """The folders on the way to `path`, itself included, that do not exist yet."""
    found: dict[str, Record] = {}
    while not machine.exists(path) and path != "/":
        found[f"dir:{path}"] = Record(section, None, {})
        path = os.path.dirname(path)
    return found


def observe_file(machine: Machine, path: str) -> dict[str, Any] | None:
    """What stands at a path: None, a link's target, or content, mode and owner."""
    try:
        status = os.lstat(machine.at(path))
        if stat.S_ISLNK(status.st_mode):
            return {"symlink": os.readlink(machine.at(path))}
        if not stat.S_ISREG(status.st_mode):
            message = "is neither a file nor a link, wanted a place for a file"
            raise NothingTouched(Problem(path, message, "move it away", "not-a-file"))
        content = machine.read_bytes(path) or b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NothingTouched(
            Problem(path, f"cannot be read: {reason(error)}", "run as root", "unreadable")
        ) from error
    return {
        "content_base64": base64.b64encode(content).decode(),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def verify_files(machine: Machine, files: Iterable[Placed], report: Report) -> None:
    """Compares each file with the plan, byte for byte, and its mode."""
    for file in files:
        found, evidence = _difference(machine, file)
        verdict = ("held", "none") if not evidence else ("overridden", "other_writer")
        wanted = f"{len(file.content)} bytes, mode {file.mode:04o}"
        report.verdicts.append(
            Verdict(f"file:{file.path}", wanted, found, *verdict, evidence or "compared byte for byte")
        )


def restore_files(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> set[str]:
    """Puts each recorded file back, proves it and forgets it; returns the paths at which nothing stands then."""
    proven: list[str] = []
    gone: set[str] = set()
    for path, record in records.items():
        before = observe_file(machine, path)
        if not report.check:
            machine.remove_leftover(path)
            if before != record.found:
                _restore(machine, path, record.found)
        found = record.found if report.check else observe_file(machine, path)
        if found != before:
            report.change(f"file:{path}", shown(before), shown(found))
        verdict, cause = ("held", "none") if found == record.found else ("ignored", "unexplained")
        wanted = _summary(record.found)
        report.verdicts.append(Verdict(f"file:{path}", wanted, _summary(found), verdict, cause, "as recorded"))
        if found == record.found:
            proven.append(f"file:{path}")
            gone.update({path} if found is None else ())
    baseline.drop(proven, report.check)
    return gone


def restore_directories(
    machine: Machine, records: Mapping[str, Record], gone: set[str], baseline: Baseline, report: Report
) -> set[str]:
    """Removes folders that were not there before us, deepest first; returns those left because they are in use.

    `gone` are paths that this run removed, or in check mode would have removed.
    """
    kept = set()
    for path in sorted(records, key=lambda p: (-p.count("/"), p)):
        left = [name for name in machine.entries(path) if os.path.join(path, name) not in gone]
        if left:
            kept.add(path)
            continue
        if machine.exists(path):
            if not report.check:
                machine.remove_directory(path)
            report.change(f"dir:{path}", "present", "absent")
        gone.add(path)
        baseline.drop([f"dir:{path}"], report.check)
    return kept


def shown(original: Mapping[str, Any] | None) -> str:
    """What stands at a path, as a diff shows it: text, a link, or its size where it is not text."""
    if original is None:
        return "absent"
    if "symlink" in original:
        return f"link to {original['symlink']}"
    content = base64.b64decode(original["content_base64"])
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"{len(content)} bytes"


def _content(file: File) -> bytes:
    if file.content is not None:
        return file.content.encode()
    name = file.package_file or ""
    found = None if "/" in name else pkgutil.get_data("inferhost.host", f"units/{name}")
    if found is None:
        raise ValueError(f'"{name}" is not a file that this program ships')
    return found


def _difference(machine: Machine, file: Placed) -> tuple[str, str]:
    """What is on disk in short, and how it differs from the plan; the difference is empty where it does not."""
    try:
        found = observe_file(machine, file.path)
    except HostError as error:
        return "unknown", error.problem.message
    if found is None:
        return "absent", "there is no such file"
    if "symlink" in found:
        target = machine.read_bytes(file.path)  # NixOS places links into its store
        return _summary(found), "" if target == file.content else "is a link, and not to the planned content"
    if base64.b64decode(found["content_base64"]) != file.content:
        return _summary(found), "the content is not what the plan says"
    if found["mode"] != f"{file.mode:04o}":
        return _summary(found), f"the mode is {found['mode']}"
    return _summary(found), ""


def _summary(original: Mapping[str, Any] | None) -> str:
    if original is None or "symlink" in original:
        return shown(original)
    return f"{len(base64.b64decode(original['content_base64']))} bytes, mode {original['mode']}"


def _restore(machine: Machine, path: str, original: Mapping[str, Any] | None) -> None:
    if original is None:
        machine.remove_file(path)
    elif "symlink" in original:
        machine.replace_link(path, str(original["symlink"]))
    else:
        machine.make_directories(os.path.dirname(path))
        content, mode = base64.b64decode(original["content_base64"]), int(original["mode"], 8)
        machine.replace_file(path, content, mode, (original["uid"], original["gid"]))


def _text(path: str, content: bytes | None) -> str:
    """The plan as text, the program as its hash."""
    if content is None:
        return "absent"
    return f"sha256 {hashlib.sha256(content).hexdigest()}" if path == PROGRAM else content.decode("utf-8", "replace")
