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
        case = LAUNCHES[mistake["launch"]]
        assert mistake["text"].lower() in case["text"].lower()
        assert {"expect", "refused", "gpu"} & set(case)
