"""Engines in containers on a real Debian 13 host: the real llama-server under Quadlet and under Docker Compose.

Image by digest out of a real registry on the host, toolkit a stand-in that describes the simulated card. Asked is
what a person sees: a token, the process inside, where the key is, who serves after a kill and after a bad image.
"""

import json

import pytest

from tests.bed.driver_host import changed
from tests.bed.playbook import NAME, bed
from tests.bed.runtime_host import REGISTRY, RuntimeHost
from tests.bed.snapshot import differences

MODES = {"podman": "quadlet", "docker": "compose"}
UNIT = CONTAINER = "inferhost-serve-main"
UUID = "GPU-5a1b6000-2bb1-4000-8000-000000000001"
KEY = "the-key-that-nobody-else-sees"
CACHE = "/var/cache/inferhost/main"
ASK = """
import json, sys, time, urllib.request
body = json.dumps({"model": "m", "prompt": "The", "max_tokens": 4}).encode()
for _ in range(90):
    try:
        request = urllib.request.Request("http://127.0.0.1:30000/v1/completions", body, json.loads(sys.argv[1]))
        print(json.load(urllib.request.urlopen(request))["usage"]["completion_tokens"])
        break
    except urllib.error.HTTPError as error:
        if error.code != 503:
            print(error.code)
            break
    except OSError:
        pass
    time.sleep(1)
"""


@pytest.fixture(scope="module", params=sorted(MODES))
def host(request, tmp_path_factory):
    found = RuntimeHost(tmp_path_factory.mktemp("containers"), request.param)
    found.mode = MODES[request.param]
    found.image = found.offer_image()
    found.values["inferhost_hardware"]["gpus"][0]["uuid"] = UUID
    found.wish(
        inferhost_manage=["runtime", "service"],
        inferhost_service_mode=found.mode,
        inferhost_service_image=found.image,
        inferhost_service_engine_path="/opt/llama.cpp/bin/llama-server",
        inferhost_service_api_key_file="/etc/inferhost-key",
        # A container may not raise the limits that it has itself.
        inferhost_cpu_limit_nofile=4096,
        inferhost_cpu_limit_memlock="8192",
    )
    found.write("/etc/inferhost-key", KEY + "\n")
    found.run("chmod", "0600", "/etc/inferhost-key")
    found.before = found.snapshot()
    found.check = found.playbook("site.yml", "--check", "--diff")
    found.after_check = found.snapshot()
    found.first = found.playbook("site.yml", "--diff")
    yield found
    bed("down", NAME)


def token(host, key=KEY) -> str:
    """How many tokens came back, or the status that refused."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return host.run("python3", "-c", ASK, json.dumps(headers)).strip()


def plan(host) -> dict:
    return json.loads(host.run("cat", "/etc/inferhost/plan.json"))


def first_process(host) -> str:
    return host.run(host.engine, "inspect", "--format", "{{.State.Pid}}", CONTAINER).strip()


def lines(host, path) -> list[str]:
    return host.run("cat", path).split("\0")


def started(host) -> str:
    return host.run("systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", UNIT).strip()


def test_check_mode_on_a_bare_host_succeeds_and_writes_nothing(host):
    assert host.check.code == 0, host.check.told()
    assert differences(host.before, host.after_check) == []


def test_everything_that_was_placed_is_held_and_a_token_comes(host):
    assert host.first.code == 0, host.first.told()
    found = {name: verdict for name, verdict in host.verdicts().items() if name.startswith(("service.", "runtime."))}
    assert [v for v in found.values() if v["verdict"] != "held"] == []
    assert {"service.main.argv", "service.main.user", f"runtime.container.{CONTAINER}"} <= set(found)
    assert token(host) == "4"


def test_the_process_inside_is_what_the_plan_says(host):
    document, process = plan(host), f"/proc/{first_process(host)}"
    (service,) = document["service"]
    assert lines(host, f"{process}/cmdline")[:-1][-len(service["argv"]) + 1 :] == service["argv"][1:]
    inside = dict(entry.split("=", 1) for entry in lines(host, f"{process}/environ") if entry)
    assert {name: inside.get(name) for name in document["env"]["main"]} == document["env"]["main"]
    status = dict(line.split(":\t", 1) for line in host.run("cat", f"{process}/status").splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["65532"] * 4
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    limits = host.run("cat", f"{process}/limits")
    assert f"Max open files            {service['limit_nofile']}" in limits
    assert f"Max locked memory         {service['limit_memlock']}" in limits


def test_the_image_is_read_only_the_weights_too_and_the_cache_is_the_hosts(host):
    table = host.run("cat", f"/proc/{first_process(host)}/mountinfo").splitlines()
    mounts = {line.split()[4]: line.split()[5].split(",")[0] for line in table}
    assert (mounts["/"], mounts[plan(host)["service"][0]["model_path"]], mounts[CACHE]) == ("ro", "ro", "rw")
    assert host.run("stat", "--format", "%u %a", CACHE).strip() == "65532 700"


def test_the_card_and_its_driver_are_inside_and_no_other_card(host):
    found = host.verdicts()[f"runtime.container.{CONTAINER}"]
    assert (found["verdict"], found["wanted"]) == ("held", found["found"])
    assert found["evidence"].endswith("the loaded driver's libraries; 1 cards")
    assert host.run("readlink", "/dev/char/195:0").strip() == "/dev/nvidia0"
    inside = lines(host, f"/proc/{first_process(host)}/environ")
    assert f"SIMULATED_GPU={UUID}" in inside
    assert "NVIDIA_VISIBLE_DEVICES=void" in inside


def test_a_card_more_than_planned_is_seen(host):
    node = f"/proc/{first_process(host)}/root/dev/nvidia7"
    host.run("mknod", node, "c", "195", "7")
    found = host.verdicts()[f"runtime.container.{CONTAINER}"]
    assert (found["verdict"], found["found"]) == ("overridden", "2 cards")
    host.run("rm", node)
    assert host.verdicts()[f"runtime.container.{CONTAINER}"]["verdict"] == "held"


def test_the_key_is_asked_for_and_seen_nowhere(host):
    assert (token(host, ""), token(host, "another")) == ("401", "401")
    seen = host.run(host.engine, "inspect", CONTAINER) + host.run("journalctl", "--no-pager", "-o", "cat")
    seen += host.run("sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
    seen += host.run("sh", "-c", "cat /etc/inferhost/plan.json /etc/systemd/system/inferhost* 2>/dev/null")
    seen += host.run("sh", "-c", "cat /etc/containers/systemd/* /etc/inferhost/compose/* 2>/dev/null; env -i true")
    assert KEY not in seen + host.first.output
    readable = host.run("sh", "-c", f"grep -rlsF {KEY} /etc /run /var/lib/inferhost /var/cache || true").split()
    found = {path for path in readable if host.run("stat", "--format", "%a", path).strip()[-2:] != "00"}
    assert found == set()


def test_its_own_engine_calls_it_healthy(host):
    if host.engine == "podman":
        host.run("podman", "healthcheck", "run", CONTAINER)
    form = "{{.State.Health.Status}}"
    host.wait_for(lambda: host.run(host.engine, "inspect", "--format", form, CONTAINER).strip() == "healthy")


def test_a_proxy_that_docker_or_podman_hands_its_containers_does_not_make_it_sick(host):
    proxied = ("exec", "--env", "http_proxy=http://127.0.0.1:9", CONTAINER)
    (service,) = json.loads(host.run("cat", "/etc/inferhost/plan.json"))["service"]
    host.run(host.engine, *proxied, *service["container"]["health"])


def test_a_second_run_and_a_check_of_it_change_nothing(host):
    for more in ((), ("--check",)):
        before = started(host)
        again = host.playbook("site.yml", *more)
        assert (again.code, changed(again)) == (0, []), again.told()
        assert started(host) == before


def test_an_engine_that_is_killed_is_started_again_by_its_unit(host):
    before = first_process(host)
    host.run("kill", "-9", before)
    host.wait_for(
        lambda: (
            host.run_or_empty(host.engine, "inspect", "--format", "{{.State.Pid}}", CONTAINER).strip()
            not in ("", "0", before)
        )
    )
    assert token(host) == "4"
    shown = ("systemctl", "show", "--timestamp=unix", "-P", "ExecMainStartTimestamp", UNIT)
    host.wait_for(lambda: f'"{host.run(*shown).strip()}"' in host.run("cat", "/run/inferhost/warm.json"))


def test_another_wish_restarts_it_once_with_other_words(host):
    before = started(host)
    ran = host.playbook("site.yml", service_max_sequences=4)
    assert ran.code == 0, ran.told()
    assert started(host) != before
    words = lines(host, f"/proc/{first_process(host)}/cmdline")
    assert words[words.index("--parallel") + 1] == "4"
    assert host.playbook("site.yml").code == 0


def test_an_image_that_is_nowhere_stops_the_run_and_the_engine_serves_on(host):
    before = started(host)
    ran = host.playbook("site.yml", service_image=f"{REGISTRY}/llama.cpp@sha256:{'0' * 64}")
    assert ran.code != 0
    assert "inferhost_service_image" in ran.told()
    assert (started(host), token(host)) == (before, "4")


def test_a_container_that_does_not_serve_is_taken_back(host):
    ran = host.playbook("site.yml", service_engine_path="/opt/llama.cpp/bin/no-such-server")
    assert ran.code != 0
    assert token(host) == "4"
    assert host.playbook("site.yml").code == 0


def test_from_container_to_unit_and_back_one_engine_serves(host):
    # Without the key: a container that runs containers gives its units no credentials (systemd 257 of Debian 13).
    bare = {"service_mode": "unit", "service_image": "", "service_api_key_file": ""}
    ran = host.playbook("site.yml", service_engine_path="/usr/local/bin/llama-server", **bare)
    assert ran.code == 0, ran.told()
    assert token(host, key="") == "4"
    assert host.run(host.engine, "ps", "--quiet").split() == []
    assert host.playbook("site.yml").code == 0
    assert token(host) == "4"
    assert host.run_or_empty("systemctl", "is-active", "inferhost-serve@main.service").strip() == "inactive"


def test_revert_gives_back_the_host_as_it_was_and_keeps_the_image(host):
    ran = host.playbook("playbooks/revert.yml")
    assert ran.code == 0, ran.told()
    assert differences(host.before, host.snapshot()) == []
    assert "images and volumes are never deleted" in ran.output
