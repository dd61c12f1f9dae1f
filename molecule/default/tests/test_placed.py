"""The placed host, seen over ssh by a tool that shares no code with the roles."""

import json

DROPIN = "/etc/systemd/system/inferhost-serve@main.service.d/10-inferhost.conf"


def test_the_plan_is_installed_and_not_world_readable(host):
    plan = host.file("/etc/inferhost/plan.json")
    assert plan.mode == 0o640
    assert plan.user == "root"
    assert json.loads(plan.content_string)["host"] == {"name": "sandbox-gb200", "simulated": True}


def test_the_card_has_the_planned_limit(host):
    (gpu,) = json.loads(host.check_output("inferhost-sim dump"))["gpus"]
    assert gpu["power_limit_mw"] == 600_000


def test_the_card_is_asked_for_the_clock_lock(host):
    (gpu,) = json.loads(host.check_output("inferhost-sim dump"))["gpus"]
    assert gpu["graphics_clock_lock_mhz"] == [2100, 2100]


def test_the_engine_runs_as_its_own_user_with_the_planned_command(host):
    assert host.service("inferhost-serve@main").is_running
    assert host.service("inferhost-serve@main").is_enabled
    process = host.process.get(user="inferhost")
    assert "--port 30000" in process.args
    assert "--model /srv/models/tiny-random.gguf" in process.args


def test_the_engine_listens_on_loopback_only(host):
    assert host.socket("tcp://127.0.0.1:30000").is_listening
    assert not host.socket("tcp://0.0.0.0:30000").is_listening


def test_the_engine_generates_tokens(host):
    script = (
        "import json,urllib.request as u;"
        "r=u.Request('http://127.0.0.1:30000/v1/completions',"
        "json.dumps({'prompt':'the','max_tokens':8}).encode(),{'Content-Type':'application/json'});"
        "print(json.load(u.urlopen(r))['usage']['completion_tokens'])"
    )
    assert host.check_output(f'python3 -c "{script}"') == "8"


def test_kernel_parameters_and_limits_have_files(host):
    assert "vm.swappiness = 10" in host.file("/etc/sysctl.d/90-inferhost.conf").content_string
    assert "nofile 65536" in host.file("/etc/security/limits.d/90-inferhost.conf").content_string


def test_the_baseline_holds_what_was_there_before_us(host):
    records = json.loads(host.file("/var/lib/inferhost/baseline.json").content_string)["records"]
    limits = {k: v for k, v in records.items() if k.endswith(":power_limit_mw")}
    assert [v["found"] for v in limits.values()] == [480_000]
    assert host.file(DROPIN).exists
    assert records[f"file:{DROPIN}"]["found"] is None


def test_the_boot_unit_brings_back_what_a_new_driver_forgot(host):
    assert host.service("inferhost-apply").is_enabled
    host.check_output("inferhost-sim reload")
    (gpu,) = json.loads(host.check_output("inferhost-sim dump"))["gpus"]
    assert (gpu["graphics_clock_lock_mhz"], gpu["persistence"]) == (None, 0)
    host.check_output("systemctl start inferhost-apply.service")
    (gpu,) = json.loads(host.check_output("inferhost-sim dump"))["gpus"]
    assert (gpu["graphics_clock_lock_mhz"], gpu["persistence"]) == ([2100, 2100], 1)
    journal = host.check_output("journalctl --no-pager -o cat -u inferhost-apply.service")
    assert journal.count("power_limit_w 600 held") == 1


def test_the_timer_looks_and_drift_is_a_failed_unit_until_it_is_gone(host):
    assert host.service("inferhost-verify.timer").is_enabled
    assert host.service("inferhost-verify.timer").is_running
    host.check_output("systemctl start inferhost-verify.service")
    host.check_output("inferhost-sim set power_limit_mw 480000")
    assert host.run("systemctl start inferhost-verify.service").rc != 0
    assert "inferhost-verify.service" in host.check_output("systemctl --failed --plain --no-legend")
    host.check_output("systemctl start inferhost-apply.service")
    host.check_output("systemctl start inferhost-verify.service")
    assert "inferhost" not in host.check_output("systemctl --failed --plain --no-legend")
