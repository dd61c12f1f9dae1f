"""Which devices a specification names, and whether a container of the plan has the card that the plan says."""

from __future__ import annotations

import dataclasses
import json

import pytest

from inferhost.host.machine import Finished
from inferhost.host.report import Report
from inferhost.host.runtime import cdi, inside
from inferhost.schema.container import Runtime
from inferhost.schema.result import Verdict
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.test_host_container import ENGINES, NAME, contained

SPEC = "/run/cdi/nvidia.yaml"
RUNTIME = Runtime("podman", "5.4.2", "apt", (), (), None, None, SPEC, {})
NODES = "deviceNodes:\n    - path: /dev/nvidia-uvm\n      major: {}\n      fileMode: 438\n      permissions: rwm\n"
NODES += "    - path: /dev/nvidia-uvm-tools\n      major: {}\n      minor: 1\n"
CAP = "    - path: /dev/nvidia-caps/nvidia-cap30\n      major: {}\n      minor: 30\n"
DEVICES = "Character devices:\n  1 mem\n195 nvidia\n{} nvidia-uvm\n237 nvidia-caps\n\nBlock devices:\n259 blkext\n"
CARD = "GPU-5a1b6000-2bb1-4000-8000-000000000001"
OTHER = "GPU-5a1b6000-2bb1-4000-8000-000000000002"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NODES.format(507, 507), ""),
        (NODES.replace("\n      major: {}", ""), ""),
        (
            NODES.format(507, 234),
            "it names /dev/nvidia-uvm-tools by number 234, and the module has 507 since it was loaded",
        ),
        (NODES.format(507, 507) + CAP.format(237), ""),
        (
            NODES.format(507, 507) + CAP.format(238),
            "it names /dev/nvidia-caps/nvidia-cap30 by number 238, and the module has 237 since it was loaded",
        ),
        ("deviceNodes:\n    - path: /dev/nvidia0\n", "it does not name /dev/nvidia-uvm, without which CUDA does not"),
        (NODES.format(507, 507) + "    - path: /dev/nvidia3\n", "it names /dev/nvidia3, which is not on this host"),
    ],
)
def test_a_specification_is_stale_when_a_device_has_another_number_or_none(host: FakeHost, text: str, why: str):
    for node in ("nvidia0", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/nvidia-cap30"):
        host.write(f"/dev/{node}", "")
    host.write("/proc/devices", DEVICES.format(507))
    host.write(SPEC, text)
    found = cdi.stale(host.machine(str(host.root)), RUNTIME)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_a_module_that_is_not_loaded_has_no_number_to_differ_from(host: FakeHost):
    for node in ("nvidia-uvm", "nvidia-uvm-tools"):
        host.write(f"/dev/{node}", "")
    host.write("/proc/devices", "Character devices:\n195 nvidia\n")
    host.write(SPEC, NODES.format(234, 234))
    assert cdi.stale(host.machine(str(host.root)), RUNTIME) == ""


@pytest.mark.parametrize(
    ("device", "lacks"),
    [(CARD, ""), ("0", ""), (OTHER, OTHER), ("1", "1"), ("${SLICE}", "")],
)
def test_a_specification_without_a_card_that_the_plan_gives_is_stale(host: FakeHost, device: str, lacks: str):
    plan = contained()
    container = dataclasses.replace(plan.service[0].container, devices=(f"nvidia.com/gpu={device}",))
    plan = dataclasses.replace(plan, service=(dataclasses.replace(plan.service[0], container=container),))
    host.write(SPEC, f'kind: nvidia.com/gpu\ndevices:\n- name: "0"\n  containerEdits: {{}}\n- name: {CARD}\n')
    found = cdi.stale(host.machine(str(host.root)), RUNTIME, cdi.planned_names(plan))
    assert found == (f"it does not name {lacks}, which the plan gives to a container" if lacks else "")


def looked_at(host: FakeHost, mode: str, *nodes: str, by_cdi: bool = True, managed: bool = False) -> Verdict:
    """The verdict on the plan's container, whose first process has these nodes."""
    plan = contained(mode)
    (service,) = plan.service
    container = dataclasses.replace(service.container, devices=(f"nvidia.com/gpu={CARD}",))
    service = dataclasses.replace(service, container=container)
    host.plan = dataclasses.replace(
        plan,
        service=(service,),
        runtime=RUNTIME if managed else None,
        host=dataclasses.replace(plan.host, simulated=False),
    )
    words = ["--device", f"nvidia.com/gpu={CARD}"] if by_cdi else []
    requests = [{"Driver": "cdi", "DeviceIDs": words[1:]}]
    shown = {"Name": f"/{NAME}", "State": {"Pid": 77}}
    shown |= (
        {"HostConfig": {}, "Config": {"CreateCommand": words}}
        if mode == "quadlet"
        else {"HostConfig": {"DeviceRequests": requests}, "Config": {}}
    )
    answers = {"ps": "id0", "inspect": json.dumps([shown])}
    host.tools[ENGINES[mode]] = lambda argv: Finished(0, answers.get(argv[1], ""), "")
    for path in ("usr/lib64/libcuda.so.580.95.05", *(f"dev/{node}" for node in nodes)):
        host.write(f"/proc/77/root/{path}", "")
    report = Report(check=False)
    inside.verify_inside(host.machine(str(host.root)), host.plan, report)
    (found,) = report.verdicts
    return found


def drivers_list(host: FakeHost) -> None:
    """What the driver says of its cards; their nodes are not in the order of their addresses."""
    for number, address, uuid in ((1, "0000:01:00.0", CARD), (0, "0000:41:00.0", OTHER)):
        text = f"Model: \t\t NVIDIA\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\nDevice Minor: \t {number}\n"
        host.write(f"/proc/driver/nvidia/gpus/{address}/information", text)


@pytest.mark.parametrize("mode", sorted(ENGINES))
@pytest.mark.parametrize("managed", [True, False], ids=["runtime managed", "engine given"])
def test_the_planned_card_is_inside_and_no_other(host: FakeHost, mode: str, managed: bool):
    drivers_list(host)
    found = looked_at(host, mode, "nvidia1", managed=managed)
    assert (found.verdict, found.setting) == ("held", f"runtime.container.{NAME}")


@pytest.mark.parametrize("mode", sorted(ENGINES))
def test_another_card_than_the_planned_one_is_seen(host: FakeHost, mode: str):
    drivers_list(host)
    found = looked_at(host, mode, "nvidia0")
    assert (found.verdict, found.found) == ("overridden", "another card")
    assert found.evidence == "/proc/77/root/dev: nvidia0, and the plan's cards are nvidia1"


def test_a_driver_that_does_not_know_the_card_by_its_name_proves_no_other_card(host: FakeHost):
    assert looked_at(host, "quadlet", "nvidia0").verdict == "held"


@pytest.mark.parametrize(("nodes", "verdict"), [(("nvidia-uvm",), "held"), ((), "overridden")])
def test_a_container_without_the_device_of_unified_memory_is_seen(
    host: FakeHost, nodes: tuple[str, ...], verdict: str
):
    host.write("/proc/devices", DEVICES.format(507))
    found = looked_at(host, "compose", "nvidia0", *nodes)
    assert (found.verdict, "no nvidia-uvm" in found.evidence) == (verdict, not nodes)


def test_a_planned_container_that_was_given_no_card_is_not_passed_over(host: FakeHost):
    found = looked_at(host, "quadlet", by_cdi=False)
    assert (found.verdict, found.found) == ("overridden", "no card")


def test_verify_looks_into_the_container_with_the_service_where_the_engine_was_given(host: FakeHost):
    assert looked_at(host, "quadlet", "nvidia0").verdict == "held"
    host.plan = dataclasses.replace(host.plan, host=dataclasses.replace(host.plan.host, simulated=True))
    assert host.run("install").code == 0
    answer = host.run("verify", "--section", "service")
    assert answer.verdict(f"runtime.container.{NAME}") == ("held", "none")
