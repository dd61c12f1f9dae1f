"""The loader refuses what it does not know, loudly and all at once: a typing error must never mean "healthy"."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "personalities"
PERSONALITIES = sorted(FOLDER.glob("*.txt"))
FAMILIES = sorted(FOLDER.glob("families/*.txt"))
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


@pytest.mark.parametrize("path", [*PERSONALITIES, *FAMILIES], ids=lambda path: path.stem)
def test_each_value_carries_a_mark_and_a_source(path):
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[" and not line.startswith("include "):
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


def test_application_clocks_have_a_default_exactly_where_they_can_be_set(refusal):
    law = "gpu 0 breaks: application clocks have a default exactly where they can be set\n"
    assert refusal("application_clock_memory_mhz = 0", "application_clock_memory_mhz = 14001").endswith(law)
    assert refusal("answer.nvmlDeviceSetApplicationsClocks", "# answer.nvmlDeviceSetApplicationsClocks").endswith(law)


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


def test_what_one_card_says_replaces_what_its_family_says(bare, tmp_path):
    (tmp_path / "family.txt").write_text("power_limit_default_mw = 500000 | assumed | test\n")
    line = next(line for line in GOOD.splitlines() if line.startswith("power_limit_default_mw"))
    card = tmp_path / "card.txt"
    card.write_text("include family.txt\n" + GOOD)
    bare.do("init", card)
    assert bare.settings()["power_limit_mw"] == 600_000
    (bare.folder / "state").unlink()  # so does the text that is kept
    assert bare.settings()["power_limit_mw"] == 600_000
    card.write_text("include family.txt\n" + GOOD.replace(line + "\n", ""))
    bare.do("init", card)
    assert bare.settings()["power_limit_mw"] == 500_000


def test_a_fault_in_a_family_is_told_with_its_own_place(bare, tmp_path):
    (tmp_path / "family.txt").write_text("# a\nnmae = x | assumed | test\n")
    (tmp_path / "card.txt").write_text("include family.txt\ninclude gone.txt\n" + GOOD + "include family.txt\n")
    said = bare.attempt("init", tmp_path / "card.txt").stderr
    assert f'error: {tmp_path}/family.txt:2: "nmae" is not a field of a personality\n' in said
    assert f"error: {tmp_path}/gone.txt: No such file or directory\n" in said
    assert "include family.txt: wanted before the first [gpu], and not in a family\n" in said


def test_two_families_may_not_give_the_same_field(bare, tmp_path):
    (tmp_path / "one.txt").write_text("gpu_cores = 1 | assumed | test\n")
    (tmp_path / "card.txt").write_text("include one.txt\ninclude one.txt\n" + GOOD)
    assert '"gpu_cores" is given twice' in bare.attempt("init", tmp_path / "card.txt").stderr


def test_several_files_make_one_machine_with_several_kinds_of_cards(bare):
    files = [FOLDER / f"{name}.txt" for name in ("rtx-4090", "h200", "tesla-p4")]
    bare.do("init", *files)
    cards = """
        cards = [nvmlDeviceGetHandleByIndex(n) for n in range(nvmlDeviceGetCount())]
        show([[nvmlDeviceGetName(c), nvmlDeviceGetMinorNumber(c), code(nvmlDeviceSetGpuLockedClocks, c, 600, 900)]
              for c in cards] + [nvmlSystemGetDriverVersion()])
    """
    wanted = [["NVIDIA GeForce RTX 4090", 0, 0], ["NVIDIA H200", 1, 0], ["Tesla P4", 2, 3], "580.95.05"]
    assert bare.nvml(cards) == wanted
    (bare.folder / "state").unlink()  # the kept text alone makes the same machine
    assert bare.nvml(cards) == wanted


def test_two_cards_may_not_share_what_identifies_them(bare):
    said = bare.attempt("init", FOLDER / "l4.txt", FOLDER / "l4.txt")
    assert said.returncode == 2
    assert said.stderr.endswith("gpu 0 and gpu 1 have the same uuid\n")


@pytest.mark.parametrize("path", PERSONALITIES, ids=lambda path: path.stem)
def test_no_two_personalities_share_a_card(path):
    taken = {line for other in PERSONALITIES if other != path for line in other.read_text().splitlines()}
    own = [line for line in path.read_text().splitlines() if line.startswith(("uuid", "pci_bus_id"))]
    assert len(own) == 2
    assert not taken & set(own)
