"""T0: the plan as nix/lib/plan.nix gives it to NixOS is, byte for byte, what the roles place elsewhere."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess

import pytest

from inferhost.schema.plan import READABLE_SCHEMAS, SECTIONS
from inferhost.schema.wish import read_wish
from tests.golden import renew
from tests.nix import placed_by_roles, tiers

pytestmark = pytest.mark.tier("T0")
UNITS = "/etc/systemd/system/"


def golden_file(host: str) -> pathlib.Path:
    return renew.HERE / host / "plan.json"


def golden(host: str) -> dict:
    return json.loads(golden_file(host).read_text())


HOSTS = [host for host in renew.hosts() if "driver" not in golden(host)["manage"]]
"""NixOS brings its own driver: a plan with packages of a distribution is for none of its hosts."""


def listed(folder: pathlib.Path, content: list) -> pathlib.Path:
    path = folder / "list.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What plan.nix makes of every golden plan, placements and files, by host."""
    files = listed(tmp_path_factory.mktemp("plans"), [str(golden_file(host)) for host in HOSTS])
    return {
        name: tiers.evaluate(tiers.HERE / "plans.nix", name, files=files)
        for name in ("placements", "texts", "sections", "readableSchemas")
    }


@pytest.fixture(params=HOSTS)
def host(request):
    return request.param


@pytest.fixture
def placement(made, host):
    return made["placements"][HOSTS.index(host)]


def test_every_nix_file_parses():
    files = [*(tiers.ROOT / "nix").rglob("*.nix"), *tiers.HERE.rglob("*.nix"), *tiers.ROOT.glob("*.nix")]
    assert len(files) > 8
    for file in files:
        tiers.parse(file)


def test_files_units_and_dropins_are_those_of_the_roles(made, host):
    ours = sorted(made["texts"][HOSTS.index(host)], key=lambda file: file["path"])
    assert ours == [vars(file) for file in placed_by_roles.files(golden(host))]


def test_every_file_goes_to_etc_or_to_the_units(made, placement, host):
    found = {UNITS + name for name in placement["units"]} | {"/etc/" + name for name in placement["etc"]}
    assert found == {file["path"] for file in made["texts"][HOSTS.index(host)]}


def test_kernel_parameters_are_those_of_the_file_that_the_roles_place(placement, host):
    text = "".join(f.text for f in placed_by_roles.files(golden(host)) if f.path.startswith("/etc/sysctl.d/"))
    lines = [line.split(" = ") for line in text.splitlines() if not line.startswith("#")]
    assert {name: str(value) for name, value in placement["sysctl"].items()} == dict(lines)


def test_login_limits_are_those_of_the_file_that_the_roles_place(placement, host):
    text = "".join(f.text for f in placed_by_roles.files(golden(host)) if "/limits.d/" in f.path)
    rules = [line for line in text.splitlines() if not line.startswith("#")]
    assert [
        " ".join(str(limit[k]) for k in ("domain", "type", "item", "value")) for limit in placement["loginLimits"]
    ] == rules


def test_environment_is_that_of_the_plan(placement, host):
    """Ansible and NixOS place it inside the drop-in; the plan's own table is what the host program compares."""
    for service in golden(host)["service"]:
        text = placement["units"][f"{service['unit']}.d/10-inferhost.conf"]["text"]
        placed = [line.removeprefix("Environment=") for line in text.splitlines() if line.startswith("Environment=")]
        assert placed == [f'"{name}={value}"' for name, value in golden(host)["env"][service["instance"]].items()]


def test_the_host_program_applies_the_same_sections(placement, host):
    """Governor, limits of the cards and live kernel parameters come with them. NixOS starts engines itself."""
    wanted = placed_by_roles.applied_sections() & set(golden(host)["manage"]) - {"service"}
    assert set(placement["applied"]) == wanted
    assert placement["governor"] == golden(host)["cpu"]["governor"]


def test_engines_and_their_users_are_those_of_the_plan(placement, host):
    services = golden(host)["service"]
    assert [(e["instance"], e["unit"], e["executable"], e["port"]) for e in placement["engines"]] == [
        (s["instance"], s["unit"], s["argv"][0], s["port"]) for s in services
    ]
    assert placement["users"] == sorted({s["user"] for s in services})


NOT_ON_NIXOS = {"inferhost-cdi.service", "inferhost-haproxy.service", "inferhost-nginx.service"}
"""NVIDIA's toolkit module writes the specification there; a balancer is for services.haproxy or services.nginx."""


def test_the_nix_side_knows_the_same_schemas_and_sections(made):
    assert made["readableSchemas"] == list(READABLE_SCHEMAS)
    assert made["sections"] == [section for section in SECTIONS if section != "balancer"]


def test_no_task_of_a_role_is_unknown_to_these_tests():
    assert placed_by_roles.unknown_tasks() == []


def test_every_packaged_unit_is_placed_by_some_plan(made):
    """A unit that is added for Ansible has to reach NixOS as well."""
    packaged = {path.name for path in (tiers.ROOT / "inferhost/host/units").iterdir()} - NOT_ON_NIXOS
    assert packaged <= {name for placement in made["placements"] for name in placement["units"]}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda plan: plan | {"schema": 99},
            "schema: found 99, this module reads [1,2]; take both from one checkout",
        ),
        (lambda plan: plan | {"sysctl": {"vm.swappiness": "1"}}, "change the wish and plan again"),
        (lambda plan: plan | {"manage": ["gpu", "moon"]}, 'manage: found "moon", this module places'),
        (
            lambda plan: plan | {"files": [plan["files"][0] | {"path": "/usr/x"}]},
            'files: found "/usr/x", NixOS places files below /etc only',
        ),
    ],
    ids=["schema", "edited by hand", "section", "place"],
)
def test_a_plan_that_cannot_be_trusted_is_refused(tmp_path, edit, said):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(edit(golden("rtx5090")), indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    with pytest.raises(tiers.NixError, match=r"services\.inferhost\.planFile: ") as refused:
        tiers.evaluate(tiers.HERE / "plans.nix", "placements", files=listed(tmp_path, [str(plan)]))
    assert said in str(refused.value)


def test_the_wish_of_a_plan_has_the_hash_that_the_plan_names(host, tmp_path):
    wish = tmp_path / "wish.json"
    wish.write_text(json.dumps(read_wish(renew.wish(host)).values))
    assert tiers.evaluate(tiers.HERE / "wish.nix", wish=wish) == golden(host)["wish_sha256"]


MUTATIONS = {
    "wrong governor": ("inherit (plan.cpu) governor;", 'governor = "powersave";'),
    "lost section": ('[ "gpu" "cpu" ];', '[ "gpu" ];'),
    "lost kernel parameters": ("mapAttrs (_: number) plan.sysctl", "{ }"),
    "lost hardening line": (
        'readFile (packagedUnits + "/${name}")',
        'replaceStrings [ "NoNewPrivileges=yes" ] [ "" ] (readFile (packagedUnits + "/${name}"))',
    ),
    "renamed key": ("file.content", "file.text"),
    "changed mode": ('mode = "0644";', 'mode = "0600";'),
    "turned order": ("state.lines ++ heading ++ [", "heading ++ state.lines ++ ["),
    "a link to another engine": ("head service.argv", "elemAt service.argv 1"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_copy_of_the_library_is_noticed(made, tmp_path, name):
    """Either Nix refuses it, or the values that the tests above compare are other ones."""
    for folder in ("nix/lib", "tests/nix", "inferhost/schema", "inferhost/host/units"):
        shutil.copytree(tiers.ROOT / folder, tmp_path / folder)
    old, new = MUTATIONS[name]
    broken = tmp_path / "nix/lib/plan.nix"
    assert old in broken.read_text()
    broken.write_text(broken.read_text().replace(old, new))
    files = listed(tmp_path, [str(golden_file("c220g5"))])
    wanted = [made[part][HOSTS.index("c220g5")] for part in ("placements", "texts")]
    try:
        found = [tiers.evaluate(tmp_path / "tests/nix/plans.nix", p, files=files) for p in ("placements", "texts")]
    except tiers.NixError:
        return
    assert [part[0] for part in found] != wanted


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="SKIPPED: no systemd-analyze on PATH")
def test_systemd_accepts_the_units(placement, host, tmp_path):
    """An executable that is not on this machine is not the unit's fault: a stub stands for it."""
    stub = "/bin/true"
    for name, file in placement["units"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = file["text"]
        for program in ("/usr/local/bin/inferhost", *(engine["executable"] for engine in placement["engines"])):
            text = text.replace(program, stub)
        path.write_text(text)
    for engine in placement["engines"]:
        template = tmp_path / (engine["unit"].partition("@")[0] + "@.service")
        (tmp_path / engine["unit"]).write_text(template.read_text())
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", f"./{engine['unit']}"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert (done.returncode, said) == (0, ""), said
