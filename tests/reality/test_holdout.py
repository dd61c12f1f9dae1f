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
    old, mixtures = {"h-vllm-14", "h-vllm-16", "h-decode-15"}, {f"h-decode-0{n}" for n in (4, 5, 8, 9)}
    assert high <= old | mixtures | {"h-decode-03"}


def test_whatever_is_off_says_why():
    for case in holdout.cases():
        seen = holdout.judged(case)
        assert case["why"] or (seen.error_percent is not None and abs(seen.error_percent) <= 10)
