"""One JSON document on stdout, prose on stderr, an exit code; and the zipapp that carries it."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

from inferhost.host import cli
from inferhost.host.zipapp_build import build, members
from inferhost.schema import document, result
from tests.unit.host.fake_host import PREFERENCES, FakeHost

ISOLATED = [sys.executable, "-I"]


def zipapp(program: pathlib.Path, *arguments: str, library: pathlib.Path | None = None):
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    if library is not None:
        environment["LD_LIBRARY_PATH"] = str(library)
    command = [*ISOLATED, str(program), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_same_sources_give_the_same_bytes(tmp_path: pathlib.Path, program: pathlib.Path):
    digest = build(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == program.read_bytes()
    assert digest == hashlib.sha256(program.read_bytes()).hexdigest()


def test_the_bytes_depend_on_no_clock_no_mode_and_no_order(program: pathlib.Path):
    with zipfile.ZipFile(program) as archive:
        entries = archive.infolist()
    assert [e.filename for e in entries] == sorted(e.filename for e in entries)
    assert {e.date_time for e in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {e.compress_type for e in entries} == {zipfile.ZIP_STORED}
    assert {e.external_attr >> 16 for e in entries} == {0o100644}


def test_the_zipapp_holds_what_the_host_needs_and_nothing_of_the_controller():
    names = set(members())
    assert {"__main__.py", "pynvml.py", "inferhost/schema/plan.py"} <= names
    assert "inferhost/host/units/inferhost-serve@.service" in names
    assert not {n for n in names if "planner" in n or "wish" in n or n.endswith("zipapp_build.py")}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="this Python does not list its standard library")
def test_host_code_needs_the_standard_library_and_pynvml_only():
    allowed = {*getattr(sys, "stdlib_module_names", ()), "inferhost", "pynvml", "__future__"}
    for name, content in members().items():
        if name.startswith("inferhost/") and name.endswith(".py"):
            tree = ast.walk(ast.parse(content))
            found = {a.name.partition(".")[0] for n in tree if isinstance(n, ast.Import) for a in n.names}
            assert found <= allowed, name


def test_the_zipapp_starts_isolated_and_says_what_it_can_do(program: pathlib.Path):
    done = zipapp(program, "--help")
    assert done.returncode == 0
    for word in (*cli.VERBS, "exit codes:", "5  the record of what was here before"):
        assert word in done.stdout


def test_the_zipapp_starts_by_its_own_name(program: pathlib.Path):
    assert program.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert os.access(program, os.X_OK)


COUNTED = """
import builtins, collections, runpy, sys
compiled, real = collections.Counter(), builtins.compile
builtins.compile = lambda source, file, *a, **k: (compiled.update([str(file)]), real(source, file, *a, **k))[1]
try:
    runpy.run_path(sys.argv[1], run_name="__main__")
except SystemExit:
    import inferhost.host.gpu as package
    print(package.__file__, len(compiled), [n for n in compiled if compiled[n] > 1 and "inferhost/host" in n])
"""


def test_no_module_of_the_zipapp_is_compiled_twice(program: pathlib.Path):
    """It has no place for compiled ones, so that each start of it compiles them."""
    command = [*ISOLATED, "-c", COUNTED, str(program), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    file, count, *twice = done.stdout.splitlines()[-1].split(maxsplit=2)
    assert file == f"{program}/inferhost/host/gpu/__init__.py"
    assert int(count) > 50
    assert twice == ["[]"]


def test_the_whole_way_works_from_the_zipapp(host: FakeHost, program: pathlib.Path):
    plan = host.folder / "plan.json"
    plan.write_text(document.text(host.plan))
    root = ["--root", str(host.root)]
    done = zipapp(program, "install", "--plan", str(plan), *root, library=host.build)
    assert done.returncode == 0, done.stderr
    host.place()
    installed = host.at("/usr/local/bin/inferhost")
    assert zipapp(installed, "apply", *root, library=host.build).returncode == 0
    assert host.card()["power_limit_mw"] == 450000
    assert zipapp(installed, "verify", "--section", "gpu", *root, library=host.build).returncode == 0
    host.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")  # userdel of this machine is not asked
    done = zipapp(installed, "revert", *root, library=host.build)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        0,
        "changed gpu.GPU-5a1b6000-2bb1-4000-8000-000000000001.power_limit_w: 450 -> 480",
    )
    assert not installed.exists()
    assert zipapp(program, "revert", *root, library=host.build).returncode == 0


def test_for_a_copy_of_a_host_no_command_runs_on_this_machine(host: FakeHost, program: pathlib.Path):
    host.converge()
    host.stop_engine()
    done = zipapp(program, "revert", "--section", "service", "--root", str(host.root))
    assert done.returncode == result.EXIT_NOT_DONE
    assert "userdel ended with 127: userdel: not run for a copy of a host" in done.stderr


def test_without_a_library_the_gpu_settings_wait(host: FakeHost, program: pathlib.Path):
    plan = host.folder / "plan.json"
    plan.write_text(document.text(host.plan))
    done = zipapp(program, "verify", "--plan", str(plan), "--section", "gpu", "--root", str(host.root))
    assert done.returncode == result.EXIT_PENDING
    assert {v["cause"] for v in json.loads(done.stdout)["verdicts"]} == {"needs_driver"}


def test_facts_work_without_a_library(host: FakeHost, program: pathlib.Path):
    device = "/sys/bus/pci/devices/0000:03:00.0"
    for name, text in (("vendor", "0x10de"), ("class", "0x030000"), ("device", "0x2bb1"), ("numa_node", "-1")):
        host.write(f"{device}/{name}", f"{text}\n")
    done = zipapp(program, "facts", "--root", str(host.root))
    assert done.returncode == 0
    facts = json.loads(done.stdout)["facts"]
    assert (facts["gpus"][0]["pci_device_id"], facts["gpus"][0]["uuid"]) == ("2BB1", None)
    assert (facts["driver_version"], facts["simulated"]) == (None, None)
    assert "note: GPUs as the PCI bus shows them: nvmlInit: LibraryNotFound (NVML error 12)" in done.stderr


def test_nvswitches_are_nvidias_bridges_on_the_pci_bus(host: FakeHost):
    """Addresses and classes as a p4d.24xlarge shows them: Bottlerocket's fabricmanager-condition."""
    rows = ("10:1c", "0x10de", "0x030200"), ("80:1a", "0x10de", "0x068000"), ("80:1b", "0x10de", "0x068000")
    for slot, vendor, kind in (*rows, ("00:01", "0x8086", "0x068000"), ("00:04", "0x1d0f", "0x010802")):
        host.write(f"/sys/bus/pci/devices/0000:{slot}.0/vendor", f"{vendor}\n")
        host.write(f"/sys/bus/pci/devices/0000:{slot}.0/class", f"{kind}\n")
    assert host.run("facts").document["facts"]["nvswitches"] == 2


def test_facts_have_the_same_keys_with_and_without_a_driver(host: FakeHost):
    device = "/sys/bus/pci/devices/0000:03:00.0"
    for name, text in (("vendor", "0x10de"), ("class", "0x030200"), ("device", "0x2bb1"), ("numa_node", "1")):
        host.write(f"{device}/{name}", f"{text}\n")
    with_driver = host.run("facts").document["facts"]
    host.sim("fail", "nvmlInitWithFlags", 9)
    without = host.run("facts").document["facts"]
    assert with_driver.keys() == without.keys()
    assert with_driver["gpus"][0].keys() == without["gpus"][0].keys()
    assert (with_driver["gpus"][0]["numa_node"], without["gpus"][0]["numa_node"]) == (1, 1)


def test_facts_are_those_that_discovery_writes_down(host: FakeHost):
    host.write("/etc/os-release", 'ID=ubuntu\nVERSION_ID="22.04"\n')
    host.write("/proc/meminfo", "MemTotal:       134217728 kB\n")
    host.write("/proc/cpuinfo", "model name\t: Test CPU\n")
    for cpu, core in ((0, 0), (1, 1)):
        host.write(f"/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", "0\n")
        host.write(f"/sys/devices/system/cpu/cpu{cpu}/topology/core_id", f"{core}\n")
    for node in (0, 1):
        host.write(f"/sys/devices/system/node/node{node}/cpulist", f"{node}\n")
    facts = host.run("facts").document["facts"]
    assert (facts["os"], facts["memory_mib"], facts["driver_version"]) == ("ubuntu-22.04", 131072, "580.95.05")
    assert facts["cpu"] == {
        "model": "Test CPU",
        "sockets": 1,
        "cores": 2,
        "threads": 2,
        "numa_nodes": 2,
        "node_cpus": ["0", "1"],
        "cpufreq": True,
        "scaling_driver": "intel_cpufreq",
        "energy_performance_preferences": sorted(PREFERENCES.split()),
    }
    assert facts["gpus"][0]["power_max_w"] == 600
    assert facts["gpus"][0]["virtualization_mode"] == "passthrough"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["aply"], "argument VERB: invalid choice: 'aply'"),
        (["apply", "--section", "disk"], "argument --section: invalid choice: 'disk'"),
        (["apply", "--chek"], "unrecognized arguments: --chek"),
        ([], "the following arguments are required: VERB"),
    ],
)
def test_bad_usage_is_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], error: str):
    assert cli.main(arguments) == result.EXIT_BAD_INPUT
    out, err = capsys.readouterr()
    assert err.startswith(f"error: command line: {error}")
    assert json.loads(out)["facts"]["problems"][0]["id"] == "usage"


def test_a_missing_plan_says_how_to_get_one(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["verify", "--root", str(tmp_path)]) == result.EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "error: /etc/inferhost/plan.json: found nothing, wanted a plan\n"
        "hint: place it with: ansible-playbook site.yml, or name a file with --plan\n"
    )


def test_a_plan_of_another_schema_is_refused_with_both_numbers(host: FakeHost):
    path = host.folder / "old.json"
    path.write_text('{"schema": 99}')
    answer = host.run("verify", "--plan", str(path))
    assert answer.code == 2
    assert answer.problems[0]["message"] == "found 99, this program reads 1, 2"


def test_the_answer_is_a_result_document(host: FakeHost):
    answer = host.run("install").document
    document.read(result.Result, answer)


def test_a_bug_is_a_traceback_and_nothing_else_is(host: FakeHost, program: pathlib.Path):
    host.at("/etc/inferhost").mkdir()
    host.at("/etc/inferhost/plan.json").mkdir()
    done = zipapp(program, "verify", "--root", str(host.root))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
