"""What a container's unit has around it: its turn, the warm-up, the card's devices, its node, its end."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.unit.planner_wishes import planned, refusal
from tests.unit.test_planner_container import CPUS, MODES, UNIT_OF, described, keys, text, values
from tests.unit.test_units_of_engines import UNITS


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ["sglang", "vllm", "llama.cpp"])
def test_a_units_stop_lasts_longer_than_the_grace_of_its_container(mode, engine):
    plan = planned(values(mode, "tiny-random" if engine == "llama.cpp" else "qwen3-4b", service_engine=engine))
    container, drain = plan.service[0].container, plan.service[0].drain
    limit_s = container.stop_s + (drain.limit_s if drain else 0)
    assert int(keys(plan, UNIT_OF[mode])["TimeoutStopSec"][0]) > limit_s


def test_podmans_container_is_walled_with_its_unit_and_dockers_is_not():
    assert keys(planned(values("quadlet")))["IPAddressAllow"] == ["localhost"]
    assert "IPAddress" not in text(planned(values("compose")), "inferhost-serve-main.service")


@pytest.mark.parametrize("mode", MODES)
def test_the_container_is_kept_on_the_node_of_its_card_where_its_cpus_are_known(mode):
    plan = planned(values(mode))
    assert described(plan)["cpus"] == CPUS
    assert plan.sysctl["kernel.numa_balancing"] == "0"
    unknown = values(mode)
    del unknown["inferhost_hardware"]["cpu"]["node_cpus"]
    plan = planned(unknown)
    assert described(plan)["cpus"] is None
    assert "kernel.numa_balancing" not in plan.sysctl
    (why,) = [found.because for found in plan.reasons if found.setting == "service.main.container.cpus"]
    assert why.startswith("not kept on node 0 of its card: inferhost_hardware.cpu.node_cpus names no CPU of it")
    elsewhere = values(mode)
    elsewhere["inferhost_hardware"]["gpus"][0]["numa_node"] = 1
    assert described(planned(elsewhere))["cpus"] == "16-31"


SLICED = {"card": "h100-sxm", "gpu_mig": ["1g.10gb"], "service_gpus": ["0/0"], "service_engine": "vllm"}
VARIABLE = "CUDA_VISIBLE_DEVICES"


def test_podman_gets_a_slice_by_the_name_that_its_unit_reads():
    found = keys(planned(values("quadlet", "qwen3-0.6b", **SLICED)))
    assert found["EnvironmentFile"] == ["/run/inferhost/slices/main.env"]
    assert found["AddDevice"] == [f"nvidia.com/gpu=${{{VARIABLE}}}"]
    assert f"--env={VARIABLE}" in found["PodmanArgs"]


def test_compose_gets_a_slice_by_the_name_that_its_unit_reads_and_no_other_variable():
    own = {**SLICED, "service_env": {"VLLM_CACHE_ROOT": f"/cache/${{{VARIABLE}}}"}}
    plan = planned(values("compose", "qwen3-0.6b", **own))
    assert "EnvironmentFile=/run/inferhost/slices/main.env" in text(plan, UNIT_OF["compose"])
    engine = json.loads(text(plan, ".yml").partition("\n")[2])["services"]["engine"]
    assert engine["environment"][VARIABLE] == f"${{{VARIABLE}}}"
    assert engine["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == [
        f"nvidia.com/gpu=${{{VARIABLE}}}"
    ]
    assert engine["environment"]["VLLM_CACHE_ROOT"] == f"/cache/$${{{VARIABLE}}}"


def test_a_list_of_cpus_that_is_none_is_refused():
    wrong = values("quadlet")
    wrong["inferhost_hardware"]["cpu"]["node_cpus"] = ["0-15\nPodmanArgs=--privileged", ""]
    assert "inferhost_hardware.cpu.node_cpus[0]: found" in refusal(wrong)


def test_the_stop_waits_for_streams_before_the_container_goes():
    lines = text(planned(values("compose")), "inferhost-serve-main.service").splitlines()
    stops = [line for line in lines if line.startswith("ExecStop=")]
    assert "inferhost drain --instance main" in stops[0]
    assert " down " in stops[1]
    assert "inferhost drain --instance main" in keys(planned(values("quadlet")))["ExecStop"][0]


@pytest.mark.parametrize("mode", MODES)
def test_each_start_is_warmed_up_and_the_cards_devices_are_described_before(mode):
    plan = planned(values(mode))
    unit = text(plan, UNIT_OF[mode]).splitlines()
    words = {key: " ".join(line for line in unit if line.startswith(f"{key}=")) for key in ("Wants", "After")}
    assert "inferhost-warm@main.service" in words["Wants"]
    for before in ("inferhost-uvm.service", "inferhost-cdi.service"):
        assert before in words["Wants"]
        assert before in words["After"]
    placed = {file.package_file for file in plan.files}
    assert {"inferhost-warm@.service", "inferhost-uvm.service"} <= placed
    assert "inferhost-serve@.service" not in placed


def test_the_warm_up_ends_and_begins_with_the_engine_in_either_form():
    unit = (UNITS / "inferhost-warm@.service").read_text().splitlines()
    named = [f"inferhost-serve{sign}%i.service" for sign in "@-"]
    for key in ("PartOf", "After"):
        assert f"{key}={' '.join(named)}" in unit


def test_a_reload_of_the_units_takes_no_card_from_a_container_of_an_old_runc():
    """It tells systemd of a device only where a link with its number is."""
    unit = (UNITS / "inferhost-cdi.service").read_text().splitlines()
    steps = [line for line in unit if line.startswith("ExecStart=")]
    assert steps[0] == "ExecStart=-/usr/bin/nvidia-ctk system create-dev-char-symlinks"
    assert "cdi generate" in steps[-1]


def test_cards_are_described_after_the_device_of_unified_memory_is_there():
    unit = (UNITS / "inferhost-cdi.service").read_text().splitlines()
    for key in ("Wants", "After"):
        assert any(line.startswith(f"{key}=") and "inferhost-uvm.service" in line for line in unit)
    alone = {**values("quadlet"), "inferhost_manage": ["runtime"]}
    assert "inferhost-uvm.service" in {file.package_file for file in planned(alone).files}


def test_an_engine_waits_for_the_one_that_shares_its_card_whatever_that_runs_in():
    given = values("quadlet", service_instances={"a": {"mode": "unit", "image": ""}, "b": {"port": 9000}})
    plan = planned(given)
    assert keys(plan)["After"][-1] == "inferhost-serve@a.service"
    assert any("gate --wait --instance a" in line for line in keys(plan)["ExecStartPre"])
    other = values("quadlet", service_instances={"a": {}, "b": {"port": 9000, "mode": "unit", "image": ""}})
    entries = planned(other).dropins[0].entries
    assert ("Unit", "After", "inferhost-serve-a.service") in entries


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="SKIPPED: no systemd-analyze on PATH")
def test_systemd_accepts_the_unit_of_the_compose_file(tmp_path):
    plan = planned(values("compose", service_api_key_file="/etc/keys/main"))
    unit = text(plan, "inferhost-serve-main.service")
    for program in ("/usr/bin/docker", "/usr/local/bin/inferhost"):
        unit = unit.replace(program, "/bin/true")
    (tmp_path / "inferhost-serve-main.service").write_text(unit.replace("Requires=docker.service\n", ""))
    command = ["systemd-analyze", "verify", "--man=no", "./inferhost-serve-main.service"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "inferhost-serve" in line]
    assert (done.returncode, said) == (0, [])
