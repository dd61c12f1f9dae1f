"""T2: the examples as whole NixOS configurations, evaluated. T3: the virtual machine with the simulated GPU, run."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

import pytest

from tests.nix import placed_by_roles, tiers
from tests.nix.test_nix_modules import EXAMPLES, plan_of

ADDED_BY_NIXOS = re.compile(r'"(PATH|LOCALE_ARCHIVE|TZDIR)=')


@pytest.fixture(scope="module", params=EXAMPLES)
def system(request, tmp_path_factory):
    """The example's name, and its values under the nixpkgs that NIXPKGS names."""
    store = tmp_path_factory.mktemp("store")
    example = tiers.ROOT / f"nix/examples/{request.param}/configuration.nix"
    nixpkgs = pathlib.Path(os.environ["NIXPKGS"])
    return request.param, tiers.evaluate(
        tiers.HERE / "system.nix", store=store, nixpkgs=nixpkgs, configuration=example
    )


def settings(text: str) -> dict[str, dict[str, list[str]]]:
    """A unit as section, key and values, without what NixOS adds to every unit, binaries without their folder."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        elif "=" in line and not line.startswith(("X-", "#")):
            key, _, value = line.partition("=")
            if not ADDED_BY_NIXOS.match(value):
                value = re.sub(r"/nix/store/\S+/bin/(\S+)", r"@\1@", value)
                found.setdefault(section, {}).setdefault(key, []).append(value)
    return found


@pytest.mark.tier("T2")
def test_a_whole_system_comes_out(system):
    name, found = system
    assert re.fullmatch(rf"/nix/store/[a-z0-9]+-nixos-system-{name}-\S+\.drv", found["toplevel"])
    assert (found["failed"], found["warnings"]) == ([], [])


@pytest.mark.tier("T2")
def test_files_kernel_parameters_and_limits_are_those_of_the_plan(system):
    name, found = system
    placed = [file for file in placed_by_roles.files(plan_of(name)) if "/systemd/" not in file.path]
    files = {file.path.removeprefix("/etc/"): file.text for file in placed}
    assert {path: text for path, text in found["etc"].items() if text is not None} == files
    planned = plan_of(name)["sysctl"]
    assert {key: str(found["sysctl"][key]) for key in planned} == planned
    assert [limit["item"] for limit in found["limits"]] == ["nofile", "memlock"]
    assert found["governor"] is None


@pytest.mark.tier("T2")
def test_units_are_as_nixos_writes_them(system):
    _, found = system
    run = "@inferhost@ {} --section gpu --section cpu"
    assert settings(found["units"]["apply"]) == {
        "[Unit]": {
            "After": ["sysinit.target"],
            "Before": ["inferhost-serve@main.service"],
            "DefaultDependencies": ["false"],
            "Wants": ["nvidia-persistenced.service"],
        },
        "[Service]": {
            "ExecReload": [run.format("boot")],
            "ExecStart": ["", run.format("boot --wait 60")],
            "ExecStop": [run.format("revert")],
            "RemainAfterExit": ["true"],
        },
        "[Install]": {"WantedBy": ["multi-user.target"]},
    }
    assert "X-ReloadIfChanged=true" in found["units"]["apply"]
    assert "X-Restart-Triggers=" in found["units"]["engine"]
    assert settings(found["units"]["engine"])["[Install]"] == {"WantedBy": ["multi-user.target"]}
    assert "inferhost-units" in found["packages"]


@pytest.mark.tier("T2")
def test_the_driver_suits_the_cards(system):
    name, found = system
    assert found["driver"]["open"] == (plan_of(name)["driver"]["kernel_module"] == "open")
    assert settings(found["units"]["persistence"])["[Service]"]["Type"] == ["forking"]


@pytest.mark.tier("T2")
def test_the_machine_of_the_next_test_evaluates(tmp_path):
    nixpkgs = pathlib.Path(os.environ["NIXPKGS"])
    for part in ("before", "planned"):
        found = tiers.evaluate(tiers.HERE / "machine.nix", part, store=tmp_path / "store", nixpkgs=nixpkgs)
        assert found.endswith(".drv")
    script = tiers.evaluate(tiers.HERE / "machine.nix", "script", store=tmp_path / "store", nixpkgs=nixpkgs)
    compile(script, "testScript", "exec")


@pytest.mark.tier("T3")
def test_a_machine_boots_applies_proves_and_gives_back(tmp_path):
    expression = f"(import {os.environ['NIXPKGS']} {{ }}).testers.runNixOSTest {tiers.HERE / 'vm.nix'}"
    done = subprocess.run(
        ["nix-build", "--no-out-link", "--expr", expression], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
