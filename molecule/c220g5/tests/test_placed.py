"""The placed twin of c220g5: a Pascal card gets what it can be set to, and nobody asked it for a clock lock."""

import json

REFUSED_BY_PASCAL = {"nvmlDeviceSetGpuLockedClocks", "nvmlDeviceSetMemoryLockedClocks"}


def test_the_card_is_a_simulated_tesla_p4_at_the_limit_it_boots_with(host):
    whole = json.loads(host.check_output("inferhost-sim dump --all"))
    (gpu,) = whole["gpus"]
    assert gpu["uuid"].startswith("GPU-5a1b6000-1bb3-")
    assert (gpu["power_limit_mw"], gpu["persistence"]) == (75_000, 1)
    assert gpu["application_clocks_mhz"] == [3003, 1113]
    assert not REFUSED_BY_PASCAL & set(whole["writes"])


def test_the_plan_names_the_twin_and_its_card(host):
    plan = json.loads(host.file("/etc/inferhost/plan.json").content_string)
    assert plan["host"] == {"name": "sandbox-c220g5", "simulated": True}
    assert plan["gpus"][0]["model"] == "tesla-p4"


def test_the_engine_serves_on_its_usual_port(host):
    assert host.service("inferhost-serve@main").is_running
    assert host.socket("tcp://127.0.0.1:8080").is_listening
