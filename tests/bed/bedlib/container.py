"""One sandbox host: start it fresh, reach it, remove it.

A host is up when systemd says `running` and ssh lets the operator in; anything less is an error that says why.
"""

import socket
import subprocess
import time

from .firewall import drop_leftover_rules
from .image import PERSONALITIES_THERE, PERSONALITY, image
from .places import ssh_key
from .podman import Podman
from .tools import REFUSED, BedError

LABEL = "inferhost.bed"
USER = "operator"
START_LIMIT_S = 90
# A container engine of its own needs these: it makes namespaces, mounts and device nodes. SYS_PTRACE is for looking
# into its containers. /proc/sys stays read-only.
NESTED = [
    "--cap-add=SYS_ADMIN,NET_ADMIN,MKNOD,SYS_PTRACE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
]


def up(
    podman: Podman,
    name: str,
    port: int,
    personality: str = PERSONALITY,
    *,
    codename: str = "",
    nested: bool = False,
) -> None:
    """Replace the host `name` by a fresh one with that simulated card, whose sshd listens on 127.0.0.1:port.

    `codename` names another Debian than the machine's own; a `nested` host can run containers itself.
    """
    tag = image(podman, codename)
    down(podman, name)
    refuse_taken_port(port)
    if podman.machine.root:
        drop_leftover_rules(podman.network, port)
    podman.ensure_network()
    published = f"127.0.0.1:{port}:22"
    run = ["run", "-d", "--name", name, "--hostname", name, "--label", f"{LABEL}={port}", "--systemd=always"]
    run += NESTED if nested else []
    podman.output(*run, "--network", podman.network, "--publish", published, tag)
    wait_until_running(podman, name)
    wait_for_ssh(name, port)
    if personality != PERSONALITY:
        podman.output("exec", name, "inferhost-sim", "init", f"{PERSONALITIES_THERE}/{personality}.txt")


def down(podman: Podman, name: str) -> None:
    """Remove the host; none of that name is fine."""
    remove = ["rm", "--force", "--ignore", "--time", "2", name]
    # A container whose processes were killed from outside: the first attempt fails, but records that it has ended.
    if not podman.succeeds(*remove):
        podman.output(*remove)


def refuse_taken_port(port: int) -> None:
    """Refuse a port on which something of somebody else listens."""
    with socket.socket() as probe:
        # Without it, connections of the host just replaced would keep the port for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as found:
            raise BedError(f"port 127.0.0.1:{port}: {found.strerror}, wanted a free one", code=REFUSED) from found


def wait_until_running(podman: Podman, name: str) -> None:
    """Wait until systemd has started everything; a failed unit is named."""
    end = time.monotonic() + START_LIMIT_S
    state = ""
    while time.monotonic() < end:
        argv = podman.command("exec", name, "systemctl", "is-system-running", "--wait")
        done = subprocess.run(argv, env=podman.env, capture_output=True, text=True, check=False)
        state = done.stdout.strip() or done.stderr.strip()
        if state == "running":
            return
        if state == "degraded":
            failed = podman.output("exec", name, "systemctl", "--failed", "--plain", "--no-legend")
            raise BedError(f"{name}: systemd is degraded, wanted running", failed)
        # For an instant after the start, systemd's socket does not exist yet.
        time.sleep(0.1)
    raise BedError(f"{name}: {state or 'no answer'} after {START_LIMIT_S} s, wanted systemd running")


def wait_for_ssh(name: str, port: int) -> None:
    """Wait until the operator can log in."""
    end = time.monotonic() + START_LIMIT_S
    while True:
        done = subprocess.run([*ssh_command(port), "true"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > end:
            raise BedError(f"{name}: no login on port {port} after {START_LIMIT_S} s", done.stderr.strip())
        time.sleep(0.1)


def ssh_options() -> dict[str, str]:
    """OpenSSH options for every host of the bed; each start has the same loopback address and means another host."""
    return {
        "User": USER,
        "IdentityFile": str(ssh_key()),
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "BatchMode": "yes",
        # An emulated host beside other work takes long to its banner.
        "ConnectTimeout": "30",
    }


def ssh_command(port: int) -> list[str]:
    """The ssh command line without the remote command; the user's own ssh configuration does not count."""
    options = [word for key, value in ssh_options().items() for word in ("-o", f"{key}={value}")]
    return ["ssh", "-F", "none", *options, "-p", str(port), "127.0.0.1"]


def port_of(podman: Podman, name: str) -> int:
    """The loopback port of a host that is up."""
    refuse_unknown(podman, name)
    form = f'{{{{index .Config.Labels "{LABEL}"}}}}'
    return int(podman.output("container", "inspect", "--format", form, name))


def refuse_unknown(podman: Podman, name: str) -> None:
    """Refuse a name that no host of the bed has."""
    if not podman.succeeds("container", "exists", name):
        raise BedError(f"{name}: no such host in the bed", "bed up NAME SSH_PORT starts one", REFUSED)


def ssh_config(podman: Podman, name: str) -> str:
    """A Host section for `ssh -F`, as testinfra wants it."""
    options = {"HostName": "127.0.0.1", "Port": str(port_of(podman, name)), **ssh_options()}
    return "\n".join([f"Host {name}", *(f"  {key} {value}" for key, value in options.items())])


def clean(podman: Podman) -> None:
    """Remove every host of this cache and their network."""
    form = "{{.Names}}"
    for name in podman.output("ps", "--all", "--filter", f"label={LABEL}", "--format", form).split():
        down(podman, name)
    podman.remove_network()
