"""An inventory from what a host said: nothing guessed, nothing of a person's run over, nothing changed there."""

import copy
import subprocess

import pytest
import yaml

from inferhost import cli
from inferhost.discover import inventory, remote
from inferhost.discover.command import run_discover
from inferhost.discover.passthrough import mmio_gib, prerequisites
from inferhost.discover.report import render_found, render_plan
from inferhost.schema import document
from inferhost.schema.hardware import Hardware
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import CATALOGUE, planned

CARD = {
    "name": "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
    "uuid": "GPU-1",
    "pci_device_id": "2BB1",
    "pci_bus_id": "0000:0b:00.0",
    "memory_mib": 97887,
    "power_min_w": 150,
    "power_default_w": 600,
    "power_max_w": 600,
    "power_limit_w": 600,
    "persistence_mode": True,
    "display_mib": 0,
    "virtualization_mode": "passthrough",
    "numa_node": None,
    "bars": [{"mib": 131072.0, "wide": True, "above_4_gib": True}],
}
FACTS = {
    "gpus": [CARD],
    "driver_version": "580.95.05",
    "simulated": False,
    "cpu": {
        "model": "some Xeon",
        "sockets": 1,
        "cores": 8,
        "threads": 16,
        "numa_nodes": 1,
        "node_cpus": ["0-15"],
        "cpufreq": False,
        "scaling_driver": None,
        "energy_performance_preferences": [],
    },
    "memory_mib": 131072,
    "virtualization": "vmware",
    "os": "ubuntu-22.04",
    "processes": [],
    "firmware": "efi",
    "memory_reserved_mib": 131072,
    "swappiness": 60,
    "hostname": "box",
    "root": True,
}
SERVING = {
    "pid": 812,
    "words": ["/v/bin/python", "-m", "sglang.launch_server", "--model-path", "/m/Mistral-Large-Instruct-2411-AWQ"],
    "unit": "sglang.service",
    "adoptable": True,
    "user": "ivan",
    "directory": "/",
    "environment": {"PATH": "/bin", "LS_COLORS": "x", "CUDA_TENSOR_CORES": "1", "HF_TOKEN": "(hidden)"},
    "ports": [30000],
    "gpu_memory_mib": 90000,
}


def facts(**own):
    return {**copy.deepcopy(FACTS), **own}


def card(**own):
    return {**copy.deepcopy(CARD), **own}


def without_driver():
    """What the PCI bus alone tells."""
    unknown = dict.fromkeys((key for key in CARD if key not in ("pci_device_id", "pci_bus_id", "bars")), None)
    return facts(driver_version=None, simulated=None, gpus=[{**card(), **unknown, "display_mib": 0}])


def test_the_hardware_is_a_document_that_plans():
    made = inventory.hardware(facts(), CATALOGUE)
    assert document.plain(document.read(Hardware, made))["gpus"][0]["model"] == "rtx-pro-6000-bw-ws"
    assert "WOULD PLAN" in render_plan("box", inventory.wish(facts(), CATALOGUE)[0], made, CATALOGUE)


def test_switches_are_written_down_where_there_are_any():
    assert "nvswitches" not in inventory.hardware(facts(nvswitches=0), CATALOGUE)
    made = inventory.hardware(facts(nvswitches=6), CATALOGUE)
    assert document.read(Hardware, made).nvswitches == 6


def test_a_cards_memory_is_what_cuda_gives_and_not_what_nvml_counts():
    assert inventory.hardware(facts(), CATALOGUE)["gpus"][0]["memory_mib"] == 97280


def test_what_the_desktop_holds_is_subtracted_and_said():
    seen = facts(gpus=[card(display_mib=1800)])
    assert inventory.hardware(seen, CATALOGUE)["gpus"][0]["memory_mib"] == 97280 - 1800
    assert "the desktop holds 1800 MiB of it, which are subtracted" in render_found("box", seen, CATALOGUE)


def test_without_a_driver_the_card_is_known_by_its_pci_id_and_the_rest_stays_unknown():
    made = inventory.hardware(without_driver(), CATALOGUE)
    (gpu,) = made["gpus"]
    assert (gpu["model"], gpu["uuid"], gpu["power_max_w"], gpu["memory_mib"]) == (
        "rtx-pro-6000-bw-ws",
        None,
        None,
        97280,
    )
    assert made["driver_version"] is None
    shown = render_plan("box", inventory.wish(without_driver(), CATALOGUE)[0], made, CATALOGUE)
    assert "pending: driver.version_found" in shown


def test_an_unknown_card_is_named_and_refused_by_the_plan():
    seen = facts(gpus=[card(name="NVIDIA New Card", pci_device_id="FFFF")])
    made = inventory.hardware(seen, CATALOGUE)
    shown = render_plan("box", inventory.wish(seen, CATALOGUE)[0], made, CATALOGUE)
    assert 'found "nvidia-new-card", which the catalogue does not know' in shown


def test_a_host_without_a_card_is_told_so():
    assert "no NVIDIA card on the PCI bus" in render_found("box", facts(gpus=[]), CATALOGUE)


def test_limits_that_differ_are_wished_card_by_card_and_the_boards_own_are_not():
    cards = [
        card(),
        card(uuid="GPU-2", power_limit_w=450),
        card(uuid=None, pci_bus_id="0000:82:00.0", power_limit_w=300),
        card(uuid="GPU-4", power_limit_w=None),
    ]
    wish, _ = inventory.wish(facts(gpus=cards), CATALOGUE)
    assert wish["inferhost_gpu_cards"] == {"GPU-2": {"power_limit": "450"}, "0000:82:00.0": {"power_limit": "300"}}
    assert "inferhost_gpu_power_limit" not in wish
    planned({**wish, "inferhost_hardware": inventory.hardware(facts(gpus=cards), CATALOGUE)})


def test_the_wish_keeps_what_runs_and_how_the_cards_are_set():
    seen = facts(processes=[SERVING], gpus=[card(power_limit_w=480, persistence_mode=False)])
    wish, ((_, findings),) = inventory.wish(seen, CATALOGUE)
    assert wish == {
        "inferhost_gpu_power_limit": "480",
        "inferhost_gpu_persistence_mode": False,
        "inferhost_cpu_governor": "leave",
        "inferhost_cpu_numa_balancing": "leave",
        "inferhost_cpu_swappiness": 60,
        "inferhost_service_engine": "sglang",
        "inferhost_service_engine_path": "/v/bin/sglang",
        "inferhost_service_model": "mistral-large-instruct-2411-awq",
        "inferhost_service_model_path": "/m/Mistral-Large-Instruct-2411-AWQ",
        "inferhost_service_user": "ivan",
        "inferhost_service_adopt": ["sglang.service"],
    }
    assert {(f.name, f.verdict) for f in findings} >= {("CUDA_TENSOR_CORES", "placebo"), ("HF_TOKEN", "harmful")}
    assert "LS_COLORS" not in {f.name for f in findings}


def test_the_workers_of_an_engine_are_not_a_second_engine():
    worker = {**SERVING, "pid": 813, "words": ["sglang::scheduler"], "gpu_memory_mib": 90000}
    assert len(inventory.launches(facts(processes=[SERVING, worker]))) == 1


def test_where_nothing_serves_the_service_is_not_managed():
    assert inventory.wish(facts(), CATALOGUE)[0]["inferhost_manage"] == ["gpu", "cpu"]


def test_who_only_computes_is_named():
    trainer = {**SERVING, "words": ["python", "train.py"], "unit": "session-4.scope", "adoptable": False}
    shown = render_found("box", facts(processes=[trainer]), CATALOGUE)
    assert "computing: process 812 (python train.py) holds 90000 MiB" in shown


GOOD = [
    "firmware: EFI",
    "64-bit MMIO: in use, the cards' windows lie above 4 GiB",
    "gpus[0]: a window of 128 GiB",
    "memory reservation: 131072 MiB, which is all",
]


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({"firmware": "bios"}, "firmware: BIOS; set the machine's firmware to EFI"),
        ({"memory_reserved_mib": 1024}, "memory reservation: 1024 of 131072 MiB; reserve all guest memory"),
        ({"memory_reserved_mib": None}, "memory reservation: not to be seen without vmware-toolbox-cmd"),
        (
            {"gpus": [card(bars=[{"mib": 256.0, "wide": True, "above_4_gib": False}])]},
            "64-bit MMIO: not seen; set pciPassthru.use64bitMMIO = TRUE and pciPassthru.64bitMMIOSizeGB = 256",
        ),
        (
            {"gpus": [card(bars=[{"mib": 256.0, "wide": True, "above_4_gib": True}])]},
            "gpus[0]: a window of 256 MiB, so no resizable BAR",
        ),
        ({"gpus": [card(bars=[])]}, "gpus[0]: no memory window is to be seen"),
    ],
)
def test_each_prerequisite_of_a_passthrough_that_is_missing_is_told_with_its_repair(own, line):
    assert list(prerequisites(facts())) == GOOD
    assert any(found.startswith(line) for found in prerequisites(facts(**own)))


def test_a_bare_host_has_no_hypervisor_to_speak_of():
    shown = render_found("box", facts(virtualization="none"), CATALOGUE)
    assert "passthrough" not in shown.replace("comes as passthrough", "")
    assert "owns" not in shown


@pytest.mark.parametrize(("cards", "gib"), [(1, 256), (2, 512), (0, 0)])
def test_the_window_is_twice_the_memory_rounded_up(cards, gib):
    assert mmio_gib(facts(gpus=[card()] * cards)) == gib


@pytest.fixture
def answering(monkeypatch):
    """A host that answers with FACTS, or with what a test puts there."""
    answer = {"facts": facts()}
    monkeypatch.setattr("inferhost.discover.command.observed", lambda target, options: answer)
    return answer


def discover(folder, *words):
    return run_discover(cli._parser().parse_args(["discover", *words, "--inventory", str(folder)]))


def test_the_files_are_an_inventory_that_ansible_and_a_person_can_read(answering, tmp_path):
    shown = discover(tmp_path, "ivan@10.0.0.5")
    hosts = yaml.safe_load((tmp_path / "hosts.yml").read_text())
    assert hosts == {"all": {"hosts": {"box": {"ansible_host": "10.0.0.5", "ansible_user": "ivan"}}}}
    assert set(yaml.safe_load((tmp_path / "host_vars/box/hardware.yml").read_text())) == {"inferhost_hardware"}
    assert shown.rstrip().splitlines()[-2] == "nothing was changed on box"


def test_this_machine_is_reached_without_ssh(answering, tmp_path):
    discover(tmp_path, "localhost")
    assert yaml.safe_load((tmp_path / "hosts.yml").read_text())["all"]["hosts"]["box"] == {
        "ansible_connection": "local"
    }


def test_a_second_look_changes_nothing(answering, tmp_path):
    discover(tmp_path, "box")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "written" not in discover(tmp_path, "box")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_a_person_changed_is_shown_and_kept_until_force(answering, tmp_path):
    discover(tmp_path, "box")
    wish = tmp_path / "host_vars/box/wish.yml"
    wish.write_text("inferhost_gpu_power_limit: 300\n")
    shown = discover(tmp_path, "box")
    assert f"kept: {wish} says something else; --force replaces it" in shown
    assert "-inferhost_gpu_power_limit: 300" in shown
    assert wish.read_text() == "inferhost_gpu_power_limit: 300\n"
    discover(tmp_path, "box", "--force")
    assert "300" not in wish.read_text()


def test_a_second_host_joins_and_a_persons_own_hosts_file_is_never_edited(answering, tmp_path):
    discover(tmp_path, "box")
    answering["facts"]["hostname"] = "second"
    discover(tmp_path, "second")
    assert set(yaml.safe_load((tmp_path / "hosts.yml").read_text())["all"]["hosts"]) == {"box", "second"}
    (tmp_path / "hosts.yml").write_text("gpu:\n  hosts:\n    other:\n")
    assert "put this below one of its groups" in discover(tmp_path, "second")
    assert (tmp_path / "hosts.yml").read_text() == "gpu:\n  hosts:\n    other:\n"


@pytest.mark.parametrize("target", ["-oProxyCommand=touch /x", "a b", "", "a;b", "@x"])
def test_a_target_that_is_no_host_is_refused_before_anything_runs(target, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(InputError, match="wanted USER@HOST"):
        remote.observed(target)


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (255, b"no route to host", "h cannot be reached: no route to host"),
        (127, b"", "h has no python3"),
        (0, b"what", "h gave no answer: what"),
    ],
)
def test_a_host_that_does_not_answer_is_told_with_its_cause(monkeypatch, code, stderr, message):
    done = subprocess.CompletedProcess([], code, b"", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: done)
    with pytest.raises(InputError) as refused:
        remote.observed("h")
    assert message in str(refused.value)


def test_this_machine_answers_and_keeps_no_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    answer = remote.observed("localhost")
    assert answer["changed"] is False
    assert answer["facts"]["cpu"]["threads"] >= 1
    assert list(tmp_path.iterdir()) == []
