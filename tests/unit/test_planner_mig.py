"""Dividing a card: profiles that it has, in places where they fit, and engines that get a slice of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from inferhost.catalogue.mig_row import MigRow
from inferhost.planner.machine.mig import _starts
from inferhost.schema.plan import GpuSelector, Plan, Slice
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal, wish

MIG = "inferhost_gpu_mig"
GPUS = "inferhost_service_gpus"
HALVES = ["3g.40gb", "3g.40gb"]


def gpu_wish(*cards: str, **own: Any) -> dict[str, Any]:
    plain = {"inferhost_hardware": hardware(*(gpu(card) for card in cards)), "inferhost_manage": ["gpu"]}
    return {**plain, **{f"inferhost_gpu_{name}": value for name, value in own.items()}}


def served(card: str, model: str, mig: list[str], **own: Any) -> dict[str, Any]:
    return wish(card, model, gpu_mig=mig, **own)


def places(plan: Plan) -> list[tuple[str, int, int]]:
    return [(one.profile, one.start, one.size) for one in plan.gpus[0].mig or ()]


@pytest.mark.parametrize(
    ("card", "wanted", "found"),
    [
        ("a100-pcie-80gb", HALVES, [("3g.40gb", 0, 4), ("3g.40gb", 4, 4)]),
        ("a100-pcie-80gb", ["3g.40gb", "4g.40gb"], [("3g.40gb", 4, 4), ("4g.40gb", 0, 4)]),
        ("a100-sxm4-40gb", ["1g.5gb"] * 7, [("1g.5gb", n, 1) for n in range(7)]),
        ("h200-sxm", ["2g.35gb", "3g.71gb", "1g.18gb"], [("2g.35gb", 0, 2), ("3g.71gb", 4, 4), ("1g.18gb", 2, 1)]),
        ("rtx-pro-6000-bw-server", ["2g.48gb", "1g.24gb"], [("2g.48gb", 0, 6), ("1g.24gb", 6, 3)]),
    ],
)
def test_profiles_get_the_places_that_their_card_has_for_them(card: str, wanted: list[str], found: list[Any]):
    plan = planned(gpu_wish(card, mig=wanted))
    assert places(plan) == found
    reason = next(r for r in plan.reasons if r.setting == "gpus[0].mig")
    assert (reason.source, reason.disruption) == (f"wish:{MIG}", "engine restart")
    assert [p.needs for p in plan.pending if p.setting == "gpus[0].mig"] == ["the card's own list of profiles"]


@pytest.mark.parametrize("family", CATALOGUE.mig.values(), ids=lambda family: family.key)
def test_no_two_instances_of_any_layout_share_a_unit_and_a_place_is_found_where_there_is_one(family: MigRow):
    for count in (1, 2, 3):
        for names in itertools.combinations_with_replacement(family.profiles, count):
            profiles = [family.profiles[name] for name in names]
            possible = any(
                disjoint(starts, profiles) for starts in itertools.product(*(one.starts for one in profiles))
            )
            starts = _starts(profiles, frozenset())
            assert (starts is not None) == possible, names
            if starts is not None:
                assert disjoint(starts, profiles)
                assert all(start in one.starts for start, one in zip(starts, profiles, strict=True))


def disjoint(starts: Any, profiles: Any) -> bool:
    units = [unit for start, one in zip(starts, profiles, strict=True) for unit in range(start, start + one.size)]
    return len(units) == len(set(units))


@pytest.mark.parametrize("family", CATALOGUE.mig.values(), ids=lambda family: family.key)
def test_a_family_is_of_cards_that_can_be_divided_and_its_parts_are_no_more_than_the_whole(family: MigRow):
    for key in family.gpus:
        assert CATALOGUE.gpus[key].mig_max_instances == family.slices
    for name, one in family.profiles.items():
        assert name.startswith(f"{one.slices}g."), name
        assert max(one.starts) + one.size <= family.units, name
        label = min(CATALOGUE.gpus[key].memory_label_gb or 0 for key in family.gpus)
        assert one.memory_mib <= label * 1024 * one.size / family.units, name


def test_a_card_is_left_alone_or_whole_as_wished():
    assert planned(gpu_wish("h200-sxm")).gpus[0].mig is None
    assert planned(gpu_wish("h200-sxm", mig=["whole"])).gpus[0].mig == ()
    assert planned(gpu_wish("rtx-5090", mig=["whole"])).gpus[0].mig is None
    reasons = {r.setting: r.source for r in planned(gpu_wish("rtx-5090")).reasons}
    assert reasons["gpus[0].mig"] == "catalogue:gpus/rtx-5090#mig_max_instances"


@pytest.mark.parametrize(
    ("card", "wanted", "text"),
    [
        (
            "l40s",
            ["1g.10gb"],
            f"error: {MIG}: found 1g.10gb, but gpus[0] (l40s) cannot be divided\nhint: [whole], or leave it out",
        ),
        (
            "b200",
            ["1g.23gb"],
            f"error: {MIG}: found 1g.23gb, and the profiles of gpus[0] (b200) are not in the catalogue\n"
            "hint: a row of inferhost/catalogue/mig.json adds them",
        ),
        (
            "h200-sxm",
            ["3g.70gb"],
            f'error: {MIG}: found "3g.70gb", but gpus[0] (h200-sxm) has 1g.18gb, 1g.35gb, 2g.35gb, 3g.71gb, 4g.71gb, '
            '7g.141gb\nhint: did you mean "3g.71gb"?',
        ),
        (
            "a100-pcie-80gb",
            [*HALVES, "1g.10gb"],
            f"error: {MIG}: found 3g.40gb, 3g.40gb, 1g.10gb, which do not fit beside each other on gpus[0] "
            "(a100-pcie-80gb)\nhint: it has 8 units of memory, of which one takes: 3g.40gb 4, 1g.10gb 1; 3g.40gb "
            "begins at 0 or 4; 1g.10gb begins at 0 or 1 or 2 or 3 or 4 or 5 or 6",
        ),
    ],
)
def test_what_a_card_cannot_be_divided_into_is_refused(card: str, wanted: list[str], text: str):
    assert refusal(gpu_wish(card, mig=wanted)) == text


def test_a_divided_card_takes_no_compute_mode():
    text = refusal(gpu_wish("h200-sxm", mig=["7g.141gb"], compute_mode="exclusive_process"))
    assert text == (
        f"error: inferhost_gpu_compute_mode: found exclusive_process, and {MIG} divides the card\n"
        "hint: leave: each instance has a compute mode of its own"
    )


def test_an_engine_on_a_slice_gets_its_memory_and_its_part_of_the_rate():
    whole = planned(wish("h200-sxm", "qwen3-8b"))
    plan = planned(served("h200-sxm", "qwen3-8b", ["3g.71gb", "4g.71gb"], service_gpus=["0/1"]))
    budget, roofline = plan.budget["main"], plan.roofline["main"]
    assert budget["total_memory_bytes"] == 66560 * 2**20
    assert (
        roofline["memory_bandwidth_max_clock_bytes_s"] * 2
        == whole.roofline["main"]["memory_bandwidth_max_clock_bytes_s"]
    )
    ceilings = [one["ceiling_tok_s_max_clock"] for one in (roofline, whole.roofline["main"])]
    assert roofline["expected_tok_s"] <= ceilings[0] == pytest.approx(ceilings[1] / 2, abs=0.1)
    assert roofline["expected_tok_s"] < whole.roofline["main"]["expected_tok_s"]
    assert roofline["parts_ms"]["other_work"] > whole.roofline["main"]["parts_ms"]["other_work"] * 1.5


def test_the_host_says_which_device_the_slice_is():
    values = served("h200-sxm", "qwen3-8b", ["3g.71gb", "3g.71gb"], service_gpus=["0/1"])
    values["inferhost_hardware"] = hardware(gpu("h200-sxm", uuid="GPU-1"))
    plan, path = planned(values), "/run/inferhost/slices/main.env"
    assert "CUDA_VISIBLE_DEVICES" not in plan.env["main"]
    assert ("Service", "EnvironmentFile", path) in plan.dropins[0].entries
    assert (plan.service[0].slice, plan.service[0].slice_file) == (Slice(GpuSelector("GPU-1", "2335", 0), 1), path)
    reason = next(r for r in plan.reasons if r.setting.endswith(".EnvironmentFile"))
    assert reason.because.startswith("slice 0/1 (3g.71gb)")


def test_without_a_word_the_engine_gets_the_first_slice():
    plan = planned(served("h200-sxm", "qwen3-8b", ["3g.71gb", "3g.71gb"]))
    assert plan.service[0].slice == Slice(GpuSelector(None, "2335", 0), 0)


def test_engines_on_slices_of_one_card_share_nothing_and_those_on_one_slice_its_memory():
    two = {"a": {"gpus": ["0/0"], "port": 30000}, "b": {"gpus": ["0/1"], "port": 30001}}
    plan = planned(served("h200-sxm", "qwen3-8b", ["3g.71gb", "3g.71gb"], service_instances=two))
    assert plan.budget["a"]["total_memory_bytes"] == plan.budget["b"]["total_memory_bytes"]
    assert all("After" not in key for one in plan.dropins for _, key, _ in one.entries)
    two["b"]["gpus"] = ["0/0"]
    plan = planned(served("h200-sxm", "qwen3-8b", ["3g.71gb", "3g.71gb"], service_instances=two))
    assert [key for one in plan.dropins for _, key, _ in one.entries if key == "After"] == ["After"]


@pytest.mark.parametrize(
    ("mig", "gpus", "text"),
    [
        (HALVES, ["0"], f"found 0, and {MIG} divides gpus[0]\nhint: one of 0/0 (3g.40gb), 0/1 (3g.40gb): a program"),
        (HALVES, ["0/0", "0/1"], 'found "0/0", which is no card of inferhost_hardware.gpus\nhint: 0, or all'),
        (HALVES, ["0/2"], 'found "0/2", which is no slice\nhint: one of 0/0 (3g.40gb), 0/1 (3g.40gb)'),
        (HALVES, ["0/x"], 'found "0/x", which is no slice\nhint: one of 0/0 (3g.40gb), 0/1 (3g.40gb)'),
        (HALVES, ["1/0"], 'found "1", which is no card of inferhost_hardware.gpus\nhint: 0, or all'),
        ([], ["0/0"], f'found "0/0", and gpus[0] is not divided\nhint: 0, or divide it with {MIG}'),
    ],
)  # fmt: skip
def test_a_slice_that_is_not_there_is_refused(mig: list[str], gpus: list[str], text: str):
    assert refusal(served("h100-sxm", "qwen3-8b", mig, service_gpus=gpus)).startswith(f"error: {GPUS}: {text}")


def test_an_engine_is_not_split_over_a_divided_card():
    values = served("h100-sxm", "qwen3-8b", HALVES, service_tensor_parallel_size=2)
    values["inferhost_hardware"] = hardware(gpu("h100-sxm"), gpu("h100-sxm"))
    assert "found 2 cards, and inferhost_gpu_mig divides gpus[0]" in refusal(values)


def test_the_wish_does_not_choose_the_device_of_a_slice():
    values = served("h100-sxm", "qwen3-8b", HALVES, service_env={"CUDA_VISIBLE_DEVICES": "0"})
    assert "CUDA_VISIBLE_DEVICES: is decided on the host, where the slice has its UUID" in refusal(values)


@pytest.mark.parametrize(("card", "mig"), [("h100-sxm", ["3g.40gb", "3g.40gb"]), ("h100-sxm", [])])
def test_only_a_whole_card_is_offered_tensor_parallel(card: str, mig: list[str]):
    """Slices have no peer-to-peer: neither NVLink nor PCIe joins two of them."""
    plan = planned(served(card, "qwen3-8b", mig, service_engine="vllm"))
    offered = [lever["lever"] for lever in plan.roofline["main"]["levers"] if "parallel" in lever["lever"]]
    assert offered == ([] if mig else ["tensor parallel over 2 such cards"])
    found = refusal(served(card, "qwen3-8b", mig, service_engine="vllm", service_target_tpot_ms=1))
    assert ("such cards in tensor parallel" in found) == (not mig)
    assert ("a larger slice or the whole card" in found) == bool(mig)


def test_a_layout_that_cannot_be_is_the_only_problem_of_an_engine_on_one_of_its_slices():
    found = refusal(served("h100-sxm", "qwen3-8b", ["9g.1gb"], service_gpus=["0/1"]))
    assert found.startswith(f'error: {MIG}: found "9g.1gb", but gpus[0] (h100-sxm) has ')
    assert found.count("error: ") == 1
