"""A host in a folder: /etc, /proc, /sys, /var, /run and /usr as plain files, with simulated cards beside them.

The verbs run in this process through `cli.main`, so that a test can stop them at any write; NVML is the real
simulator under the real nvidia-ml-py. What Ansible and systemd do between the verbs is `place` and `start_engine`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from inferhost.host import cli
from inferhost.host.machine import Clock, Finished, Machine
from inferhost.host.record.placed import placed_files
from inferhost.schema import document
from inferhost.schema.plan import (
    BASE,
    SCHEMA,
    Cpu,
    Driver,
    Dropin,
    File,
    Gpu,
    GpuSelector,
    Host,
    Plan,
    Probe,
    Service,
    identified,
    read_plan,
)
from tests.unit.host.simulated import PERSONALITY, SECOND_CARD, without_sessions

UNIT = "inferhost-serve@main.service"
DROPIN = f"/etc/systemd/system/{UNIT}.d/10-inferhost.conf"
SYSCTL_FILE = "/etc/sysctl.d/90-inferhost.conf"
ENGINE = ("/usr/local/bin/llama-server", "--model", "/srv/m.gguf", "--port", "30000")
PID = "4242"
OWN_UNITS = ("inferhost-apply.", "inferhost-guard.", "inferhost-mps.", "inferhost-verify.")
INACTIVE = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nMainPID=0\n"
PREFERENCES = "default performance balance_performance balance_power power"


def plan(**changes: Any) -> Plan:
    """A plan of every section for the simulated card; `changes` replace whole fields."""
    gpu = Gpu("rtx-pro-6000-bw-ws", "NVIDIA RTX PRO 6000", GpuSelector(None, "2BB1", 0), True, 450, None, None)
    files = (
        File(SYSCTL_FILE, "cpu", "0644", "vm.swappiness = 10\n", None, "none"),
        File(
            "/etc/systemd/system/inferhost-serve@.service",
            "service",
            "0644",
            None,
            "inferhost-serve@.service",
            "engine restart",
        ),
    )
    dropin = Dropin(UNIT, "service", (("Service", "ExecStart", ""), ("Service", "User", "inferhost")), "none")
    probe = Probe("http://127.0.0.1:30000/v1/completions", 10, {})
    service = Service(
        instance="main",
        unit=UNIT,
        user="inferhost",
        engine="llama.cpp",
        engine_version="0.7.0",
        model="tiny-random",
        model_path="/srv/m.gguf",
        argv=ENGINE,
        host="127.0.0.1",
        port=30000,
        context_tokens=8192,
        max_sequences=8,
        limit_nofile=65536,
        limit_memlock="infinity",
        probe=probe,
        disruption="engine restart",
    )
    whole = Plan(
        schema=SCHEMA,
        plan_id="",
        wish_sha256="0" * 64,
        host=Host("box", True),
        manage=("gpu", "cpu", "service"),
        driver=Driver("open", None, None, None),
        gpus=(gpu,),
        cpu=Cpu("performance", "performance"),
        sysctl={"vm.swappiness": "10"},
        env={"main": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}},
        files=files,
        dropins=(dropin,),
        service=(service,),
        budget={},
        roofline={},
        reasons=(),
        pending=(),
    )
    return identified(dataclasses.replace(whole, **changes))


def own_units() -> tuple[File, ...]:
    """The units of Inferhost itself, as the planner names them."""
    names = ("inferhost-apply.service", "inferhost-verify.service", "inferhost-verify.timer")
    return tuple(File(f"/etc/systemd/system/{name}", BASE, "0644", None, name, "none") for name in names)


def with_gpu(**changes: Any) -> Plan:
    """The plan with its one card changed."""
    whole = plan()
    return plan(gpus=(dataclasses.replace(whole.gpus[0], **changes),))


def p4_plan(**changes: Any) -> Plan:
    """A plan for a Tesla P4 alone, with this card's settings."""
    card = Gpu("tesla-p4", "Tesla P4", GpuSelector(None, "1BB3", 0), True, None, None, None)
    return plan(
        gpus=(dataclasses.replace(card, **changes),), manage=("gpu",), files=(), dropins=(), service=(), env={}
    )


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one run of the host program said."""

    code: int
    document: dict[str, Any]
    prose: str

    @property
    def changed(self) -> bool:
        return bool(self.document["changed"])

    @property
    def said(self) -> tuple[bool, list[dict[str, str]]]:
        """What check mode must foretell."""
        return self.document["changed"], self.document["diff"]

    def verdict(self, setting: str) -> tuple[str, str]:
        """Verdict and cause of the one setting whose name ends so."""
        found = [(v["verdict"], v["cause"]) for v in self.document["verdicts"] if v["setting"].endswith(setting)]
        assert len(found) == 1, (setting, self.document["verdicts"])
        return found[0]

    def evidence(self, setting: str) -> str:
        return next(str(v["evidence"]) for v in self.document["verdicts"] if v["setting"].endswith(setting))

    @property
    def problems(self) -> list[dict[str, str]]:
        return list(self.document["facts"].get("problems", []))


def active_unit() -> str:
    """What systemd says of a unit that it has just started."""
    started = f"ExecMainStartTimestamp=@{int(time.time())}\nNeedDaemonReload=no\n"
    return f"LoadState=loaded\nActiveState=active\nSubState=running\nMainPID={PID}\n{started}"


class FakeHost:
    """A host below `folder`; its cards live in `folder`/sim."""

    def __init__(self, folder: pathlib.Path, build: pathlib.Path, program: pathlib.Path, cards: int = 1) -> None:
        self.folder, self.build, self.program = folder, build, program
        self.root, self.sim_folder = folder / "root", folder / "sim"
        self.plan = plan()
        self.userdel_code = 0
        self.enabled = "disabled"
        self.passed_s = self.slept_s = 0.0
        self.systemctl = INACTIVE
        self.own_units: dict[str, dict[str, bool]] = {}  # enabled, active
        self.others: dict[str, dict[str, bool]] = {}  # units of somebody else: active, enabled
        self.tools: dict[str, Callable[[Sequence[str]], Finished]] = {}  # other programs, by name
        text = PERSONALITY.read_text() + SECOND_CARD * (cards - 1)
        (folder / "personality.txt").write_text(text)
        self.sim("init", folder / "personality.txt")
        without_sessions()
        self._make_tree()

    def _make_tree(self) -> None:
        for name in ("etc/sysctl.d", "etc/systemd/system", "var/lib", "var/cache", "run", "usr/local/bin"):
            (self.root / name).mkdir(parents=True)
        self.write("/etc/machine-id", "aaaa1111\n")
        for there in (ENGINE[0], "/srv/m.gguf"):
            self.write(there, "")
        self.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        self.write("/proc/sys/vm/swappiness", "60\n")
        self.write("/proc/sys/kernel/random/boot_id", "boot-1\n")
        self.write("/proc/1/status", "Name:\tsystemd\nCapEff:\t000001ffffffffff\n")
        for cpu in range(2):
            folder = f"/sys/devices/system/cpu/cpu{cpu}/cpufreq"
            self.write(f"{folder}/scaling_governor", "powersave\n")
            self.write(f"{folder}/scaling_available_governors", "performance powersave schedutil\n")
            self.write(f"{folder}/scaling_driver", "intel_cpufreq\n")
            self.write(f"{folder}/energy_performance_preference", "balance_performance\n")
            self.write(f"{folder}/energy_performance_available_preferences", f"{PREFERENCES}\n")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def at(self, path: str) -> pathlib.Path:
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        return self.at(path).read_text()

    def sim(self, *words: object) -> str:
        """`inferhost-sim`, which must succeed."""
        environment = {**os.environ, "INFERHOST_SIM_DIR": str(self.sim_folder)}
        command = [str(self.build / "inferhost-sim"), *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def card(self, number: int = 0) -> dict[str, Any]:
        return dict(json.loads(self.sim("dump"))["gpus"][number])

    def machine(self, root: str, before_write: Callable[[str], None] = lambda _: None) -> Machine:
        return Machine(
            root, self.command, before_write, Clock(lambda: self.passed_s, self.wait, lambda: self.slept_s)
        )

    def wait(self, seconds: float) -> None:
        """Time passes for the program and for the cards; the simulator's tick is a tenth of a second."""
        if seconds > 0:
            self.sim("advance", f"{seconds:.1f}")
            self.passed_s = round(self.passed_s + seconds, 3)

    def command(self, argv: Sequence[str]) -> Finished:
        """The commands of a host, as far as the host program runs any."""
        if argv[0] == "userdel" and self.userdel_code == 0:
            lines = self.read("/etc/passwd").splitlines(keepends=True)
            self.write("/etc/passwd", "".join(x for x in lines if not x.startswith(f"{argv[1]}:")))
            return Finished(0, "", "")
        if argv[0] == "userdel":
            return Finished(self.userdel_code, "", "userdel: it is not wanted today")
        if argv[0] == "systemctl" and argv[-1] in self.others:
            return self._other_unit(self.others[argv[-1]], argv)
        if argv[0] == "systemctl" and argv[-1].startswith(OWN_UNITS):
            return self._own_unit(argv[-1], argv)
        if argv[0] == "systemctl":
            return self._systemctl(argv[1])
        return self.tools.get(argv[0], lambda _: Finished(127, "", f"{argv[0]}: not found"))(argv)

    def _systemctl(self, verb: str) -> Finished:
        """systemd, as far as an engine's unit goes; what the process itself shows in /proc is `start_engine`'s."""
        if verb == "restart":
            self.systemctl = active_unit()
        elif verb == "enable":
            self.enabled = "enabled"
        elif verb in ("disable", "stop"):
            self.enabled, self.systemctl = "disabled", INACTIVE
        return Finished(0, {"show": self.systemctl, "is-enabled": self.enabled}.get(verb, ""), "")

    def _own_unit(self, unit: str, argv: Sequence[str]) -> Finished:
        """systemd for a unit of Inferhost itself, whose file has to be there first."""
        if not self.at(f"/etc/systemd/system/{unit}").exists():
            return Finished(1, "", f"Failed to get unit file state for {unit}: No such file or directory")
        if argv[1] in ("enable", "disable"):
            is_on = argv[1] == "enable"
            self.own_units[unit] = {"enabled": is_on, "active": is_on and "--now" in argv}
        if argv[1] in ("start", "stop"):
            self.own_units[unit]["active"] = argv[1] == "start"
        found = self.own_units.get(unit, {"enabled": False, "active": False})
        enabled, active = "enabled" if found["enabled"] else "disabled", "active" if found["active"] else "inactive"
        return Finished(0, {"is-enabled": enabled, "is-active": active}.get(argv[1], ""), "")

    def _other_unit(self, unit: dict[str, bool], argv: Sequence[str]) -> Finished:
        """systemd for a unit that was here before us."""
        if "--now" in argv or argv[1] in ("start", "stop"):
            unit["active"] = argv[1] == "start"
        if argv[1] in ("enable", "disable"):
            unit["enabled"] = argv[1] == "enable"
        shown = f"LoadState=loaded\nActiveState={'active' if unit['active'] else 'inactive'}\n"
        enabled, active = "enabled" if unit["enabled"] else "disabled", "active" if unit["active"] else "inactive"
        return Finished(0, {"show": shown, "is-enabled": enabled, "is-active": active}.get(argv[1], ""), "")

    def process(self, pid: int, words: Sequence[str], unit: str) -> None:
        """A process of somebody else in a unit."""
        self.write(f"/proc/{pid}/cmdline", "".join(f"{word}\0" for word in words))
        self.write(f"/proc/{pid}/cgroup", f"0::/system.slice/{unit}\n")

    def listen(self, port: int, pid: int, address: str = "0100007F", inode: int = 777) -> None:
        """A process that listens, as /proc shows it; the address in the kernel's hexadecimal."""
        entry = f"0: {address}:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"
        self.write("/proc/net/tcp", f"  sl  local_address\n   {entry}")
        self.at(f"/proc/{pid}/fd").mkdir(parents=True, exist_ok=True)
        self.at(f"/proc/{pid}/fd/3").symlink_to(f"socket:[{inode}]")

    def run(self, verb: str, *arguments: str, before_write: Callable[[str], None] = lambda _: None) -> Answer:
        """One verb of the host program below the root, with the plan where it wants one."""
        given = [verb, "--root", str(self.root), *arguments]
        if (
            verb in ("install", "record", "engines", "fetch", "apply", "boot", "watch", "verify", "gate")
            and "--plan" not in arguments
        ):
            path = self.folder / "plan.json"
            path.write_text(document.text(self.plan))
            given += ["--plan", str(path)]
        if verb == "install":
            given += ["--program", str(self.program)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(given, lambda root: self.machine(root, before_write))
        return Answer(code, json.loads(out.getvalue()), err.getvalue())

    def place(self) -> None:
        """What Ansible does between install and apply: files, drop-ins and the user."""
        for file in placed_files(self.plan, self.plan.manage):
            self.write(file.path, file.content.decode(), file.mode)
        if "service" in self.plan.manage and "inferhost:" not in self.read("/etc/passwd"):
            self.write("/etc/passwd", self.read("/etc/passwd") + "inferhost:x:999:999::/nonexistent:/bin/false\n")

    def start_engine(self) -> None:
        """What systemd does: the engine runs as planned, and its cache folder is there."""
        self.systemctl = active_unit()
        self.write(f"/proc/{PID}/cmdline", "\0".join(ENGINE) + "\0")
        self.write(f"/proc/{PID}/environ", "PATH=/bin\0CUDA_DEVICE_ORDER=PCI_BUS_ID\0")
        self.write(f"/proc/{PID}/status", "Name:\tllama-server\nUid:\t999\t999\t999\t999\n")
        self.write(f"/proc/{PID}/limits", limits("65536", "unlimited"))
        self.write("/var/cache/inferhost/main/kernels", "compiled")

    def stop_engine(self) -> None:
        self.systemctl = INACTIVE
        shutil.rmtree(self.at(f"/proc/{PID}"), ignore_errors=True)

    def converge(self) -> None:
        """The whole way there: install, place, apply, and a running engine."""
        assert self.run("install").code == 0
        self.place()
        assert self.run("apply").code == 0
        self.start_engine()

    def snapshot(self) -> dict[str, Any]:
        """Everything on the host: files with content, mode and owner, folders, links, and the cards."""
        found: dict[str, Any] = {"cards": json.loads(self.sim("dump"))}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            name = "/" + str(path.relative_to(self.root))
            found[name] = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content)
        return found

    def baseline(self) -> dict[str, Any]:
        return dict(json.loads(self.read("/var/lib/inferhost/baseline.json"))["records"])


def limits(nofile: str, memlock: str) -> str:
    """/proc/PID/limits, in the columns of the kernel."""
    rows = [("Limit", "Soft Limit", "Hard Limit", "Units")]
    rows += [("Max open files", nofile, nofile, "files"), ("Max locked memory", memlock, memlock, "bytes")]
    return "".join(f"{a:<26}{b:<21}{c:<21}{d:<10}\n" for a, b, c, d in rows)


def installed_plan(host: FakeHost) -> Plan:
    return read_plan(json.loads(host.read("/etc/inferhost/plan.json")))
