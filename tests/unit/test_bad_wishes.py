"""More than 500 bad wishes: each is refused with the variable at fault and with what would work instead."""

import json

from inferhost.schema.problems import InputError
from tests.unit.bad_wishes import KINDS, bad_wishes, spoilt
from tests.unit.planner_wishes import planned

CASES = bad_wishes()


def problems_of(values):
    try:
        planned(values)
    except InputError as error:
        return error.problems
    return []


def test_there_are_more_than_500_and_no_two_are_the_same():
    assert len(CASES) > 500
    assert len({json.dumps(case.values, sort_keys=True) for case in CASES}) == len(CASES)
    assert all(any(kind()) for kind in KINDS)


def test_what_is_spoilt_was_good_before():
    for engine in ("sglang", "vllm", "llama.cpp", "tabbyapi", "sfllm"):
        assert problems_of(spoilt(engine)) == []


def test_each_is_refused_with_the_variable_at_fault():
    wrong = []
    for case in CASES:
        paths = [problem.path for problem in problems_of(case.values)]
        if not any(path == case.path for path in paths):
            wrong.append((case.path, paths))
    assert wrong == []


def test_each_refusal_says_what_would_work():
    wrong = []
    for case in CASES:
        for problem in problems_of(case.values):
            if problem.path == case.path and (not problem.hint or case.hint not in problem.hint):
                wrong.append((case.path, problem.message, problem.hint, case.hint))
    assert wrong == []


def test_no_refusal_shows_a_secret():
    shown = [str(p) for case in CASES if "hunter2" in json.dumps(case.values) for p in problems_of(case.values)]
    assert shown
    assert [text for text in shown if "hunter2" in text] == []
