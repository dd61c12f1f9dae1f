"""The runtime section on a real Debian 13 host: engine from Debian's packages, toolkit a stand-in, taken back."""

import dataclasses
import json

import pytest

from tests.bed.driver_host import changed
from tests.bed.playbook import NAME, ROOT, bed
from tests.bed.runtime_host import DAEMON, TOOLKIT, RuntimeHost
from tests.bed.snapshot import differences

ASK = """
import json, sys, time, urllib.request
probe = json.loads(sys.argv[1])
for _ in range(60):
    try:
        body, kind = json.dumps(probe["body"]).encode(), {"Content-Type": "application/json"}
        print(urllib.request.urlopen(urllib.request.Request(probe["url"], body, kind)).read().decode())
        break
    except OSError:
        time.sleep(1)
"""


@pytest.fixture(scope="module", params=["docker", "podman"])
def host(request, tmp_path_factory):
    found = RuntimeHost(tmp_path_factory.mktemp("runtime"), request.param)
    found.before = found.snapshot()
    found.check = found.playbook("site.yml", "--check", "--diff")
    found.after_check = found.snapshot()
    found.first = found.playbook("site.yml", "--diff")
    yield found
    bed("down", NAME)


def test_check_mode_on_a_bare_host_succeeds_and_writes_nothing(host):
    assert host.check.code == 0, host.check.told()
    assert host.after_check == host.before


def test_the_engine_runs_and_knows_the_cards(host):
    assert host.first.code == 0, host.first.told()
    found = {name: verdict["verdict"] for name, verdict in host.verdicts().items() if name.startswith("runtime.")}
    expected = {"runtime.engine", "runtime.toolkit", "runtime.cdi_spec"}
    expected.add(f"runtime.package.{TOOLKIT.name}")
    expected |= {"runtime.daemon.features", "runtime.daemon.running"} if host.engine == "docker" else set()
    assert found == dict.fromkeys(expected, "held")


def test_the_daemons_configuration_keeps_what_others_put_there(host):
    found = json.loads(host.run("cat", "/etc/docker/daemon.json"))
    ours = {"features": {"cdi": True}} if host.engine == "docker" else {}
    assert found == {**json.loads(DAEMON), **ours}


def test_check_mode_told_of_everything_but_the_repositorys_packages(host):
    told = [name for name, did, _ in host.check.changes() if did]
    done = [name for name, did, _ in host.first.changes() if did]
    assert [name for name in done if name not in told] == [
        "inferhost_runtime : apt | The engine and the toolkit are installed",
        "inferhost_plan : package_hold | No upgrade moves the package",
    ]
    assert [name for name in told if name not in done] == []


def test_a_second_run_and_a_check_of_it_change_nothing(host):
    for more in ((), ("--check",)):
        again = host.playbook("site.yml", *more)
        assert (again.code, changed(again)) == (0, []), again.told()


def test_the_toolkit_is_held_and_one_that_somebody_moved_is_found_and_put_back(host):
    name, version = TOOLKIT.name, TOOLKIT.version
    assert host.run("apt-mark", "showhold").split() == [name]
    newer = dataclasses.replace(TOOLKIT, version="1.21.0-1")
    host.offer(TOOLKIT, newer)
    host.run("apt-get", "-qq", "update")
    host.run("apt-get", "-y", "upgrade")
    assert host.verdicts()[f"runtime.package.{name}"]["verdict"] == "held"
    host.run("apt-get", "-y", "--allow-change-held-packages", "install", name)
    found = host.verdicts()[f"runtime.package.{name}"]
    assert (found["verdict"], found["found"], found["wanted"]) == ("overridden", newer.version, version)
    assert host.playbook("site.yml").code == 0
    assert host.verdicts()[f"runtime.package.{name}"]["verdict"] == "held"
    ran = host.playbook("site.yml", runtime_toolkit_version="1.21.0")
    assert ran.code == 0, ran.told()
    assert host.verdicts()[f"runtime.package.{name}"]["found"] == newer.version
    gone = host.playbook("site.yml", runtime_toolkit_version="1.19.9")
    assert gone.code != 0
    assert f"candidate for {name}=1.19.9-*. inferhost_runtime_toolkit_version takes" in gone.told()
    assert host.playbook("site.yml", runtime_toolkit_version="1.20.1").code == 0
    assert host.run("dpkg-query", "-W", "-f", "${Version} ${db:Status-Abbrev}", name).split() == [version, "hi"]


def test_a_specification_of_another_driver_is_found_and_made_again(host):
    host.run("sed", "-i", "s/so[.]580[.][0-9.]*/so.535.1.1/", "/run/cdi/nvidia.yaml")
    found = host.verdicts()["runtime.cdi_spec"]
    assert (found["verdict"], found["cause"]) == ("overridden", "driver_reload")
    assert "libraries of driver 535.1.1" in found["evidence"]
    assert host.playbook("site.yml").code == 0
    assert host.verdicts()["runtime.cdi_spec"]["verdict"] == "held"


def test_a_container_with_the_plans_arguments_and_environment_serves_with_the_card_inside(host):
    plan = json.loads((ROOT / "tests/golden/sandbox-gb200/plan.json").read_text())
    (service,), env = plan["service"], plan["env"]["main"]
    host.load_image()
    host.start(service, env)
    (answer,) = json.loads(host.run("python3", "-c", ASK, json.dumps(service["probe"])))["choices"]
    assert answer["text"]
    pid = host.run(host.engine, "inspect", "--format", "{{.State.Pid}}", "look").strip()
    inside = dict(entry.split("=", 1) for entry in host.run("cat", f"/proc/{pid}/environ").split("\0") if entry)
    assert {name: inside.get(name) for name in env} == env
    assert inside["SIMULATED_GPU"] == "all"
    found = host.verdicts()["runtime.container.look"]
    assert (found["verdict"], found["wanted"]) == ("held", found["found"]), found
    host.run(host.engine, "rm", "--force", "look")


def test_revert_gives_back_the_host_as_it_was_and_keeps_the_images(host):
    ran = host.playbook("playbooks/revert.yml")
    assert ran.code == 0, ran.told()
    assert differences(host.before, host.snapshot()) == []
    assert "images and volumes are never deleted" in ran.output
    layers = {"docker": "/var/lib/docker/vfs/dir", "podman": "/var/lib/containers/storage/vfs/dir"}[host.engine]
    assert host.run("ls", layers).split()
