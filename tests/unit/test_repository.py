"""Rules about the repository itself."""

import pathlib
import re
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tracked(*patterns: str) -> list[pathlib.Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.splitlines()]


def test_locks_hold_hashes_and_no_address():
    for name in ("requirements.lock", "collections/ansible.lock", "tests/py39.lock"):
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|--index-url|--find-links", text), name
        assert text.count("==") <= text.count("--hash=sha256:")


def test_no_file_is_above_400_lines():
    code = [p for p in tracked("*.py", "*.c", "*.h", "*.yml", "*.nix", "*.sh") if not p.is_symlink()]
    long = {str(p.relative_to(ROOT)): n for p in code if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def test_the_sandbox_is_never_in_the_default_inventories():
    assert "sandbox" not in (ROOT / "ansible.cfg").read_text().split("inventory =")[1].splitlines()[0]


# Twin and the landscape of the host that it stands for.
TWINS = {"gb200": "esxi", "c220g5": "cloudlab", "rtx5090": "workstations"}


def test_every_twin_is_known_here():
    hosts = yaml.safe_load((ROOT / "inventories/sandbox/hosts.yml").read_text())
    assert {group: list(content["hosts"]) for group, content in hosts.items()} == {
        twin: [f"sandbox-{twin}"] for twin in TWINS
    }


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_links_to_the_real_wish_which_is_all_that_the_real_host_has(twin):
    landscape = ROOT / "inventories" / TWINS[twin]
    link = ROOT / f"inventories/sandbox/group_vars/{twin}.yml"
    assert link.is_symlink()
    assert link.resolve() == landscape / f"host_vars/{twin}/wish.yml"
    group_vars = [path.stem for path in landscape.glob("group_vars/*")]
    assert [name for name in group_vars if not name.startswith("vram_")] == []


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_overrides_only_what_a_container_forces(twin):
    folder = ROOT / f"inventories/sandbox/host_vars/sandbox-{twin}"
    keys = {key for path in folder.glob("*.yml") for key in yaml.safe_load(path.read_text())}
    assert keys == {
        "inferhost_service_engine",
        "inferhost_service_engine_version",
        "inferhost_service_engine_path",
        "inferhost_service_model",
        "inferhost_service_model_path",
        "inferhost_hardware",
        "inferhost_simulated",
        "ansible_host",
        "ansible_port",
        "ansible_user",
        "ansible_ssh_private_key_file",
        "ansible_ssh_common_args",
        "ansible_python_interpreter",
    }


def test_the_pointer_for_nixos_hosts_leads_somewhere():
    assert "nix/module.nix" in (ROOT / "action_plugins/inferhost_host.py").read_text()
    assert (ROOT / "nix/module.nix").is_file()


def test_a_role_uses_no_other_than_the_one_of_the_plan():
    """What several of them do stands in inferhost_plan, on which every one depends."""
    for path in sorted(ROOT.glob("roles/*/*/*.yml")):
        others = {role.name for role in ROOT.glob("roles/*")} - {path.parents[1].name, "inferhost_plan"}
        used = re.findall(r"(?:name: |\b__)(inferhost_[a-z]+)", path.read_text())
        assert not others & set(used), path


def test_no_real_inventory_has_a_group_of_a_hosts_name():
    for hosts_file in ROOT.glob("inventories/*/hosts.yml"):
        if hosts_file.parent.name != "sandbox":
            for group, content in yaml.safe_load(hosts_file.read_text()).items():
                assert group not in (content.get("hosts") or {})


def test_the_planner_does_no_input_or_output():
    forbidden = re.compile(r"^\s*(import|from)\s+(ansible|pynvml|subprocess|socket|pathlib|os)\b|\bopen\(", re.M)
    assert [str(p) for p in (ROOT / "inferhost/planner").rglob("*.py") if forbidden.search(p.read_text())] == []


def test_the_readme_shows_the_plan_that_is_made():
    excerpt = (ROOT / "README.md").read_text().split("--host gb200\n", 1)[1].split("```")[0].splitlines()
    golden = (ROOT / "tests/golden/gb200/table.txt").read_text().splitlines()
    assert [line for line in excerpt if line != "..." and line not in golden] == []
