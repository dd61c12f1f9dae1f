"""The command line of the host program: one verb, one JSON document on stdout, prose on stderr, an exit code.

Rules of the output: stdout carries nothing but the document; stderr has one line per change, verdict and note, and
`error:` and `hint:` lines for problems. A traceback is a bug of ours (exit 1) and nothing else. The codes are those
of `inferhost.schema.result`; errors bring their own, and this file alone turns them into an exit.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from typing import NoReturn

from inferhost import __version__
from inferhost.host import discover, facts, install, verbs
from inferhost.host.balancer import runtime
from inferhost.host.gpu import challenge, load
from inferhost.host.gpu import sample as sampling
from inferhost.host.guard import daemon
from inferhost.host.machine import PLAN, Machine, machine_at
from inferhost.host.models import fetch
from inferhost.host.record import left, left_alone, revert
from inferhost.host.report import HostError, NothingTouched, Report, reason
from inferhost.host.service import drain, engine, gate, measure, rollback
from inferhost.host.service import install as engine_install
from inferhost.host.signals import stopping
from inferhost.host.watch import boot, drift, journal
from inferhost.schema import document, result
from inferhost.schema.plan import SECTIONS, Plan, read_plan
from inferhost.schema.problems import InputError, Problem

EXIT_CODES = "exit codes:\n" + "\n".join(f"  {code}  {means}" for code, means in result.EXIT_CODES.items())

VERBS = {
    "install": "record what is here now, then place the plan and this program",
    "record": "record what is here now and place nothing, where NixOS places the files",
    "discover": "say what this host is made of, how it is set and what serves on it now; writes nothing",
    "facts": "say what this host is made of; works without a driver",
    "engines": "make the engines of the plan, each version in a folder of its own",
    "fetch": "bring the models of the plan to this host, resume what was cut, and prove them by checksum",
    "apply": "write what has no file (NVML, kernel, governor) and prove it",
    "boot": "wait for the cards and apply again what they forgot; what the boot unit runs",
    "watch": "look for drift, and apply again what a driver reload took; what the timer runs",
    "verify": "compare this host with its plan, setting by setting",
    "gate": "ask every engine of the plan for a token",
    "stop": "stop the engines of the plan, once what they send has ended",
    "measure": "ask every engine of the plan a few times and say how long an answer takes",
    "rollback": "put back the service files that served last, and start them",
    "sample": "show what the GPUs do over some seconds; creates no load",
    "guard": "bring a GPU that gets too hot down to the safe state of the plan, and give it back when it is cool",
    "drain": "wait until an engine has nothing in flight; what its unit runs before it is stopped",
    "balancer": "show a member of this host's balancer, take it out of rotation or back, and say what is in flight",
    "revert": "put back what was here before, from the record alone",
    "status": "say which plan is installed and what is on record",
}


GONE = ("--gone", "forget the cards on record that are not on this host any more")
SWITCHES = {
    "apply": (GONE,),
    "revert": (("--purge", "delete the models that were fetched, too"), GONE),
    "rollback": (("--before", "what served before the one that serves now"),),
    "guard": (("--after-end", "what systemd runs when the guard has ended, however it did"),),
}
"""Verbs with switches of their own."""


OBSERVERS = {"discover": discover.observe_host, "facts": facts.observe_facts}
"""Verbs that need no plan and write nothing."""


WHOLE = ("engines", "fetch", "gate", "stop", "sample", "revert")
"""Verbs of one piece: they write no setting that may drift alone, so a failure on their way is theirs."""


JOURNALLED = ("boot", "watch")
"""Verbs that no person waits for: their prose is one line per card, for the journal."""


class _Parser(argparse.ArgumentParser):
    """Bad usage is bad input like any other: told in the same shape, with the same code."""

    def error(self, message: str) -> NoReturn:
        raise InputError([Problem("command line", message, f"see: {self.prog} --help", "usage")])


def main(arguments: Sequence[str], machine: Callable[[str], Machine] = machine_at) -> int:
    """Runs one verb and returns its exit code."""
    report, verb = Report(check=False), ""
    try:
        options = parse(arguments)
        report.check, verb = options.check, options.verb
        report.progress = _tell
        with report.wholly() if verb in WHOLE else contextlib.nullcontext():
            _run(options, machine(options.root), report)
        code = report.exit_code()
    except InputError as error:
        report.stopped(error.problems)
        code = result.EXIT_BAD_INPUT
    except HostError as error:
        report.stopped([error.problem])
        code = error.exit_code
    for line in report.prose() if verb not in JOURNALLED else journal.lines(report):
        print(line, file=sys.stderr)
    print(document.text(report.result()), end="", flush=True)
    return code


def _tell(line: str) -> None:
    """Progress goes out at once, for whoever waits."""
    print(f"progress: {line}", file=sys.stderr, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, or `InputError`; `--help` and `--version` answer and exit."""
    return _parser().parse_args(list(arguments))


@functools.cache
def _parser() -> argparse.ArgumentParser:
    """Made once: that takes longer than most verbs, and tests run many in one process."""
    parser = _Parser(
        prog="inferhost",
        description="Observes, applies, verifies and takes back the settings of a GPU inference host.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"inferhost {__version__}")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, purpose in VERBS.items():
        command = commands.add_parser(verb, help=purpose, description=purpose)
        command.add_argument("--root", default="/", metavar="DIR", help="work on a copy of a host below DIR")
        command.add_argument("--check", action="store_true", help="say what would change and write nothing")
        command.add_argument("--plan", metavar="FILE", help=f"the plan (default: {PLAN})")
        if verb == "install":
            command.add_argument("--program", metavar="FILE", default=sys.argv[0], help="the zipapp to install")
        for name, meaning in SWITCHES.get(verb, ()):
            command.add_argument(name, action="store_true", help=meaning)
        if verb == "gate":
            command.add_argument(
                "--wait", action="store_true", help="give a starting engine the time that its plan grants"
            )
            command.add_argument("--instance", metavar="NAME", help="only this engine")
        if verb == "sample":
            command.add_argument("--seconds", type=float, default=10.0, metavar="S", help="how long (default: 10)")
            command.add_argument("--hz", type=float, default=5.0, metavar="N", help="how often (default: 5)")
        if verb == "verify":
            command.add_argument(
                "--under-load", action="store_true", help="sample the GPUs too, under whatever load there is"
            )
            command.add_argument("--seconds", type=float, metavar="S", help=f"how long (default: {load.SECONDS:g})")
            busy = "with --under-load: keep the plan's engines busy meanwhile; their clients wait beside that"
            command.add_argument("--load", action="store_true", help=busy)
            ask = "prove clocks that samples alone cannot: move them for so long, and back; not on a serving host"
            command.add_argument("--challenge", action="store_true", help=ask)
            mine = "the process that keeps the cards busy for --challenge; any other on a card refuses it"
            command.add_argument("--load-pid", type=int, metavar="PID", help=mine)
        if verb == "drain":
            command.add_argument("--instance", metavar="NAME", help="only this engine")
            most = "at most so many seconds (default: what the plan says)"
            command.add_argument("--wait", type=float, metavar="S", help=most)
        if verb == "balancer":
            command.add_argument("--server", required=True, metavar="NAME", help="the member")
            command.add_argument("--state", choices=runtime.STATES, default="show", help="default: only show it")
            most = "at most so many seconds until nothing is in flight, or it is up (default: 0)"
            command.add_argument("--wait", type=float, default=0.0, metavar="S", help=most)
        if verb == "watch":
            where = "folder for metrics (default: the node exporter's, where it has one)"
            command.add_argument("--metrics", metavar="DIR", help=where)
        if verb == "boot":
            most = "at most so many seconds for the cards (default: 0)"
            command.add_argument("--wait", type=float, default=0.0, metavar="S", help=most)
        if verb in ("record", "apply", "boot", "verify", "revert"):
            command.add_argument(
                "--section", action="append", choices=SECTIONS, help="only this section; may be given several times"
            )
    return parser


def _run(options: argparse.Namespace, machine: Machine, report: Report) -> None:
    if options.verb in OBSERVERS:
        OBSERVERS[options.verb](machine, report)
    elif options.verb == "sample":
        sampling.sample(machine, options.seconds, options.hz, report)
    elif options.verb == "status":
        verbs.status(machine, _installed_plan(options, machine, report), report)
    elif options.verb == "revert":
        plan = _installed_plan(options, machine, Report(options.check))  # it may be gone, and that is no news
        revert.revert(
            machine, options.section or SECTIONS, report, options.purge, plan=plan, forgets_gone=options.gone
        )
    else:
        content = _plan_content(options, machine)
        FOLLOWERS[options.verb](options, machine, _read(content, options.plan or PLAN), content, report)


def _install(options: argparse.Namespace, machine: Machine, plan: Plan, content: bytes, report: Report) -> None:
    install.install(machine, plan, content, _program(options.program), report)


def _record(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    install.record(machine, plan, options.section or SECTIONS, report)


def _apply(options: argparse.Namespace, machine: Machine, plan: Plan, content: bytes, report: Report) -> None:
    whole = not _is_installed(machine, content)
    verbs.apply(machine, plan, options.section or SECTIONS, report, whole=whole)
    if _is_about_cards(options, plan):
        left.give_back(machine, plan, report, forgets_gone=options.gone)
    left_alone.tell(machine, plan, options.section or SECTIONS, report)


def _is_about_cards(options: argparse.Namespace, plan: Plan) -> bool:
    return "gpu" in plan.manage and "gpu" in (options.section or SECTIONS)


def _is_installed(machine: Machine, content: bytes) -> bool:
    """Whether these bytes are the plan that `install` took as a whole."""
    with contextlib.suppress(OSError):
        return machine.read_bytes(PLAN) == content
    return False


def _engines(_options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    engine_install.make_engines(machine, plan, report)


def _fetch(_options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    fetch.fetch(machine, plan, report)


def _boot(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    boot.boot(machine, plan, options.section, options.wait, report)


def _watch(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    drift.watch(machine, plan, options.metrics, report)


def _verify(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    asked = challenge.Asked(options.load_pid) if options.challenge else None
    sections, load_s = options.section or SECTIONS, _load_s(options)
    verbs.verify(machine, plan, sections, report, load_s, challenged=asked, exercised=options.load)
    if _is_about_cards(options, plan):
        left.tell(machine, plan, report)
    left_alone.tell(machine, plan, sections, report)


def _gate(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    if not options.check:
        gate.prove_tokens(machine, plan, options.wait, report, only=options.instance)


def _drain(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    drain.drain(machine, plan, options.instance, report, daemon.journal, limit_s=options.wait)


def _balancer(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    if plan.balancer is None or plan.balancer.socket is None:
        hint = "inferhost_manage: [balancer] with haproxy makes one"
        raise NothingTouched(Problem("balancer", "this host has no balancer that can be told", hint, "no-balancer"))
    told = {"name": options.server, "state": options.state, "wait_s": options.wait}
    runtime.set_member(machine, plan.balancer, report, **told)


def _rollback(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    if not options.check:
        (rollback.go_back if options.before else rollback.roll_back)(machine, plan, report)


def _stop(_options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    engine.stop_engines(machine, plan, report)


def _measure(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    if not options.check:
        measure.measure(machine, plan, report)


def _guard(options: argparse.Namespace, machine: Machine, plan: Plan, _content: bytes, report: Report) -> None:
    if options.after_end:
        daemon.after_the_end(machine, plan, os.environ.get("SERVICE_RESULT", daemon.NORMAL_END), daemon.journal)
        return
    with stopping() as stopped:
        daemon.watch(machine, plan, report, stopped, daemon.journal)


FOLLOWERS = {
    "install": _install,
    "record": _record,
    "engines": _engines,
    "fetch": _fetch,
    "apply": _apply,
    "boot": _boot,
    "watch": _watch,
    "verify": _verify,
    "gate": _gate,
    "stop": _stop,
    "measure": _measure,
    "rollback": _rollback,
    "guard": _guard,
    "drain": _drain,
    "balancer": _balancer,
}
"""Verbs that follow a plan."""


def _load_s(options: argparse.Namespace) -> float | None:
    """How long `verify` samples; None where it was not asked to."""
    if options.load_pid is not None and not options.challenge:
        raise InputError([Problem("--load-pid", "is for --challenge only", "add --challenge", "usage")])
    if options.load and (options.challenge or not options.under_load):
        hint = "add --under-load; a challenge is refused while an engine serves"
        raise InputError([Problem("--load", "is for --under-load only", hint, "usage")])
    if not options.under_load and not options.challenge:
        if options.seconds is not None:
            raise InputError([Problem("--seconds", "is for --under-load only", "add --under-load", "usage")])
        return None
    return load.SECONDS if options.seconds is None else float(options.seconds)


def _plan_content(options: argparse.Namespace, machine: Machine) -> bytes:
    """The plan's bytes: a named file is taken as it is named, the installed one below the root."""
    path = options.plan or PLAN
    try:
        with open(options.plan or machine.at(PLAN), "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        hint = "place it with: ansible-playbook site.yml, or name a file with --plan"
        raise NothingTouched(Problem(path, "found nothing, wanted a plan", hint, "plan-missing")) from error
    except OSError as error:
        raise NothingTouched(
            Problem(path, f"cannot be read: {reason(error)}", "run as root", "unreadable")
        ) from error


def _read(content: bytes, path: str) -> Plan:
    try:
        return read_plan(json.loads(content.decode("utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NothingTouched(Problem(path, f"is not JSON: {error}", "place it again", "plan-unreadable")) from error


def _installed_plan(options: argparse.Namespace, machine: Machine, report: Report) -> Plan | None:
    """The plan for `status`, which also answers where there is none or a broken one."""
    try:
        return _read(_plan_content(options, machine), options.plan or PLAN)
    except NothingTouched as error:
        report.note(f"no plan: {error.problem.path}: {error.problem.message}")
    except InputError as error:
        report.note(f"no plan: {error.problems[0].path}: {error.problems[0].message}")
    return None


def _program(path: str) -> bytes:
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        hint = "run install from the zipapp itself, or name it with --program"
        raise NothingTouched(Problem(path, "is not the host program, wanted its zipapp", hint, "program"))
    with open(path, "rb") as file:
        return file.read()
