"""The same hosts as in the unit tests of the host program, and the count of the cells that were tried."""

import pytest

from tests.faults import cells
from tests.unit.host.conftest import host, pair, program, simulator_build

__all__ = ["host", "pair", "program", "simulator_build"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in cells.told():
        terminalreporter.write_line(line)
