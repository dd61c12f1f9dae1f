"""The page of checked advice says what the planner does, and cites what exists."""

import re

import pytest

from inferhost.planner import resolve
from inferhost.schema import advice
from inferhost.schema.wish import options
from tests.unit.planner_wishes import CATALOGUE, planned, refusal
from tests.unit.test_planner_placebo import served

ROWS = advice.rows()
CHECKS = [(check, row) for row in ROWS for check in row.checks]


def wished(check):
    """A wish that only the checked setting can spoil."""
    if check.setting.startswith("-"):
        words = [check.setting, *([check.value] if check.value else [])]
        return served(check.engine, service_extra_args=words)
    return served(check.engine, service_env={check.setting: check.value})


@pytest.mark.parametrize(
    ("check", "row"), CHECKS, ids=[f"{check.engine}-{check.setting}-{check.value}" for check, _ in CHECKS]
)
def test_the_planner_says_to_a_setting_what_the_page_says(check, row):
    if check.verdict == "kept":
        plan = planned(wished(check))
        assert check.setting in plan.service[0].argv or plan.env["main"].get(check.setting) == check.value
        return
    found = refusal(wished(check))
    assert check.verdict == "refused"
    assert found.count("error: ") == 1
    assert check.setting in found
    assert "\nhint: " in found


def test_a_flag_or_variable_that_the_page_names_instead_is_not_itself_refused():
    for row in ROWS:
        engines = {check.engine for check in row.checks if check.setting.startswith("-")}
        for flag in re.findall(r"`(--[a-z-]+)", row.instead):
            for engine in engines:
                assert CATALOGUE.flags_of(CATALOGUE.engines[engine])[flag].status == "real", (row.says, flag)
        for name in re.findall(r"`(inferhost_[a-z_]+)", row.instead):
            assert name in options(), name


def test_every_source_of_the_page_that_is_a_row_or_a_formula_exists():
    cited = [source for row in ROWS for source in re.findall(r"`((?:catalogue|formula):[^`]+)`", row.source)]
    assert [source for source in cited if not resolve(source, CATALOGUE, options())] == []
    assert len(cited) > 25


def test_no_claim_is_without_a_source_and_none_stands_twice():
    assert [row.says for row in ROWS if not row.source] == []
    assert len({(row.guide, row.says) for row in ROWS}) == len(ROWS)
