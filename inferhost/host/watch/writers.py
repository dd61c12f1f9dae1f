"""Other programs that write what the plan sets: daemons, and commands in units, cron jobs, boot and Slurm scripts.

Read-only, and from tables. A daemon counts while it runs, and where the next boot starts it: one that starts after us
takes ours for its original. A script counts wherever it stands: nobody can tell when it runs.
What is found names the writer where a setting is not as planned, and warns before anything is placed. Beside a
daemon that owns the processor's frequency nothing of it is written at all.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from inferhost.host.machine import Machine
from inferhost.host.report import Report
from inferhost.schema.plan import Plan
from inferhost.schema.result import Verdict

GOVERNOR, PREFERENCE = "cpu.governor", "cpu.energy_performance_preference"
IDLE, IDLE_STATE = "cpu.idle_latency_us", "cpu.idle_state."
POWER, GRAPHICS, MEMORY = "power_limit_w", "graphics_clock_lock_mhz", "memory_clock_lock_mhz"
APPLICATION = "application_clocks_mhz"

DAEMONS = {
    "lactd.service": ("LACT", (POWER, GRAPHICS, MEMORY)),
    "nvidia-powerd.service": ("NVIDIA Dynamic Boost", (POWER,)),
    "tuned.service": ("TuneD", (GOVERNOR, PREFERENCE, IDLE, "sysctl.vm.swappiness", "sysctl.kernel.numa_balancing")),
    "power-profiles-daemon.service": ("power-profiles-daemon", (GOVERNOR, PREFERENCE)),
    "tlp.service": ("TLP", (GOVERNOR, PREFERENCE)),
    "auto-cpufreq.service": ("auto-cpufreq", (GOVERNOR, PREFERENCE)),
    "cpupower.service": ("cpupower", (GOVERNOR,)),
}
ONCE = ("cpupower.service",)
"""Units that write when they start and never again: told like the others, and no reason to write nothing."""
"""Units and what they write. Source: anchors-ansible.md 2 and 3; facts-nvml.md E.1."""
COUNTING = {"is-active": ("active", "activating", "reloading"), "is-enabled": ("enabled", "enabled-runtime")}
"""What systemctl says of a unit that writes now or will. Source: systemctl(1) of systemd 252."""
TUNED, TUNED_MAIN = "tuned.service", "/etc/tuned/tuned-main.conf"
KEEPS_ITS_OWN = re.compile(r"^\s*reapply_sysctl\s*=\s*(?:n|no|f|false|0)\s*$", re.IGNORECASE | re.MULTILINE)
"""Where TuneD no longer applies the files of sysctl.d after its own parameters; by default it does, and ours stands.
Source: redhat-performance/tuned, tuned-main.conf and plugin_sysctl.py."""

NVIDIA_SMI = {
    POWER: ("-pl", "--power-limit"),
    GRAPHICS: ("-lgc", "--lock-gpu-clocks", "-rgc", "--reset-gpu-clocks"),
    MEMORY: (
        "-lmc",
        "--lock-memory-clocks",
        "-rmc",
        "--reset-memory-clocks",
        "-lmcd",
        "--lock-memory-clocks-deferred",
        "-rmcd",
        "--reset-memory-clocks-deferred",
    ),
    APPLICATION: ("-ac", "--applications-clocks", "-rac", "--reset-applications-clocks"),
    "persistence_mode": ("-pm", "--persistence-mode"),
    "compute_mode": ("-c", "--compute-mode"),
    "ecc": ("-e", "--ecc-config"),
    "mig": ("-mig", "--multi-instance-gpu", "-cgi", "-dgi", "-cci", "-dci"),
}
"""Options of nvidia-smi that write a setting. Source: nvidia-smi(1) of 595.99.02."""

ENFORCED = "--enforce"  # whatever was set with it before
DCGMI = {
    POWER: ("-P", "--powerlimit", ENFORCED),
    APPLICATION: ("-a", "--appclocks", ENFORCED),
    "compute_mode": ("-c", "--compmode", ENFORCED),
    "ecc": ("-e", "--eccmode", ENFORCED),
}
"""The same of `dcgmi config`. Source: NVIDIA/DCGM, dcgmi/CommandLineParser.cpp; docs.nvidia.com, dcgmi config."""

COMMANDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {"nvidia-smi": NVIDIA_SMI, "dcgmi config": DCGMI}
SHORT_NAME = re.compile(r"\b(\w+)=[\"']?(?:[\w./-]*/)?(nvidia-smi|dcgmi)(?=[\"';\s]|$)")
"""A variable of a script or a unit that stands for one of them."""

WORDS = {
    POWER: re.compile(r"\bnvmlDeviceSetPowerManagementLimit"),
    GRAPHICS: re.compile(r"\bnvmlDevice(Set|Reset)GpuLockedClocks\b"),
    MEMORY: re.compile(r"\bnvmlDevice(Set|Reset)MemoryLockedClocks\b"),
    "persistence_mode": re.compile(r"\bnvmlDeviceSetPersistenceMode\b"),
    "compute_mode": re.compile(r"\bnvmlDeviceSetComputeMode\b"),
    "ecc": re.compile(r"\bnvmlDeviceSetEccMode\b"),
    "mig": re.compile(r"\bnvmlDeviceSetMigMode\b"),
    GOVERNOR: re.compile(r"\b(cpupower(\s+\S+)*\s+frequency-set|cpufreq-set)\b|/scaling_governor\b"),
    IDLE: re.compile(r"\bcpupower(\s+\S+)*\s+idle-set\b|/cpuidle/\S*disable\b|/cpu_dma_latency\b"),
    PREFERENCE: re.compile(r"\bx86_energy_perf_policy\b|/energy_performance_preference\b"),
    APPLICATION: re.compile(
        r"^\s*GpuFreqDef\s*=|\bnvmlDevice(Set|Reset)ApplicationsClocks\b", re.IGNORECASE | re.MULTILINE
    ),
}
"""Other words that write a setting: NVML's own, of the processor, and the clocks that Slurm gives each job step.

Source of the first: nvml.h of NVML API 13; of the last: slurm.conf(5), and Slurm's gpu_nvml.c, which calls
nvmlDeviceSetApplicationsClocks.
"""

SYSCTL_OWN = "90-inferhost.conf"
SYSCTL_FOLDER, SYSCTL_FILE = "/etc/sysctl.d", "/etc/sysctl.conf"
"""Kernel parameters at boot, by the names of the files: what comes before ours is overruled. Source: sysctl.d(5)."""
SYSCTL_LINK = "99-sysctl.conf"  # Debian's, to the file
NAME = r"([a-z][\w-]*(?:[./][\w-]+)+)"
SYSCTL_LINE = re.compile(rf"^\s*-?{NAME}\s*=", re.MULTILINE)
SYSCTL_WORD = re.compile(rf"{NAME}\s*=")
PROC_SYS = re.compile(rf"(?:(?:>|\btee\b)[^\n;|&]*|^w[-+!=~^$]*\s+)/proc/sys/{NAME}", re.MULTILINE)
"""Written by a shell, or by a line of tmpfiles.d(5)."""

UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system")
"""Where people put units. Source: systemd.unit(5), in its order: the first of a name counts."""
PACKAGED = ("/usr/lib/systemd/system", "/lib/systemd/system")
"""Where packages put theirs: some are never started, and what they start is mostly no script, so it is not read."""
NEVER_STARTED = ("disabled", "masked", "masked-runtime")
SLURM_FOLDERS = ("/etc/slurm", "/etc/slurm-llnl", "/run/slurm/conf")
"""Where slurm.conf stands: upstream's place, Debian's older one, and the copy of a node that is given it.
Source: slurm.schedmd.com, configless_slurm.html."""
SCRIPTS = ("/etc/rc.local", "/etc/rc.d/rc.local", "/etc/crontab", "/etc/anacrontab")
SCRIPT_FOLDERS = (
    "/etc/udev/rules.d", "/var/spool/cron", "/var/spool/cron/crontabs",
    "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly",
    "/usr/lib/systemd/system-sleep", "/etc/tmpfiles.d", "/etc/init.d", "/etc/modprobe.d",
    "/etc/NetworkManager/dispatcher.d", "/etc/network/if-up.d",
    *(f"{folder}{below}" for folder in SLURM_FOLDERS for below in ("", "/prolog.d", "/epilog.d")),
)  # fmt: skip
SLURM_SCRIPT = re.compile(r"^\s*(?:Task)?(?:Prolog|Epilog)\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)
NAMED = re.compile(r"(?<![\w./-])/(?!dev/|proc/|sys/)[\w./@+-]+")
"""Files that a script names, the ones that it runs among them."""
QUOTED_LIST = re.compile(r"\[\s*[\"'][^\[\]]*\]")
"""A command as programs write it: `["nvidia-smi", "-pl", "300"]`, on one line or several."""
BETWEEN_WORDS = re.compile(r"[\s\"',\[\]()]+")
STARTED = re.compile(r"^Exec\w+=[-+!@:]*(/.*)", re.MULTILINE)
SEPARATORS = re.compile(r"\|+|(?<!>)&+|;|\$\(|`")
"""What ends one command of a line and begins the next."""
LONGEST = 200_000
"""A longer file is no script that a person wrote."""
MAY_BE_WRITTEN = {"other_writer": "it is written by", "driver_reload": "or it was written by"}
"""How writers are named, by cause: who writes what a card boots with looks like a driver that was loaded again."""
OURS = "inferhost-"
WARNING = "other writer:"
"""How a remark begins that a playbook shows as a warning."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """Who writes which settings; `where` is a unit or a file."""

    who: str
    where: str
    settings: tuple[str, ...]

    def shown(self) -> str:
        return self.where if self.who == self.where else f"{self.who} ({self.where})"


def daemons(machine: Machine) -> list[Writer]:
    """The known daemons that run now, or that the next boot starts."""
    found = []
    for unit, (name, settings) in DAEMONS.items():
        there = any(machine.exists(f"{folder}/{unit}") for folder in (*UNIT_FOLDERS, *PACKAGED))
        if there and any(_says(machine, verb, unit) in states for verb, states in COUNTING.items()):
            yields = unit == TUNED and not KEEPS_ITS_OWN.search(machine.read_text(TUNED_MAIN) or "")
            kept = (setting for setting in settings if not (yields and setting.startswith("sysctl.")))
            found.append(Writer(name, unit, tuple(kept)))
    return found


def _says(machine: Machine, verb: str, unit: str) -> str:
    return machine.command(["systemctl", verb, "--", unit]).stdout.strip()


def other_writers(machine: Machine) -> list[Writer]:
    """Everybody who writes a setting of ours, daemons first."""
    found = daemons(machine)
    for path in dict.fromkeys(_scripts(machine)):
        of_sysctl = path.startswith((SYSCTL_FOLDER, SYSCTL_FILE))
        written = (_parameters if of_sysctl else _written_by)(_text(machine, path))
        settings = tuple(dict.fromkeys(written))
        if settings and not _never_started(machine, path):
            found.append(Writer(path, path, settings))
    return found


def owner_of(setting: str, known: Iterable[Writer]) -> Writer | None:
    """The daemon that owns this setting here, where one does: beside it nothing of ours is written."""
    name = setting_name(setting)
    return next((one for one in known if name in one.settings and one.where not in ONCE), None)


def warn(machine: Machine, plan: Plan, report: Report) -> None:
    """A remark on each that writes a setting of the plan, before anything is placed."""
    planned = planned_settings(plan)
    for writer in other_writers(machine):
        shared = [setting for setting in writer.settings if setting in planned]
        if shared:
            report.note(f"{WARNING} {writer.shown()} writes {', '.join(shared)} too; one of the two has to give way")


def planned_settings(plan: Plan) -> set[str]:
    """What the plan sets without a file, by the names that the tables here use."""
    found = {f"sysctl.{name}" for name in plan.sysctl} if "cpu" in plan.manage else set()
    if "cpu" in plan.manage:
        words: dict[str, object] = {
            GOVERNOR: plan.cpu.governor,
            PREFERENCE: plan.cpu.energy_performance_preference,
            IDLE: plan.cpu.idle_latency_us,
        }
        found |= {name for name, value in words.items() if value is not None}
    if "gpu" in plan.manage:
        found |= {name for gpu in plan.gpus for name in NVIDIA_SMI if getattr(gpu, name) is not None}
    return found


def name_writers(machine: Machine, report: Report) -> None:
    """The verdicts on what another program wrote, or may have, with the programs that may have done it."""
    if not any(v.cause in MAY_BE_WRITTEN for v in report.verdicts):
        return
    known = other_writers(machine)
    report.verdicts = [_named(verdict, known) for verdict in report.verdicts]


def setting_name(setting: str) -> str:
    """A setting as writers name it: `gpu.GPU-1.power_limit_w` is `power_limit_w`, an idle state the limit of all."""
    if setting.startswith(IDLE_STATE):
        return IDLE
    return setting.rpartition(".")[2] if setting.startswith("gpu.") else setting


def _named(verdict: Verdict, known: Iterable[Writer]) -> Verdict:
    name = setting_name(verdict.setting)
    who = [writer.shown() for writer in known if name in writer.settings]
    if verdict.cause not in MAY_BE_WRITTEN or not who:
        return verdict
    said = f"{verdict.evidence}; {MAY_BE_WRITTEN[verdict.cause]} {', '.join(who)}"
    return dataclasses.replace(verdict, evidence=said)


def _scripts(machine: Machine) -> Iterator[str]:
    """The files to read: units, boot and cron scripts, Slurm's prologs and epilogs, and what each of them runs."""
    known: set[str] = set()
    for folder in (*UNIT_FOLDERS, *PACKAGED):
        for unit in _units(machine, folder):
            if unit in known:
                continue
            known.add(unit)
            yield f"{folder}/{unit}"
            if folder in UNIT_FOLDERS:
                commands = STARTED.findall(_text(machine, f"{folder}/{unit}"))
                yield from (word for command in commands for word in command.split() if word.startswith("/"))
    folders = (f"{folder}/{name}" for folder in SCRIPT_FOLDERS for name in machine.entries(folder))
    for path in (*SCRIPTS, *folders, *_slurm_scripts(machine)):
        yield path
        yield from NAMED.findall(_text(machine, path))
    later = (name for name in machine.entries(SYSCTL_FOLDER) if name > SYSCTL_OWN and name != SYSCTL_LINK)
    yield from (f"{SYSCTL_FOLDER}/{name}" for name in later)
    yield SYSCTL_FILE


def _slurm_scripts(machine: Machine) -> Iterator[str]:
    """The prologs and epilogs that slurm.conf names, beside it where they have no folder."""
    for home in SLURM_FOLDERS:
        for path in SLURM_SCRIPT.findall(_text(machine, f"{home}/slurm.conf")):
            folder, pattern = os.path.split(os.path.join(home, path))  # slurm.conf(5): it may name several scripts
            yield from (f"{folder}/{name}" for name in fnmatch.filter(machine.entries(folder), pattern))


def _units(machine: Machine, folder: str) -> Iterator[str]:
    """Services and the files in folders of settings, as far as they are not ours: below this folder."""
    for name in machine.entries(folder):
        if name.endswith(".d"):  # also of our units: there people put settings of their own
            yield from (f"{name}/{one}" for one in machine.entries(f"{folder}/{name}"))
        elif name.endswith(".service") and not name.startswith(OURS):
            yield name


def _never_started(machine: Machine, path: str) -> bool:
    """Whether this is a unit of a package that nobody wants, or one whose state is asked for by name already."""
    folder, _, unit = path.rpartition("/")
    if folder.endswith(".service.d"):
        folder, _, unit = folder[: -len(".d")].rpartition("/")
    return folder in PACKAGED and (unit in DAEMONS or _says(machine, "is-enabled", unit) in NEVER_STARTED)


def _text(machine: Machine, path: str) -> str:
    """A file's text without comments; empty where it is no short text file."""
    if not os.path.isfile(machine.at(path)):  # a pipe would be waited for, and a device may act when it is opened
        return ""
    try:
        with open(machine.at(path), "rb") as file:
            content = file.read(LONGEST + 1)
    except OSError:
        return ""
    if len(content) > LONGEST or b"\0" in content:
        return ""
    lines = content.decode("utf-8", "replace").replace("\\\n", " ").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def _written_by(text: str) -> Iterator[str]:
    """The settings that commands in this text write."""
    for variable, program in SHORT_NAME.findall(text):
        text = re.sub(rf"\$(?:{variable}\b|\{{{variable}\}})", program, text)
    text = QUOTED_LIST.sub(lambda found: " ".join(found[0].split()), text)
    pieces = [piece for line in text.splitlines() for piece in SEPARATORS.split(line)]
    commands = [" ".join(BETWEEN_WORDS.split(piece)) for piece in pieces]
    words = {
        (name, word.partition("=")[0])
        for command in commands
        for name in COMMANDS
        for word in command.partition(name)[2].split()
    }
    for setting in NVIDIA_SMI:
        if any((name, option) in words for name, options in COMMANDS.items() for option in options.get(setting, ())):
            yield setting
    for setting, pattern in WORDS.items():
        if pattern.search(text):
            yield setting
    told = [name for piece in pieces for name in SYSCTL_WORD.findall(" ".join(piece.split()).partition("sysctl ")[2])]
    yield from _named_parameters([*told, *PROC_SYS.findall(text)])


def _parameters(text: str) -> Iterator[str]:
    """The kernel parameters that a file of sysctl.d sets."""
    return _named_parameters(SYSCTL_LINE.findall(text))


def _named_parameters(names: Iterable[str]) -> Iterator[str]:
    """Parameters as settings, once each: the first sign between the parts says which of the two it is."""
    return iter(dict.fromkeys(f"sysctl.{_dotted(name)}" for name in names))


def _dotted(name: str) -> str:
    first = next(sign for sign in name if sign in "./")
    return name if first == "." else name.translate(str.maketrans("/.", "./"))
