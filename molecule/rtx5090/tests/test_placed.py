"""The placed twin of rtx5090: the wished limit, persistence switched on, the longer queue of connections."""

import json


def test_the_card_is_a_simulated_rtx_5090_at_the_wished_limit(host):
    (gpu,) = json.loads(host.check_output("inferhost-sim dump"))["gpus"]
    assert gpu["uuid"].startswith("GPU-5a1b6000-2b85-")
    assert (gpu["power_limit_mw"], gpu["persistence"]) == (450_000, 1)
    assert (gpu["graphics_clock_lock_mhz"], gpu["memory_clock_lock_mhz"]) == (None, None)


def test_the_plan_names_the_twin(host):
    plan = json.loads(host.file("/etc/inferhost/plan.json").content_string)
    assert plan["host"] == {"name": "sandbox-rtx5090", "simulated": True}


def test_the_kernel_parameter_of_the_wish_has_its_line(host):
    assert "net.core.somaxconn = 4096" in host.file("/etc/sysctl.d/90-inferhost.conf").content_string


def test_the_engine_serves_on_its_usual_port(host):
    assert host.service("inferhost-serve@main").is_running
    assert host.socket("tcp://127.0.0.1:8080").is_listening
