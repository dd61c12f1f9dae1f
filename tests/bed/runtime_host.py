"""A Debian 13 sandbox host that runs containers itself, its toolkit repository of stand-ins, and its inventory."""

import json
import pathlib
import subprocess
import time
from collections.abc import Callable

import yaml

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_host import BOOK_KEEPING
from tests.bed.playbook import NAME, PORT, ROOT, bed, run_playbook, snapshot

MIRROR = "/srv/toolkit"
IMAGE = "localhost/llama.cpp:bed"
REGISTRY = "127.0.0.1:5000"
IMAGES = (
    "/var/lib/docker",
    "/var/lib/docker-registry",
    "/var/lib/containers",
    "/var/lib/containerd",
    "/run/docker",
    "/run/containerd",
)
"""What an engine keeps, which a revert leaves."""
ENGINES_OWN = ("/run/containers", "/run/libpod", "/run/podman", "/run/crun", "/run/xtables.lock")
"""Sockets, locks and state of engines on a tmpfs, which the next boot forgets."""
# A container in a container has neither overlays nor a firewall nor all cgroup controllers. On the bed these lines
# stand for what a person configured before us; the role has to leave them alone.
DAEMON = """{
    "storage-driver": "vfs",
    "iptables": false, "ip6tables": false,
    "bridge": "none", "ip-forward": false
}"""
PODMAN = {
    "/etc/containers/containers.conf": '[containers]\npids_limit = 0\ndefault_ulimits = ["nofile=4096:4096"]\n',
    "/etc/containers/storage.conf": '[storage]\ndriver = "vfs"\ngraphroot = "/var/lib/containers/storage"\n'
    'runroot = "/run/containers/storage"\n',
    "/etc/containers/registries.conf.d/bed.conf": f'[[registry]]\nlocation = "{REGISTRY}"\ninsecure = true\n',
}
TOOLKIT = stand_ins.Package(
    "nvidia-container-toolkit-base",
    "1.20.1-1",
    "python3",
    {"/usr/bin/nvidia-ctk": (ROOT / "tests/bed/nvidia_ctk.py").read_bytes()},
)
FILES = (
    "opt/llama.cpp", "usr/bin/dash", "usr/bin/readlink", "usr/bin/dirname", "lib64/ld-linux-x86-64.so.2",
    "lib/x86_64-linux-gnu/libc.so.6",
)  # fmt: skip
"""What the image with the real llama-server is made of."""
PROGRAMS = (
    "/opt/llama.cpp",
    "/usr/bin/dash",
    "/usr/bin/readlink",
    "/usr/bin/dirname",
    "/usr/bin/cat",
    "/usr/bin/curl",
)
REGISTRY_CONFIG = f"""
version: 0.1
storage: {{filesystem: {{rootdirectory: /var/lib/docker-registry}}}}
http: {{addr: "{REGISTRY}"}}
"""
ROOT_SHELL = (ROOT / "tests/bed/bed", "exec", NAME)


class RuntimeHost:
    """One sandbox host whose runtime section is managed."""

    def __init__(self, folder: pathlib.Path, engine: str) -> None:
        self.folder, self.engine = folder, engine
        bed("up", NAME, PORT, "--suite", "trixie", "--nested")
        for path, text in {"/etc/docker/daemon.json": DAEMON, **PODMAN}.items():
            self.write(path, text)
        self.offer(TOOLKIT)
        twin = ROOT / "inventories/sandbox/host_vars/sandbox-gb200"
        values = {}
        for name in ("hardware", "connection", "sandbox"):
            values |= yaml.safe_load((twin / f"{name}.yml").read_text())
        values |= yaml.safe_load((ROOT / "inventories/sandbox/group_vars/gb200.yml").read_text())
        values |= yaml.safe_load((twin / "sandbox.yml").read_text())
        values["inferhost_hardware"] |= {"os": "debian-13"}
        self.values = values | {
            "inferhost_manage": ["runtime"],
            "inferhost_runtime_engine": engine,
            "inferhost_runtime_toolkit_repository_url": f"file:{MIRROR}",
            "inferhost_runtime_toolkit_repository_key": str(folder / "key.asc"),
        }
        self.wish()

    def offer(self, *packages: stand_ins.Package) -> None:
        """The toolkit repository holds these from now on."""
        content = stand_ins.flat_archive(self.folder, "stable/deb/amd64", packages)
        self.run("rm", "-rf", MIRROR)
        self.run("mkdir", "-p", MIRROR)
        self.feed(content, "tar", "-C", MIRROR, "-x")

    def wish(self, **options) -> None:
        """The host's inventory, with these variables from now on."""
        self.values |= options
        document = {"all": {"hosts": {"sandbox-runtime": self.values}}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(document))

    def run(self, *argv: str) -> str:
        return bed("exec", NAME, *argv)

    def run_or_empty(self, *argv: str) -> str:
        """Its output, whatever its end."""
        ran = subprocess.run([*ROOT_SHELL, *argv], stdout=subprocess.PIPE, text=True, check=False)
        return ran.stdout

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Until something of the host holds, asked once a second, for at most two minutes."""
        for _ in range(120):
            if holds():
                return
            time.sleep(1)
        raise AssertionError("it never came about")

    def feed(self, content: bytes, *argv: str) -> None:
        ran = subprocess.run([*ROOT_SHELL, *argv], input=content, stdout=subprocess.DEVNULL, check=False)
        assert ran.returncode == 0, argv

    def write(self, path: str, text: str) -> None:
        self.run("mkdir", "-p", str(pathlib.PurePosixPath(path).parent))
        self.feed(text.encode(), "tee", path)

    def offer_image(self) -> str:
        """The real llama-server as an image in a registry of the host's own, by its digest."""
        self.write("/etc/docker/registry/config.yml", REGISTRY_CONFIG)
        install = "apt-get -qq update && apt-get -qq install --no-install-recommends docker-registry curl"
        self.run("sh", "-c", f"export DEBIAN_FRONTEND=noninteractive; {install} -o Dpkg::Options::=--force-confold")
        script = (ROOT / "tests/bed/push_image.py").read_text()
        return self.run("python3", "-c", script, REGISTRY, "llama.cpp", *PROGRAMS).strip()

    def load_image(self) -> None:
        """The real llama-server as an image, made of the host's own files."""
        names = " ".join(FILES)
        pack = f"tar -c --dereference -C / --transform s,^usr/bin/dash,bin/sh, {names}"
        load = {"docker": f"docker import - {IMAGE}", "podman": f"podman import -q - {IMAGE}"}[self.engine]
        self.run("sh", "-c", f"{pack} | {load}")

    def start(self, service: dict, env: dict) -> None:
        """A container with the arguments and the environment of a plan, and every card."""
        words = [self.engine, "run", "-d", "--name", "look", "--network", "host", "--device", "nvidia.com/gpu=all"]
        words += [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
        words += ["--volume", f"{service['model_path']}:{service['model_path']}:ro"]
        self.run(*words, "--entrypoint", "/opt/llama.cpp/bin/llama-server", IMAGE, *service["argv"][1:])

    def playbook(self, name: str, *more: str, **options):
        given = {f"inferhost_{key}": value for key, value in options.items()}
        return run_playbook(name, "-i", str(self.folder / "hosts.yml"), "-e", json.dumps(given), *more)

    def snapshot(self) -> dict:
        found = snapshot()
        left_out = (*BOOK_KEEPING, *IMAGES, *ENGINES_OWN)
        found["paths"] = {path: what for path, what in found["paths"].items() if not path.startswith(left_out)}
        listed = self.run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n")
        return {**found, "packages": listed.splitlines()}

    def verdicts(self) -> dict:
        ran = subprocess.run([*ROOT_SHELL, "inferhost", "verify"], capture_output=True, text=True, check=False)
        return {verdict["setting"]: verdict for verdict in json.loads(ran.stdout)["verdicts"]}
