"""Discover and import on a host that somebody set up by hand: it is read, and stays byte for byte as it was."""

import pathlib
import subprocess
import sys

import pytest
import yaml

from tests.bed.lived_in import FILES, UNIT, set_up
from tests.bed.playbook import NAME, PORT, ROOT, bed, run_playbook, snapshot
from tests.bed.snapshot import differences


def inferhost(*arguments: str) -> str:
    argv = [sys.executable, "-m", "inferhost.cli", *arguments]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The host before and after, what was said, and the inventory that was written."""
    folder: pathlib.Path = tmp_path_factory.mktemp("mine")
    bed("up", NAME, PORT)
    set_up()
    config = folder.parent / "ssh_config"
    config.write_text(bed("ssh-config", NAME))
    before = snapshot(), homes()
    said = inferhost("discover", NAME, "--name", "old", "--ssh-config", str(config), "--inventory", str(folder))
    yield {"before": before, "after": (snapshot(), homes()), "said": said, "inventory": folder}
    bed("down", NAME)


def assert_the_same(before: tuple[dict, str], after: tuple[dict, str]) -> None:
    assert differences(before[0], after[0]) == []
    assert after[1] == before[1]


def homes() -> str:
    """What the snapshot leaves out and a person cares for: homes, temporary folders, running units."""
    script = "find /home /root /tmp /srv -xdev -type f -not -name '.*history' | sort | xargs -d '\\n' sha256sum"
    running = "systemctl list-units --type=service --state=running --plain --no-legend | grep -v session"
    return bed("exec", NAME, "sh", "-c", f"{script}; {running}")


def test_the_host_is_byte_for_byte_as_it_was(found):
    assert_the_same(found["before"], found["after"])
    assert "nothing was changed on old" in found["said"]


def test_what_runs_and_how_the_card_is_set_is_found(found):
    assert f"serving: llama.cpp in {UNIT} as operator, port 30000" in found["said"]
    assert "power limit 480 W, 600 by default; persistence on" in found["said"]
    assert "sk-very-secret" not in found["said"]


def test_the_wish_reproduces_what_runs(found):
    wish = yaml.safe_load((found["inventory"] / "host_vars/old/wish.yml").read_text())
    assert wish["inferhost_gpu_power_limit"] == "480"
    assert wish["inferhost_service_adopt"] == [UNIT]
    kept = {key: wish[f"inferhost_service_{key}"] for key in ("port", "context_tokens", "max_sequences", "env")}
    assert kept == {
        "port": 30000,
        "context_tokens": 1024,
        "max_sequences": 2,
        "env": {"CUDA_CACHE_MAXSIZE": "2147483648"},
    }


def test_the_inventory_plans_and_the_host_accepts_it(found):
    """The bed's engine lies where nobody's does, so the check run is told; everything else is as discovered."""
    inferhost("plan", "--inventory", str(found["inventory"]), "--host", "old")
    engine = ("-e", "inferhost_service_engine_path=/usr/local/bin/llama-server")
    ran = run_playbook("site.yml", "-i", str(found["inventory"]), "--check", *engine)
    assert ran.code == 0, ran.told()
    assert_the_same(found["before"], (snapshot(), homes()))


def test_every_file_of_that_person_is_imported_without_a_trace(found, tmp_path):
    wishes = {}
    for path in (f"/etc/systemd/system/{UNIT}", "/home/operator/start_llm.sh", "/home/operator/compose.yml"):
        local = tmp_path / pathlib.Path(path).name
        local.write_text(FILES[path])
        kind = {".service": "--unit", ".sh": "--script", ".yml": "--compose"}[local.suffix]
        if kind != "--unit":
            wishes[local.name] = yaml.safe_load(inferhost("import", kind, str(local)))
    assert {w["inferhost_service_engine"] for w in wishes.values()} == {"llama.cpp"}
    assert wishes["compose.yml"]["inferhost_service_model_path"] == "/srv/models/tiny-random.gguf"
    assert wishes["compose.yml"]["inferhost_service_port"] == 8081
    assert_the_same(found["before"], (snapshot(), homes()))
