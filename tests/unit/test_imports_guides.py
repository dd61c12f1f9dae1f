"""Every launch of the five guides, in its shortest form: each flag and variable with its verdict and replacement."""

import pathlib

import pytest
import yaml

from inferhost.imports import command
from inferhost.imports.containers import read_compose, read_dockerfile, read_manifest
from inferhost.imports.launch import Launch
from inferhost.imports.settings import read_settings
from inferhost.imports.shell import read_script
from inferhost.imports.wish import wished
from inferhost.planner.reasons import resolve
from inferhost.schema.problems import InputError
from inferhost.schema.wish import options
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal

FOLDER = pathlib.Path(__file__).parent / "launches"
CASES = [
    pytest.param(case, id=f"{file.stem}-{case['name']}")
    for file in sorted(FOLDER.glob("guide_*.yml"))
    for case in yaml.safe_load(file.read_text())
]
READERS = {
    "script": read_script,
    "compose": lambda text, name: read_compose(text, name, lambda path: None),
    "dockerfile": read_dockerfile,
    "manifest": read_manifest,
    "tabbyapi": read_settings,
}
SERVED = [case for case in CASES if "wish" in case.values[0]]


def read(case):
    source = READERS[case["kind"]](case["text"], "source")
    launches = source.launches
    if not launches and case.get("engine"):
        launches = (Launch("source", case["engine"], words=source.words, env=source.env),)
    return source, launches


@pytest.mark.parametrize("case", SERVED)
def test_every_flag_and_variable_has_its_verdict_and_replacement(case):
    _, (launch,) = read(case)
    findings, _ = wished(launch, CATALOGUE)
    found = {(f.verdict, f.name) for f in findings}
    expected = {(verdict, name) for verdict, names in case["expect"].items() for name in names}
    assert found == expected
    for finding in findings:
        assert case["expect"][finding.verdict][finding.name] in finding.instead, finding


@pytest.mark.parametrize("case", SERVED)
def test_the_wish_says_what_the_launch_means(case):
    _, (launch,) = read(case)
    _, wish = wished(launch, CATALOGUE)
    assert wish == case["wish"]


@pytest.mark.parametrize("case", SERVED)
def test_what_the_shell_or_the_container_reads_otherwise_is_told_with_its_place(case):
    source, _ = read(case)
    expected = [(place.removesuffix(" again"), verdict) for place, verdict in case.get("mistakes", {}).items()]
    assert [(m.place.partition(":")[2].strip(), m.verdict) for m in source.mistakes] == expected


@pytest.mark.parametrize("case", SERVED)
def test_every_source_exists(case):
    _, (launch,) = read(case)
    findings, _ = wished(launch, CATALOGUE)
    assert [f for f in findings if f.source and not resolve(f.source, CATALOGUE, options())] == []


@pytest.mark.parametrize("case", [case for case in SERVED if "on" in case.values[0]])
def test_the_wish_plans_or_is_refused_for_the_right_reason(case):
    _, (launch,) = read(case)
    _, wish = wished(launch, CATALOGUE)
    values = {f"inferhost_service_{key}": value for key, value in {**wish, **case.get("with", {})}.items()}
    values["inferhost_hardware"] = hardware(gpu(case["on"]))
    if "plan_refused" in case:
        assert case["plan_refused"] in refusal(values)
    else:
        assert planned(values).service[0].engine == wish["engine"]


@pytest.mark.parametrize("case", [case for case in CASES if "refused" in case.values[0]])
def test_what_starts_no_engine_is_refused(case):
    source, _ = read(case)
    with pytest.raises(InputError) as refused:
        command.imported(source, "source")
    assert case["refused"] in str(refused.value)


@pytest.mark.parametrize("case", [case for case in CASES if "gpu" in case.values[0]])
def test_what_sets_the_cards_becomes_a_wish_for_them(case):
    source, _ = read(case)
    assert source.gpu == case["gpu"]
