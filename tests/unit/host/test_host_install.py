"""Install: the record first, then program and plan; and check mode that foretells exactly that."""

from __future__ import annotations

import dataclasses
import hashlib
import stat

import pytest

from tests.unit.host.fake_host import DROPIN, SYSCTL_FILE, FakeHost, plan, with_gpu
from tests.unit.host.simulated import UUID


def test_the_record_is_on_disk_before_program_and_plan(host: FakeHost):
    order: list[str] = []
    host.run("install", before_write=order.append)
    renamed = [step.split()[1] for step in order if step.startswith("rename")]
    record = ["/var/lib/inferhost/baseline.json", "/var/lib/inferhost/recorded"]
    assert renamed == [*record, "/usr/local/bin/inferhost", "/etc/inferhost/plan.json"]


def test_install_records_everything_that_the_plan_may_change(host: FakeHost):
    assert host.run("install").code == 0
    assert sorted(host.baseline()) == [
        "cpu:0:energy_performance_preference",
        "cpu:0:governor",
        "cpu:1:energy_performance_preference",
        "cpu:1:governor",
        "dir:/etc/inferhost",
        f"dir:{DROPIN.rpartition('/')[0]}",
        f"file:{SYSCTL_FILE}",
        "file:/etc/systemd/system/inferhost-serve@.service",
        f"file:{DROPIN}",
        f"gpu:{UUID}:persistence_mode",
        f"gpu:{UUID}:power_limit_mw",
        "sysctl:vm.swappiness",
        "tree:/var/cache/inferhost",
        "user:inferhost",
    ]


def test_a_gpu_record_says_card_boot_and_driver(host: FakeHost):
    host.run("install")
    assert host.baseline()[f"gpu:{UUID}:power_limit_mw"] == {
        "section": "gpu",
        "found": 480000,
        "context": {
            "uuid": UUID,
            "name": "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            "boot_id": "boot-1",
            "driver_version": "580.95.05",
            "selected_as": "2BB1[0]",
        },
    }


def test_program_and_plan_have_their_bytes_and_modes(host: FakeHost):
    host.run("install")
    assert host.at("/usr/local/bin/inferhost").read_bytes() == host.program.read_bytes()
    assert host.read("/etc/inferhost/plan.json") == (host.folder / "plan.json").read_text()
    modes = [
        stat.S_IMODE(host.at(p).stat().st_mode) for p in ("/usr/local/bin/inferhost", "/etc/inferhost/plan.json")
    ]
    assert modes == [0o755, 0o640]


def test_the_diff_shows_the_plan_as_text_and_the_program_by_its_hash(host: FakeHost):
    diff = {c["setting"]: c for c in host.run("install").document["diff"]}
    assert list(diff) == ["/var/lib/inferhost/baseline.json", "/usr/local/bin/inferhost", "/etc/inferhost/plan.json"]
    digest = hashlib.sha256(host.program.read_bytes()).hexdigest()
    assert diff["/usr/local/bin/inferhost"]["after"] == f"sha256 {digest}"
    assert diff["/etc/inferhost/plan.json"]["before"] == "absent"
    assert diff["/etc/inferhost/plan.json"]["after"] == (host.folder / "plan.json").read_text()


def test_a_second_install_changes_nothing(host: FakeHost):
    host.run("install")
    before = host.snapshot()
    assert host.run("install").said == (False, [])
    assert host.snapshot() == before


@pytest.mark.parametrize("verb", ["install", "apply"])
def test_check_mode_foretells_the_real_run_and_writes_nothing(host: FakeHost, verb: str):
    if verb == "apply":
        host.run("install")
    before = host.snapshot()
    foretold = host.run(verb, "--check")
    assert host.snapshot() == before
    real = host.run(verb)
    assert foretold.said == real.said
    assert real.changed


def test_apply_foretold_on_a_bare_host_is_what_apply_does_after_install(host: FakeHost):
    foretold = host.run("apply", "--check")
    host.run("install")
    assert host.run("apply").said == foretold.said


def test_a_new_plan_records_only_the_new_keys(host: FakeHost):
    host.converge()
    host.write("/proc/sys/vm/dirty_ratio", "20\n")
    host.plan = plan(sysctl={"vm.swappiness": "10", "vm.dirty_ratio": "40"})
    diff = {c["setting"]: c for c in host.run("install").document["diff"]}
    before, after = (set(diff["/var/lib/inferhost/baseline.json"][k].splitlines()) for k in ("before", "after"))
    assert after - before == {"sysctl:vm.dirty_ratio"}


def test_a_wrong_mode_is_repaired_and_shown(host: FakeHost):
    host.run("install")
    host.at("/etc/inferhost/plan.json").chmod(0o644)
    expected = [{"setting": "/etc/inferhost/plan.json (mode)", "before": "0644", "after": "0640"}]
    assert host.run("install").document["diff"] == expected


def test_what_apply_would_refuse_is_refused_before_anything_is_placed(host: FakeHost):
    before = host.snapshot()
    host.plan = with_gpu(power_limit_w=700)
    answer = host.run("install")
    assert answer.code == 2
    assert host.snapshot() == before


def test_unmanaged_sections_are_not_recorded(host: FakeHost):
    host.plan = plan(manage=("gpu",))
    host.run("install")
    sections = {record["section"] for record in host.baseline().values()}
    assert sections == {"gpu", "base"}


def test_an_install_from_something_that_is_no_zipapp_is_refused(host: FakeHost):
    host.program = host.folder / "personality.txt"
    answer = host.run("install")
    assert answer.code == 2
    assert answer.prose == (
        f"error: {host.program}: is not the host program, wanted its zipapp\n"
        "hint: run install from the zipapp itself, or name it with --program\n"
    )


def test_an_engine_or_a_model_that_is_not_there_is_refused_before_anything_is_placed(host: FakeHost):
    host.at("/srv/m.gguf").unlink()
    before = host.snapshot()
    answer = host.run("install")
    assert answer.code == 2
    assert answer.prose.splitlines() == [
        "error: inferhost_service_model_path: /srv/m.gguf is not on this host",
        "hint: install or copy it first, or name the place where it is",
    ]
    assert host.snapshot() == before


def test_a_file_that_changes_what_the_arguments_say_is_refused_before_anything_is_placed(host: FakeHost):
    (service,) = host.plan.service
    host.plan = plan(
        service=(dataclasses.replace(service, engine="tabbyapi", overruled_by=("/srv/m/tabby_config.yml",)),)
    )
    assert host.run("install", "--check").code == 0
    host.write("/srv/m/tabby_config.yml", "model: {cache_mode: Q4}\n")
    before = host.snapshot()
    answer = host.run("install")
    assert answer.code == 2
    assert answer.prose.splitlines() == [
        "error: inferhost_service_engine: tabbyapi reads /srv/m/tabby_config.yml, which changes what is planned",
        "hint: move it away; inferhost import --tabbyapi FILE says which options mean the same",
    ]
    assert host.snapshot() == before


def test_only_users_that_are_not_there_are_asked_for(host: FakeHost):
    assert host.run("install").document["facts"]["users_absent"] == ["inferhost"]
    host.place()
    assert host.run("install").document["facts"]["users_absent"] == []
