"""Tiers as marks: a tier that cannot run here is skipped, named at the end, or failed where it is required."""

from __future__ import annotations

import pytest

from tests.nix import tiers


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "tier(name): how much of Nix a test needs, see tests/nix/tiers.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("tier")
    if mark is None:
        return
    (tier,) = mark.args
    item.user_properties.append(("tier", tier))
    why = tiers.missing(tier)
    if why and tier in tiers.required():
        pytest.fail(f"{tier} is required by REQUIRE_NIX_TIERS, and cannot run: {why}", pytrace=False)
    if why:
        pytest.skip(why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per tier, so that a skip cannot be overlooked."""
    for tier, what in tiers.TIERS.items():
        counts = [
            f"{len(reports)} {outcome}"
            for outcome in ("passed", "failed", "error")
            if (
                reports := [r for r in terminalreporter.stats.get(outcome, []) if ("tier", tier) in r.user_properties]
            )
        ]
        why = tiers.missing(tier)
        said = ", ".join(counts) or (f"SKIPPED: {why}" if why else "not asked for")
        terminalreporter.write_line(f"nix {tier} ({what}): {said}")
