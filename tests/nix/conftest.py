"""Tiers as marks: a tier that cannot run here is skipped, named at the end, or failed where it is required."""

from __future__ import annotations

import pytest

from tests.nix import tiers


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "tier(name): how much of Nix a test needs, see tests/nix/tiers.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("tier")
    why = tiers.missing(mark.args[0]) if mark else ""
    if mark and why and mark.args[0] in tiers.required():
        pytest.fail(f"{mark.args[0]} is required by REQUIRE_NIX_TIERS, and cannot run: {why}", pytrace=False)
    if why:
        pytest.skip(why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for tier, what in tiers.TIERS.items():
        why = tiers.missing(tier)
        terminalreporter.write_line(f"nix {tier} {'SKIPPED: ' + why if why else 'ran'} ({what})")
