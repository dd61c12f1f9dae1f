"""The hold-out cases stay what they are called, and no promise among them is too high but those that are known."""

import csv
import pathlib

from tests.reality import holdout


def test_no_hold_out_case_is_of_a_fitted_source():
    fitted = set()
    for name in ("kv-cases.csv", "decode_cases.csv"):
        with (pathlib.Path(__file__).parent / name).open(encoding="utf-8", newline="") as file:
            fitted |= {row["source"] for row in csv.DictReader(file)}
    assert len(fitted) > 50
    assert not {case["source"] for case in holdout.cases()} & fitted


def test_promises_that_are_too_high_are_the_known_ones():
    high = {case["case"]["id"] for case in holdout.cases() if holdout.judged(case).too_high}
    assert high <= {
        "h-vllm-14",
        "h-decode-15",
        "h-decode-03",
        *(f"h-decode-{n}" for n in ("04", "05", "09", "11", "12")),
    }


def test_every_case_of_the_second_set_was_estimated_unseen():
    every = holdout.cases("holdout2")
    assert len(every) >= 40
    assert all({"before", "first"} <= set(case) for case in every)
    assert len({case["case"]["id"] for case in every}) == len(every)


def test_caches_of_the_second_set_are_promised_too_high_only_where_it_is_known():
    found = {case["case"]["id"]: holdout.judged(case) for case in holdout.cases("holdout2") if case["kind"] == "kv"}
    high = {name for name, seen in found.items() if seen.too_high}
    assert high <= {"h2-vllm-06", "h2-vllm-07", "h2-vllm-10", "h2-vllm-14"}


def test_whatever_is_off_says_why():
    for case in holdout.cases() + holdout.cases("holdout2"):
        seen = holdout.judged(case)
        assert case["why"] or (seen.error_percent is not None and abs(seen.error_percent) <= 10)


def test_the_page_on_memory_says_how_many_unseen_starts_the_bounds_held():
    held = []
    for engine in ("vllm", "sglang"):
        seen = [
            holdout.seen_when(case, "first")
            for name in holdout.SETS
            for case in holdout.cases(name)
            if case["kind"] == "kv" and case["case"]["engine"].lower() == engine
        ]
        answered = [one for one in seen if one.error_percent is not None]
        held.append(f"{sum(one.within for one in answered)} of {len(answered)}")
    page = (pathlib.Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    assert f"{held[0]} for vLLM and {held[1]} for SGLang" in page
