"""The loader refuses what it does not know, loudly and all at once: a typing error must never mean "healthy"."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "personalities"
PERSONALITIES = sorted(FOLDER.glob("*.txt"))
GOOD = (FOLDER / "rtx-pro-6000-blackwell-workstation.txt").read_text()
# A card may support any call, so `answer.` lines are the only ones that may be left out.
REQUIRED = [line for line in GOOD.splitlines() if " = " in line and not line.startswith(("#", "answer."))]


@pytest.fixture
def refusal(bare, tmp_path):
    """What `init` says about a changed personality."""

    def change(old: str, new: str) -> str:
        assert old in GOOD
        path = tmp_path / "changed.txt"
        path.write_text(GOOD.replace(old, new, 1))
        refused = bare.attempt("init", path)
        assert refused.returncode == 2
        assert not bare.folder.exists()  # nothing touched
        return re.sub(r":\d+:", ":LINE:", refused.stderr.replace(str(path), "FILE"))

    return change


@pytest.mark.parametrize("path", PERSONALITIES, ids=lambda path: path.stem)
def test_each_personality_is_accepted(bare, path):
    bare.do("init", path)
    assert bare.nvml("show(nvmlDeviceGetCount())") >= 1


@pytest.mark.parametrize("path", PERSONALITIES, ids=lambda path: path.stem)
def test_each_value_carries_a_mark_and_a_source(path):
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            _, mark, source = (part.strip() for part in line.split("|", 2))
            assert mark in {"captured", "derived", "assumed"}
            assert len(source) > 5


@pytest.mark.parametrize("line", REQUIRED, ids=lambda line: line.split(" = ")[0])
def test_no_field_may_be_missing(refusal, line):
    name = line.split(" = ")[0]
    where = "" if name in {"driver_version", "nvml_version", "cuda_driver_version"} else " for gpu 0"
    assert f'error: FILE: "{name}" is missing{where}\n' in refusal(line + "\n", "")


def test_an_unknown_field_is_refused(refusal):
    said = refusal("[gpu]", "fan_speed_rpm = 3000 | assumed | test\n[gpu]")
    assert said == 'error: FILE:LINE: "fan_speed_rpm" is not a field of a personality\n'


def test_a_missing_mark_is_refused(refusal):
    said = refusal(" | captured | guide 003 (CUDA 13.0)", "")
    assert '"cuda_driver_version = 13000" is not: field = value | captured, derived or assumed | source' in said


def test_an_unknown_mark_is_refused(refusal):
    assert 'is marked "measured", not one of: captured, derived, assumed' in refusal("| captured |", "| measured |")


def test_a_missing_source_is_refused(refusal):
    assert "cuda_driver_version names no source" in refusal("| guide 003 (CUDA 13.0)", "|")


def test_a_field_given_twice_is_refused(refusal):
    line = "driver_version = 580.95.05 | captured | guide 003\n"
    assert '"driver_version" is given twice' in refusal(line, line + line)


def test_a_value_that_is_not_a_number_is_refused(refusal):
    assert "power_limit_max_mw has no valid value" in refusal(
        "power_limit_max_mw = 600000", "power_limit_max_mw = 600 W"
    )


def test_an_answer_for_an_unknown_function_is_refused(refusal):
    said = refusal("answer.nvmlDeviceGetMigMode", "answer.nvmlDeviceGetMigModes")
    assert said == (
        'error: FILE:LINE: "answer.nvmlDeviceGetMigModes" names no call on a GPU that the simulator exports\n'
    )


def test_contradictory_values_are_refused(refusal):
    said = refusal("power_limit_min_mw = 150000", "power_limit_min_mw = 650000")
    assert said == ("error: FILE: gpu 0 breaks: power_limit_min_mw <= power_limit_default_mw <= power_limit_max_mw\n")


def test_every_fault_is_told_in_one_pass(refusal):
    said = refusal("name = NVIDIA", "nmae = NVIDIA")
    assert said.count("error: ") == 2
    assert '"nmae" is not a field' in said
    assert '"name" is missing for gpu 0' in said


def test_identity_belongs_to_one_card(refusal):
    said = refusal("[gpu]\nuuid", "uuid")
    assert '"uuid" belongs in a [gpu] section' in said
    assert "no [gpu] section" in said


def test_a_card_may_differ_from_the_model(bare, tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(GOOD + "power_limit_default_mw = 500000 | assumed | test\n")
    bare.do("init", path)
    assert bare.settings()["power_limit_mw"] == 500_000
