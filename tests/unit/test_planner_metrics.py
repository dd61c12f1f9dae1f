"""Where the drift timer's metrics go: where an exporter looks, nowhere, or a folder that the wish names."""

from __future__ import annotations

import pytest

from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import gpu, hardware, planned

OPTION = "inferhost_plan_metrics_folder"
WISH = {"inferhost_hardware": hardware(gpu("rtx-pro-6000-bw-ws")), "inferhost_manage": ["gpu"]}


def test_the_exporter_s_own_folder_needs_no_wish():
    plan = planned(WISH)
    assert plan.metrics_folder == "auto"
    assert not [r for r in plan.reasons if r.setting == "metrics_folder"]


@pytest.mark.parametrize("wanted", ["none", "/var/lib/textfile"])
def test_a_wish_is_in_the_plan_with_its_reason(wanted: str):
    plan = planned({**WISH, OPTION: wanted})
    assert plan.metrics_folder == wanted
    assert [(r.value, r.source) for r in plan.reasons if r.setting == "metrics_folder"] == [
        (wanted, f"wish:{OPTION}")
    ]


@pytest.mark.parametrize("wanted", ["textfile", "", "/srv/../etc", "off"])
def test_what_is_no_place_is_refused(wanted: str):
    with pytest.raises(InputError) as refused:
        planned({**WISH, OPTION: wanted})
    assert [problem.message for problem in refused.value.problems] == [
        f'found "{wanted}", wanted auto, none or an absolute path'
    ]
