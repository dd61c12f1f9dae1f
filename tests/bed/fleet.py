"""Three sandbox hosts: two engines and a balancer without a card, with an inventory made for where they are.

A port that is not free would let a test talk to something old and look green: so the hosts are fresh, and are asked
what they listen on before anything is placed.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from tests.bed.playbook import NAME, PORT, ROOT, Ran, bed, run_playbook

ENGINES = ("sandbox-one", "sandbox-two")
BALANCER = "sandbox-balancer"
FIRST_PORT = int(PORT) + 12
ENGINE_PORT, FRONT_PORT = 30000, 8000
SANDBOX = ROOT / "inventories/sandbox"
WITHOUT_A_CARD = {
    "gpus": [],
    "cpu": {"sockets": 1, "cores": 2, "numa_nodes": 1, "cpufreq": False},
    "memory_mib": 2048,
    "virtualization": "podman",
    "os": "debian",
    "driver_version": None,
}
NEVER_READY = '#!/bin/sh\nfor word; do last=$word; done; [ "$last" = --help ] && exit 0\nexec sleep 1000\n'
"""Stands in for an engine that reads its arguments, starts, and never answers."""
WHEN_BUSY = """
import subprocess, sys, time, urllib.request
idle = lambda: b"requests_processing 0" in urllib.request.urlopen(sys.argv[1]).read()
print(f"looks, idle: {idle()}", flush=True)
while idle():
    time.sleep(0.01)
subprocess.run(sys.argv[2:], check=True)
"""


class Fleet:
    """The hosts, and what to ask of them."""

    def __init__(self, folder: pathlib.Path, engines: tuple[str, ...] = ENGINES) -> None:
        self.folder, self.engines = folder, engines
        self.addresses: dict[str, str] = {}

    @property
    def hosts(self) -> tuple[str, ...]:
        return (*self.engines, BALANCER)

    def container(self, host: str) -> str:
        return f"{NAME}-{host.removeprefix('sandbox-')}"

    def on(self, host: str, *command: str) -> str:
        return bed("exec", self.container(host), *command)

    def up(self) -> None:
        for number, host in enumerate(self.hosts):
            bed("up", self.container(host), str(FIRST_PORT + number))
            self.addresses[host] = self.on(host, "hostname", "-I").split()[0]
        self.write_inventory()

    def down(self) -> None:
        for host in self.hosts:
            bed("down", self.container(host))

    def write_inventory(self, **balancer: Any) -> None:
        """The inventory of these hosts; `balancer` are further variables of the balancer's host."""
        twin = {}
        names = ["group_vars/gb200.yml", *(f"host_vars/sandbox-gb200/{n}.yml" for n in ("hardware", "sandbox"))]
        for name in names:
            twin.update(yaml.safe_load((SANDBOX / name).read_text()))
        connection = yaml.safe_load((SANDBOX / "host_vars/sandbox-gb200/connection.yml").read_text())
        hosts: dict[str, Any] = {}
        for number, host in enumerate(self.hosts):
            hosts[host] = {**connection, "ansible_port": FIRST_PORT + number}
            if host in self.engines:
                hosts[host] |= {**twin, "inferhost_manage": ["service"]}
                hosts[host] |= {"inferhost_service_host": self.addresses[host]}
                # Two engines on the cores of one machine: two threads of one that wait for each other cost the most.
                hosts[host] |= {"inferhost_service_extra_args": ["--threads", "1"]}
        hosts[BALANCER] |= {
            "inferhost_manage": ["balancer"],
            "inferhost_simulated": True,
            "inferhost_hardware": WITHOUT_A_CARD,
            "inferhost_balancer_group": "llm",
            "inferhost_balancer_host": "0.0.0.0",
            **balancer,
        }
        groups = {
            "llm": {"hosts": {h: hosts[h] for h in self.engines}},
            "front": {"hosts": {BALANCER: hosts[BALANCER]}},
        }
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(groups))

    def play(self, playbook: str, *arguments: str) -> Ran:
        return run_playbook(playbook, "-i", str(self.folder / "hosts.yml"), "--diff", *arguments)

    def put_program(self, host: str, path: str, text: str) -> None:
        argv = [ROOT / "tests/bed/bed", "exec", self.container(host), "install", "-m", "755", "/dev/stdin", path]
        subprocess.run(argv, input=text, text=True, check=True)

    def listening(self, host: str) -> set[int]:
        """The TCP ports on which the host listens."""
        lines = self.on(host, "ss", "-Hltn").splitlines()
        return {int(line.split()[3].rpartition(":")[2]) for line in lines}

    def starts(self) -> dict[str, tuple[str, ...]]:
        """What is another one with each start of the host's unit: systemd's id of the run, and the process."""
        found = {}
        for host in self.hosts:
            unit = "inferhost-haproxy.service" if host == BALANCER else "inferhost-serve@main.service"
            words = self.on(host, "systemctl", "show", "-p", "InvocationID", "-p", "MainPID", "--value", unit).split()
            found[host] = tuple(sorted(words))
        return found

    def members(self) -> dict[str, dict[str, str]]:
        """HAProxy's own numbers of each member."""
        script = (
            "import socket,sys,csv,json; s=socket.socket(socket.AF_UNIX);"
            "s.connect('/run/inferhost-haproxy/admin.sock'); s.sendall(b'show stat\\n'); t='';\n"
            "while (p:=s.recv(65536)): t+=p.decode()\n"
            "print(json.dumps([r for r in csv.DictReader(t.lstrip('# ').splitlines())]))"
        )
        rows = json.loads(self.on(BALANCER, "python3", "-c", script))
        return {row["svname"]: row for row in rows if row["pxname"] == "inferhost"}

    @contextmanager
    def when_busy(self, engine: str, *command: str) -> Iterator[None]:
        """Runs a command on the engine's host the moment it sends an answer.

        It looks before the block asks for one: an answer on a quick engine is over before a look could be started.
        """
        page = f"http://{self.addresses[engine]}:{ENGINE_PORT}/metrics"
        argv = [ROOT / "tests/bed/bed", "exec", self.container(engine), "timeout", "120", "python3", "-c", WHEN_BUSY]
        with subprocess.Popen([*argv, page, *command], stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout is not None
            watcher.stdout.readline()
            yield
        assert watcher.returncode == 0, f"{engine}: {command} did not run while it was busy"

    def until_up(self, engine: str) -> None:
        """Waits until the balancer sends requests to the engine."""
        while self.members()[engine]["status"] != "UP":
            time.sleep(0.2)

    @contextmanager
    def load(self, least: int, streams: int, *, tokens: int = 16, to: str | None = None) -> Iterator[LoadRun]:
        """Streaming load while the block runs; it ends once the block is left and `least` requests are done.

        `to` names an engine that is asked without the balancer, and then each stream asks `least` times at most.
        """
        run = LoadRun(self, least, streams, tokens, to)
        try:
            yield run
        finally:
            run.end()


class LoadRun:
    """A load that runs on the balancer's host, as a client beside it."""

    def __init__(self, fleet: Fleet, least: int, streams: int, tokens: int, to: str | None) -> None:
        stop = "/tmp/stop-the-load"
        fleet.on(BALANCER, "touch" if to else "rm", *([] if to else ["-f"]), stop)
        self.fleet, self.stop, self.result = fleet, stop, {}
        where = ["127.0.0.1", str(FRONT_PORT)] if to is None else [fleet.addresses[to], str(ENGINE_PORT)]
        words = [*where, str(streams), str(least), stop, str(tokens)]
        argv = [ROOT / "tests/bed/bed", "exec", fleet.container(BALANCER), "python3", "-", *words]
        script = (ROOT / "tests/bed/stream_load.py").open()
        self.process = subprocess.Popen(argv, stdin=script, stdout=subprocess.PIPE, text=True, env=os.environ)

    def end(self) -> None:
        self.fleet.on(BALANCER, "touch", self.stop)
        said, _ = self.process.communicate()
        self.result = json.loads(said.splitlines()[-1])
