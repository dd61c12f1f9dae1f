"""Golden plans: the same wish gives the same bytes, every setting says why, and every source exists."""

import dataclasses

import pytest

import tests.golden
from inferhost import planner, table
from inferhost.catalogue import load
from inferhost.planner.launch.flag_values import value_problem
from inferhost.planner.launch.flags import given_flags
from inferhost.planner.reasons import is_flag
from inferhost.schema import document
from inferhost.schema.plan import DISRUPTIONS, identified
from inferhost.schema.wish import options
from tests.golden import renew

CATALOGUE = load()
HOSTS = renew.hosts()


@pytest.fixture(params=HOSTS)
def folder(request):
    return renew.HERE / request.param


def golden_plan(folder):
    return tests.golden.golden_plan(folder.name)


def test_the_golden_files_are_what_the_planner_says(folder):
    for name, text in renew.outputs(folder.name).items():
        assert (folder / name).read_text() == text, f"{name}: python -m tests.golden.renew, then read the diff"


def test_no_golden_plan_is_left_of_a_host_that_is_gone():
    assert sorted(path.name for path in renew.HERE.iterdir() if path.is_dir() and path.name[0] not in "_.") == HOSTS


def test_a_wish_stands_in_one_place_only():
    assert [host for host in renew.inventory_wishes() if (renew.HERE / host / "wish.json").exists()] == []


def test_every_setting_has_a_reason(folder):
    plan = golden_plan(folder)
    explained = {reason.setting for reason in plan.reasons}
    assert planner.setting_paths(plan, CATALOGUE) - explained == set()


def test_no_setting_has_two_reasons(folder):
    settings = [reason.setting for reason in golden_plan(folder).reasons]
    assert len(settings) == len(set(settings))


def test_every_source_exists(folder):
    plan = golden_plan(folder)
    sources = {reason.source for reason in plan.reasons}
    for speed in plan.roofline.values():
        sources |= {speed["expected_source"]} | {lever["source"] for lever in speed["levers"]}
    assert [s for s in sources if not planner.resolve(s, CATALOGUE, options())] == []


def test_a_source_that_does_not_exist_is_found_out():
    for source in (
        "catalogue:gpus/rtx-5090#colour",
        "catalogue:cpus/x#y",
        "formula:magic",
        "wish:inferhost_magic",
        "x",
    ):
        assert not planner.resolve(source, CATALOGUE, options()), source


def test_a_reason_says_something_in_every_field(folder):
    for reason in golden_plan(folder).reasons:
        assert reason.because, reason.setting
        assert reason.gain, reason.setting
        assert reason.disruption in ("none", "engine restart", "reboot"), reason.setting


def test_the_table_keeps_to_120_columns(folder):
    assert [line for line in (folder / "table.txt").read_text().splitlines() if len(line) > 120] == []


def test_the_table_shows_every_setting_and_every_pending_line(folder):
    plan = golden_plan(folder)
    text = "".join((folder / "table.txt").read_text().split())
    for reason in plan.reasons:
        assert "".join(table.split_setting(reason.setting)[1].split()) in text, reason.setting
    for item in plan.pending:
        assert "".join(item.needs.split()) in text, item.setting


def test_the_plan_id_is_the_hash_of_all_the_rest(folder):
    plan = golden_plan(folder)
    assert identified(plan) == plan
    assert identified(dataclasses.replace(plan, sysctl={"vm.swappiness": "11"})).plan_id != plan.plan_id


def test_the_order_of_the_wish_does_not_change_the_plan(folder):
    wish = renew.wish(folder.name)
    turned = dict(reversed(wish.items()))
    plans = [document.text(planner.plan(w, folder.name, CATALOGUE)) for w in (wish, turned)]
    assert plans[0] == plans[1]


def test_sections_that_are_not_managed_set_nothing():
    plan = golden_plan(renew.HERE / "l40s-observed")
    assert (plan.sysctl, plan.env, plan.files, plan.dropins, plan.service) == ({}, {}, (), (), ())
    assert plan.cpu.governor is None
    settings = (plan.gpus[0].persistence_mode, plan.gpus[0].power_limit_w)
    assert settings == (None, None)
    sections = ("balancer", "cpu", "driver", "gpu", "models", "runtime", "service")
    untouched = [f"manage.{section}" for section in sections]
    assert [r.setting for r in plan.reasons] == ["driver.kernel_module", *untouched]


def test_the_table_predicts_no_speed_of_random_numbers():
    text = (renew.HERE / "sandbox-gb200" / "table.txt").read_text()
    assert "SPEED of one request to instance main\n  random numbers: no speed is predicted\n" in text
    assert "tok/s" not in text.partition("\nSPEED")[2]


def test_every_setting_carries_a_pinned_disruption_class(folder):
    plan = golden_plan(folder)
    found = {item.disruption for part in (plan.reasons, plan.files, plan.dropins, plan.service) for item in part}
    assert found <= set(DISRUPTIONS)


def argument_problems(service):
    """What the parser of the engine's pinned version would not take: names by its table, values by its types."""
    engine = next(
        e for e in CATALOGUE.engines.values() if (e.engine, e.version) == (service.engine, service.engine_version)
    )
    words = service.argv[1 + len(engine.arguments) :]
    first = next((number for number, word in enumerate(words) if is_flag(word)), len(words))
    found = (
        [] if first <= (engine.flags.get("model_path", "") is None) else [f"{words[:first]} before the first flag"]
    )
    for one in given_flags(words[first:], engine, CATALOGUE):
        if one.row is None or one.row.status != "real":
            found.append(f"{one.name} is not read by {engine.engine} {engine.version}")
            continue
        spread = "--tp-size" in one.row.names or "--tensor-parallel-size" in one.row.names
        if not (spread and one.values[0].isdecimal()):
            problem = value_problem(one, engine, one.name)
            found += [problem.message] if problem else []
    return found


def test_the_engine_would_take_every_argument_of_every_golden_plan(folder):
    assert [problem for service in golden_plan(folder).service for problem in argument_problems(service)] == []


@pytest.mark.parametrize(
    ("host", "before", "after", "told"),
    [
        ("gb200", "--context-length", "--context-size", "--context-size is not read"),
        ("gb200", "8192", "8k", "wanted a whole number"),
        ("gb200", "8192", "", "has no value"),
    ],
)
def test_an_argument_that_the_engine_would_not_take_is_found_out(host, before, after, told):
    (service, *_) = golden_plan(renew.HERE / host).service
    argv = tuple(after if word == before else word for word in service.argv)
    assert argv != service.argv
    (problem,) = argument_problems(dataclasses.replace(service, argv=argv))[:1]
    assert told in problem
