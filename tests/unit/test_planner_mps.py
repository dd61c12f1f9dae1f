"""MPS: one daemon, engines that are told where it is, and refusals of what cannot live with it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.planner_wishes import gpu, hardware, planned, refusal, wish

MPS, MODE, ENV = "inferhost_gpu_mps", "inferhost_gpu_compute_mode", "inferhost_service_env"
UNIT = "inferhost-mps.service"
PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
TWO = {"a": {"port": 30000}, "b": {"port": 30001}}


def served(**own: Any) -> dict[str, Any]:
    return wish("l40s", "qwen3-8b", **own)


def test_the_unit_is_there_only_where_the_wish_asks_for_it():
    assert UNIT not in [f.package_file for f in planned(served()).files]
    plan = planned(served(gpu_mps=True))
    assert UNIT in [f.package_file for f in plan.files]
    assert next(r for r in plan.reasons if r.setting.endswith(UNIT)).source == f"wish:{MPS}"


def test_an_engine_knows_the_pipes_and_does_not_run_without_the_daemon():
    plan = planned(served(gpu_mps=True))
    assert plan.env["main"]["CUDA_MPS_PIPE_DIRECTORY"] == "/run/inferhost/mps"
    assert ("Unit", "Requires", UNIT) in plan.dropins[0].entries
    plain = planned(served())
    assert "CUDA_MPS_PIPE_DIRECTORY" not in plain.env["main"]
    assert not any(key == "Requires" for _, key, _ in plain.dropins[0].entries)


@pytest.mark.parametrize("name", [PERCENTAGE, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MPS_CLIENT_PRIORITY"])
def test_the_limits_of_a_client_mean_something_under_mps_only(name: str):
    assert planned(served(gpu_mps=True, service_env={name: "1"})).env["main"][name] == "1"
    assert refusal(served(service_env={name: "1"})) == (
        f"error: {ENV}.{name}: is read under MPS only\nhint: set {MPS}: true, or remove it"
    )


@pytest.mark.parametrize(
    ("name", "mps", "text"),
    [
        ("CUDA_MPS_PIPE_DIRECTORY", True, "is decided by the plan\nhint: remove it: the plan sets it"),
        ("CUDA_MPS_PIPE_DIRECTORY", False, f"is decided by the plan\nhint: remove it, and set {MPS}: true"),
        (
            "CUDA_MPS_LOG_DIRECTORY",
            True,
            "is read by the MPS daemon only, never by an engine\n"
            f"hint: remove it, or set it in {UNIT}.d/50-local.conf",
        ),
        (
            "CUDA_DEVICE_DEFAULT_PERSISTING_L2_CACHE_PERCENTAGE_LIMIT",
            False,
            "is read by the MPS daemon only, never by an engine\n"
            f"hint: remove it, or set it in {UNIT}.d/50-local.conf",
        ),
    ],
)
def test_what_is_the_daemons_is_refused_in_an_engines_environment(name: str, mps: bool, text: str):
    assert refusal(served(gpu_mps=mps, service_env={name: "/tmp/x"})) == f"error: {ENV}.{name}: {text}"


def test_a_divided_card_would_need_a_daemon_per_instance():
    text = refusal(wish("h200-sxm", "qwen3-8b", gpu_mps=True, gpu_mig=["3g.71gb"]))
    assert text.startswith(f"error: {MPS}: found true, and inferhost_gpu_mig divides the card\n")
    assert planned(wish("h200-sxm", "qwen3-8b", gpu_mps=True, gpu_mig=["whole"])).gpus[0].mig == ()


def test_engines_that_share_an_exclusive_card_need_the_daemon():
    text = refusal(served(gpu_compute_mode="exclusive_process", service_instances=TWO))
    assert text == (
        f"error: {MODE}: found exclusive_process, and several engines share a card: the second would not start\n"
        f"hint: {MPS}: true, or default"
    )
    assert planned(served(gpu_compute_mode="exclusive_process", gpu_mps=True, service_instances=TWO)).service
    apart = served(gpu_compute_mode="exclusive_process", service_instances={
        "a": {"port": 30000, "gpus": ["0"]}, "b": {"port": 30001, "gpus": ["1"]},
    })  # fmt: skip
    apart["inferhost_hardware"] = hardware(gpu("l40s"), gpu("l40s"))
    assert planned(apart).service


def test_a_card_that_nobody_may_use_has_no_use_for_it():
    values = {**served(gpu_mps=True, gpu_compute_mode="prohibited"), "inferhost_manage": ["gpu"]}
    assert refusal(values) == f"error: {MPS}: found true, and {MODE} prohibited\nhint: exclusive_process"


def test_without_the_gpu_section_nothing_of_it_is_planned():
    plan = planned({**served(gpu_mps=True), "inferhost_manage": ["service"]})
    assert UNIT not in [f.package_file for f in plan.files]
    assert "CUDA_MPS_PIPE_DIRECTORY" not in plan.env["main"]
