"""The system user and the cache folder that come with the service, and go again if they came with us.

Ansible makes the user, systemd the folder. Here it is recorded that they were not there, and they are removed on
revert: the user by userdel, and only when no process of it lives. Models and results are never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from inferhost.host.machine import CACHE_DIRECTORY, Machine
from inferhost.host.record.baseline import Baseline, Record
from inferhost.host.report import Report
from inferhost.schema.plan import Plan
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

PASSWD = "/etc/passwd"


def named_users(plan: Plan) -> list[str]:
    """The users of the plan that need an account; a container's is a number."""
    return sorted({service.user for service in plan.service if not service.user.isdigit()})


def account_records(machine: Machine, users: Iterable[str]) -> dict[str, Record]:
    """Whether each user exists, and that the cache folder does not, where it does not."""
    found = {
        f"user:{user}": Record("service", "present" if uid_of(machine, user) is not None else None, {})
        for user in sorted(set(users))
    }
    if not machine.exists(CACHE_DIRECTORY):
        found[f"tree:{CACHE_DIRECTORY}"] = Record("service", None, {})
    return found


def uid_of(machine: Machine, user: str) -> int | None:
    """The id of a local user, or None. Users of a directory service are not ours to make or remove."""
    for line in (machine.read_text(PASSWD) or "").splitlines():
        fields = line.split(":")
        if fields[0] == user and len(fields) > 2 and fields[2].isdigit():
            return int(fields[2])
    return None


def restore_users(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> None:
    """Removes the users that were not there before us."""
    for user, record in records.items():
        uid, key = uid_of(machine, user), f"user:{user}"
        if record.found is None and uid is not None:
            problem = _removed(machine, user, uid, report.check)
            if problem is not None:
                report.problems.append(
                    Problem(key, problem, "stop what runs as this user, then revert again", "user")
                )
                report.verdicts.append(Verdict(key, "absent", "present", "refused", "other_writer", problem))
                continue
            report.change(key, "present", "absent")
        elif record.found is not None and uid is None:
            report.note(f"{key}: was there before us and is gone; not made again")
        baseline.drop([key], report.check)


def restore_trees(machine: Machine, records: Mapping[str, Record], baseline: Baseline, report: Report) -> set[str]:
    """Removes the folders, with what is in them, that were not there before us; returns their paths."""
    gone = set(records)
    for path in records:
        if machine.exists(path):
            if not report.check:
                machine.remove_tree(path)
            report.change(f"tree:{path}", "present", "absent")
        baseline.drop([f"tree:{path}"], report.check)
    return gone


def _removed(machine: Machine, user: str, uid: int, check: bool) -> str | None:
    """Why the user could not be removed, or None when it is gone."""
    if check:  # the engine that runs as this user would be stopped by then
        return None
    running = [pid for pid in machine.entries("/proc") if pid.isdigit() and _runs_as(machine, pid, uid)]
    if running:
        return f"is in use by process {', '.join(running[:5])}"
    machine.before_write(f"userdel {user}")
    done = machine.command(["userdel", user])
    if uid_of(machine, user) is None:
        return None
    return f"userdel ended with {done.code}: {done.stderr.strip() or 'the user is still there'}"


def _runs_as(machine: Machine, pid: str, uid: int) -> bool:
    status = machine.read_text(f"/proc/{pid}/status") or ""
    line = next((x for x in status.splitlines() if x.startswith("Uid:")), "")
    return line.split()[1:2] == [str(uid)]
