"""The verb `engines`: every engine that the plan wants made is made, each version in a folder of its own.

A folder counts as made once its mark says what it was made of, which is written last; one without it is gone on with.
A folder that was here before us is never touched. What serves now goes on serving from its own folder meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

from inferhost.host.machine import Machine
from inferhost.host.record.baseline import Baseline, Record, read_baseline
from inferhost.host.record.lock import FETCH_LOCK, locked
from inferhost.host.report import HostError, Report
from inferhost.host.service.container import bring_images
from inferhost.host.service.readable import closed, reader
from inferhost.host.service.toolchain import toolchain_problems
from inferhost.schema import document
from inferhost.schema.plan import Install, Plan, Service
from inferhost.schema.problems import Problem
from inferhost.schema.result import Verdict

MARK = ".inferhost-made"
EVERY_S = 5.0
LAST_LINES = 3
OPTION, PYTHON = "inferhost_service_engine_install", "inferhost_service_engine_python"
ASK_VERSION = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


def installs(plan: Plan) -> dict[str, tuple[Service, Install]]:
    """What is to be made, once per folder."""
    services = plan.service if "service" in plan.manage else ()
    return {s.install.prefix: (s, s.install) for s in services if s.install is not None}


def install_records(machine: Machine, plan: Plan) -> dict[str, Record]:
    """That a folder is not there yet, so that a revert removes it again."""
    absent = [prefix for prefix in installs(plan) if not machine.exists(prefix)]
    return {f"tree:{prefix}": Record("service", None, {}) for prefix in absent}


def install_problems(machine: Machine, plan: Plan) -> Iterator[Problem]:
    """What would keep an engine from being made, before anything is written."""
    for service, install in installs(plan).values():
        if is_made(machine, install):
            continue
        done = machine.command([install.python, "-c", ASK_VERSION])
        hint = f"name another interpreter; {install.python_min} or newer, with venv (Debian: python3-venv)"
        if done.code != 0:
            said = done.stderr.strip().splitlines() or [f"exit status {done.code}"]
            yield Problem(PYTHON, f"{install.python}: {said[-1]}", hint, "python")
        elif _numbers(done.stdout) < _numbers(install.python_min):
            yield Problem(PYTHON, f"{install.python} is {done.stdout.strip()}", hint, "python")
        else:
            yield from toolchain_problems(machine, plan, service, install)
        if install.kind == "source" and machine.command(["git", "--version"]).code != 0:
            yield Problem(OPTION, "git is not on this host", "install git, or take another way", "git")


def is_made(machine: Machine, install: Install) -> bool:
    """Whether the folder's mark says that it was made of just this."""
    return machine.read_text(f"{install.prefix}/{MARK}") == document.text(install).rstrip("\n")


def make_engines(machine: Machine, plan: Plan, report: Report) -> None:
    """Makes what is missing; the first that fails ends it."""
    with contextlib.nullcontext() if report.check else locked(machine, lock=FETCH_LOCK):
        bring_images(machine, plan, report)
        baseline = read_baseline(machine)
        for service, install in installs(plan).values():
            setting = f"service.{service.instance}.install"
            if not is_made(machine, install):
                before = "unfinished" if machine.exists(install.prefix) else "absent"
                report.change(setting, before, f"{service.engine} {service.engine_version} in {install.prefix}")
                if report.check:
                    continue
                _make(machine, service, install, baseline, report)
            elif _is_closed(machine, service, install):
                report.change(setting, f"closed to {service.user}", "readable for everybody")
                if report.check:
                    continue
                _run(machine, service, _opening(machine, install), install, report)
            report.verdicts.append(Verdict(setting, "made", "made", "held", "none", f"{install.prefix}/{MARK}"))


def _is_closed(machine: Machine, service: Service, install: Install) -> bool:
    """Whether a folder of ours keeps the engine's user out, as one does that was made under a strict umask."""
    return closed(machine, service.argv[0], reader(machine, service.user)).startswith(install.prefix)


def _make(machine: Machine, service: Service, install: Install, baseline: Baseline, report: Report) -> None:
    if machine.exists(install.prefix) and f"tree:{install.prefix}" not in baseline:
        message = f"{install.prefix} is there, and was not made by inferhost"
        raise HostError(Problem(OPTION, message, "move it away, or take it as it is with: given", "not-ours"))
    machine.make_directories(os.path.dirname(install.prefix))
    for argv in _steps(machine, install):
        machine.before_write(" ".join(argv[:3]))
        _run(machine, service, argv, install, report)
    if not machine.exists(service.argv[0]):
        message = f"{install.prefix} was made, and {service.argv[0]} is not in it"
        raise HostError(Problem(OPTION, message, "is this the package that the catalogue means?", "install"))
    machine.replace_file(f"{install.prefix}/{MARK}", document.text(install).encode(), 0o644)


def _steps(machine: Machine, install: Install) -> Iterator[list[str]]:
    """The commands, in order; each may be run again over what an earlier run left."""
    prefix = machine.at(install.prefix)
    if install.repository is not None:
        if not machine.exists(f"{install.prefix}/.git"):
            yield ["git", "clone", "--quiet", "--no-checkout", install.repository, prefix]
        yield ["git", "-C", prefix, "checkout", "--quiet", "--force", "--detach", str(install.commit)]
    yield [install.python, "-m", "venv", prefix]
    pip = [f"{prefix}/bin/python", "-m", "pip", "install", "--no-input", "--no-cache-dir", "--progress-bar", "off"]
    yield [*pip, "--disable-pip-version-check", *install.arguments]
    yield _opening(machine, install)


def _opening(machine: Machine, install: Install) -> list[str]:
    """What lets the engine's user in where root's umask would not, this time or when an earlier run broke off."""
    return ["chmod", "-R", "go+rX", machine.at(install.prefix)]


def _run(machine: Machine, service: Service, argv: Sequence[str], install: Install, report: Report) -> None:
    """One command to its end; its last line every few seconds."""
    what = f"service.{service.instance}.install"
    where = machine.at(install.prefix)
    with tempfile.TemporaryFile() as said:
        try:
            running = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=where if os.path.isdir(where) else None,
                env={**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
            )
        except OSError as error:
            raise HostError(
                Problem(OPTION, f"{argv[0]}: {error.strerror}", "is it on the host?", "install")
            ) from error
        while True:
            try:
                code = running.wait(EVERY_S)
                break
            except subprocess.TimeoutExpired:
                lines = _lines(said)
                report.progress(f"{what}: {lines[-1][:100] if lines else argv[0]}")
        lines = _lines(said)
    if code != 0:
        message = f"{' '.join(argv[:4])} ended with {code}: {' | '.join(lines[-LAST_LINES:])}"
        hint = f"what came so far stays in {install.prefix}; repair the cause and run again"
        raise HostError(Problem(OPTION, message, hint, "install"))


def _lines(said: IO[bytes]) -> list[str]:
    descriptor = said.fileno()
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    return [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.strip().split(".") if part.isdigit())
