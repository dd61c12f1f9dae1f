"""Two entries of one archive with two keys, which the real apt refuses, are found before ours is placed."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from inferhost.host.driver.candidates import making_room
from inferhost.host.driver.sources import source_problems
from inferhost.host.machine import Finished
from inferhost.schema.plan import File
from tests.bed.driver_packages import Package
from tests.unit.host.driver_fake import DriverHost
from tests.unit.host.fake_host import plan
from tests.unit.host.test_host_runtime import runtime
from tests.unit.own_apt import Apt, own_apt

SOURCES_PATH = "/etc/apt/sources.list.d/inferhost-driver.sources"
TOOLKIT_SOURCES_PATH = "/etc/apt/sources.list.d/inferhost-toolkit.sources"
"""As the planner names them: tests/unit/test_apt_files.py."""

CUDA = "https://mirror.example/cuda/ubuntu2404/x86_64"
TOOLKIT = "https://mirror.example/libnvidia-container/stable/deb"
DEBIAN = "http://mirror.example/debian"
OURS, THEIRS = "/etc/apt/keyrings/inferhost-driver.gpg", "/usr/share/keyrings/cuda-archive-keyring.gpg"
INSIDE = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----"


def stanza(uri: str, suites: str, key: str, more: str = "") -> str:
    signed = f"Signed-By: {key}\n" if key else ""
    components = "" if suites.endswith("/") else "Components: main\n"
    return f"# placed by somebody\nTypes: deb\nURIs: {uri}\nSuites: {suites}\n{components}{signed}{more}"


MINE = stanza(CUDA, "/", OURS)
ENTRIES = [
    ("cuda.list", f"deb [signed-by={THEIRS}] {CUDA}/ /\n", True),
    ("cuda.list", f"deb [arch=amd64 signed-by={THEIRS}] {CUDA} /\n", True),
    ("cuda.list", f"deb [signed-by={OURS}] {CUDA}/ /\n", False),
    ("cuda.list", f"deb {CUDA}/ /\n", False),
    ("local.list", f"deb {CUDA}/ /\n", True),  # read after ours
    ("cuda.list", f"# deb [signed-by={THEIRS}] {CUDA}/ /\n", False),
    ("cuda.list", f"deb [signed-by={THEIRS}] {CUDA}/ ./\n", False),
    ("cuda.list", f"deb [signed-by={THEIRS}] {CUDA.replace('2404', '2204')}/ /\n", False),
    ("cuda.list.save", f"deb [signed-by={THEIRS}] {CUDA}/ /\n", False),
    ("cuda.sources", stanza(f"{DEBIAN} {CUDA}/", "/", THEIRS), True),
    ("cuda.sources", stanza(CUDA, "/", INSIDE), True),
    ("cuda.sources", stanza(CUDA, "/", THEIRS, "Enabled: no\n"), False),
    ("cuda.sources", stanza(CUDA, "/", THEIRS, "#Enabled: no\n"), True),
    ("cuda.sources", stanza(DEBIAN, "trixie", "") + "\n" + stanza(CUDA, "/", THEIRS), True),
]


@pytest.fixture
def apt(tmp_path) -> Apt:
    return own_apt(tmp_path, Package("libc6", "2.36"))


@pytest.mark.parametrize(("name", "text", "conflicts"), ENTRIES)
def test_what_is_found_is_what_the_real_apt_refuses(apt: Apt, bare: DriverHost, name, text, conflicts):
    (apt.folder / "no-parts" / name).write_text(text)
    (apt.folder / "no-parts/inferhost-driver.sources").write_text(MINE)
    said = apt.run(["apt-get", "--print-uris", "update"])
    assert ("Conflicting values set for option Signed-By" in said.stderr) is conflicts, said.stderr
    bare.plan = dataclasses.replace(bare.plan, files=(File(SOURCES_PATH, "driver", "0644", MINE, None, "none"),))
    bare.write(f"/etc/apt/sources.list.d/{name}", text)
    bare.write(SOURCES_PATH, MINE)  # as after a run
    assert ("same-source" in [p["id"] for p in bare.run("install", "--check").problems]) is conflicts


def test_what_a_tidying_apt_would_remove_anyway_makes_no_room(tmp_path, bare: DriverHost):
    apt = own_apt(tmp_path, Package("docker.io", "26", conflicts="containerd.io"))
    marks = tmp_path / "extended_states"
    marks.write_text("Package: libold1\nArchitecture: amd64\nAuto-Installed: 1\n")
    settings = f'APT::Get::AutomaticRemove "true"; Dir::State::extended_states "{marks}";'
    (tmp_path / "settings/tidy").write_text(settings)
    apt.installed(Package("libold1", "1"), Package("containerd.io", "1"))
    assert "Remv libold1" in apt.run(["apt-get", "--simulate", "install", "docker.io"]).stdout

    def command(argv):
        return Finished(0, apt.run(list(argv)).stdout, "")

    machine = dataclasses.replace(bare.machine(str(bare.root)), command=command)
    assert making_room(machine, "apt", ["docker.io"]) == ["containerd.io"]


def test_nvidias_own_entry_is_named_with_what_works(bare: DriverHost):
    bare.plan = dataclasses.replace(bare.plan, files=(File(SOURCES_PATH, "driver", "0644", MINE, None, "none"),))
    install = dataclasses.replace(bare.plan.driver.install, components=())
    bare.plan = dataclasses.replace(bare.plan, driver=dataclasses.replace(bare.plan.driver, install=install))
    path = "/etc/apt/sources.list.d/cuda-ubuntu2404-x86_64.list"
    bare.write(path, ENTRIES[0][1])
    before = bare.snapshot()
    (problem,) = bare.run("install").problems
    assert {name: text for name, text in bare.snapshot().items() if name in before} == before
    assert problem["path"] == "inferhost_driver_repository_url"
    assert problem["message"].startswith(f'found "{CUDA}", and {path} has it with another key, {THEIRS}')
    assert problem["hint"].startswith(f"take it out of {path}, or remove the package that brought that")


def test_our_own_file_with_the_key_of_an_earlier_wish_is_no_obstacle_and_each_section_speaks_of_its_own(
    bare: DriverHost,
):
    bare.plan = dataclasses.replace(bare.plan, files=(File(SOURCES_PATH, "driver", "0644", MINE, None, "none"),))
    bare.write(SOURCES_PATH, stanza(CUDA, "/", OURS.replace(".gpg", ".asc")))
    assert bare.run("install", "--check").problems == []
    bare.write("/etc/apt/sources.list.d/cuda.list", ENTRIES[0][1])
    machine = bare.machine(str(bare.root))
    found = [source_problems(machine, bare.plan, section, "x", "{path}") for section in ("driver", "runtime")]
    assert [len(one) for one in found] == [1, 0]


def test_the_distributions_own_entry_wants_its_components_instead(bare: DriverHost):
    ours = stanza(DEBIAN, "bookworm", OURS)
    bare.plan = dataclasses.replace(bare.plan, files=(File(SOURCES_PATH, "driver", "0644", ours, None, "none"),))
    bare.write("/etc/apt/sources.list.d/debian.sources", stanza(DEBIAN, "bookworm bookworm-updates", THEIRS))
    (problem,) = bare.run("install").problems
    assert problem["hint"].startswith("leave it empty, and add the components contrib, non-free")


@pytest.mark.parametrize(("arch", "mine"), list(itertools.product(["$(ARCH)", "amd64"], repeat=2)))
def test_the_toolkits_entry_of_nvidias_guide_is_found_however_the_architecture_is_written(
    bare: DriverHost, arch: str, mine: str
):
    ours = File(TOOLKIT_SOURCES_PATH, "runtime", "0644", stanza(f"{TOOLKIT}/{mine}", "/", OURS), None, "none")
    wanted = runtime(packages=(), toolkit=("nvidia-container-toolkit-base",))
    bare.plan = plan(manage=("runtime",), runtime=wanted, service=(), dropins=(), files=(ours,))
    path = "/etc/apt/sources.list.d/nvidia-container-toolkit.list"
    bare.write(path, f"deb [signed-by={THEIRS}] {TOOLKIT}/{arch} /\n")
    (problem,) = [p for p in bare.run("install").problems if p["id"] == "same-source"]
    assert problem["path"] == "inferhost_runtime_toolkit_repository_url"
    assert problem["hint"] == f"leave it empty, or take it out of {path}"
