"""Options of the kernel module: what it reads goes into one file for modprobe, everything else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from inferhost.planner.machine.module_options import PATH
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal

OPTION = "inferhost_driver_module_options"


def wish(options: dict[str, Any]) -> dict[str, Any]:
    cards = hardware(gpu("l40s"), os="ubuntu-24.04", driver_version=None)
    return {"inferhost_manage": ["driver"], "inferhost_hardware": cards, OPTION: options}


def test_options_stand_in_one_file_under_every_name_of_the_module():
    plan = planned(wish({"NVreg_EnableStreamMemOPs": 1, "NVreg_RestrictProfilingToAdminUsers": "0"}))
    file = next(f for f in plan.files if f.path == PATH)
    words = "NVreg_EnableStreamMemOPs=1 NVreg_RestrictProfilingToAdminUsers=0"
    assert file.content is not None
    assert file.content.splitlines()[1:] == [
        f"options nvidia {words}",
        f"options nvidia-current {words}",
        f"options nvidia-current-open {words}",
    ]
    assert (file.section, file.disruption) == ("driver", "reboot")
    assert plan.driver.install is not None
    assert plan.driver.install.module_options == (
        ("NVreg_EnableStreamMemOPs", "EnableStreamMemOPs", "1"),
        ("NVreg_RestrictProfilingToAdminUsers", "RmProfilingAdminOnly", "0"),
    )
    found = {r.setting: r for r in plan.reasons if r.setting.startswith("driver.option.")}
    first = found["driver.option.NVreg_EnableStreamMemOPs"]
    assert (first.source, first.disruption) == (
        "catalogue:module_options/NVreg_EnableStreamMemOPs#effect",
        "reboot",
    )
    default = planned(wish({"NVreg_EnableMSI": 1})).reasons
    assert next(r.gain for r in default if r.setting.endswith("NVreg_EnableMSI")) == "none: this is its default"


def test_without_options_there_is_no_file():
    plan = planned(wish({}))
    assert PATH not in [f.path for f in plan.files]
    assert plan.driver.install is not None
    assert plan.driver.install.module_options == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "NVreg_EnableStreamMemOps",
            'is no option of the nvidia kernel module\nhint: did you mean "NVreg_EnableStreamMemOPs"?',
        ),
        ("EnableMSI", "is no option of the nvidia kernel module\nhint: "),
        ("NVreg_GpuBlacklist", "has another name\nhint: use NVreg_ExcludedGpus"),
        (
            "NVreg_EnablePCIeGen3",
            "is not read for these cards\nhint: remove it: it is about Kepler cards; others use the generation that "
            "both ends have",
        ),
        ("NVreg_Mobile", "is not read for these cards\nhint: remove it: it is no option of the module any more"),
    ],
)
def test_what_the_module_does_not_read_is_refused_with_what_to_do(name: str, text: str):
    assert refusal(wish({name: 1})).startswith(f"error: {OPTION}.{name}: {text}")


@pytest.mark.parametrize("value", ["on", True, "", "1 NVreg_EnableMSI=0", "4294967296", -1, "010", [1]])
def test_a_value_that_is_no_number_is_refused(value: Any):
    assert f"error: {OPTION}.NVreg_EnableMSI: found" in refusal(wish({"NVreg_EnableMSI": value}))


@pytest.mark.parametrize("value", ["a b", 'a"b', "", "a\nb"])
def test_a_text_that_modprobe_would_split_is_refused(value: str):
    assert "wanted text without spaces and quotes" in refusal(wish({"NVreg_ExcludedGpus": value}))
    assert planned(wish({"NVreg_ExcludedGpus": "GPU-1,GPU-2"})).files


def test_every_problem_is_told_at_once():
    assert refusal(wish({"NVreg_Mobile": 1, "NVreg_X": 1})).count("error: ") == 2


def test_every_option_that_is_refused_says_what_to_do_and_every_real_one_has_its_shown_name():
    for name, row in CATALOGUE.module_options.items():
        assert name.startswith("NVreg_")
        assert row.shown_as
        assert (row.status == "real") == (row.replacement is None), name
