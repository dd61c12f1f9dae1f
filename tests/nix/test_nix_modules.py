"""T1: the modules under nixpkgs' own module system: examples, types, priorities, conflicts, broken copies of ours."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

import pytest

from inferhost import catalogue, planner
from inferhost.schema import document
from tests.golden import renew
from tests.nix import placed_by_roles, reference, tiers
from tests.nix.placed_by_roles import File

pytestmark = pytest.mark.tier("T1")
EXAMPLES = ("gb200", "c220g5", "rtx5090")
UNITS = "/etc/systemd/system/"


def evaluated(configuration: pathlib.Path, tree: pathlib.Path = tiers.ROOT) -> dict[str, Any]:
    """The configuration's values; `tree` is this checkout or a broken copy."""
    library = tiers.nixpkgs_lib()
    assert library is not None
    return tiers.evaluate(tree / "tests/nix/modules.nix", libPath=library, configuration=configuration)


def plan_of(host: str) -> dict[str, Any]:
    return json.loads((renew.HERE / host / "plan.json").read_text())


@pytest.fixture
def configured(tmp_path):
    """The values of a configuration given as Nix text: host c220g5 with its plan, and what is added."""

    def make(added: str = "", host: str = "c220g5", plan: pathlib.Path | None = None) -> dict[str, Any]:
        file = tmp_path / "configuration.nix"
        base = f'networking.hostName = "{host}"; nixpkgs.config.allowUnfree = true; services.inferhost.enable = true;'
        where = f"services.inferhost.planFile = {plan or renew.HERE / host / 'plan.json'};"
        file.write_text(f"{{ lib, pkgs, ... }}: {{ imports = [ {{ {base} {where} }} {{ {added} }} ]; }}")
        return evaluated(file)

    return make


@pytest.fixture(scope="module")
def examples():
    return {name: evaluated(tiers.ROOT / f"nix/examples/{name}/configuration.nix") for name in EXAMPLES}


@pytest.fixture(params=EXAMPLES)
def example(request, examples):
    return request.param, examples[request.param]


def test_the_examples_have_no_failed_assertion_and_no_warning(example):
    assert (example[1]["failed"], example[1]["warnings"]) == ([], [])


def built_units(found: dict[str, Any], out: pathlib.Path) -> dict[str, str]:
    """The unit packages' build scripts, run by bash: file by path below the unit directory."""
    for script in found["unitScripts"]:
        subprocess.run(["bash", "-eu", "-c", script], env={**os.environ, "out": str(out)}, check=True)
    folder = out / "lib/systemd/system"
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_units_and_files_are_those_of_the_roles(example, tmp_path):
    host, found = example
    units = [File(UNITS + name, "0644", text) for name, text in built_units(found, tmp_path).items()]
    modes = {"symlink": "0644"}
    etc = [
        File(f"/etc/{n}", modes.get(f["mode"], f["mode"]), f["text"]) for n, f in found["etc"].items() if f["text"]
    ]
    assert sorted(units + etc, key=lambda file: file.path) == placed_by_roles.files(plan_of(host))


def test_the_plan_itself_is_installed_as_it_is(example):
    host, found = example
    assert pathlib.Path(found["planSource"]).read_bytes() == (renew.HERE / host / "plan.json").read_bytes()


def test_kernel_parameters_and_governor_have_one_owner(example):
    host, found = example
    assert {name: str(value) for name, value in found["sysctl"].items()} == plan_of(host)["sysctl"]
    assert found["governor"] is None


def test_the_host_program_applies_and_takes_back_what_has_no_file(example):
    _, found = example
    service = found["services"]["inferhost-apply"]
    run = service["serviceConfig"]
    assert service["overrideStrategy"] == "asDropin"
    assert run["ExecStart"][0] == ""
    assert run["ExecStart"][1].endswith("/bin/inferhost boot --wait 60 --section gpu --section cpu")
    assert run["ExecReload"].endswith("/bin/inferhost boot --section gpu --section cpu")
    assert run["ExecStop"].endswith("/bin/inferhost revert --section gpu --section cpu")
    assert service["reloadIfChanged"]
    assert set(service["before"]) <= set(found["services"]) | {"inferhost-serve@main.service"}
    assert "record --section cpu --plan /nix/store/" in found["activation"]["inferhost-record"]


def test_settings_come_back_after_a_suspend_and_the_timer_looks_for_drift(example):
    _, found = example
    assert found["resume"] == "systemctl --no-block reload inferhost-apply.service\n"
    assert found["timers"]["inferhost-verify"]["wantedBy"] == ["timers.target"]
    assert any("L+ /usr/local/bin/inferhost " in rule for rule in found["tmpfiles"])


def test_an_engine_starts_at_boot_and_again_when_its_files_change(example):
    _, found = example
    engine = found["services"]["inferhost-serve@main"]
    assert engine["wantedBy"] == ["multi-user.target"]
    assert engine["overrideStrategy"] == "asDropin"
    assert any("inferhost-units" in trigger for trigger in found["triggers"]["inferhost-serve@main"])


def test_the_driver_is_the_one_for_the_cards(examples):
    found = {name: (e["nvidia"]["open"], e["nvidia"]["version"], e["videoDrivers"]) for name, e in examples.items()}
    assert found == {
        "gb200": (True, "580.95.05", ["nvidia"]),
        "c220g5": (False, "580.178.04", ["nvidia"]),
        "rtx5090": (True, "580.95.05", ["nvidia"]),
    }
    assert all(e["graphics"] and e["nvidia"]["nvidiaPersistenced"] for e in examples.values())
    assert [name for name, e in examples.items() if e["containerToolkit"]] == ["rtx5090"]


def test_login_limits_reach_pam(example):
    limits = example[1]["limits"]
    words = [" ".join(str(limit[k]) for k in ("domain", "type", "item", "value")) for limit in limits]
    assert words == ["* - nofile 65536", "* - memlock unlimited"]


def test_the_user_is_made_as_the_role_makes_it(example):
    user = example[1]["users"]["inferhost"]
    assert (user["isSystemUser"], user["home"], user["group"]) == (True, "/nonexistent", "inferhost")


def test_an_engine_from_nixpkgs_stands_where_the_plan_looks_for_it(examples):
    executable = plan_of("c220g5")["service"][0]["argv"][0]
    assert examples["c220g5"]["tmpfiles"] == [
        "L+ /usr/local/bin/inferhost - - - - /nix/store/inferhost/bin/inferhost",
        f"L+ {executable} - - - - /nix/store/llama-cpp-cuda/bin/llama-server",
    ]


def test_secrets_come_from_files_outside_the_store(examples):
    service = examples["gb200"]["services"]["inferhost-serve@main"]
    assert service["serviceConfig"] == {"EnvironmentFile": ["/run/secrets/inferhost-main"]}


def test_a_host_that_only_observes_gets_plan_and_program_only(configured):
    found = configured(host="l40s-observed")
    assert list(found["etc"]) == ["inferhost/plan.json"]
    settings = ("services", "unitScripts", "users", "sysctl", "limits", "activation", "tmpfiles", "ports")
    assert {name: found[name] for name in settings if found[name]} == {}
    assert found["videoDrivers"] == ["modesetting", "fbdev"]


def test_without_enable_nothing_is_set(tmp_path):
    file = tmp_path / "configuration.nix"
    file.write_text("{ }")
    found = evaluated(file)
    assert (found["etc"], found["services"], found["sysctl"], found["activation"]) == ({}, {}, {}, {})


REFUSED_BY_TYPE = {
    'services.inferhost.planFil = "/x";': "`services.inferhost.planFil' does not exist",
    "services.inferhost.openFirewall = 3;": "`services.inferhost.openFirewall' is not of type `boolean'",
    "services.inferhost.instances.main.environmentFiles = [ 3 ];": "is not of type `string'",
    "services.inferhost.wish.inferhost_gpu_power_limt = 450;": "inferhost_gpu_power_limt' does not exist",
    'services.inferhost.wish.inferhost_cpu_governor = "fast";': 'one of "performance", "schedutil",',
    'services.inferhost.wish.inferhost_cpu_swappiness = "10";': "inferhost_cpu_swappiness' is not of type",
    "services.inferhost.placement = { };": "`services.inferhost.placement' is read-only",
}


@pytest.mark.parametrize("added", REFUSED_BY_TYPE)
def test_wrong_types_and_misspelt_options_are_refused(configured, added):
    with pytest.raises(tiers.NixError) as refused:
        configured(added)
    assert REFUSED_BY_TYPE[added] in str(refused.value)


CONFLICTS = {
    'services.inferhost.host = "other";': 'services.inferhost.planFile: the plan is for "c220g5"',
    "services.inferhost.instances.second = { };": "services.inferhost.instances: second is not in the plan",
    'services.inferhost.instances.main.environmentFiles = [ "/nix/store/x" ];': "services.inferhost.instances.*.env",
    "services.inferhost.wish.inferhost_cpu_swappiness = 30;": "services.inferhost.wish: the plan was made from",
    'boot.kernel.sysctl."vm.swappiness" = 60;': 'boot.kernel.sysctl."vm.swappiness": found 60, the plan says 10;',
    'powerManagement.cpuFreqGovernor = "powersave";': "powerManagement.cpuFreqGovernor: found powersave, the",
    "services.lact.enable = true;": "services.lact.enable: it writes settings of the section gpu too",
    "services.tuned.enable = true;": "services.tuned.enable: it writes settings of the section cpu too",
    "services.power-profiles-daemon.enable = true;": "services.power-profiles-daemon.enable: it writes",
    'services.xserver.videoDrivers = [ "modesetting" ];': 'services.xserver.videoDrivers: without "nvidia"',
    "hardware.nvidia.open = true;": "hardware.nvidia.open: the plan's cards need the proprietary kernel module",
    'hardware.nvidia.package.version = "595.99.02";': "hardware.nvidia.package: found 595.99.02, branch 580",
}


@pytest.mark.parametrize("added", CONFLICTS)
def test_a_conflict_is_an_assertion_that_names_the_option(configured, added):
    failed = configured(added)["failed"]
    assert [message for message in failed if message.startswith(CONFLICTS[added])], failed
    assert len(failed) == 1


def test_a_driver_that_is_too_old_is_refused(configured):
    failed = configured('hardware.nvidia.package.version = "550.90.07";', host="rtx5090")["failed"]
    assert failed == ["hardware.nvidia.package: found 550.90.07, the plan's cards need 570.86.16 or later"]


def test_defaults_of_others_lose_against_the_plan(configured):
    found = configured('boot.kernel.sysctl."vm.swappiness" = lib.mkDefault 1;')
    assert (found["failed"], found["sysctl"]["vm.swappiness"]) == ([], 10)


def test_a_plain_value_wins_where_the_plan_leaves_a_choice(configured):
    assert configured(host="h100")["nvidia"]["open"] is True
    assert configured("hardware.nvidia.open = false;", host="h100")["nvidia"]["open"] is False
    assert configured("hardware.nvidia.open = lib.mkForce true;")["failed"] != []


def test_a_kernel_parameter_that_equals_the_plan_is_no_conflict(configured):
    assert configured('boot.kernel.sysctl."vm.swappiness" = "10";')["failed"] == []


def test_the_wish_that_the_plan_was_made_from_is_accepted_and_written_out(configured, tmp_path):
    given = tmp_path / "wish.json"
    given.write_text(json.dumps(renew.wish("c220g5")))
    found = configured(f"services.inferhost.wish = lib.importJSON {given};")
    assert found["failed"] == []
    assert planner.plan(found["wish"], "c220g5", catalogue.load()).wish_sha256 == plan_of("c220g5")["wish_sha256"]


def test_an_unfree_driver_is_warned_about(configured):
    said = configured("nixpkgs.config.allowUnfree = lib.mkForce false;")["warnings"]
    assert [line.partition(":")[0] for line in said] == ["nixpkgs.config.allowUnfree"]


def test_persistence_that_is_turned_off_is_warned_about(configured):
    said = configured("hardware.nvidia.nvidiaPersistenced = false;")["warnings"]
    assert [line.partition(":")[0] for line in said] == ["hardware.nvidia.nvidiaPersistenced"]


def test_the_firewall_opens_what_others_can_reach(configured, tmp_path):
    opened = "services.inferhost.openFirewall = true;"
    assert configured(opened)["ports"] == []
    assert configured(opened)["warnings"][0].startswith("services.inferhost.openFirewall: every engine")
    wish = renew.wish("c220g5") | {"inferhost_service_host": "0.0.0.0"}
    file = tmp_path / "public.json"
    file.write_text(document.text(planner.plan(wish, "c220g5", catalogue.load())))
    assert configured(opened, plan=file)["ports"] == [8080]
    assert configured("", plan=file)["ports"] == []


MUTATIONS = {
    "wrong governor": ("modules/host.nix", "(overDefaults null)", "(overDefaults governor)"),
    "governor of a wrong type": ("modules/host.nix", "(overDefaults null)", "(overDefaults 3)"),
    "misspelt option": ("modules/host.nix", "nvidiaPersistenced = over", "nvidiaPersistence = over"),
    "default over a default": ("modules/host.nix", "lib.mkOverride 900", "lib.mkOverride 1100"),
    "changed default": ("modules/options.nix", "default = true;", "default = false;"),
    "no stop": ("modules/service.nix", 'ExecStop = "${program} revert ${sections}";', ""),
    "no restart": ("modules/service.nix", "[ unitPackage ] ++", "[ ] ++"),
    "lost units": ("modules/service.nix", "(placement.units != { }) unitPackage", "false unitPackage"),
    "lost hardening line": (
        "lib/plan.nix",
        'readFile (packagedUnits + "/${name}")',
        'replaceStrings [ "NoNewPrivileges=yes" ] [ "" ] (readFile (packagedUnits + "/${name}"))',
    ),
    "renamed key": ("lib/plan.nix", "plan.wish_sha256;", "plan.wish_hash;"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_copy_of_the_modules_is_noticed(tmp_path, examples, name):
    """Either Nix refuses it, or the values that the tests above compare are other ones."""
    for folder in ("nix", "tests/nix", "tests/golden/rtx5090", "inferhost/schema", "inferhost/host/units"):
        shutil.copytree(tiers.ROOT / folder, tmp_path / folder)
    file, old, new = MUTATIONS[name]
    broken = tmp_path / "nix" / file
    assert old in broken.read_text()
    broken.write_text(broken.read_text().replace(old, new))
    try:
        found = evaluated(tmp_path / "nix/examples/rtx5090/configuration.nix", tree=tmp_path)
    except tiers.NixError:
        return
    stable = [key for key in found if key != "planSource"]
    assert {key: found[key] for key in stable} != {key: examples["rtx5090"][key] for key in stable}


def test_an_unbroken_copy_is_the_same(tmp_path, examples, monkeypatch):
    monkeypatch.setitem(MUTATIONS, "nothing", ("module.nix", "imports", "imports"))
    with pytest.raises(AssertionError):
        test_a_broken_copy_of_the_modules_is_noticed(tmp_path, examples, "nothing")


def test_the_option_reference_is_what_the_module_says():
    """Renewed by `NIXPKGS_LIB=DIR python -m tests.nix.reference`."""
    assert reference.TARGET.read_text() == reference.text()
