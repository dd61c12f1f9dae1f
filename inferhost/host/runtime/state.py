"""The runtime section: what was there before, what came with us, and whether engine and toolkit are as planned.

Ansible installs packages and writes files. This records both before the first change, says what `daemon.json` has to
hold, has the CDI specification made, and restarts docker where it runs without our settings and nobody is hurt by it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from inferhost.host.driver.candidates import brings_source, making_room, not_offered
from inferhost.host.driver.packages import installed, lost_note, missing, removed_with, with_needs
from inferhost.host.driver.sources import source_problems
from inferhost.host.machine import Machine
from inferhost.host.record import placed
from inferhost.host.record.baseline import Baseline, Record, read_baseline
from inferhost.host.report import Report
from inferhost.host.runtime import cdi, cdi_folders, containers, daemon_json
from inferhost.host.runtime.toolkit import (
    BEFORE,
    HELD,
    SECTION,
    asked_for,
    hold_toolkit,
    name_problems,
    toolkit_moves,
    toolkit_problems,
    toolkit_revert,
    verify_toolkit,
)
from inferhost.host.service.account import restore_trees
from inferhost.schema.container import Runtime
from inferhost.schema.plan import Plan
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.result import Verdict

URL = "inferhost_runtime_toolkit_repository_url"
NAMES = "containers:package:"
DOCKER_GROUP = "docker"
DOCKER_PACKAGE = "docker.io"
DOCKERS = ("/usr/bin/dockerd", "/usr/local/bin/dockerd")
"""The daemon of a distribution or of docker's own packages, and one put there by hand."""
VERSION = re.compile(r"\d+(?:\.\d+)+")
TOOLKIT = "/usr/bin/nvidia-ctk"
PROGRAMS = {"docker": "/usr/bin/docker", "podman": "/usr/bin/podman"}
SNAP = "/snap/bin/docker"
CNI = "/etc/cni/net.d"
"""Docker's containerd makes it when it first starts, and its package leaves it."""
IMAGES = {"docker": "/var/lib/docker", "podman": "/var/lib/containers"}


def runtime_records(machine: Machine, plan: Plan) -> dict[str, Record]:
    """Every package of the host as it is now, the names that the plan installs, and `daemon.json`."""
    runtime = plan.runtime
    if runtime is None or SECTION not in plan.manage:
        return {}
    there = installed(machine, runtime.family)
    before = {
        "family": runtime.family,
        "versions": there.versions,
        "held": sorted(there.held),
        "docker_group": _has_group(machine),
    }
    found = {BEFORE: Record(SECTION, before, {})}
    for name in (*runtime.packages, *runtime.toolkit, *runtime.tools):
        found[f"{NAMES}{name}"] = Record(SECTION, there.versions.get(name), {})
    if not machine.exists(runtime.cdi_spec):
        found[f"tree:{runtime.cdi_spec}"] = Record(SECTION, None, {})
    folders = [os.path.dirname(runtime.cdi_spec)]
    folders += [os.path.dirname(daemon_json.PATH), CNI] if runtime.daemon else []
    for folder in folders:
        found.update(placed.directory_records(machine, folder, SECTION))
    return {**found, **daemon_json.daemon_record(machine, plan)}


def runtime_problems(machine: Machine, plan: Plan, baseline: Baseline) -> list[Problem]:
    """What would go wrong, before anything is placed."""
    problems: list[Problem] = []
    runtime = plan.runtime
    if runtime is None or SECTION not in plan.manage:
        return problems
    program = PROGRAMS[runtime.engine]
    if runtime.packages and machine.exists(program):
        there = installed(machine, runtime.family).versions
        if not any(name in there for name in runtime.packages):
            message = f"{program} is on this host and is not of {' or '.join(runtime.packages)}"
            hint = "run inferhost discover again: it writes the engine that is there into container_engines"
            problems.append(Problem("inferhost_hardware.container_engines", message, hint, "foreign-engine"))
    if runtime.engine == "docker" and machine.exists(SNAP) and not machine.exists(program):
        message = f"found docker, which is a snap here: it reads neither {daemon_json.PATH} nor {runtime.unit}"
        hint = "snap remove docker, and discover again; or inferhost_runtime_engine: podman"
        problems.append(Problem("inferhost_hardware.container_engines", message, hint, "snap"))
    problems += _source_problems(machine, plan, runtime)
    problems += source_problems(machine, plan, SECTION, URL, "leave it empty, or take it out of {path}")
    problems += toolkit_problems(machine, runtime, baseline)
    problems += name_problems(machine, runtime, cdi.planned_names(plan))
    problems += cdi_folders.folder_problems(machine, runtime)
    return problems + daemon_json.daemon_problems(machine, plan)


def runtime_facts(machine: Machine, plan: Plan, baseline: Baseline) -> dict[str, Any]:
    """What the role has to know of this host: what has to be installed, and what `daemon.json` has to be."""
    runtime = plan.runtime
    if runtime is None or SECTION not in plan.manage:
        return {"daemon": {}, "missing": [], "restore": [], "accepts": "", "replace": [], "ask": []}
    there = installed(machine, runtime.family)
    absent = missing([*runtime.packages, *runtime.toolkit, *runtime.tools], there)
    moves = toolkit_moves(runtime, there, baseline)
    back = {one.partition("=")[0] for one in moves["restore"]}
    return {
        "daemon": _daemon_file(machine, runtime),
        "missing": absent,
        **moves,
        "ask": asked_for(runtime, [name for name in absent if name not in back] + moves["replace"]),
    }


def to_move(machine: Machine, plan: Plan, baseline: Baseline) -> list[str]:
    """The packages that the role would install or give another version, by name."""
    found = runtime_facts(machine, plan, baseline)
    return sorted({*found["missing"], *found["replace"], *(one.partition("=")[0] for one in found["restore"])})


def apply_runtime(machine: Machine, plan: Plan, baseline: Baseline, report: Report) -> None:
    """The daemon runs with our settings, and the specification is this driver's."""
    runtime = plan.runtime
    if runtime is None:
        return
    if not runtime.daemon:
        restore_daemon(machine, [SECTION], baseline, report)
    elif _lacks_cdi(machine):
        _restart(machine, plan, runtime, report)
    hold_toolkit(machine, runtime, baseline, report)
    cdi.apply_cdi(machine, runtime, report, cdi.planned_names(plan))


def verify_runtime(machine: Machine, plan: Plan, report: Report) -> None:
    """Engine, toolkit, configuration as it is on disk and as it runs, and the specification."""
    runtime = plan.runtime
    if runtime is None:
        return
    report.verdicts.append(_program(machine, "runtime.engine", runtime.engine, runtime.version))
    report.verdicts.append(_program(machine, "runtime.toolkit", "nvidia-ctk", ""))
    verify_toolkit(machine, runtime, read_baseline(machine), report)
    for key, value in runtime.daemon.items():
        report.verdicts.append(_daemon_key(machine, key, value))
    if runtime.daemon:
        report.verdicts.append(_daemon_runs(machine))
    cdi.verify_cdi(machine, runtime, report, cdi.planned_names(plan))


def runtime_revert(machine: Machine, baseline: Baseline, report: Report) -> dict[str, Any]:
    """What the role has to do to the packages so that they are as recorded; nothing of another's is in it."""
    if BEFORE not in baseline:
        return {}
    before = baseline[BEFORE].found
    names = [key[len(NAMES) :] for key in baseline if key.startswith(NAMES)]
    there = installed(machine, before["family"])
    ours = sorted(with_needs(machine, before["family"], names, there) - set(before["versions"]))
    foreign = sorted(removed_with(machine, before["family"], ours) - set(ours))
    if foreign:
        message = f"removing what came with the container engine would remove {', '.join(foreign)} too"
        hint = f"remove {foreign[0]} first if it is not needed, or keep the engine"
        report.problems.append(Problem(SECTION, message, hint, "foreign-packages"))
    busy = [
        name for engine in PROGRAMS if _brought(machine, engine, ours) for name in containers.others(machine, engine)
    ]
    if busy:
        message = f"containers of somebody else run in the engine that came with us: {', '.join(busy)}"
        report.problems.append(Problem(SECTION, message, "stop them first, or keep the engine", "containers"))
    group = not before["docker_group"] and _group_is_left_over(machine, baseline, ours, report)
    return {
        "family": before["family"],
        "remove": [] if foreign or busy else ours,
        "docker_group": group,
        **toolkit_revert(machine, baseline, there),
    }


def restore_runtime(machine: Machine, sections: Sequence[str], baseline: Baseline, report: Report) -> None:
    """Puts `daemon.json` back, compares the packages with the record, and forgets both once they are."""
    if SECTION not in sections:
        return
    restore_daemon(machine, sections, baseline, report)
    restore_trees(machine, baseline.of("tree", [SECTION]), baseline, report)
    if BEFORE not in baseline:
        return
    left = runtime_revert(machine, baseline, report)
    todo = [*left["remove"], *left["release"], *left["restore"]]
    if todo or left["docker_group"] or report.problems:
        verdict = ("pending", "none") if report.check else ("ignored", "unexplained")
        evidence = "packages are removed by playbooks/revert.yml, never by this program"
        report.verdicts.append(Verdict("runtime.packages", "as before", ", ".join(todo), *verdict, evidence))
        return
    said = "compared with the record"
    report.verdicts.append(Verdict("runtime.packages", "as before", "as before", "held", "none", said))
    for name, version in left["lost"].items():
        report.note(lost_note(name, version))
    for folder in (path for path in IMAGES.values() if machine.exists(path)):
        report.note(f"{folder}: images and volumes are never deleted; left")
    baseline.drop([key for key in baseline if key.startswith((BEFORE, NAMES, HELD))], report.check)


def restore_daemon(machine: Machine, sections: Sequence[str], baseline: Baseline, report: Report) -> None:
    """Our keys go out of `daemon.json`; what others wrote to it since stays."""
    if SECTION not in sections or daemon_json.KEY not in baseline:
        return
    record, path = baseline[daemon_json.KEY], daemon_json.PATH
    now = placed.observe_file(machine, path)
    try:
        content = machine.read_bytes(path)
        left = daemon_json.original(record, content)
    except InputError as error:
        report.problems += error.problems
        return
    if left is not None and "mode" not in left and now is not None:
        left = {**now, **left}
    kept = Record(SECTION, left, {})
    placed.restore_files(machine, {path: kept}, baseline, report)
    if report.verdicts[-1].verdict != "held":
        return
    baseline.drop([daemon_json.KEY], report.check)
    if left != now and _lives(machine) and not report.check:
        busy = containers.others(machine, "docker")
        if busy:
            report.note(f"docker runs with the earlier {path} until it is restarted; {', '.join(busy)} run in it")
        else:
            machine.command(["systemctl", "restart", "docker.service"])


def _source_problems(machine: Machine, plan: Plan, runtime: Runtime) -> list[Problem]:
    """Packages that are not there and that the host's own sources do not offer, and what would go for an engine."""
    there = installed(machine, runtime.family)
    own = () if brings_source(plan.files, SECTION) else runtime.toolkit
    here, then = "to this host's package sources", "then apt-get update"
    asked = (
        (
            "inferhost_runtime_engine",
            runtime.packages,
            f"found {runtime.engine}",
            f"add its component {here}, {then}",
        ),
        (
            URL,
            own,
            "is empty",
            f"NVIDIA's address of it, or your mirror's; or add one {here}, {then}",
        ),
    )
    problems = []
    for option, names, found, hint in asked:
        gone = not_offered(machine, runtime.family, missing(names, there))
        if gone:
            message = f"{found}, and no package source of this host offers {', '.join(gone)}"
            problems.append(Problem(option, message, hint, "no-package"))
    gone = making_room(machine, runtime.family, missing(runtime.packages, there))
    if gone:
        message = f"found {runtime.engine}, and installing it would remove {', '.join(gone)}"
        other = "podman; or " if runtime.engine == "docker" else ""
        hint = f"{other}remove {gone[0]} first if nothing needs it"
        problems.append(Problem("inferhost_runtime_engine", message, hint, "foreign-packages"))
    return problems


def _restart(machine: Machine, plan: Plan, runtime: Runtime, report: Report) -> None:
    """Docker starts again with our settings, unless containers would stop with it."""
    setting, busy = "runtime.daemon.running", containers.others(machine, "docker")
    if busy and plan.spare_containers:
        said = (
            f"docker reads {daemon_json.PATH} at its next start; until then it runs without CDI for {', '.join(busy)}"
        )
        report.note(f"{containers.WARNING} {said}; {containers.OPTION}: false restarts it now")
        report.verdicts.append(Verdict(setting, "with CDI", "without CDI", "pending", "needs_reboot", said))
        return
    report.change(setting, "without CDI", "with CDI")
    if not report.check:
        machine.before_write(f"systemctl restart {runtime.unit}")
        done = machine.command(["systemctl", "restart", str(runtime.unit)])
        if done.code != 0 or _lacks_cdi(machine):
            said = (done.stderr.strip().splitlines() or ["it runs without CDI after a restart"])[0]
            report.problems.append(Problem(setting, said, f"see: journalctl -u {runtime.unit}", "docker"))


def _daemon_file(machine: Machine, runtime: Runtime) -> dict[str, Any]:
    """What `daemon.json` has to be, and whether docker can check it; nothing where it is not ours to write."""
    if not runtime.daemon:
        return {}
    try:
        wanted = daemon_json.wanted_file(machine, runtime.daemon)
    except InputError:  # the refusal of it is on its way
        return {}
    checks = machine.command(["dockerd", "--help"])
    return {**wanted, "validate": checks.code == 0 and "--validate" in checks.stdout}


def _lacks_cdi(machine: Machine) -> bool:
    """Whether a docker runs that does not read CDI specifications."""
    asked = machine.command(["docker", "info", "--format", "{{json .CDISpecDirs}}"])
    return asked.code == 0 and asked.stdout.strip() in ("null", "[]")


def _lives(machine: Machine) -> bool:
    return machine.command(["docker", "info", "--format", "{{.ServerVersion}}"]).code == 0


def _program(machine: Machine, setting: str, program: str, least: str) -> Verdict:
    """The program answers with its version."""
    done = machine.command([program, "--version"])
    found = VERSION.search(done.stdout)
    wanted = f"{least} or later" if least else "installed"
    if done.code != 0 or found is None:
        return Verdict(setting, wanted, None, "overridden", "other_writer", f"{program} --version: {done.code}")
    enough = not least or _numbers(found[0]) >= _numbers(least)
    verdict = ("held", "none") if enough else ("overridden", "other_writer")
    return Verdict(setting, wanted, found[0], *verdict, f"{program} --version")


def _daemon_key(machine: Machine, key: str, value: Any) -> Verdict:
    setting = f"runtime.daemon.{key}"
    try:
        document = daemon_json.parsed(machine.read_bytes(daemon_json.PATH) or b"")
        is_held, found = daemon_json.held(document, {key: value}), document.get(key)
    except InputError as error:
        return Verdict(setting, value, None, "overridden", "other_writer", error.problems[0].message)
    verdict = ("held", "none") if is_held else ("overridden", "other_writer")
    return Verdict(setting, value, found, *verdict, daemon_json.PATH)


def _daemon_runs(machine: Machine) -> Verdict:
    setting, asked = "runtime.daemon.running", "docker info"
    if not _lives(machine):
        return Verdict(setting, "with CDI", None, "overridden", "unexplained", f"{asked}: docker does not answer")
    if _lacks_cdi(machine):
        busy = containers.others(machine, "docker")
        said = (
            f"{asked}: no CDI folders; it reads its file at the next start{' of ' + ', '.join(busy) if busy else ''}"
        )
        return Verdict(setting, "with CDI", "without CDI", "pending", "needs_reboot", said)
    return Verdict(setting, "with CDI", "with CDI", "held", "none", f"{asked}: it names its CDI folders")


def _brought(machine: Machine, engine: str, ours: Sequence[str]) -> bool:
    return machine.exists(PROGRAMS[engine]) and any(name.startswith(engine) for name in ours)


def _has_group(machine: Machine) -> bool:
    return _members(machine) is not None


def _members(machine: Machine) -> list[str] | None:
    """The users in docker's group, those whose first group it is among them; None where there is no such group."""
    entries = [line.split(":") for line in (machine.read_text("/etc/group") or "").splitlines()]
    found = next((entry for entry in entries if entry[0] == DOCKER_GROUP), None)
    if found is None:
        return None
    users = [line.split(":") for line in (machine.read_text("/etc/passwd") or "").splitlines()]
    first = [user[0] for user in users if user[3:4] == found[2:3]]
    return [*filter(None, found[-1].split(",")), *first]


def _group_is_left_over(machine: Machine, baseline: Baseline, ours: Sequence[str], report: Report) -> bool:
    """Whether docker's group came with our docker and nobody needs it once that is gone.

    Another docker took it over with its socket, and would not start without it.
    """
    package = f"{NAMES}{DOCKER_PACKAGE}"
    members, came = _members(machine), package in baseline and baseline[package].found is None
    another = DOCKER_PACKAGE not in ours and any(machine.exists(path) for path in DOCKERS)
    if members is None or not came or another:
        return False
    if members:
        report.note(f"group {DOCKER_GROUP}: {', '.join(members)} is in it; left")
    return not members


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
