"""What the drift timer tells Prometheus: declared, measured, verdict, in a file that promtool accepts."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
import stat
import subprocess

import pytest

from inferhost.host.guard.latch import FREE, LATCHED, UNIT, Hold, write_latches
from inferhost.host.watch.metrics import text, trips_now
from inferhost.host.watch.textfile import GUARDED, write
from inferhost.schema.plan import BASE, File, Gpu, GpuSelector, Guard, identified
from inferhost.schema.result import Verdict
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID

FOLDER = "/var/lib/prometheus/node-exporter"
FILE = f"{FOLDER}/inferhost.prom"
RULE = Guard(limit_c=85, resume_c=75, power_w="min", cool_down_s=30)
SAMPLE = re.compile(r'([a-z_]+)(\{([a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*\})? (-?[0-9.e+]+|NaN)')


@pytest.fixture
def exported(host: FakeHost) -> FakeHost:
    """A placed host with Debian's node exporter."""
    host.at(FOLDER).mkdir(parents=True)
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400))
    host.converge()
    return host


def samples(content: str) -> dict[str, float]:
    lines = [line for line in content.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in lines), lines
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_declared_measured_and_verdict_of_each_setting(exported: FakeHost):
    exported.sim("set", "power_limit_mw", 300000)
    assert exported.run("watch").code == 3
    found, card = samples(exported.read(FILE)), f'{{gpu="{UUID}"}}'
    assert found[f"inferhost_gpu_power_limit_declared_watts{card}"] == 450
    assert found[f"inferhost_gpu_power_limit_measured_watts{card}"] == 300
    assert found[f"inferhost_gpu_graphics_clock_lock_declared_min_hertz{card}"] == 2.1e9
    assert found[f"inferhost_gpu_graphics_clock_lock_declared_max_hertz{card}"] == 2.4e9
    assert f"inferhost_gpu_graphics_clock_lock_measured_hertz{card}" not in found  # nobody sampled it
    assert found[f'inferhost_setting_drift{{gpu="{UUID}",setting="power_limit_w"}}'] == 1
    assert found[f'inferhost_setting_drift{{gpu="{UUID}",setting="persistence_mode"}}'] == 0
    info = 'setting="cpu.governor",verdict="held",cause="none",declared="performance",measured="performance"'
    assert found[f"inferhost_setting_info{{{info}}}"] == 1
    assert found[f'inferhost_plan_info{{plan_id="{exported.plan.plan_id}"}}'] == 1


def test_a_clock_that_was_seen_above_its_lock_is_told_in_hertz_and_a_remembered_one_is_not(exported: FakeHost):
    exported.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    exported.converge()
    exported.stop_engine()
    exported.sim("load", "on")
    assert exported.run("verify", "--section", "gpu", "--under-load", "--seconds", "4").code == 0
    measured = f'inferhost_gpu_graphics_clock_lock_measured_hertz{{gpu="{UUID}"}}'
    exported.run("watch")
    assert measured not in samples(exported.read(FILE))
    exported.sim("set", "graphics_clock_lock_mhz", "none")
    exported.wait(2)
    exported.run("watch")
    assert samples(exported.read(FILE))[measured] > 2.5e9


def test_processors_that_differ_are_one_sample_and_the_worst_one(exported: FakeHost):
    exported.write("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n")
    assert exported.run("watch").code == 3
    lines = [line for line in exported.read(FILE).splitlines() if not line.startswith("#")]
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines)
    assert 'inferhost_setting_drift{setting="cpu.governor"} 1' in lines


EXIT_CODE, PRESENT = "inferhost_check_exit_code", "inferhost_gpu_present"


def looked(host: FakeHost) -> tuple[dict[str, float], list[str]]:
    """The metrics of another look, which are new, and what `status` says of it."""
    host.write(FILE, "inferhost_old 1\n")
    host.run("watch")
    found = samples(host.read(FILE))
    assert "inferhost_old" not in found
    return found, host.run("status").document["facts"]["not_held"]


def test_a_card_that_is_gone_is_told_under_its_own_name(exported: FakeHost):
    found, _ = looked(exported)
    assert (found[EXIT_CODE], found[f'{PRESENT}{{gpu="{UUID}"}}']) == (0, 1)
    exported.sim("lost", 0)
    exported.write("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n")
    found, not_held = looked(exported)
    assert (found[EXIT_CODE], found[f'{PRESENT}{{gpu="{UUID}"}}']) == (3, 0)
    assert found['inferhost_setting_drift{setting="cpu.governor"}'] == 1  # the others are looked at all the same
    assert ["GpuIsLost" in what for what in not_held] == [False, True]


def test_one_card_of_two_that_is_gone_is_told_beside_its_neighbour(pair: FakeHost):
    first = plan().gpus[0]
    pair.plan = plan(gpus=(first, dataclasses.replace(first, select=GpuSelector(None, "2BB1", 1))))
    pair.at(FOLDER).mkdir(parents=True)
    pair.converge()
    pair.sim("lost", 0)
    found, not_held = looked(pair)
    assert [found[f'{PRESENT}{{gpu="{uuid}"}}'] for uuid in (UUID, SECOND_UUID)] == [0, 1]
    assert found[EXIT_CODE] == 3
    assert not_held[0].startswith("inferhost_hardware.gpus[0]: ")


@pytest.mark.parametrize("code", [9, 999])
def test_a_driver_that_does_not_answer_any_more_is_told(exported: FakeHost, code: int):
    exported.sim("fail", "nvmlInitWithFlags", code)
    found, not_held = looked(exported)
    assert found['inferhost_setting_drift{setting="cpu.governor"}'] == 0  # the rest is looked at all the same
    assert (found[EXIT_CODE], found[f'{PRESENT}{{gpu="{UUID}"}}']) == (3, 0)
    assert not [line for line in found if "2BB1[0]" in line]
    assert [what for what in not_held if what.startswith("nvml: ")]


def test_a_record_that_cannot_be_read_leaves_no_old_numbers(exported: FakeHost):
    exported.run("watch")
    kept = exported.read("/var/lib/inferhost/baseline.json")
    exported.write("/var/lib/inferhost/baseline.json", "{")
    exported.write(FILE, "inferhost_old 1\n")
    assert exported.run("watch").code == 5
    assert samples(exported.read(FILE))[EXIT_CODE] == 5
    exported.at(FILE).unlink()
    exported.run("watch")
    assert not exported.at(FILE).exists()  # it could not be put on record
    exported.write("/var/lib/inferhost/baseline.json", kept)
    assert "is not JSON" in exported.run("status").document["facts"]["not_held"][0]


def test_how_often_the_guard_had_to_bring_a_card_down(exported: FakeHost):
    exported.plan = with_gpu(guard=RULE)
    exported.passed_s = 4000.0
    trips = f'inferhost_gpu_guard_trips_last_hour{{gpu="{UUID}"}}'
    exported.run("watch")
    assert samples(exported.read(FILE))[trips] == 0
    machine = exported.machine(str(exported.root))
    write_latches(machine, {UUID: Hold(LATCHED, "hot", None, (100.0, 3000.0, 3990.0), 3990.0)})
    exported.run("watch")
    assert samples(exported.read(FILE))[trips] == 2
    write_latches(machine, {UUID: Hold(FREE, "hot", None, (3000.0, 3990.0), 3990.0)})
    exported.run("watch")
    assert samples(exported.read(FILE))[trips] == 2


@pytest.mark.parametrize("beside", [(), with_gpu(guard=RULE).gpus], ids=["alone", "beside a guarded one"])
def test_a_card_that_nobody_guards_has_no_such_metric(exported: FakeHost, beside: tuple[Gpu, ...]):
    held = [Verdict(f"gpu.{UUID}.power_limit_w", 450, 450, "held", "none", "")]
    machine = exported.machine(str(exported.root))
    assert trips_now(machine, with_gpu(guard=RULE), held) == {UUID: 0}
    assert trips_now(machine, plan(gpus=(*plan().gpus, *beside)), held) == {}


def test_what_nobody_can_verify_is_no_drift(exported: FakeHost):
    exported.run("watch")
    drift = f'inferhost_setting_drift{{gpu="{UUID}",setting="graphics_clock_lock_mhz"}}'
    assert samples(exported.read(FILE))[drift] == 0


def test_promtool_accepts_the_file(exported: FakeHost):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("SKIPPED: no promtool on PATH (Debian package prometheus)")
    exported.run("watch")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=exported.read(FILE), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_each_metric_is_told_once_and_stands_together(exported: FakeHost):
    exported.run("watch")
    lines = exported.read(FILE).splitlines()
    names = [line.partition(" ")[0].partition("{")[0] for line in lines if not line.startswith("#")]
    groups = [name for number, name in enumerate(names) if number == 0 or names[number - 1] != name]
    assert len(groups) == len(set(groups))
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == groups


def test_the_exporter_may_read_the_file_and_sees_it_whole_or_not_at_all(exported: FakeHost):
    order: list[str] = []
    exported.run("watch", before_write=order.append)
    assert order.index(f"fill {FILE}") < order.index(f"rename {FILE}")
    assert stat.S_IMODE(exported.at(FILE).stat().st_mode) == 0o644


def test_it_is_on_record_before_it_is_written_and_goes_with_the_last_of_ours(exported: FakeHost):
    order: list[str] = []
    exported.run("watch", before_write=order.append)
    assert order.index("rename /var/lib/inferhost/baseline.json") < order.index(f"create {FILE}")
    assert "baseline.json" not in str(steps_of_another_look(exported))
    exported.stop_engine()
    assert exported.run("revert").code == 0
    assert not exported.at(FILE).exists()
    assert exported.at(FOLDER).exists()


def steps_of_another_look(host: FakeHost) -> list[str]:
    order: list[str] = []
    host.run("watch", before_write=order.append)
    return order


def test_without_an_exporter_nothing_is_written(host: FakeHost):
    host.converge()
    before = set(host.snapshot())
    assert host.run("watch").code == 0
    assert set(host.snapshot()) - before <= {"/run/inferhost/watched.json"}


def test_the_plan_names_the_folder_or_none(exported: FakeHost):
    exported.plan = plan(metrics_folder="none")
    exported.run("watch")
    assert not exported.at(FILE).exists()
    exported.run("watch", "--metrics", "/var/lib/textfile")
    assert exported.at("/var/lib/textfile/inferhost.prom").exists()
    exported.plan = plan(metrics_folder="/srv/textfile")
    exported.run("watch")
    assert exported.at("/srv/textfile/inferhost.prom").exists()
    assert not exported.at(FILE).exists()


def test_an_install_leaves_the_file_where_the_plan_has_it_and_takes_it_from_elsewhere(exported: FakeHost):
    exported.run("watch")
    told = exported.read(FILE)
    answer = exported.run("install")
    assert (answer.said, exported.read(FILE)) == ((False, []), told)
    for folder in ("/srv/textfile", "none"):
        before = FILE if folder != "none" else "/srv/textfile/inferhost.prom"
        exported.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2400))
        exported.plan = identified(dataclasses.replace(exported.plan, metrics_folder=folder))
        assert exported.run("install").changed
        assert not exported.at(before).exists()
        exported.run("watch")
        assert not exported.run("install").changed
    assert not [key for key in exported.baseline() if key.endswith(".prom")]


@pytest.mark.parametrize("guarded", [True, False])
def test_the_guards_file_goes_with_the_guard(exported: FakeHost, guarded: bool):
    unit = File(f"/etc/systemd/system/{UNIT}", BASE, "0644", None, UNIT, "none")
    exported.plan = plan(files=(unit,))
    assert exported.run("install").code == 0
    path = f"{FOLDER}/{GUARDED}"
    write(exported.machine(str(exported.root)), path, "")
    exported.plan = plan(files=(unit,) if guarded else ())
    exported.run("install")
    assert exported.at(path).exists() is guarded


def test_a_folder_that_is_asked_for_is_made_and_goes_again(host: FakeHost):
    host.converge()
    assert host.run("watch", "--metrics", "/var/lib/textfile").code == 0
    assert host.at("/var/lib/textfile/inferhost.prom").exists()
    host.stop_engine()
    assert host.run("revert").code == 0
    assert not host.at("/var/lib/textfile").exists()


def test_values_that_would_break_a_line_are_escaped_and_what_an_engine_is_told_stays_out():
    odd = Verdict("sysctl.x", 'a"b\\c\nd', None, "held", "none", "")
    told = Verdict("service.main.env.HF_HOME", "/secret/place", "/secret/place", "held", "none", "")
    content = text(plan(), [odd, told, odd], 1.5)
    assert r'declared="a\"b\\c\nd"' in content
    assert content.count('setting="sysctl.x"') == 2  # drift and info, each once
    assert "secret" not in content
    samples(content)


def test_of_several_in_one_place_the_worst_is_told_whatever_their_order():
    held = Verdict("cpu.governor", "performance", "performance", "held", "none", "")
    moved = Verdict("cpu.governor", "performance", "powersave", "overridden", "other_writer", "")
    for verdicts in ([held, moved], [moved, held]):
        assert samples(text(plan(), verdicts, 1.5))['inferhost_setting_drift{setting="cpu.governor"}'] == 1


@pytest.mark.parametrize("wanted", ["default", None])
def test_what_was_declared_without_a_number_is_told_in_no_number(wanted: str | None):
    found = samples(text(plan(), [Verdict(f"gpu.{UUID}.power_limit_w", wanted, 450, "held", "none", "")], 1.5))
    assert {
        name.partition("{")[0]: value for name, value in found.items() if "power_limit_" in name.partition("{")[0]
    } == {"inferhost_gpu_power_limit_measured_watts": 450}


def test_a_time_is_told_to_the_second():
    assert 1_798_000_123.5 in samples(text(plan(), [], 1_798_000_123.5)).values()


def test_check_mode_writes_no_metrics(exported: FakeHost):
    exported.run("watch", "--check")
    assert not pathlib.Path(exported.at(FILE)).exists()
