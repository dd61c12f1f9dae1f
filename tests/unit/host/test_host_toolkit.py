"""NVIDIA's container toolkit is held as the driver is: what is recorded, what somebody moved, and what goes back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inferhost.host.machine import Finished
from inferhost.host.record.baseline import read_baseline
from inferhost.host.runtime.state import to_move
from tests.unit.host.driver_fake import DriverHost, Package
from tests.unit.host.fake_host import plan
from tests.unit.host.test_host_container import contained
from tests.unit.host.test_host_runtime import docker, runtime

BASE, LIBRARY = "nvidia-container-toolkit-base", "libnvidia-container1"
OLD, NEW = "1.20.1-1", "1.21.0-1"
PINNED = ("nvidia-container-toolkit*", "libnvidia-container*")


@pytest.fixture
def bare(bare: DriverHost) -> DriverHost:
    """Docker without a toolkit; as in `driver_fake`, the test does what Ansible does between the verbs."""
    section = runtime(toolkit=(BASE,), toolkit_pinned=PINNED, daemon={}, unit=None)
    bare.plan = plan(manage=("runtime",), runtime=section, service=(), dropins=(), files=())
    bare.tools = {
        "docker": docker(cdi_folders='["/run/cdi"]'),
        "nvidia-ctk": lambda _: Finished(0, "NVIDIA Container Toolkit CLI version 1.20.1\n", ""),
        "apt-cache": lambda _: Finished(0, "", ""),
    }
    return bare


@pytest.fixture
def host(bare: DriverHost) -> DriverHost:
    """The toolkit is there and held."""
    assert bare.run("install").code == 0
    arrive(bare, OLD)
    bare.hold(facts(bare, "apply")["hold"])
    return bare


def arrive(host: DriverHost, version: str) -> None:
    held = BASE in host.packages and host.packages[BASE].held
    host.packages |= {BASE: Package(version, held, depends=LIBRARY), LIBRARY: Package(version, held)}


def facts(host: DriverHost, verb: str) -> dict[str, Any]:
    return dict(host.run(verb).document["facts"]["runtime"])


def wish(host: DriverHost, version: str) -> None:
    section = dataclasses.replace(host.plan.runtime, toolkit_version=version)
    host.plan = dataclasses.replace(host.plan, runtime=section)


def test_the_toolkit_and_its_libraries_are_held_and_nothing_else(host: DriverHost):
    assert sorted(name for name, package in host.packages.items() if package.held) == [LIBRARY, BASE]
    assert host.baseline()["containers:held"]["found"] == {LIBRARY: OLD, BASE: OLD}
    assert facts(host, "apply")["hold"] == []
    answer = host.run("verify")
    assert [answer.verdict(f"runtime.package.{name}") for name in (BASE, LIBRARY)] == [("held", "none")] * 2


def test_check_mode_records_nothing(bare: DriverHost):
    arrive(bare, OLD)
    bare.run("install")
    assert facts_of(bare.run("apply", "--check"))["hold"] == [LIBRARY, BASE]
    assert "containers:held" not in bare.baseline()


def facts_of(answer: Any) -> dict[str, Any]:
    return dict(answer.document["facts"]["runtime"])


def test_a_toolkit_that_somebody_moved_is_found_put_back_and_never_taken_for_ours(host: DriverHost):
    arrive(host, NEW)
    answer = host.run("verify")
    assert (answer.code, answer.verdict(f"runtime.package.{BASE}")) == (3, ("overridden", "other_writer"))
    said = answer.evidence(f"runtime.package.{BASE}")
    assert f"held at {OLD} and changed by somebody else" in said
    assert f"inferhost_runtime_toolkit_version: {NEW} takes the new one" in said
    host.run("apply")
    found = facts(host, "install")
    assert found["restore"] == [f"{LIBRARY}={OLD}", f"{BASE}={OLD}"]
    assert found["accepts"] == f"inferhost_runtime_toolkit_version: {NEW}"
    wish(host, NEW)
    found = facts(host, "install")
    assert (found["restore"], found["replace"]) == ([], [])
    host.run("apply")
    assert host.run("verify").verdict(f"runtime.package.{BASE}") == ("held", "none")


def test_a_lost_hold_and_a_lost_package_are_found(host: DriverHost):
    host.packages[BASE].held = False
    answer = host.run("verify")
    assert answer.verdict(f"runtime.package.{BASE}") == ("overridden", "other_writer")
    assert "not held" in answer.evidence(f"runtime.package.{BASE}")
    assert facts(host, "apply")["hold"] == [BASE]
    del host.packages[LIBRARY]
    assert "not installed" in host.run("verify").evidence(f"runtime.package.{LIBRARY}")


@pytest.mark.parametrize("version", ["1.21.0-*", NEW])
def test_another_version_in_the_wish_moves_all_that_is_held(host: DriverHost, version: str):
    wish(host, version)
    assert "not as planned" in host.run("verify").evidence(f"runtime.package.{BASE}")
    found = facts(host, "install")
    assert (found["restore"], found["replace"]) == ([], [LIBRARY, BASE])
    assert found["ask"] == [f"{LIBRARY}={version}", f"{BASE}={version}"]
    machine = host.machine(str(host.root))
    assert to_move(machine, host.plan, read_baseline(machine)) == [LIBRARY, BASE]
    host.run("apply")
    assert host.baseline()["containers:held"]["found"][BASE] == OLD  # it has not come yet
    arrive(host, NEW)
    host.run("apply")
    assert host.baseline()["containers:held"]["found"] == {LIBRARY: NEW, BASE: NEW}
    assert facts(host, "install")["replace"] == []


@pytest.mark.parametrize(("version", "asked"), [("1.20.1-*", f"{BASE}=1.20.1-*"), (None, BASE)])
def test_a_toolkit_that_is_missing_is_asked_for_at_the_version_of_the_wish(
    bare: DriverHost, version: str | None, asked: str
):
    section = dataclasses.replace(bare.plan.runtime, packages=("docker.io",), toolkit_version=version)
    bare.plan = dataclasses.replace(bare.plan, runtime=section)
    bare.tools["docker"] = lambda _: Finished(127, "", "")
    found = facts(bare, "install")
    assert (found["missing"], found["ask"]) == (["docker.io", BASE], ["docker.io", asked])
    arrive(bare, OLD)
    assert facts(bare, "install")["ask"] == ["docker.io"]


def test_a_version_that_only_begins_like_the_wish_is_another_one(host: DriverHost):
    wish(host, "1.20.1-*")
    assert facts(host, "install")["replace"] == []
    arrive(host, "1.20.10-1")
    assert facts(host, "install")["restore"] == [f"{LIBRARY}={OLD}", f"{BASE}={OLD}"]
    wish(host, "1.20-*")
    assert facts(host, "install")["replace"] == [LIBRARY, BASE]


def test_a_revert_frees_what_we_held_and_removes_what_came(host: DriverHost):
    found = facts(host, "status")
    assert (found["release"], found["remove"], found["restore"]) == ([LIBRARY, BASE], [LIBRARY, BASE], [])
    for name in (BASE, LIBRARY):
        del host.packages[name]
    answer = host.run("revert", "--section", "runtime")
    assert answer.verdict("runtime.packages") == ("held", "none")
    assert not any(key.startswith("containers:") for key in host.baseline())


def test_a_hold_of_somebody_else_stays_and_the_wish_that_would_move_it_is_refused(bare: DriverHost):
    bare.packages |= {BASE: Package("1.17.8-1", held=True, depends=LIBRARY), LIBRARY: Package("1.17.8-1")}
    wish(bare, NEW)
    (problem,) = bare.run("install").problems
    assert problem["path"] == "inferhost_runtime_toolkit_version"
    assert problem["message"] == f'found "{NEW}", and {BASE} 1.17.8-1 is held by somebody else'
    assert problem["hint"] == f"1.17.8-1, or apt-mark unhold {BASE}"
    wish(bare, "1.17.8-*")
    assert bare.run("install").code == 0
    bare.hold(facts(bare, "apply")["hold"])
    wish(bare, NEW)
    assert [p["id"] for p in bare.run("install").problems] == ["held"]
    assert (facts(bare, "status")["release"], facts(bare, "status")["restore"]) == ([LIBRARY], [])


def test_a_version_that_was_not_planned_is_never_recorded_as_ours(bare: DriverHost):
    arrive(bare, OLD)
    wish(bare, NEW)
    bare.run("install")
    bare.run("apply")
    assert "containers:held" not in bare.baseline()


def test_a_toolkit_that_was_there_before_us_goes_back_to_its_version(bare: DriverHost):
    bare.packages |= {BASE: Package("1.17.8-1", depends=LIBRARY), LIBRARY: Package("1.17.8-1")}
    wish(bare, NEW)
    assert facts(bare, "install")["replace"] == [LIBRARY, BASE]
    arrive(bare, NEW)
    bare.hold(facts(bare, "apply")["hold"])
    found = facts(bare, "status")
    assert found["remove"] == []
    assert found["release"] == [LIBRARY, BASE]
    assert found["restore"] == [f"{LIBRARY}=1.17.8-1", f"{BASE}=1.17.8-1"]
    assert bare.run("revert", "--section", "runtime").verdict("runtime.packages") == ("ignored", "unexplained")


TOOLKIT = "nvidia-container-toolkit"
PARTS = [LIBRARY, TOOLKIT, BASE]
"""As NVIDIA's own guide installs it; the plan names the base alone."""


def complete(host: DriverHost, version: str) -> None:
    """All parts at one version; each wants the very same of the next one."""
    arrive(host, version)
    host.packages[TOOLKIT] = Package(version, host.packages[BASE].held, depends=f"{BASE} (= {version})")


def test_a_complete_toolkit_moves_stays_and_goes_back_together(bare: DriverHost):
    complete(bare, "1.17.8-1")
    wish(bare, NEW)
    found = facts(bare, "install")
    assert (found["replace"], found["ask"]) == (PARTS, [f"{name}={NEW}" for name in PARTS])
    complete(bare, NEW)
    assert facts(bare, "apply")["hold"] == PARTS
    bare.hold(PARTS)
    complete(bare, "1.22.0-1")
    assert facts(bare, "install")["restore"] == [f"{name}={NEW}" for name in PARTS]
    complete(bare, NEW)
    found = facts(bare, "status")
    assert (found["release"], found["remove"]) == (PARTS, [])
    assert found["restore"] == [f"{name}=1.17.8-1" for name in PARTS]


def test_a_part_that_somebody_adds_is_of_the_version_of_the_others_from_then_on(host: DriverHost):
    complete(host, NEW)
    assert facts(host, "install")["restore"] == [f"{name}={OLD}" for name in PARTS]
    assert facts(host, "apply")["hold"] == []
    assert host.baseline()["containers:held"]["found"] == dict.fromkeys(PARTS, OLD)
    complete(host, OLD)
    assert facts(host, "install")["restore"] == []


def test_a_part_that_its_owner_takes_away_from_beside_the_others_stays_away(host: DriverHost):
    complete(host, OLD)
    host.run("apply")
    del host.packages[TOOLKIT]
    found = facts(host, "install")
    assert (found["restore"], found["ask"]) == ([], [])


def test_a_held_part_that_somebody_removed_comes_back_at_its_version(host: DriverHost):
    complete(host, OLD)
    host.run("apply")
    complete(host, NEW)
    for name in (TOOLKIT, BASE):
        del host.packages[name]
    found = facts(host, "install")
    assert (found["missing"], found["ask"]) == ([BASE], [])
    assert found["restore"] == [f"{name}={OLD}" for name in PARTS]
    assert found["accepts"] == f"inferhost_runtime_toolkit_version: {NEW}"
    del host.packages[LIBRARY]
    assert facts(host, "install")["accepts"] == ""


def test_another_part_of_an_older_toolkit_moves_with_the_first_base(bare: DriverHost):
    bare.packages[LIBRARY] = Package("1.9.0-1")
    wish(bare, NEW)
    found = facts(bare, "install")
    assert (found["missing"], found["ask"]) == ([BASE], [f"{BASE}={NEW}", f"{LIBRARY}={NEW}"])


def test_a_toolkit_of_before_us_that_no_source_has_any_more_ends_no_revert_early(bare: DriverHost):
    bare.packages |= {BASE: Package("1.17.8-1", depends=LIBRARY), LIBRARY: Package("1.17.8-1")}
    wish(bare, NEW)
    bare.run("install")
    arrive(bare, NEW)
    bare.hold(facts(bare, "apply")["hold"])
    bare.dropped |= {(BASE, "1.17.8-1")}
    assert facts(bare, "status")["restore"] == [f"{LIBRARY}=1.17.8-1"]
    bare.packages |= {LIBRARY: Package("1.17.8-1"), BASE: Package(NEW)}
    answer = bare.run("revert", "--section", "runtime")
    assert answer.verdict("runtime.packages") == ("held", "none")
    assert f"{BASE}: 1.17.8-1 was here before us" in answer.prose


def test_a_toolkit_that_is_there_and_names_cards_by_number_only_is_refused_where_the_plan_names_one_by_uuid(
    bare: DriverHost,
):
    bare.packages |= {BASE: Package("1.14.6-1", depends=LIBRARY), LIBRARY: Package("1.14.6-1")}
    assert bare.run("install", "--check").code == 0
    service = contained("compose").service[0]
    by_uuid = dataclasses.replace(service.container, devices=("nvidia.com/gpu=GPU-1",))
    bare.plan = dataclasses.replace(bare.plan, service=(dataclasses.replace(service, container=by_uuid),))
    (problem,) = bare.run("install", "--check").problems
    assert problem["path"] == "inferhost_runtime_toolkit_version"
    assert problem["message"] == f'found "newest", and {BASE} 1.14.6-1 is there, which names cards by number only'
    assert problem["hint"].startswith("one from 1.15.0 on")
    wish(bare, "1.14.6-*")
    assert 'found "1.14.6"' in bare.run("install", "--check").problems[0]["message"]
    wish(bare, "1.20.1-*")
    assert bare.run("install", "--check").code == 0
