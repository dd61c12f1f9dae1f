"""Processor and kernel settings: governor and its preference, NUMA balancing, swappiness, limits of login sessions.

Takes the wish and what the hardware offers; a knob that this host does not have is left alone and said so. The
files are complete texts, so that placing them needs no template.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from inferhost.planner.reasons import NO_GAIN, reason
from inferhost.planner.request import Request
from inferhost.schema.document import shown
from inferhost.schema.plan import FORCING_DRIVERS, PERFORMANCE, Cpu, File, Pending, Reason
from inferhost.schema.problems import InputError, Problem

SYSCTL_PATH = "/etc/sysctl.d/90-inferhost.conf"
LIMITS_PATH = "/etc/security/limits.d/90-inferhost.conf"
NOTICE = "# Placed by inferhost; put your own settings into a file of your own."
SYSCTL_NAME = re.compile(r"[a-z0-9_]+([./][A-Za-z0-9_*:-]+)+")
OPTION = "inferhost_cpu_"
PREFERENCE = OPTION + "energy_performance_preference"
IDLE = OPTION + "idle_latency_us"
IDLE_MOST_US = 100_000
CPU_GAIN = f"{NO_GAIN}: the processor only hands work to the card"


@dataclasses.dataclass(frozen=True)
class CpuSection:
    """What the section places, with its reasons."""

    cpu: Cpu
    sysctl: dict[str, str]
    files: tuple[File, ...]
    reasons: list[Reason]
    pending: list[Pending]


def cpu_section(request: Request, engine_is_bound: bool) -> CpuSection:
    """The processor's settings, or `InputError`; `engine_is_bound` says whether the engine stays on one node."""
    governor, reasons = _governor(request)
    problems = limit_problems(request) + _sysctl_problems(request) + _preference_problems(request, governor)
    problems += _idle_problems(request)
    if problems:
        raise InputError(problems)
    preference, why_preference, pending = _preference(request, governor)
    reasons.append(why_preference)
    idle_us, why_idle, pending_idle = _idle(request)
    reasons.append(why_idle)
    sysctl: dict[str, str] = {}
    for name, value, why in (_numa_balancing(request, engine_is_bound), _swappiness(request)):
        reasons += [why] if value is not None else []
        sysctl |= {name: value} if value is not None else {}
    for name, value in sorted(request.wish.table(OPTION + "sysctl").items()):
        sysctl[name] = str(value)
        reasons = [r for r in reasons if r.setting != f"sysctl.{name}"]
        reasons.append(
            reason(
                f"sysctl.{name}",
                str(value),
                "the wish sets it, over anything planned",
                f"wish:{OPTION}sysctl",
                gain="unknown",
            )
        )
    nofile, memlock = request.wish.integer(OPTION + "limit_nofile"), request.wish.text(OPTION + "limit_memlock")
    files = [
        File(LIMITS_PATH, "cpu", "0644", f"{NOTICE}\n* - nofile {nofile}\n* - memlock {memlock}\n", None, "none"),
    ]
    reasons.append(
        reason(
            f"files.{LIMITS_PATH}", f"nofile {nofile}, memlock {memlock}",
            f"limits of login sessions, from {OPTION}limit_nofile and _memlock; new sessions see them",
            f"wish:{OPTION}limit_nofile",
        )
    )  # fmt: skip
    if sysctl:
        lines = "".join(f"{name} = {value}\n" for name, value in sorted(sysctl.items()))
        files.append(File(SYSCTL_PATH, "cpu", "0644", f"{NOTICE}\n{lines}", None, "none"))
        reasons.append(
            reason(f"files.{SYSCTL_PATH}", ", ".join(sorted(sysctl)), "keeps the kernel parameters over a reboot",
                   f"wish:{OPTION}sysctl")
        )  # fmt: skip
    return CpuSection(
        Cpu(governor, preference, idle_us),
        dict(sorted(sysctl.items())),
        tuple(sorted(files, key=lambda f: f.path)),
        reasons,
        [*pending, *pending_idle],
    )


def limit_problems(request: Request) -> list[Problem]:
    """What is wrong with the limits; they serve the login sessions and the engine's unit alike."""
    problems = []
    nofile = request.wish.integer(OPTION + "limit_nofile")
    if not 1024 <= nofile <= 1048576:
        problems.append(
            Problem(OPTION + "limit_nofile", f"found {nofile}, wanted 1024 to 1048576", "65536 is the default")
        )
    memlock = request.wish.text(OPTION + "limit_memlock")
    if memlock != "unlimited" and not re.fullmatch(r"[0-9]{1,12}", memlock):
        found = f'found "{memlock}", wanted unlimited or a number of KiB'
        problems.append(Problem(OPTION + "limit_memlock", found, "unlimited, or 67108864 for 64 GiB"))
    return problems


def memlock_bytes(request: Request) -> str:
    """The limit as systemd wants it: bytes, or `infinity`; the option counts KiB as limits.conf does."""
    text = request.wish.text(OPTION + "limit_memlock")
    return "infinity" if text == "unlimited" else str(int(text) * 1024)


def _governor(request: Request) -> tuple[str | None, list[Reason]]:
    option = OPTION + "governor"
    wanted = request.wish.text(option)
    if not request.hardware.cpu.cpufreq:
        because, value, source = _no_cpufreq(request), None, "formula:cpu.cpufreq"
    elif wanted == "leave":
        because, value, source = "left alone, as the wish says", None, f"wish:{option}"
    else:
        because, value, source = f"{request.origin(option)}", wanted, f"wish:{option}"
    return value, [reason("cpu.governor", value, because, source, gain=CPU_GAIN)]


def _preference(request: Request, governor: str | None) -> tuple[str | None, Reason, list[Pending]]:
    """The energy performance preference, or nothing where the governor decides it or the driver has none.

    Source: formula `cpu.energy_performance_preference`.
    """
    wanted, cpu = request.wish.text(PREFERENCE), request.hardware.cpu
    value, source = None, f"wish:{PREFERENCE}"
    if not cpu.cpufreq:
        because, source = _no_cpufreq(request), "formula:cpu.cpufreq"
    elif _is_forced(request, governor):
        because = f"not asked for: {cpu.scaling_driver} forces {PERFORMANCE} under the governor {PERFORMANCE}"
        source = "formula:cpu.energy_performance_preference"
    elif wanted == "leave":
        because = f"left alone ({request.origin(PREFERENCE)})"
    elif cpu.energy_performance_preferences == ():
        because = f"not applicable: {cpu.scaling_driver or 'this frequency driver'} has no such setting"
        source = "formula:cpu.energy_performance_preference"
    else:
        because, value = request.origin(PREFERENCE), wanted
    pending = []
    if value is not None and cpu.energy_performance_preferences is None:
        needs = "the processor's own list of preferences"
        why = "what the frequency driver offers is not known here: the host checks it and says what it found"
        pending.append(Pending("cpu.energy_performance_preference", needs, why))
    return value, reason("cpu.energy_performance_preference", value, because, source, gain=CPU_GAIN), pending


def _preference_problems(request: Request, governor: str | None) -> list[Problem]:
    wanted, cpu = request.wish.text(PREFERENCE), request.hardware.cpu
    offered = cpu.energy_performance_preferences
    if wanted == "leave" or not cpu.cpufreq:
        return []
    if _is_forced(request, governor) and wanted != PERFORMANCE:
        message = f"found {wanted}, but {cpu.scaling_driver} forces {PERFORMANCE} under the governor {PERFORMANCE}"
        return [Problem(PREFERENCE, message, f"set {OPTION}governor to powersave, which follows the preference")]
    if offered and wanted not in offered:
        return [Problem(PREFERENCE, f"found {wanted}, this processor offers {', '.join(offered)}")]
    return []


def _idle(request: Request) -> tuple[int | None, Reason, list[Pending]]:
    """The longest wake-up in microseconds, or nothing where the idle states are left alone.

    Source: formula `cpu.idle_latency`.
    """
    wanted, setting = request.wish.text(IDLE), "cpu.idle_latency_us"
    if wanted == "leave":
        because = f"left alone ({request.origin(IDLE)})"
        return None, reason(setting, None, because, "formula:cpu.idle_latency", gain=CPU_GAIN), []
    because = f"idle states that take longer to wake up are switched off ({request.origin(IDLE)})"
    gain = "microseconds per request where the processor had gone to sleep; costs power all day, and can cost turbo"
    needs = "the processor's own list of idle states"
    pending = Pending(setting, needs, "which states there are shows on the host; most guests have none")
    return int(wanted), reason(setting, int(wanted), because, f"wish:{IDLE}", gain=gain), [pending]


def _idle_problems(request: Request) -> list[Problem]:
    wanted = request.wish.text(IDLE)
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 9 else -1
    if wanted == "leave" or 0 <= number <= IDLE_MOST_US:
        return []
    hint = "10 keeps the shallow states of most processors; 0 keeps none but polling, which burns power"
    return [Problem(IDLE, f'found "{wanted}", wanted leave or 0 to {IDLE_MOST_US} microseconds', hint)]


def _is_forced(request: Request, governor: str | None) -> bool:
    return governor == PERFORMANCE and request.hardware.cpu.scaling_driver in FORCING_DRIVERS


def _no_cpufreq(request: Request) -> str:
    owner = request.hardware.virtualization
    who = "this kernel cannot set frequencies" if owner == "none" else f"{owner} owns the processor's frequency"
    return f"not applicable: {who}"


def _numa_balancing(request: Request, engine_is_bound: bool) -> tuple[str, str | None, Reason]:
    """`kernel.numa_balancing`, or nothing where it would do nothing.

    Source: formula `cpu.numa_balancing`.
    """
    name, option = "kernel.numa_balancing", OPTION + "numa_balancing"
    wanted, nodes = request.wish.text(option), request.hardware.cpu.numa_nodes
    value: str | None = {"on": "1", "off": "0"}.get(wanted)
    because, source = request.origin(option), f"wish:{option}"
    if wanted == "auto" and nodes > 1 and engine_is_bound:
        value, because = "0", f"{nodes} nodes, and the engine is bound to the one of its card"
        source = "formula:cpu.numa_balancing"
    return name, value, reason(f"sysctl.{name}", value, because, source)


def _swappiness(request: Request) -> tuple[str, str | None, Reason]:
    option = OPTION + "swappiness"
    value = str(request.wish.integer(option))
    because = f"weights that were read once do not push the engine's own pages out ({request.origin(option)})"
    gain = f"{NO_GAIN} unless memory is short"
    return "vm.swappiness", value, reason("sysctl.vm.swappiness", value, because, f"wish:{option}", gain=gain)


def _sysctl_problems(request: Request) -> list[Problem]:
    problems = []
    swappiness = request.wish.integer(OPTION + "swappiness")
    if not 0 <= swappiness <= 200:
        problems.append(Problem(OPTION + "swappiness", f"found {swappiness}, wanted 0 to 200", "10 is the default"))
    for name, value in sorted(request.wish.table(OPTION + "sysctl").items()):
        path = f"{OPTION}sysctl.{name}"
        if not SYSCTL_NAME.fullmatch(name):
            problems.append(Problem(path, "is no kernel parameter's name", "for example net.core.somaxconn"))
        if not _is_plain(value):
            problems.append(
                Problem(path, f"found {shown(value)}, wanted one line of text or a number", 'for example "1"')
            )
    return problems


def _is_plain(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    return str(value).isprintable() and str(value).strip() != ""
