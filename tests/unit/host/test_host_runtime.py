"""daemon.json merged and taken apart, containers that would be hurt, and a specification that went stale."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from inferhost.host.machine import Finished
from inferhost.host.report import Report
from inferhost.host.runtime import cdi, containers, inside
from inferhost.host.runtime.daemon_json import PATH, without_ours
from inferhost.schema.container import Runtime
from tests.unit.host.fake_host import FakeHost, plan

OURS = {"features": {"cdi": True}}
FOREIGN = {"registry-mirrors": ["https://mirror.example"], "features": {"buildkit": True}, "debug": False}
SPEC = "/run/cdi/nvidia.yaml"
LIBRARY = "/usr/lib/libcuda.so.580.95.05"
NO_PACKAGES = {
    "dpkg-query": lambda _: Finished(0, "libc6\t2.36\tii \t\t\n", ""),
    "apt-cache": lambda _: Finished(0, "", ""),
}


def runtime(**changes: Any) -> Runtime:
    plain = {"engine": "docker", "version": "26.1.5", "family": "apt", "packages": (), "toolkit": (), "key": None}
    return Runtime(**{**plain, "unit": "docker.service", "cdi_spec": SPEC, "daemon": OURS, **changes})


@pytest.fixture
def docked(host: FakeHost) -> FakeHost:
    """A host with docker and the plan for it; no package of ours."""
    host.plan = plan(manage=("runtime",), runtime=runtime(), service=(), dropins=(), files=())
    host.tools = {**NO_PACKAGES, "docker": docker()}
    return host


def docker(
    *containers: dict[str, Any], cdi_folders: str = "null", cgroups: str = "systemd"
) -> Callable[..., Finished]:
    """Docker's answers for these containers."""

    def answer(argv: Sequence[str]) -> Finished:
        if argv[1] == "ps":
            return Finished(0, "\n".join(f"id{n}" for n, _ in enumerate(containers)), "")
        if argv[1] == "inspect":
            return Finished(0, json.dumps(containers), "")
        told = {"{{.CgroupDriver}}": cgroups, "{{json .CDISpecDirs}}": cdi_folders, "{{.ServerVersion}}": "26.1.5"}
        return Finished(0, told.get(argv[-1], "Docker version 26.1.5, build x"), "")

    return answer


def wanted(host: FakeHost) -> dict[str, Any]:
    answer = host.run("install")
    assert answer.code == 0, answer.document
    return dict(answer.document["facts"]["runtime"]["daemon"])


def as_ansible_writes(host: FakeHost) -> None:
    found = wanted(host)
    host.write(found["path"], found["content"], int(found["mode"], 8))


def test_where_there_is_none_the_file_holds_our_keys_alone_and_goes_again(docked: FakeHost):
    as_ansible_writes(docked)
    assert json.loads(docked.read(PATH)) == OURS
    docked.run("revert", "--section", "runtime")
    assert not docked.at(PATH).exists()
    assert not docked.at("/etc/docker").exists()


def test_a_folder_that_is_there_keeps_the_mode_that_somebody_chose(docked: FakeHost):
    assert wanted(docked)["folder"] == "/etc/docker"
    docked.write("/etc/docker/key.json", "{}")
    assert wanted(docked)["folder"] == ""


def test_keys_of_others_stay_in_their_order_and_the_file_goes_back_byte_for_byte(docked: FakeHost):
    theirs = json.dumps(FOREIGN, indent="\t")
    docked.write(PATH, theirs)
    as_ansible_writes(docked)
    found = json.loads(docked.read(PATH))
    assert found == {**FOREIGN, "features": {"buildkit": True, "cdi": True}}
    assert list(found) == list(FOREIGN)
    docked.run("revert", "--section", "runtime")
    assert docked.read(PATH) == theirs


def test_what_others_wrote_after_us_survives_a_revert(docked: FakeHost):
    docked.write(PATH, json.dumps(FOREIGN))
    as_ansible_writes(docked)
    later = {**json.loads(docked.read(PATH)), "live-restore": True}
    docked.write(PATH, json.dumps(later))
    docked.run("revert", "--section", "runtime")
    assert json.loads(docked.read(PATH)) == {**FOREIGN, "live-restore": True}


def test_a_broken_file_is_refused_with_the_position_and_nothing_is_touched(docked: FakeHost):
    docked.write(PATH, '{\n  "debug": true,\n  "features" {}\n}\n')
    before = docked.snapshot()
    answer = docked.run("install")
    (problem,) = answer.problems
    assert (answer.code, problem["path"]) == (2, PATH)
    assert problem["message"] == "is not JSON: line 3, column 14: Expecting ':' delimiter"
    after = docked.snapshot()
    assert {name: after[name] for name in before if name != "/run/inferhost"} == before


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "is JSON, but no mapping of options"), ('{"features": 1}', 'found "features": 1, wanted a mapping')],
)
def test_a_file_of_another_shape_is_refused(docked: FakeHost, text: str, message: str):
    docked.write(PATH, text)
    answer = docked.run("install")
    assert (answer.code, [p["message"] for p in answer.problems]) == (2, [message])


@pytest.mark.parametrize("theirs", ['\ufeff{"debug": false}', '{"debug": false, "features": null}'])
def test_what_docker_takes_is_merged_and_goes_back_byte_for_byte(docked: FakeHost, theirs: str):
    """A byte order mark, as Windows' editor writes it, and a null."""
    docked.write(PATH, theirs)
    as_ansible_writes(docked)
    assert json.loads(docked.read(PATH)) == {"debug": False, **OURS}
    docked.run("revert", "--section", "runtime")
    assert docked.read(PATH) == theirs


def test_a_null_that_others_wrote_around_stays_a_null(docked: FakeHost):
    docked.write(PATH, '{"features": null}')
    as_ansible_writes(docked)
    docked.write(PATH, json.dumps({**json.loads(docked.read(PATH)), "debug": True}))
    docked.run("revert", "--section", "runtime")
    assert json.loads(docked.read(PATH)) == {"features": None, "debug": True}


def test_a_marked_file_that_has_our_keys_is_left_as_it_is(docked: FakeHost):
    theirs = '\ufeff{"features": {"cdi": true}}'
    docked.write(PATH, theirs)
    assert wanted(docked)["content"] == theirs


def test_owner_and_mode_of_somebody_else_are_kept(docked: FakeHost):
    docked.write(PATH, "{}", 0o640)
    uid = docked.at(PATH).stat().st_uid
    found = wanted(docked)
    assert (found["mode"], found["owner"]) == ("0640", str(uid))
    docked.write(PATH, found["content"], 0o640)
    docked.run("revert", "--section", "runtime")
    assert (docked.read(PATH), docked.at(PATH).stat().st_mode & 0o777) == ("{}", 0o640)


def test_a_link_is_somebody_elses(docked: FakeHost):
    docked.at("/etc/docker").mkdir(parents=True)
    docked.at(PATH).symlink_to("/srv/configuration/daemon.json")
    (problem,) = docked.run("install").problems
    assert problem["message"].startswith("is a link to /srv/configuration/daemon.json")


def test_a_file_that_has_our_keys_is_not_written_again(docked: FakeHost):
    theirs = '{"features":   {"cdi": true}}'
    docked.write(PATH, theirs)
    assert wanted(docked)["content"] == theirs
    docked.run("revert", "--section", "runtime")
    assert docked.read(PATH) == theirs


def test_a_file_with_a_password_is_not_shown(docked: FakeHost):
    docked.write(PATH, '{"proxies": {"http-proxy": "http://me:secret@proxy.example:3128"}}')
    assert wanted(docked)["showable"] is False


def test_an_earlier_value_of_ours_comes_back():
    assert without_ours({"features": {"cdi": True}}, OURS, {"features": {"cdi": False}}) == {
        "features": {"cdi": False}
    }


LEGACY = {"Name": "/old", "HostConfig": {"DeviceRequests": [{"Driver": "", "Capabilities": [["gpu"]]}]}, "Config": {}}
BY_RUNTIME = {
    "Name": "/older",
    "HostConfig": {"Runtime": "nvidia"},
    "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=all"]},
}
BY_CDI = {
    "Name": "/new",
    "HostConfig": {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}]},
    "Config": {},
}
BY_CDI_UNDER_ITS_RUNTIME = {
    **BY_CDI,
    "HostConfig": {**BY_CDI["HostConfig"], "Runtime": "nvidia"},
    "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=all"]},
}
"""As under `default-runtime: nvidia`; the specification sets the variable to void, which only its runtime sees."""
BY_BOTH = {
    **BY_CDI,
    "Name": "/both",
    "HostConfig": {
        "DeviceRequests": [*BY_CDI["HostConfig"]["DeviceRequests"], *LEGACY["HostConfig"]["DeviceRequests"]]
    },
}
BY_NAME = {
    **LEGACY,
    "Name": "/named",
    "HostConfig": {**LEGACY["HostConfig"], "Devices": [{"PathOnHost": "/dev/nvidia0"}]},
}
WITHOUT = {"Name": "/web", "HostConfig": {"Runtime": "runc"}, "Config": {"Env": ["A=1"]}}


@pytest.mark.parametrize("container", [LEGACY, BY_RUNTIME, BY_BOTH])
def test_a_reload_that_would_take_the_cards_from_a_container_is_refused_and_names_it(host: FakeHost, container: Any):
    host.tools = {"docker": docker(container)}
    answer = host.run("install")
    (problem,) = answer.problems
    assert (answer.code, problem["path"]) == (2, "inferhost_runtime_spare_containers")
    assert problem["message"].startswith(f"container {container['Name'][1:]} (docker) would lose the cards: ")


@pytest.mark.parametrize("container", [BY_CDI, BY_CDI_UNDER_ITS_RUNTIME, BY_NAME, WITHOUT])
def test_a_container_that_keeps_its_cards_is_none(host: FakeHost, container: Any):
    host.tools = {"docker": docker(container)}
    assert host.run("install").code == 0


def test_where_systemd_has_no_part_in_the_cgroups_nothing_is_lost(host: FakeHost):
    host.tools = {"docker": docker(LEGACY, cgroups="cgroupfs")}
    assert host.run("install").code == 0


def test_with_consent_the_run_goes_on_and_warns(host: FakeHost):
    host.tools = {"docker": docker(LEGACY, BY_RUNTIME)}
    host.plan = plan(spare_containers=False)
    answer = host.run("install")
    assert answer.code == 0
    assert any(
        note.startswith("containers: containers old (docker), older (docker)") for note in answer.document["notes"]
    )


def test_a_run_that_changes_no_unit_hurts_nobody(host: FakeHost):
    host.converge()
    host.tools = {"docker": docker(LEGACY)}
    assert host.run("install").code == 0


def test_a_revert_that_would_take_the_cards_from_a_container_is_refused_before_anything_is_touched(host: FakeHost):
    host.converge()
    host.tools = {"docker": docker(LEGACY)}
    before = host.snapshot()
    facts = host.run("status").document["facts"]
    assert facts["endangered"].startswith("container old (docker) would lose the cards: ")
    (problem,) = host.run("revert").problems
    assert (problem["path"], host.snapshot()) == ("inferhost_runtime_spare_containers", before)
    host.at("/etc/inferhost/plan.json").unlink()  # a plan that is gone consents to nothing
    assert [problem["path"] for problem in host.run("revert").problems] == ["inferhost_runtime_spare_containers"]
    host.tools = {"docker": docker(BY_CDI)}
    host.stop_engine()
    assert host.run("status").document["facts"]["endangered"] == ""
    assert host.run("revert").code == 0


def test_with_the_installed_plans_consent_the_revert_goes_on_and_warns(host: FakeHost):
    host.plan = plan(spare_containers=False)
    host.converge()
    host.tools = {"docker": docker(LEGACY)}
    host.stop_engine()
    assert host.run("status").document["facts"]["endangered"] == ""
    answer = host.run("revert")
    assert answer.code == 0
    assert any(note.startswith("containers: container old (docker)") for note in answer.document["notes"])


@pytest.mark.parametrize("taken_away", [False, True], ids=["never placed", "taken away by somebody"])
def test_a_revert_without_units_of_ours_asks_nobody(host: FakeHost, taken_away: bool):
    files = plan().files if taken_away else [file for file in plan().files if file.section != "service"]
    host.plan = plan(manage=("gpu", "cpu", "service"), service=(), dropins=(), files=tuple(files))
    host.converge()
    host.stop_engine()
    for unit in host.at("/etc/systemd/system").iterdir():
        unit.unlink()
    host.tools = {"docker": docker(LEGACY)}
    assert host.run("revert").code == 0


def test_podmans_hook_counts_where_it_is_installed(host: FakeHost):
    container = {
        "Name": "old",
        "HostConfig": {},
        "Config": {**BY_RUNTIME["Config"], "CreateCommand": ["podman", "run"]},
    }
    host.tools = {"podman": lambda argv: docker(container)(argv) if argv[1] != "info" else Finished(0, "systemd", "")}
    assert host.run("install", "--check").code == 0
    host.write("/usr/share/containers/oci/hooks.d/oci-nvidia-hook.json", "{}")
    assert [p["path"] for p in host.run("install", "--check").problems] == ["inferhost_runtime_spare_containers"]


def test_docker_is_not_restarted_while_others_run_in_it(docked: FakeHost):
    docked.run("install")
    docked.tools["docker"] = docker(WITHOUT)
    answer = docked.run("apply", "--section", "runtime")
    assert answer.verdict("runtime.daemon.running") == ("pending", "needs_reboot")
    assert "until then it runs without CDI for web" in answer.evidence("runtime.daemon.running")
    docked.tools["docker"] = docker()
    assert (
        "runtime.daemon.running" in [c["setting"] for c in docked.run("apply", "--check").document["diff"]]
    ) is True


def test_an_engine_of_another_origin_is_not_installed_over(docked: FakeHost):
    docked.plan = plan(
        manage=("runtime",), runtime=runtime(packages=("docker.io",)), service=(), dropins=(), files=()
    )
    docked.write("/usr/bin/docker", "")
    (problem,) = docked.run("install").problems
    assert problem["message"] == "/usr/bin/docker is on this host and is not of docker.io"


def spec(host: FakeHost, *libraries: str) -> None:
    lines = "".join(f"  - hostPath: {path}\n    containerPath: {path}\n" for path in libraries)
    host.write(SPEC, f"kind: nvidia.com/gpu\ncontainerEdits:\n  mounts:\n{lines}")


@pytest.mark.parametrize(
    ("libraries", "there", "why"),
    [
        ((LIBRARY,), (LIBRARY,), ""),
        ((LIBRARY, "/usr/bin/nvidia-smi"), (LIBRARY,), "it names /usr/bin/nvidia-smi, which is not on this host"),
        (
            ("/usr/lib/libcuda.so.535.1",), ("/usr/lib/libcuda.so.535.1",),
            "it names libraries of driver 535.1, and 580.95.05 is loaded",
        ),
    ],
)  # fmt: skip
def test_a_specification_is_stale_when_a_file_is_gone_or_the_driver_is_another(
    host: FakeHost, libraries: tuple[str, ...], there: tuple[str, ...], why: str
):
    for path in there:
        host.write(path, "")
    spec(host, *libraries)
    assert cdi.stale(host.machine(str(host.root)), runtime()) == why


def test_without_a_specification_it_is_said(docked: FakeHost):
    docked.run("install")
    answer = docked.run("verify")
    assert answer.verdict("runtime.cdi_spec") == ("overridden", "driver_reload")
    assert f"{SPEC} is not there" in answer.evidence("runtime.cdi_spec")


RUNNING = {**BY_CDI, "State": {"Pid": 77}}
INSIDE = "/proc/77/root"


@pytest.mark.parametrize(
    ("files", "verdict", "evidence"),
    [
        (
            ("usr/lib64/libcuda.so.580.95.05", "dev/nvidia0"),
            ("held", "none"),
            "the loaded driver's libraries; 1 cards",
        ),
        (("usr/lib64/libcuda.so.535.1", "dev/nvidia0"), ("overridden", "driver_reload"), "start the container"),
        (("usr/lib64/libcuda.so.580.95.05",), ("overridden", "unexplained"), "/dev: no card"),
        (("dev/nvidia0",), ("overridden", "unexplained"), "no library of the driver"),
    ],
)
def test_a_container_is_looked_at_from_inside(
    docked: FakeHost, files: tuple[str, ...], verdict: tuple[str, str], evidence: str
):
    simulated = dataclasses.replace(docked.plan.host, simulated=False)
    plan_there = dataclasses.replace(docked.plan, host=simulated)
    docked.tools["docker"] = docker(RUNNING)
    for file in files:
        docked.write(f"{INSIDE}/{file}", "")
    report = Report(check=False)
    inside.verify_inside(docked.machine(str(docked.root)), plan_there, report)
    (found,) = report.verdicts
    assert (found.setting, found.verdict, found.cause) == ("runtime.container.new", *verdict)
    assert evidence in found.evidence


def test_containers_without_cards_by_cdi_get_no_verdict(docked: FakeHost):
    docked.tools["docker"] = docker(WITHOUT, LEGACY)
    report = Report(check=False)
    inside.verify_inside(docked.machine(str(docked.root)), docked.plan, report)
    assert report.verdicts == []


def test_podman_names_the_cards_in_the_command_that_made_the_container(docked: FakeHost):
    words = ["podman", "run", "--device", "nvidia.com/gpu=all", "x"]
    container = {"Name": "new", "State": {"Pid": 77}, "HostConfig": {}, "Config": {"CreateCommand": words}}
    docked.tools["podman"] = docker(container)
    (found,) = containers.running(docked.machine(str(docked.root)), "podman")
    assert (found.by_cdi, found.hooked, found.pid) == (True, False, 77)
