"""site.yml on a sandbox host: what check mode announces, what the run does, and what a second run leaves alone."""

import json

import pytest

from tests.bed.playbook import NAME, PORT, ROOT, Ran, bed, run_playbook, snapshot
from tests.bed.snapshot import differences

SITE = ("site.yml", "-i", "inventories/sandbox", "-l", "gb200", "--diff")


@pytest.fixture(scope="module")
def runs():
    """Check mode on a bare host, the first run, the second run; then further tests use the placed host."""
    bed("up", NAME, PORT)
    # Somebody was here before us, so that the diff shows a power limit too.
    bed("exec", NAME, "inferhost-sim", "set", "persistence", "1")
    bed("exec", NAME, "inferhost-sim", "set", "power_limit_mw", "480000")
    found = {"before": snapshot(), "check": run_playbook(*SITE, "--check"), "after check": snapshot()}
    # Before anything is placed: a placed host writes by itself, as its drift check and its warm-up do.
    found |= {"nixos": run_on_nixos(), "after nixos": snapshot()}
    yield {**found, "first": run_playbook(*SITE), "second": run_playbook(*SITE)}
    bed("down", NAME)


def run_on_nixos() -> Ran:
    """Only what a stopped run looks at is NixOS here: the line in os-release."""
    bed("exec", NAME, "sed", "-i", "--follow-symlinks", "s/^ID=.*/ID=nixos/", "/etc/os-release")
    ran = run_playbook(*SITE)
    bed("exec", NAME, "sed", "-i", "--follow-symlinks", "s/^ID=.*/ID=debian/", "/etc/os-release")
    return ran


def power_limit_mw() -> int:
    (gpu,) = json.loads(bed("exec", NAME, "inferhost-sim", "dump"))["gpus"]
    return gpu["power_limit_mw"]


def test_check_mode_on_a_bare_host_succeeds_and_writes_nothing(runs):
    assert runs["check"].code == 0, runs["check"].told()
    assert differences(runs["before"], runs["after check"]) == []


def test_check_mode_announces_exactly_what_the_first_run_changes(runs):
    assert runs["first"].code == 0, runs["first"].told()
    announced, done = runs["check"].changes(), runs["first"].changes()
    assert [(name, changed) for name, changed, _ in announced] == [(name, changed) for name, changed, _ in done]
    for before, after in zip(announced, done, strict=True):
        assert before == after


def test_the_first_run_does_change_something(runs):
    assert runs["first"].stats["sandbox-gb200"]["changed"] > 5


def test_the_second_run_changes_nothing(runs):
    assert runs["second"].code == 0, runs["second"].told()
    assert [name for name, changed, _ in runs["second"].changes() if changed] == []


def test_the_second_run_needs_few_task_executions_on_the_host(runs):
    reached = runs["second"].on_the_host()
    assert 5 < len(reached) <= 12, "\n".join(reached)


UNIT = "inferhost-serve@main.service"
PLACE = f"/run/systemd/system/{UNIT}.d"
MAKES_FOLDERS = f"""set -e
mkdir -p {PLACE}
cat > {PLACE}/60-home.conf <<'END'
[Service]
ExecStartPre=/usr/bin/python3 -c "import os, pathlib; os.makedirs(pathlib.Path.home() / '.cache/flashinfer/120f')"
END
systemctl daemon-reload
systemctl restart {UNIT}
"""


def test_an_engine_may_make_folders_in_its_home(runs):
    """As FlashInfer does when vLLM imports it: under the engine's own unit and user."""
    assert runs["first"].code == 0, runs["first"].told()
    try:
        bed("exec", NAME, "sh", "-c", MAKES_FOLDERS)
        bed("exec", NAME, "test", "-d", "/var/cache/inferhost/main/.cache/flashinfer/120f")
    finally:
        bed("exec", NAME, "sh", "-c", f"rm -rf {PLACE}; systemctl daemon-reload; systemctl restart {UNIT}")


def test_a_nixos_host_is_left_alone_with_a_pointer_to_the_module(runs):
    ran = runs["nixos"]
    assert ran.code != 0
    assert "this host runs NixOS" in ran.told()
    assert "nix/module.nix" in ran.told()
    assert differences(runs["before"], runs["after nixos"]) == []


def test_a_tag_places_its_section_alone(runs):
    ran = run_playbook(*SITE, "--tags", "gpu", "-e", "inferhost_gpu_power_limit=450")
    assert ran.code == 0, ran.told()
    assert power_limit_mw() == 450_000
    assert not any("unit" in name for name, _ in ran.tasks)


def test_a_role_alone_makes_the_same_plan(runs, tmp_path):
    play = tmp_path / "alone.yml"
    play.write_text("- hosts: all\n  gather_facts: false\n  become: true\n  roles: [inferhost_gpu]\n")
    ran = run_playbook(str(play), "-i", str(ROOT / "inventories/sandbox"), "-l", "gb200")
    assert ran.code == 0, ran.told()
    assert power_limit_mw() == 600_000
    facts = [r.get("ansible_facts", {}) for _, r in runs["first"].tasks + ran.tasks]
    plan_ids = [f["__inferhost_plan"]["plan_id"] for f in facts if "__inferhost_plan" in f]
    assert len(plan_ids) == 2
    assert len(set(plan_ids)) == 1


def test_drift_fails_the_verification_and_names_the_setting(runs):
    bed("exec", NAME, "inferhost-sim", "set", "power_limit_mw", "300000")
    ran = run_playbook("playbooks/verify.yml", "-i", "inventories/sandbox", "-l", "gb200")
    assert ran.code != 0
    assert "power_limit_w" in ran.output
    assert power_limit_mw() == 300_000, "verification changed something"


@pytest.mark.parametrize("role", ["inferhost_gpu", "inferhost_cpu", "inferhost_service"])
def test_each_role_verifies_its_own_section(runs, tmp_path, role):
    """Nothing else: the GPU's drift of the neighbouring test is no business of the others."""
    play = tmp_path / "verify.yml"
    task = f"{{ansible.builtin.import_role: {{name: {role}, tasks_from: verify}}}}"
    play.write_text(f"- hosts: all\n  gather_facts: false\n  become: true\n  tasks: [{task}]\n")
    bed("exec", NAME, "inferhost-sim", "set", "power_limit_mw", "300000")
    ran = run_playbook(str(play), "-i", str(ROOT / "inventories/sandbox"), "-l", "gb200")
    assert (ran.code != 0) is (role == "inferhost_gpu"), ran.told()


def test_a_wish_that_cannot_be_planned_does_not_stand_in_the_way_of_revert(runs):
    wish = ("-e", "inferhost_gpu_power_limit=9999")
    ran = run_playbook("playbooks/revert.yml", "-i", "inventories/sandbox", "-l", "gb200", "--check", *wish)
    assert ran.code == 0, ran.told()
    assert any(changed for _, changed, _ in ran.changes())


def test_without_a_driver_everything_else_is_placed_and_a_later_run_completes_it(runs):
    library, hidden = "/usr/local/lib/libnvidia-ml.so.1", "/root/libnvidia-ml.so.1"
    bed("exec", NAME, "sh", "-c", f"mv {library} {hidden} && ldconfig")
    without = run_playbook(*SITE)
    bed("exec", NAME, "sh", "-c", f"mv {hidden} {library} && ldconfig")
    bed("exec", NAME, "inferhost-sim", "set", "power_limit_mw", "480000")
    assert without.code == 0, without.told()
    assert [r["exit_code"] for name, r in without.tasks if "Power limit and persistence" in name] == [7]
    assert "pending: " in without.output
    completed = run_playbook(*SITE)
    assert completed.code == 0, completed.told()
    assert power_limit_mw() == 600_000


def test_a_user_who_was_there_is_never_touched(runs):
    bed("exec", NAME, "useradd", "-m", "-s", "/bin/bash", "ivan")
    ran = run_playbook(*SITE, "--check", "-e", "inferhost_service_user=ivan")
    assert ran.code == 0, ran.told()
    assert [changed for name, changed, _ in ran.changes() if "user of its own" in name] == [False]
