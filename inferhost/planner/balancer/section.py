"""The balancer section of a plan: which program, before which engines, for how long silent, in which order.

The program runs as a unit of ours with a configuration of ours below /etc/inferhost, so that one that the host has
already, its configuration and its unit, stay as they are.
"""

from __future__ import annotations

import dataclasses
import math
import re

from inferhost.planner.balancer import texts
from inferhost.planner.balancer.members import MEMBERS, OPTION, read_members
from inferhost.planner.reasons import reason
from inferhost.planner.request import HARDWARE, Request
from inferhost.schema.plan import UNIT_DIRECTORY, Balancer, File, Member, Reason, Service
from inferhost.schema.problems import PORT_TAKEN, InputError, Problem

SECTION = "balancer"
POOL = "inferhost"
FAMILIES = ("debian", "ubuntu")
PACKAGES = {"haproxy": "haproxy", "nginx": "nginx-light"}
CONFIG_MODE = "0640"
LEAST_SILENCE_S = 600
"""Where no speed is known. Source: formula `balancer.timeout`."""
BYTES_PER_TOKEN = 8
BUFFER_BYTES_MIN, BUFFER_BYTES_MAX = 32_768, 1_048_576
UNKNOWN_BUFFER_BYTES = 131_072
DIGEST = re.compile(r"[0-9a-f]{64}")
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
LISTEN = re.compile(r"[0-9.]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
FILE_PATH = re.compile(r"/[A-Za-z0-9._/+-]+")


@dataclasses.dataclass(frozen=True)
class BalancerSection:
    """What the section places, with its reasons."""

    balancer: Balancer | None = None
    files: tuple[File, ...] = ()
    reasons: tuple[Reason, ...] = ()


def balancer_section(request: Request) -> BalancerSection:
    """The balancer of this host, or `InputError` with every problem of its wish."""
    if not request.manages(SECTION):
        return BalancerSection()
    members, keys = _read(request)
    program, certificate = request.wish.text(OPTION + "program"), request.wish.text(OPTION + "tls_certificate")
    timeout_s, silence = _silence(request, members)
    planned = Balancer(
        program=program,
        package=PACKAGES[program],
        unit=f"inferhost-{program}.service",
        config=f"/etc/inferhost/{program}.cfg",
        pool=POOL,
        host=request.wish.text(OPTION + "host"),
        port=request.wish.integer(OPTION + "port"),
        tls_certificate=certificate or None,
        socket=f"/run/inferhost-{program}/admin.sock" if program == "haproxy" else None,
        timeout_s=timeout_s,
        members=members,
    )
    header = request.wish.text(OPTION + "priority_header")
    room = buffer_bytes(members)
    if program == "haproxy":
        text = texts.haproxy(planned, buffer_bytes=room, header=header, keys=keys)
    else:
        text = texts.nginx(planned, buffer_bytes=room)
    unit = f"{UNIT_DIRECTORY}/{planned.unit}"
    files = (
        File(planned.config, SECTION, CONFIG_MODE, text, None, "none"),
        File(unit, SECTION, "0644", None, planned.unit, "none"),
    )
    return BalancerSection(planned, files, tuple(_reasons(request, planned, silence, unit)))


def refuse_taken_port(balancer: Balancer | None, services: tuple[Service, ...]) -> None:
    """`InputError` where an engine of this host listens where its balancer would."""
    if balancer is None:
        return
    everywhere = ("0.0.0.0", "::", "*")
    for service in services:
        same = balancer.host == service.host or balancer.host in everywhere or service.host in everywhere
        if same and service.port == balancer.port:
            taken = {other.port for other in services}
            free = next(number for number in range(balancer.port + 1, 65536 + len(taken)) if number not in taken)
            found = f'found {balancer.port}, where the engine "{service.instance}" of this host listens'
            raise InputError([Problem(OPTION + "port", found, f"{OPTION}port: {free}", PORT_TAKEN)])


def buffer_bytes(members: tuple[Member, ...]) -> int:
    """How much of a request the balancer holds, so that it can be sent once more to another engine.

    Source: formula `balancer.buffer`.
    """
    longest = max(member.context_tokens for member in members)
    wanted = BUFFER_BYTES_MIN + BYTES_PER_TOKEN * longest if longest else UNKNOWN_BUFFER_BYTES
    return min(BUFFER_BYTES_MAX, 4096 * math.ceil(wanted / 4096))


def _silence(request: Request, members: tuple[Member, ...]) -> tuple[int, Reason]:
    """Seconds without a byte after which a connection is given up, with the reason."""
    setting, asked = "balancer.timeout_s", request.wish.integer(OPTION + "timeout_s")
    if asked:
        because = f"{request.origin(OPTION + 'timeout_s')}; it bounds queue, silence of the client and of the engine"
        return asked, reason(setting, asked, because, f"wish:{OPTION}timeout_s", gain="none: a hung engine is left")
    slowest = max(member.longest_s for member in members)
    seconds = max(LEAST_SILENCE_S, 60 * math.ceil(2 * slowest / 60))
    because = (
        f"twice the {slowest} s of the longest request: a client that does not stream hears nothing until the end"
        if 2 * slowest > LEAST_SILENCE_S
        else "above the longest request that the plans foresee; where no speed is known this is patience"
    )
    return seconds, reason(setting, seconds, because, "formula:balancer.timeout", gain="none: no answer is cut off")


def _read(request: Request) -> tuple[tuple[Member, ...], dict[str, str]]:
    """Members and the classes of keys, or `InputError` with every problem."""
    wish = request.wish
    problems: list[Problem] = []
    members: tuple[Member, ...] = ()
    try:
        members = read_members(wish.table(MEMBERS))
    except InputError as error:
        problems += error.problems
    program = wish.text(OPTION + "program")
    if not members and not problems:
        hint = f"name the engines' group in {OPTION}group, or write them into {MEMBERS}"
        problems.append(Problem(MEMBERS, "found no engine to serve", hint, "no-members"))
    if program == "nginx" and len(members) > 1:
        message = f"found nginx before {len(members)} engines: it neither checks nor drains one"
        problems.append(Problem(OPTION + "program", message, "haproxy serves several", "nginx-several"))
    problems += _place_problems(request, program)
    keys, key_problems = _key_classes(request)
    problems += key_problems
    if problems:
        raise InputError(problems)
    return members, keys


def _place_problems(request: Request, program: str) -> list[Problem]:
    wish, problems = request.wish, []
    if request.hardware.os.partition("-")[0] not in FAMILIES:
        message = f"found balancer on {request.hardware.os}"
        hint = "put it on a Debian or Ubuntu host; elsewhere leave balancer out of inferhost_manage"
        problems.append(Problem("inferhost_manage", message, hint, "no-packages"))
    host, port = wish.text(OPTION + "host"), wish.integer(OPTION + "port")
    certificate = wish.text(OPTION + "tls_certificate")
    if not LISTEN.fullmatch(host):
        problems.append(Problem(OPTION + "host", f'found "{host}", wanted an IP address', "for example 0.0.0.0"))
    if not 0 < port < 65536:
        problems.append(Problem(OPTION + "port", f"found {port}, wanted 1 to 65535", "8000 is the default"))
    if certificate and not FILE_PATH.fullmatch(certificate):
        problems.append(Problem(OPTION + "tls_certificate", f'found "{certificate}", wanted an absolute path', ""))
    if program == "nginx" and not certificate:
        message, hint = "found nginx without a certificate, and TLS is what it is for", f"{OPTION}tls_certificate"
        problems.append(Problem(OPTION + "program", message, f"set {hint}, or take haproxy", "nginx-plain"))
    if wish.integer(OPTION + "timeout_s") < 0:
        problems.append(Problem(OPTION + "timeout_s", "found less than 0", "0 lets the plan decide"))
    if not HEADER.fullmatch(wish.text(OPTION + "priority_header")):
        problems.append(Problem(OPTION + "priority_header", "is no name of a header", "X-Priority is the default"))
    return problems


def _key_classes(request: Request) -> tuple[dict[str, str], list[Problem]]:
    """Digest to class. What is no digest may be a key itself, and is therefore not repeated."""
    option = OPTION + "key_classes"
    found: dict[str, str] = {}
    problems: list[Problem] = []
    for number, (digest, name) in enumerate(sorted(request.wish.table(option).items())):
        if not DIGEST.fullmatch(str(digest).lower()):
            message = "is not a SHA-256 of 64 hexadecimal digits (not shown: it may be a key)"
            hint = 'printf %s "$KEY" | sha256sum makes one; change a key that stood here'
            problems.append(Problem(f"{option}[{number}]", message, hint, "not-a-digest"))
        elif name not in texts.CLASSES:
            message = f'found "{name}", wanted one of {", ".join(texts.CLASSES)}'
            problems.append(Problem(f"{option}[{number}]", message, "", "choice"))
        else:
            found[str(digest).lower()] = str(name)
    return found, problems


def _reasons(request: Request, planned: Balancer, silence: Reason, unit: str) -> list[Reason]:
    where, wish = "balancer.", f"wish:{OPTION}"
    source = f"{wish}group" if request.wish.text(OPTION + "group") else f"{wish}members"
    names = ", ".join(member.name for member in planned.members)
    places = "as many at once as the engine decodes; the rest waits here, where it has an order and another engine"
    rows = (
        ("program", planned.program, request.origin(OPTION + "program"), f"{wish}program", "none"),
        ("host", planned.host, f"listen address ({request.origin(OPTION + 'host')})", f"{wish}host", "none"),
        ("port", planned.port, request.origin(OPTION + "port"), f"{wish}port", "none"),
        ("members", names, places, source, "no failed request while an engine restarts"),
    )
    found = [reason(where + name, value, because, origin, gain=gain) for name, value, because, origin, gain in rows]
    if planned.tls_certificate:
        because = "the wish names it; the key lies beside it"
        found.append(reason(f"{where}tls_certificate", planned.tls_certificate, because, f"{wish}tls_certificate"))
    because = "streams pass unbuffered, requests can be sent once more, what waits is served by class"
    found += [
        silence,
        reason(f"files.{planned.config}", planned.program, because, "formula:balancer.buffer"),
        reason(f"files.{unit}", planned.unit, "a unit of its own beside the distribution's", f"wish:{HARDWARE}"),
    ]
    return found
