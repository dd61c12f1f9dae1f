"""The record of what was here before us: `/var/lib/inferhost/baseline.json`, written once per key until revert.

Keys are stable names: `gpu:UUID:power_limit_mw`, `gpu:UUID:persistence_mode`, `sysctl:vm.swappiness`,
`cpu:0:governor`, `cpuidle:0:3`, `cpu:0:energy_performance_preference`, `file:/etc/...`, `dir:/etc/...`, `user:NAME`,
`tree:/var/cache/inferhost`, `model:/srv/...`, `package:NAME`, `packages:before`,
`packages:displaced:NAME`, and `packages:noted` during an installation; `packages:held` alone is ours: the versions
held.
`containers:before`, `containers:package:NAME`, `daemon:/etc/docker/daemon.json` are of the runtime section.
A key that stands is never overwritten, so our own values are never taken for originals;
it goes when its original is proven to be back.
The record belongs to one machine, and one that cannot be read or believed stops every verb that writes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from inferhost.host.machine import PLAN, PROGRAM, STATE_DIRECTORY, Machine
from inferhost.host.report import RecordUnusable, WriteFailed, reason
from inferhost.schema import document
from inferhost.schema.problems import InputError, Problem

SCHEMA = 1
BASELINE = f"{STATE_DIRECTORY}/baseline.json"
MARK = f"{STATE_DIRECTORY}/recorded"
"""Stands beside the record, so that its loss shows where plan and program tell nothing: on NixOS they are links."""
SELECTED_AS = "selected_as"
"""What a record's context calls the number that its card has in the plan: `2BB1[0]`."""
MACHINE_ID = "/etc/machine-id"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

KEEP = "put the file back from a backup; without it, what inferhost set so far would count as the original"

CLONE = (
    f"a copy of that machine is managed after {BASELINE}, {MARK} and {PLAN} are removed: what is there then counts"
    " as what was here before, files and values of inferhost included, so revert a machine before it is copied; where"
    " it is the same machine, give it its id back"
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One original. `found` is None for what was absent; `context` is what to know when it is put back."""

    section: str
    found: Any
    context: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Document:
    """The file as it is read and written."""

    schema: int
    machine_id: str
    records: dict[str, Record]


class Baseline:
    """The record of one machine. Each change is safe on disk when its method returns."""

    def __init__(self, machine: Machine, records: Mapping[str, Record], on_disk: bool) -> None:
        self._machine = machine
        self._records = dict(records)
        self.on_disk = on_disk

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Record:
        return self._records[key]

    def __iter__(self) -> Iterator[str]:
        """Every recorded key, sorted."""
        return iter(sorted(self._records))

    def of(self, kind: str, sections: Iterable[str]) -> dict[str, Record]:
        """The records of one kind (`gpu`, `file`, ...) in these sections, by what follows `kind:`."""
        wanted, prefix = set(sections), f"{kind}:"
        return {
            key[len(prefix) :]: self._records[key]
            for key in self
            if key.startswith(prefix) and self._records[key].section in wanted
        }

    def add(self, new: Mapping[str, Record], check: bool) -> list[str]:
        """Records the keys that do not stand yet, in one write, and returns them."""
        added = sorted(k for k in new if k not in self._records)
        self._records.update({k: new[k] for k in added})
        if not check and (added or not self.on_disk or not self._machine.exists(MARK)):
            self._write()
        return added

    def number(self, contexts: Iterable[Mapping[str, str]], check: bool) -> None:
        """Gives each number in these contexts to that card alone: it may have been another one's before."""
        owners = {found[SELECTED_AS]: found["uuid"] for found in contexts if SELECTED_AS in found}
        numbers = {uuid: number for number, uuid in owners.items()}
        renumbered = {}
        for key, record in self._records.items():
            old, uuid = record.context.get(SELECTED_AS), record.context.get("uuid", "")
            new = numbers.get(uuid, None if old in owners else old)
            if new != old:
                kept = {name: text for name, text in record.context.items() if name != SELECTED_AS}
                number = {} if new is None else {SELECTED_AS: new}
                renumbered[key] = dataclasses.replace(record, context={**kept, **number})
        self._records.update(renumbered)
        if renumbered and not check:
            self._write()

    def drop(self, keys: Iterable[str], check: bool) -> None:
        """Forgets keys whose originals are proven to be back."""
        gone = [k for k in keys if k in self._records]
        for key in gone:
            del self._records[key]
        if gone and not check:
            self._write()

    def _write(self) -> None:
        content = document.text(Document(SCHEMA, machine_id(self._machine), self._records)).encode()
        try:
            self._machine.make_directories(STATE_DIRECTORY, 0o700)
            self._machine.replace_file(BASELINE, content, 0o600)
            if not self._machine.exists(MARK):
                self._machine.replace_file(MARK, b"", 0o600)
        except WriteFailed as error:
            raise RecordUnusable(dataclasses.replace(error.problem, id="record-unwritable")) from error
        self.on_disk = True


def machine_id(machine: Machine) -> str:
    """Which machine this is; empty where it has no id."""
    return (machine.read_text(MACHINE_ID) or "").strip()


def boot_id(machine: Machine) -> str:
    """Which boot this is; empty where the kernel does not say."""
    return (machine.read_text(BOOT_ID) or "").strip()


def read_baseline(machine: Machine) -> Baseline:
    """The record on disk, an empty one where there is none, or `RecordUnusable`."""
    content = _content(machine)
    if content is None:
        linked = os.path.islink(machine.at(PLAN))  # NixOS places links, before anything is recorded
        if linked and machine.exists(MARK):
            hint = f"put it back from a backup, or restart the host, so that it forgets our values, and remove {MARK}"
            message = "the file is gone, yet this host was recorded; what was here before us is unknown"
            raise RecordUnusable(Problem(BASELINE, message, hint, "record-lost"))
        if not linked and machine.exists(PLAN) and machine.exists(PROGRAM):
            found = "the file is gone, yet the plan and the program are installed"
            raise RecordUnusable(
                Problem(
                    BASELINE,
                    f"{found}; what was here before them is unknown",
                    f"put the file back from a backup, or remove {PLAN} to accept what is on this host now",
                    "record-lost",
                )
            )
        return Baseline(machine, {}, on_disk=False)
    try:
        value = json.loads(content.decode("utf-8"))
        if isinstance(value, dict) and value.get("schema") != SCHEMA:
            raise _unusable(f"schema: found {document.shown(value.get('schema'))}, this program reads {SCHEMA}")
        read = document.read(Document, value)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _unusable(f"is not JSON: {error}") from error
    except InputError as error:
        first = error.problems[0]
        raise _unusable(f"{first.path}: {first.message}") from error
    here = machine_id(machine)
    if read.machine_id != here:
        message = f"belongs to machine {read.machine_id or '(none)'}, this is {here or '(none)'}"
        raise _unusable(message, CLONE)
    return Baseline(machine, read.records, on_disk=True)


def recorded_keys(machine: Machine) -> frozenset[str] | None:
    """What is on record; None where the record cannot be read, which others say."""
    try:
        return frozenset(read_baseline(machine))
    except RecordUnusable:
        return None


def _content(machine: Machine) -> bytes | None:
    try:
        return machine.read_bytes(BASELINE)
    except OSError as error:
        hint = f"repair what keeps it from being read, and leave it where it is; else {KEEP}"
        raise _unusable(f"cannot be read: {reason(error)}", hint) from error


def _unusable(message: str, hint: str = KEEP) -> RecordUnusable:
    return RecordUnusable(Problem(BASELINE, message, hint, "record-unusable"))
