"""An engine on a slice of a card: it is told the slice's name before it starts, and anew after each boot."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.schema.plan import Plan, Slice
from tests.unit.host.fake_host import PID, FakeHost, plan
from tests.unit.host.test_host_mig import A100, GPU, HALVES, SLICE_FILE, by_hand, card_plan, restart


def sliced_plan(number: int = 1) -> Plan:
    """An engine on a slice of an A100."""
    whole, cards = plan(), card_plan("20B5", mig=HALVES).gpus
    service = dataclasses.replace(whole.service[0], slice=Slice(cards[0].select, number))
    return dataclasses.replace(whole, gpus=cards, manage=("gpu", "service"), service=(service,))


@pytest.fixture
def a100(host: FakeHost) -> FakeHost:
    host.sim("init", A100)
    host.sim("set", "persistence", 1)
    host.plan = sliced_plan()
    return host


def converged(host: FakeHost) -> None:
    host.plan = sliced_plan()
    assert host.run("install").code == 0
    host.place()
    assert host.run("apply").code == 0


def test_an_engine_gets_the_uuid_of_its_slice_before_it_starts_and_after_each_boot(a100: FakeHost):
    a100.plan = sliced_plan()
    assert a100.run("install").code == 0
    foretold = a100.run("apply", *GPU, "--check")
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.said) == (0, foretold.said)
    assert answer.verdict("service.main.slice") == ("held", "none")
    first = a100.read(SLICE_FILE)
    assert first.startswith("CUDA_VISIBLE_DEVICES=MIG-")
    seen: list[str] = []
    by_hand(lambda mig: seen.extend(uuid for _, uuid in mig.devices()))
    assert first == f"CUDA_VISIBLE_DEVICES={seen[1]}\n"
    restart(a100)
    answer = a100.run("verify", *GPU)
    assert (answer.code, answer.verdict("service.main.slice")) == (3, ("refused", "unexplained"))
    assert a100.run("boot").verdict("service.main.slice") == ("held", "none")
    assert a100.read(SLICE_FILE) == first


def test_a_slice_that_the_driver_does_not_name_is_told_with_its_error(a100: FakeHost):
    a100.plan = sliced_plan()
    assert a100.run("install").code == 0
    a100.run("apply", *GPU)
    a100.sim("fail", "nvmlDeviceGetMigDeviceHandleByIndex", 999)
    answer = a100.run("verify", *GPU)
    assert (answer.code, answer.verdict("service.main.slice")) == (3, ("refused", "unexplained"))
    assert any("GetMigDeviceHandleByIndex: Unknown" in note for note in answer.document["notes"])


def test_a_running_engine_is_compared_with_its_slice(a100: FakeHost):
    converged(a100)
    a100.start_engine()
    device = a100.read(SLICE_FILE).strip()
    environ = f"PATH=/bin\0CUDA_DEVICE_ORDER=PCI_BUS_ID\0{device}\0"
    a100.write(f"/proc/{PID}/environ", environ)
    setting = "service.main.env.CUDA_VISIBLE_DEVICES"
    assert a100.run("verify").verdict(setting) == ("held", "none")
    a100.write(f"/proc/{PID}/environ", environ.replace("MIG-", "MIG-0"))
    assert a100.run("verify").verdict(setting) == ("overridden", "other_writer")


def test_a_file_with_another_device_is_drift_and_written_again(a100: FakeHost):
    converged(a100)
    right = a100.read(SLICE_FILE)
    a100.write(SLICE_FILE, "CUDA_VISIBLE_DEVICES=MIG-0\n")
    assert a100.run("verify", *GPU).verdict("service.main.slice") == ("overridden", "driver_reload")
    assert a100.run("apply", *GPU).code == 0
    assert a100.read(SLICE_FILE) == right


def test_a_slice_that_could_not_be_made_leaves_no_file_to_start_with(a100: FakeHost):
    converged(a100)
    a100.plan = dataclasses.replace(a100.plan, gpus=card_plan("20B5", mig=(HALVES[0], HALVES[1])).gpus)
    by_hand(lambda mig: mig.destroy(mig.instances()[1]))
    a100.sim("fail", "nvmlDeviceCreateGpuInstanceWithPlacement", 23)
    answer = a100.run("apply", *GPU)
    assert (answer.code, answer.verdict("service.main.slice")) == (3, ("refused", "unexplained"))
    assert not a100.at(SLICE_FILE).exists()


def test_a_revert_takes_the_files_away(a100: FakeHost):
    bare = a100.snapshot()
    converged(a100)
    a100.stop_engine()
    assert a100.run("revert", "--section", "gpu", "--check").code == 0
    assert a100.at(SLICE_FILE).exists()
    assert a100.run("revert").code == 0
    assert not a100.at("/run/inferhost/slices").exists()
    assert a100.snapshot()["cards"] == bare["cards"]


def test_a_program_on_a_divided_card_stands_in_the_way_of_an_engine_on_a_slice(a100: FakeHost):
    a100.plan = sliced_plan()
    a100.sim("load", "on", "--pid", 4711)
    a100.process(4711, ["/usr/bin/other"], "other.service")
    answer = a100.run("install")
    assert (answer.code, answer.problems[0]["id"]) == (2, "card-taken")
