"""When the service role goes no further: the conditions are the role's own, evaluated here."""

import pytest

from tests.unit.test_driver_role import ROLES, _plugins, holds, task

__all__ = ["_plugins"]  # the fixture of what evaluates


@pytest.mark.parametrize("drifted", [True, False])
def test_an_engine_that_could_not_be_made_stops_the_run_before_a_unit_changes(drifted: bool):
    """An image that did not come ends the verb with what the host calls drift."""
    makes = task(
        "engines.yml", "engines | Those that are to be made are made, each version beside the others",
        ROLES / "inferhost_service/tasks",
    )  # fmt: skip
    said = {makes["register"]: {"failed": False, "drifted": drifted}}
    assert holds(makes["failed_when"], said) is drifted


@pytest.mark.parametrize("facts", [{"stopped": True}, {}])
def test_a_record_that_could_not_be_written_stops_the_run(facts: dict[str, bool]):
    name = "install | The baseline is recorded, the plan and the host program are installed"
    installs = task("install.yml", name, ROLES / "inferhost_plan/tasks")
    said = {installs["register"]: {"failed": False, "facts": facts}}
    assert holds(installs["failed_when"], said) is bool(facts)
