"""The same hosts as in the unit tests of the host program."""

from tests.unit.host.conftest import host, pair, program, simulator_build

__all__ = ["host", "pair", "program", "simulator_build"]
