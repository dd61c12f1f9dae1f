"""The bed's decisions: packages, workarounds, what an image's tag depends on. Nothing here starts a container."""

import json
import socket
import subprocess
import sys

import pytest

from tests.bed.bedlib import container, engine, firewall, image, packages, podman
from tests.bed.bedlib.machine import Machine
from tests.bed.bedlib.tools import REFUSED, BedError, digest

ORDINARY = Machine(unified_cgroup=True, pids_controller=True, may_raise_limits=True, systemd=True, root=True)
# A root without CAP_SYS_RESOURCE under hybrid cgroups, as small cloud machines have.
NARROW = Machine(unified_cgroup=False, pids_controller=False, may_raise_limits=False, systemd=False, root=True)
WORKAROUNDS = ("pids_limit", "default_ulimits", '"runc"', '"cgroupfs"')


def test_every_package_has_a_reason():
    assert all(packages.wanted_packages(NARROW).values())


@pytest.mark.parametrize(("machine", "runtime"), [(ORDINARY, "crun"), (NARROW, "runc")])
def test_the_wanted_runtime_is_the_one_that_starts_here(machine, runtime):
    assert {"crun", "runc"} & set(packages.wanted_packages(machine)) == {runtime}


def test_install_says_nothing_when_nothing_is_missing(monkeypatch, capfd):
    monkeypatch.setattr(packages, "missing_packages", lambda wanted: [])
    packages.install(NARROW)
    assert capfd.readouterr() == ("", "")


def test_install_without_root_names_what_is_missing_in_one_line(monkeypatch):
    monkeypatch.setattr(packages, "missing_packages", lambda wanted: ["make", "podman"])
    user = Machine(unified_cgroup=True, pids_controller=True, may_raise_limits=False, systemd=True, root=False)
    with pytest.raises(BedError) as refused:
        packages.install(user)
    assert str(refused.value) == "error: missing Debian packages, and installing them takes root: make podman"
    assert refused.value.code == REFUSED


def test_an_ordinary_machine_gets_no_workaround(tmp_path):
    text = podman.containers_conf(ORDINARY, tmp_path, tmp_path)
    assert [found for found in WORKAROUNDS if found in text] == []


def test_a_narrow_machine_gets_every_workaround(tmp_path):
    text = podman.containers_conf(NARROW, tmp_path, tmp_path)
    assert [found for found in WORKAROUNDS if found in text] == list(WORKAROUNDS)


@pytest.mark.parametrize(("filesystem", "driver"), [("ext4", "overlay"), ("overlay", "vfs")])
def test_storage_on_an_overlay_is_copied(monkeypatch, tmp_path, filesystem, driver):
    monkeypatch.setattr(podman, "filesystem_of", lambda path: filesystem)
    assert f'driver = "{driver}"' in podman.storage_conf(tmp_path, tmp_path)


def test_a_digest_depends_on_content_name_and_execute_bit(tmp_path):
    file = tmp_path / "one"
    file.write_text("a")
    seen = [digest(file)]
    file.write_text("b")
    seen.append(digest(file))
    file.chmod(0o755)
    seen.append(digest(file))
    seen.append(digest(file.rename(tmp_path / "two")))
    assert len(set(seen)) == 4


def test_a_digest_keeps_neighbouring_inputs_apart():
    assert digest("ab", "c") != digest("a", "bc")


@pytest.fixture
def simulator(monkeypatch, tmp_path):
    """A simulator's folder of two files, with a key for its image."""
    (tmp_path / "build").mkdir()
    (tmp_path / "sim.c").write_text("int sim;")
    monkeypatch.setattr(image, "SIMULATOR", tmp_path)
    monkeypatch.setattr(image, "public_key", lambda: "ssh-ed25519 AAAA")
    return tmp_path


def test_the_tag_follows_the_simulators_sources(simulator):
    before = image.target_key("base")
    (simulator / "sim.c").write_text("long sim;")
    assert image.target_key("base") != before


def test_the_tag_ignores_what_was_built_from_them(simulator):
    before = image.target_key("base")
    (simulator / "build" / "sim.o").write_bytes(b"\177ELF")
    assert image.target_key("base") == before


def test_the_tag_follows_the_layer_below(simulator):
    assert image.target_key("base") != image.target_key("other base")


def test_the_tiny_model_has_the_same_bytes_on_every_run(tmp_path):
    targets = [tmp_path / "first.gguf", tmp_path / "second.gguf"]
    for target in targets:
        subprocess.run([sys.executable, image.MODEL_SCRIPT, target], check=True)
    assert targets[0].read_bytes() == targets[1].read_bytes()


@pytest.fixture
def server(tmp_path):
    """A folder with a llama-server that only says a version, as build 11669 does."""
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'version: 0.7.0 (build 11669, commit Debian)' >&2\n")
    program.chmod(0o755)
    return tmp_path


def test_the_engine_of_the_catalogue_is_accepted(server):
    engine.check_version(server, "0.7.0", 11669)


def test_another_engine_is_refused_with_found_and_wanted(server):
    with pytest.raises(BedError) as refused:
        engine.check_version(server, "0.7.1", 11700)
    found, hint = str(refused.value).splitlines()
    assert found == "error: llama-server of Debian forky: 0.7.0 build 11669, wanted 0.7.1 build 11700"
    assert "engines.json" in hint


def test_the_catalogue_says_which_engine_is_wanted(monkeypatch, tmp_path):
    rows = tmp_path / "engines.json"
    rows.write_text(json.dumps({"rows": [{"key": "llama.cpp", "version": "1.2", "build": 3}]}))
    monkeypatch.setattr(engine, "ENGINES", rows)
    assert engine.wanted_engine() == ("1.2", 3)


def test_a_catalogue_without_the_engine_is_refused(monkeypatch, tmp_path):
    rows = tmp_path / "engines.json"
    rows.write_text('{"rows": []}')
    monkeypatch.setattr(engine, "ENGINES", rows)
    with pytest.raises(BedError, match=r"wanted a row llama\.cpp"):
        engine.wanted_engine()


# As netavark 1.4 of Debian 12 writes them: ours on two ports, and another network of podman on the first one.
SAVED = """\
:NETAVARK-HOSTPORT-DNAT - [0:0]
-A NETAVARK-DN-1 -d 127.0.0.1/32 -p tcp -m tcp --dport 2200 -j DNAT --to-destination 10.97.1.6:22
-A NETAVARK-DN-1 -d 127.0.0.1/32 -p tcp -m tcp --dport 22000 -j DNAT --to-destination 10.97.1.7:22
-A NETAVARK-DN-2 -d 127.0.0.1/32 -p tcp -m tcp --dport 2200 -j DNAT --to-destination 10.88.0.2:22
-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 2200 -m comment --comment "dnat name: ours id: e2" -j NETAVARK-DN-1
-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 22000 -m comment --comment "dnat name: ours id: c9" -j NETAVARK-DN-1
-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 2200 -m comment --comment "dnat name: podman id: a" -j NETAVARK-DN-2
"""


def test_leftover_rules_are_those_of_our_network_and_port():
    found = firewall.leftover_rules(SAVED, "ours", 2200)
    assert [(rule[0], rule[-1]) for rule in found] == [
        ("NETAVARK-HOSTPORT-DNAT", "NETAVARK-DN-1"),
        ("NETAVARK-DN-1", "10.97.1.6:22"),
    ]


def test_a_taken_port_is_refused_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BedError) as refused:
            container.refuse_taken_port(port)
    assert str(refused.value) == f"error: port 127.0.0.1:{port}: Address already in use, wanted a free one"
    assert refused.value.code == REFUSED
