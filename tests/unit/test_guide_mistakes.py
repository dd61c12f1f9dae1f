"""Every known mistake of the five guides is answered: by a row of the checked advice, by a launch case, or both."""

import pathlib

import pytest
import yaml

from inferhost.schema import advice

HERE = pathlib.Path(__file__).parent
MISTAKES = yaml.safe_load((HERE / "guide_mistakes.yml").read_text())
SAID = {row.says: row for row in advice.rows()}
LAUNCHES = {
    case["name"]: case
    for file in (HERE / "launches").glob("guide_*.yml")
    for case in yaml.safe_load(file.read_text())
}


def test_none_is_missing_and_none_stands_twice():
    assert [m["id"] for m in MISTAKES] == [*map(str, range(1, 68)), *"abcdefghijk"]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake["id"])
def test_a_mistake_is_answered_where_the_list_says(mistake):
    assert "advice" in mistake or "launch" in mistake
    if "advice" in mistake:
        row = SAID[mistake["advice"]]
        assert mistake["text"].lower() in row.says.lower()
        assert all((row.truth, row.instead, row.source))
    if "launch" in mistake:
        assert mistake["text"].lower() in LAUNCHES[mistake["launch"]]["text"].lower()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake["id"])
def test_a_mistake_has_the_verdict_that_the_list_says(mistake):
    wanted = dict(mistake["verdict"])
    if "advice" in mistake:
        found = {check.verdict for check in SAID[mistake["advice"]].checks} or {"told"}
        assert found == {wanted.pop("advice")}
    if "launch" in mistake:
        case = LAUNCHES[mistake["launch"]]
        ((kind, said),) = wanted.items()
        if kind == "expect":
            verdict, name = said
            assert name in case["expect"][verdict]
        elif kind == "place":
            place, verdict = said
            assert case["mistakes"][place] == verdict
        elif kind == "gpu":
            option, value = said
            assert case["gpu"][option] == value
        else:
            assert case[kind] == said
        wanted.pop(kind)
    assert wanted == {}
