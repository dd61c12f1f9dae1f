"""The way back when a new engine does not serve: the files that served last are placed again and started.

A gate that passed keeps the service files of its plan; a rollback restores those, not what was here before Inferhost.
Where nothing of ours ever served, the units that the plan took over are given back. Whoever served before serves
again, the failed plan stays visible as drift, and the run fails with what went wrong. What served before that is kept
as well: a person can go back to it in one step when the new engine serves, but not as it should.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from typing import Any, Dict  # noqa: UP035 (the document reader resolves the hints of Python 3.9)

from inferhost.host.machine import STATE_DIRECTORY, Machine
from inferhost.host.record.baseline import Baseline, read_baseline
from inferhost.host.record.lock import locked
from inferhost.host.record.placed import file_records, observe_file, placed_files, restore_files
from inferhost.host.report import NothingTouched, Report
from inferhost.host.service.adopt import restore_units
from inferhost.host.service.engine import switching_off
from inferhost.host.service.processes import unit_state
from inferhost.host.waiting import told
from inferhost.schema import document
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.result import Verdict

SERVED = f"{STATE_DIRECTORY}/served.json"
BEFORE = f"{STATE_DIRECTORY}/served-before.json"


@dataclasses.dataclass(frozen=True)
class Served:
    """What stood on the host when the gate passed: the plan's id, its units, and the service files as they were."""

    plan_id: str
    units: Dict[str, str]  # noqa: UP006 unit -> instance
    files: Dict[str, Any]  # noqa: UP006 path -> as the baseline records a file


def keep_served(machine: Machine, plan: Plan) -> None:
    """Remembers the files of a plan whose engines all passed the gate; those on disk, which are what runs.

    The same files under another plan change nothing: they may be those that a rollback brought back.
    """
    files = {file.path: observe_file(machine, file.path) for file in placed_files(plan, ["service"])}
    found = Served(plan.plan_id, {s.unit: s.instance for s in plan.service}, files)
    last = read_served(machine)
    if not machine.exists(STATE_DIRECTORY) or (last and (last.units, last.files) == (found.units, found.files)):
        return
    if last is not None:
        machine.replace_file(BEFORE, document.text(last).encode(), 0o600)
    machine.replace_file(SERVED, document.text(found).encode(), 0o600)


def read_served(machine: Machine, path: str = SERVED) -> Served | None:
    """What served last (or before that), or None where nothing did or nobody can read it."""
    try:
        return document.read(Served, json.loads((machine.read_bytes(path) or b"").decode()))
    except (OSError, ValueError, InputError):
        return None


def roll_back(machine: Machine, plan: Plan, report: Report) -> None:
    """Whoever served before the plan serves again, as far as that is known; a problem says what came of it."""
    with locked(machine):
        baseline = read_baseline(machine)
        served = read_served(machine)
        failed = [s for s in plan.service if served is None or s.unit not in served.units]
        for service in failed:
            with told(report.progress, f"service.{service.instance}: systemctl disable --now {service.unit}"):
                machine.before_write(f"systemctl disable {service.unit}")
                machine.command(["systemctl", *switching_off(machine, service.unit)])
            report.change(f"service.{service.instance}.active", "failed", "stopped")
        if served is None:
            restore_units(machine, baseline.of("unit", ["service"]), baseline, report)
            hint = "repair the cause and run again; the units that were taken over run again"
            _say(report, "service", "no engine of ours served before, so none is started", hint)
            return
        _restore(machine, plan, served, baseline, report)
        for unit, evidence in _restart(machine, served, report):
            setting = f"service.{served.units[unit]}.rolled_back"
            hint = "repair the cause and run again; until then verify tells of drift"
            _say(report, setting, f"the new plan does not serve; {evidence} again", hint)


def go_back(machine: Machine, plan: Plan, report: Report) -> None:
    """What served before the last change of the service files serves again; going back twice is going forward.

    `NothingTouched` where nothing served before.
    """
    with locked(machine):
        served, now = read_served(machine, BEFORE), read_served(machine)
        if served is None or now is None:
            message, hint = "no engine of ours served before the one that serves now", "plan the version that should"
            raise NothingTouched(Problem("service", message, hint, "nothing-before"))
        _restore(machine, plan, served, read_baseline(machine), report)
        # Before the restart: one that is cut off here is gone on with by the gate, which compares with what is kept.
        machine.replace_file(SERVED, document.text(served).encode(), 0o600)
        machine.replace_file(BEFORE, document.text(now).encode(), 0o600)
        with report.wholly():
            _restart(machine, served, report)
        report.note(f"plan {served.plan_id} serves again; the wish still asks for {now.plan_id}: change it too")


def _restore(machine: Machine, plan: Plan, served: Served, baseline: Baseline, report: Report) -> None:
    """The service files as they were; what only the failed plan brought goes back to the baseline."""
    for path, found in served.files.items():
        before = observe_file(machine, path)
        if found is None or before == found or "content_base64" not in found:
            continue
        # A file that went with a change that is taken back is not on record any more.
        baseline.add(file_records(machine, [(path, "service")]), check=False)
        machine.make_directories(os.path.dirname(path))
        machine.replace_file(path, base64.b64decode(found["content_base64"]), int(found["mode"], 8))
        report.change(f"file:{path}", "of the failed plan", f"of plan {served.plan_id}")
    new = {file.path for file in placed_files(plan, ["service"])} - set(served.files)
    records = {path: record for path, record in baseline.of("file", ["service"]).items() if path in new}
    restore_files(machine, records, baseline, report)


def _restart(machine: Machine, served: Served, report: Report) -> list[tuple[str, str]]:
    """Starts each unit with the files on disk; units, and how they are now."""
    found = []
    machine.command(["systemctl", "daemon-reload"])
    for unit, instance in served.units.items():
        setting = f"service.{instance}.rolled_back"
        machine.command(["systemctl", "reset-failed", "--", unit])
        machine.before_write(f"systemctl restart {unit}")
        with told(report.progress, f"{setting}: systemctl restart {unit}"):
            done = machine.command(["systemctl", "restart", unit])
        active = unit_state(machine, unit).get("ActiveState", "unknown")
        evidence = f"plan {served.plan_id}: {unit} is {active}"
        verdict = ("held", "none") if active == "active" and done.code == 0 else ("refused", "unexplained")
        report.verdicts.append(Verdict(setting, "active", active, *verdict, evidence))
        found.append((unit, evidence))
    return found


def _say(report: Report, path: str, message: str, hint: str) -> None:
    report.problems.append(Problem(path, message, hint, "rolled-back"))
