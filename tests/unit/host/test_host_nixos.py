"""On NixOS files and plan are links into the store, and its own tools load them: only the rest is recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inferhost.host.record.baseline import BASELINE, MARK
from inferhost.host.record.placed import placed_files
from tests.unit.host.fake_host import FakeHost
from tests.unit.host.simulated import UUID

SWAPPINESS = "/proc/sys/vm/swappiness"
HARDWARE = ("--section", "gpu", "--section", "cpu")


@pytest.fixture
def nixos(host: FakeHost) -> FakeHost:
    """The host in the order of a first switch: record, links, systemd-sysctl, then the unit that applies."""
    host.untouched = host.snapshot()
    assert host.run("record", "--section", "cpu").code == 0
    store = host.folder / "store"
    store.mkdir()
    for number, file in enumerate(placed_files(host.plan, host.plan.manage)):
        (store / str(number)).write_bytes(file.content)
        host.at(file.path).parent.mkdir(parents=True, exist_ok=True)
        host.at(file.path).symlink_to(store / str(number))
    host.write(SWAPPINESS, "10\n")
    return host


def test_record_leaves_nothing_but_the_record(host: FakeHost):
    before = set(host.snapshot())
    assert host.run("record").changed
    new = {path for path in set(host.snapshot()) - before if host.at(path).is_file()}
    assert new == {"/var/lib/inferhost/baseline.json", "/var/lib/inferhost/recorded", "/run/inferhost/lock"}
    assert {key.split(":")[0] for key in host.baseline()} == {"cpu", "gpu", "sysctl"}


def test_record_keeps_to_its_section(host: FakeHost):
    host.run("record", "--section", "cpu")
    assert {key.split(":")[0] for key in host.baseline()} == {"cpu", "sysctl"}


def test_record_in_check_mode_writes_nothing(host: FakeHost):
    before = host.snapshot()
    assert host.run("record", "--check").changed
    assert host.snapshot() == before


def test_a_value_that_nixos_loads_before_apply_is_not_taken_for_the_original(nixos: FakeHost):
    assert nixos.run("apply", *HARDWARE).code == 0
    assert nixos.baseline()["sysctl:vm.swappiness"]["found"] == "60"


def test_a_stop_of_the_unit_puts_kernel_and_cards_back(nixos: FakeHost):
    nixos.run("apply", *HARDWARE)
    assert nixos.card()["power_limit_mw"] == nixos.plan.gpus[0].power_limit_w * 1000
    assert nixos.run("revert", *HARDWARE).code == 0
    assert nixos.card()["power_limit_mw"] == 480000
    assert nixos.read(SWAPPINESS) == "60\n"
    assert nixos.snapshot()["cards"] == nixos.untouched["cards"]


def test_files_that_are_links_into_the_store_are_held(nixos: FakeHost):
    nixos.run("apply", *HARDWARE)
    verdicts = {v["setting"]: v["verdict"] for v in nixos.run("verify").document["verdicts"]}
    files = [f"file:{file.path}" for file in placed_files(nixos.plan, nixos.plan.manage)]
    assert {verdicts[file] for file in files} == {"held"}


def test_plan_and_program_that_are_links_do_not_mean_a_lost_record(host: FakeHost):
    for path in ("/etc/inferhost/plan.json", "/usr/local/bin/inferhost"):
        host.at(path).parent.mkdir(parents=True, exist_ok=True)
        host.at(path).symlink_to(host.program)
    assert host.run("apply", *HARDWARE).code == 0


def test_a_lost_record_is_not_made_anew_from_our_own_values(host: FakeHost):
    for path in ("/etc/inferhost/plan.json", "/usr/local/bin/inferhost"):
        host.at(path).parent.mkdir(parents=True, exist_ok=True)
        host.at(path).symlink_to(host.program)
    assert host.run("record").code == 0
    assert host.run("apply", *HARDWARE).code == 0
    record = host.at("/var/lib/inferhost/baseline.json")
    record.unlink()
    for verb in (("record",), ("record", "--section", "cpu"), ("apply", *HARDWARE), ("boot",)):
        answer = host.run(*verb)
        assert (answer.code, answer.problems[0]["id"]) == (5, "record-lost")
        assert "remove /var/lib/inferhost/recorded" in answer.problems[0]["hint"]
    assert not record.exists()
    host.at("/var/lib/inferhost/recorded").unlink()
    assert host.run("record").code == 0


def test_a_record_from_before_the_mark_gets_one(nixos: FakeHost):
    mark = nixos.at("/var/lib/inferhost/recorded")
    mark.unlink()
    assert not nixos.run("record", "--section", "cpu").changed
    assert mark.exists()


class Killed(BaseException):
    pass


def killed_at(last: str) -> Callable[[str], None]:
    def kill(step: str) -> None:
        if step == last:
            raise Killed

    return kill


def test_a_revert_of_everything_takes_the_mark_away(nixos: FakeHost):
    nixos.at("/etc/inferhost").mkdir(parents=True, exist_ok=True)
    nixos.at("/etc/inferhost/plan.json").symlink_to(nixos.program)
    nixos.run("apply", *HARDWARE)
    for last in (MARK, BASELINE):
        with pytest.raises(Killed):
            nixos.run("revert", before_write=killed_at(f"remove {last}"))
        assert nixos.run("record").code == 0
    assert nixos.run("revert").code == 0
    assert not nixos.at("/var/lib/inferhost").exists()
    assert nixos.at("/etc/inferhost/plan.json").is_symlink()
    assert nixos.run("record").code == 0


def test_the_next_boot_records_nothing_anew(nixos: FakeHost):
    nixos.run("apply", *HARDWARE)
    before = nixos.baseline()
    assert f"gpu:{UUID}:power_limit_mw" in before
    assert not nixos.run("record", "--section", "cpu").changed
    assert nixos.baseline() == before
