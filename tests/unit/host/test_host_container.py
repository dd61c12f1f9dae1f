"""Engines in containers: images before anything changes, the process inside, units that cannot be disabled."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence

import pytest

from inferhost.host.machine import Finished
from inferhost.host.report import Report
from inferhost.host.runtime import inside
from inferhost.host.service.container import units_of
from inferhost.host.service.engine import reason_to_restart
from inferhost.schema.container import Container, Runtime
from inferhost.schema.plan import File, Plan
from tests.unit.host.fake_host import ENGINE, PID, UNIT, FakeHost, plan

IMAGE = f"127.0.0.1:5000/llama.cpp@sha256:{'0123456789abcdef' * 4}"
NAME = "inferhost-serve-main"
OWN_UNIT = f"{NAME}.service"
FILES = {"quadlet": f"/etc/containers/systemd/{NAME}.container", "compose": f"/etc/inferhost/compose/{NAME}.yml"}
ENGINES = {"quadlet": "podman", "compose": "docker"}
INSIDE = "5151"


def contained(mode: str = "quadlet") -> Plan:
    """The usual plan with its engine in a container."""
    before = plan()
    container = Container(
        mode=mode, engine=ENGINES[mode], name=NAME, file=FILES[mode], image=IMAGE, command=ENGINE, user=65532,
        devices=("nvidia.com/gpu=0",), mounts=(("/srv", "/srv", "ro"),), working_directory="/var/cache/inferhost",
        shared_memory_mib=None, host_ipc=False, health=("true",), health_start_s=300, stop_s=15,
    )  # fmt: skip
    service = dataclasses.replace(before.service[0], unit=OWN_UNIT, user="65532", container=container)
    texts = {FILES[mode]: "[Container]\n"} | (
        {f"/etc/systemd/system/{OWN_UNIT}": "[Service]\n"} if mode == "compose" else {}
    )
    files = tuple(File(path, "service", "0644", text, None, "engine restart") for path, text in texts.items())
    return plan(service=(service,), dropins=(), files=(before.files[0], *files))


class Engine:
    """podman or docker, as far as it is asked."""

    def __init__(self, has_image: bool = True, pulls: bool = True, refuses: str = "", composes: bool = True) -> None:
        self.has_image, self.pulls, self.refuses, self.composes = has_image, pulls, refuses, composes
        self.asked: list[str] = []

    def __call__(self, argv: Sequence[str]) -> Finished:
        words = " ".join(argv)
        self.asked.append(words)
        if "image inspect" in words:
            return Finished(0 if self.has_image else 1, "", "no such image")
        if " pull " in words:
            self.has_image = self.pulls
            return Finished(0 if self.pulls else 125, "", "" if self.pulls else "manifest unknown")
        if words.endswith("-dryrun") or words.endswith("config --quiet"):
            return Finished(1 if self.refuses else 0, "", self.refuses)
        if "compose version" in words and not self.composes:
            return Finished(1, "", "docker: 'compose' is not a docker command.")
        if "{{.Name}}" in argv:
            return Finished(0, f"/{NAME if argv[-1] == 'abc123' else 'somebody'}\n", "")
        told = {"{{.State.Pid}}": INSIDE, "{{.Id}}": "abc123"}
        return Finished(0, next((told[word] for word in argv if word in told), ""), "")


@pytest.fixture(params=["quadlet", "compose"])
def box(request: pytest.FixtureRequest, host: FakeHost) -> FakeHost:
    """A host with the container engine of a plan whose engine runs in a container."""
    host.plan = contained(request.param)
    with_engine(host, Engine())
    return host


def with_engine(host: FakeHost, engine: Callable[[Sequence[str]], Finished]) -> None:
    host.tools = dict.fromkeys(("podman", "docker", "env"), engine)


def mode(host: FakeHost) -> str:
    (service,) = host.plan.service
    assert service.container is not None
    return service.container.mode


def run_inside(host: FakeHost) -> None:
    """The container's first process runs as planned; the unit's own one is a helper of the container engine."""
    host.start_engine()
    host.write(f"/proc/{PID}/cmdline", "conmon\0")
    host.write(f"/proc/{INSIDE}/cmdline", "\0".join(ENGINE) + "\0")
    host.write(f"/proc/{INSIDE}/environ", "CUDA_DEVICE_ORDER=PCI_BUS_ID\0")
    host.write(f"/proc/{INSIDE}/status", "Name:\tllama-server\nUid:\t65532\t65532\t65532\t65532\n")
    host.write(f"/proc/{INSIDE}/limits", host.read(f"/proc/{PID}/limits"))


def test_the_truth_is_the_process_inside_and_not_what_the_unit_started(box: FakeHost):
    assert box.run("install").code == 0
    box.place()
    run_inside(box)
    answer = box.run("verify", "--section", "service")
    assert {v["verdict"] for v in answer.document["verdicts"]} == {"held"}, answer.document
    box.write(f"/proc/{INSIDE}/status", "Name:\tllama-server\nUid:\t0\t0\t0\t0\n")
    assert box.run("verify", "--section", "service").verdict("main.user") == ("overridden", "other_writer")


@pytest.mark.parametrize(
    ("allowed", "verdict"),
    [("0-3,8", "held"), ("1-2", "held"), ("0-4,8", "overridden"), ("9", "overridden"), (None, "unverified")],
)
def test_the_process_inside_runs_on_the_cpus_of_its_cards_node_and_no_others(host: FakeHost, allowed, verdict: str):
    host.plan = contained()
    (service,) = host.plan.service
    container = dataclasses.replace(service.container, cpus="0-3,8")
    host.plan = dataclasses.replace(host.plan, service=(dataclasses.replace(service, container=container),))
    with_engine(host, Engine())
    assert host.run("install").code == 0
    host.place()
    run_inside(host)
    line = f"Cpus_allowed_list:\t{allowed}\n" if allowed else ""
    host.write(f"/proc/{INSIDE}/status", f"Uid:\t65532\t65532\t65532\t65532\n{line}")
    found = host.run("verify", "--section", "service")
    assert (found.verdict("main.user")[0], found.verdict("main.cpus")[0]) == ("held", verdict)


def test_no_account_is_made_for_the_number_that_a_container_runs_as(box: FakeHost):
    answer = box.run("install")
    assert answer.document["facts"]["users_absent"] == []
    assert not [key for key in box.baseline() if key.startswith("user:")]


def test_an_image_that_is_there_is_not_fetched(box: FakeHost):
    engine = Engine()
    with_engine(box, engine)
    answer = box.run("engines")
    assert (answer.code, answer.changed) == (0, False)
    assert not [words for words in engine.asked if " pull " in words]
    assert [words for words in engine.asked if words.endswith(("-dryrun", "config --quiet"))]


def test_an_image_that_is_missing_is_fetched_by_its_digest_while_the_old_engine_serves(box: FakeHost):
    engine = Engine(has_image=False)
    with_engine(box, engine)
    assert box.run("engines", "--check").changed
    assert not [words for words in engine.asked if " pull " in words]
    assert box.run("engines").changed
    assert f"{ENGINES[mode(box)]} pull --quiet {IMAGE}" in engine.asked
    assert box.run("engines").changed is False


def test_an_image_that_does_not_come_stops_the_run_before_anything_changes(box: FakeHost):
    with_engine(box, Engine(has_image=False, pulls=False))
    answer = box.run("engines")
    assert answer.code != 0
    (problem,) = answer.problems
    assert problem["path"] == "inferhost_service_image"
    assert "manifest unknown" in problem["message"]


def test_a_description_that_its_engine_does_not_read_stops_the_run(box: FakeHost):
    with_engine(box, Engine(refuses="unsupported key 'Imgae' in group 'Container'"))
    answer = box.run("engines")
    (problem,) = answer.problems
    assert (problem["path"], "unsupported key 'Imgae'" in problem["message"]) == ("inferhost_service_mode", True)


def test_a_host_without_the_engine_is_told_before_anything_is_placed(box: FakeHost):
    box.tools = {}
    (problem,) = box.run("install").problems
    wanted = ENGINES[mode(box)]
    assert problem["message"] == f"{mode(box)} wants {wanted}, which is not on this host"
    assert not box.at("/etc/inferhost/plan.json").exists()


def test_docker_without_compose_is_told(host: FakeHost):
    host.plan = contained("compose")
    with_engine(host, Engine(composes=False))
    (problem,) = host.run("install").problems
    assert problem["message"] == "docker compose does not answer"


def test_weights_that_the_container_could_not_read_are_told(box: FakeHost):
    box.at("/srv").chmod(0o750)
    (problem,) = box.run("install").problems
    assert problem["message"] == "/srv is closed to user 65532, which runs the container"
    assert problem["hint"].startswith("chmod o+rX /srv")
    box.at("/srv").chmod(0o755)
    box.at("/srv/m.gguf").chmod(0o640)
    (problem,) = box.run("install").problems
    assert problem["message"].startswith("/srv/m.gguf is closed to user 65532")


def test_the_executable_is_not_looked_for_on_the_host(box: FakeHost):
    box.at(ENGINE[0]).unlink()
    assert box.run("install").code == 0


GENERATED = (
    f"LoadState=loaded\nActiveState=active\nSubState=running\nMainPID={PID}\nNeedDaemonReload=no\n"
    f"FragmentPath=/run/systemd/generator/{OWN_UNIT}\nSourcePath={FILES['quadlet']}\n"
)


def test_a_reload_that_writes_the_generated_unit_anew_is_no_reason_to_restart(host: FakeHost):
    host.plan = contained()
    with_engine(host, Engine())
    host.run("install")
    host.place()
    run_inside(host)
    host.write(f"/run/systemd/generator/{OWN_UNIT}", "made after the start")
    host.enabled = "generated"
    host.systemctl = GENERATED + "ExecMainStartTimestamp=@1\n"
    os.utime(host.at(FILES["quadlet"]), (1, 1))
    assert host.run("apply", "--section", "service").changed is False
    os.utime(host.at(FILES["quadlet"]), (5, 5))
    assert host.run("apply", "--section", "service").changed is True


@pytest.mark.parametrize("unit", [OWN_UNIT, "inferhost-serve@main.service"])
def test_another_uuid_of_its_slice_is_a_reason_to_restart_an_engine(host: FakeHost, unit: str):
    host.systemctl = "LoadState=loaded\nActiveState=active\nExecMainStartTimestamp=@100\n"
    machine, file = host.machine(str(host.root)), "/run/inferhost/slices/main.env"
    host.write(file, "CUDA_VISIBLE_DEVICES=MIG-2\n")
    for written_s, why in ((50, ""), (200, "running with older files")):
        os.utime(host.at(file), (written_s, written_s))
        assert reason_to_restart(machine, unit, ()) == why


def test_a_description_that_is_not_placed_yet_foretells_a_restart(box: FakeHost):
    box.run("install")
    box.place()
    run_inside(box)
    box.write(FILES[mode(box)], "of an earlier plan")
    answer = box.run("apply", "--check", "--section", "service")
    (change,) = [c for c in answer.document["diff"] if c["setting"] == "service.main.active"]
    assert change["before"] == "running with older files"


def test_a_generated_unit_is_stopped_and_a_file_unit_disabled_when_the_plan_drops_it(box: FakeHost):
    box.run("install")
    box.place()
    run_inside(box)
    asked: list[str] = []
    told = box.command
    box.command = lambda argv: (asked.append(" ".join(argv)), told(argv))[1]  # type: ignore[method-assign]
    is_quadlet = mode(box) == "quadlet"
    box.systemctl = GENERATED if is_quadlet else box.systemctl
    box.plan = plan()
    box.run("install")
    box.run("apply", "--section", "service")
    way = f"systemctl stop -- {OWN_UNIT}" if is_quadlet else f"systemctl disable --quiet --now -- {OWN_UNIT}"
    assert way in asked
    assert not box.at(FILES[["compose", "quadlet"][is_quadlet]]).exists()


def test_status_names_the_unit_and_whether_a_generator_makes_it(box: FakeHost):
    box.run("install")
    box.systemctl = GENERATED if mode(box) == "quadlet" else box.systemctl
    facts = box.run("status").document["facts"]
    assert facts["units"] == [OWN_UNIT]
    assert facts["generated_units"] == ([OWN_UNIT] if mode(box) == "quadlet" else [])


def test_revert_removes_the_description_with_its_folder(box: FakeHost):
    box.run("install")
    box.place()
    box.run("revert", "--section", "service")
    assert not box.at(FILES[mode(box)]).exists()
    assert not box.at("/etc/inferhost/compose").exists()


def test_dockers_scope_belongs_to_the_unit_for_the_gate_and_to_us_for_conflicts(host: FakeHost):
    host.plan = contained("compose")
    with_engine(host, Engine())
    (service,) = host.plan.service
    assert units_of(host.machine(str(host.root)), service) == {OWN_UNIT, "docker-abc123.scope"}
    host.process(77, ENGINE, "docker-abc123.scope")
    host.listen(30000, 77)
    assert host.run("install").code == 0
    with_container, host.plan = host.plan, plan()  # which ends with the change of its mode
    assert host.run("install").code == 0
    host.plan = with_container
    host.process(77, ENGINE, "docker-somebody.scope")
    (problem,) = host.run("install").problems
    assert problem["message"].startswith("port 30000 is taken by")


def test_from_unit_to_container_the_old_unit_goes_first(box: FakeHost):
    after, box.plan = box.plan, plan()
    box.converge()
    box.plan = after
    assert box.run("install").code == 0
    box.place()
    answer = box.run("apply", "--section", "service")
    assert f"service.{UNIT}" in [change["setting"] for change in answer.document["diff"]]
    assert not box.at(f"/etc/systemd/system/{UNIT}.d").exists()


@pytest.mark.parametrize(("nodes", "verdict"), [(1, "held"), (2, "overridden")])
def test_a_card_more_than_the_plan_gives_is_seen_inside(host: FakeHost, nodes: int, verdict: str):
    words = {"CreateCommand": ["--device", "nvidia.com/gpu=0"]}
    found = {"Name": NAME, "State": {"Pid": 77}, "HostConfig": {}, "Config": words}
    runtime = Runtime("podman", "5.4.2", "apt", (), (), None, None, "/run/cdi/nvidia.yaml", {})
    host.plan = dataclasses.replace(contained(), runtime=runtime)
    host.tools["podman"] = lambda argv: Finished(0, "id0" if argv[1] == "ps" else json.dumps([found]), "")
    for path in ("usr/lib64/libcuda.so.580.95.05", *(f"dev/nvidia{number}" for number in range(nodes))):
        host.write(f"/proc/77/root/{path}", "")
    report = Report(check=False)
    inside.verify_inside(host.machine(str(host.root)), host.plan, report)
    assert [found.verdict for found in report.verdicts] == [verdict]
