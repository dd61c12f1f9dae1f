"""A host that somebody set up by hand: named in preflight, taken over when asked for, given back by revert."""

import json
import shutil

import pytest

from tests.bed.lived_in import UNIT, set_up
from tests.bed.playbook import NAME, PORT, ROOT, bed, run_playbook, snapshot
from tests.bed.snapshot import differences

INVENTORY = ("-i", "inventories/sandbox", "-l", "gb200")
ADOPT = ("-e", json.dumps({"inferhost_service_adopt": [UNIT]}))


def active(unit: str) -> str:
    return bed("exec", NAME, "systemctl", "show", "-p", "ActiveState", "--value", unit).strip()


@pytest.fixture(scope="module")
def before():
    bed("up", NAME, PORT)
    set_up()
    yield snapshot()
    bed("down", NAME)


def test_who_serves_already_is_named_and_nothing_is_written(before):
    ran = run_playbook("site.yml", *INVENTORY)
    assert ran.code != 0
    # Its program is the loader that the bed starts llama-server with.
    assert "inferhost_service_port: port 30000 is taken by ld.so (process " in ran.told()
    assert f", {UNIT})" in ran.told()
    assert f"inferhost_service_adopt: [{UNIT}] takes it over" in ran.told()
    assert differences(before, snapshot()) == []
    assert active(UNIT) == "active"


def test_one_host_that_refuses_keeps_the_others_untouched(before, tmp_path):
    """Both names are this container; the first would be placed, were the second not refused."""
    sandbox = ROOT / "inventories/sandbox"
    (tmp_path / "hosts.yml").write_text("gb200: {hosts: {sandbox-gb200: {}, second: {}}}\n")
    (tmp_path / "group_vars").symlink_to(sandbox / "group_vars")
    shutil.copytree(sandbox / "host_vars", tmp_path / "host_vars")
    second = shutil.copytree(sandbox / "host_vars/sandbox-gb200", tmp_path / "host_vars/second")
    (second / "z.yml").write_text("inferhost_service_engine_path: /opt/nowhere\n")
    ran = run_playbook("site.yml", "-i", str(tmp_path), *ADOPT)
    assert ran.code != 0
    assert "/opt/nowhere is not on this host" in ran.told()
    assert differences(before, snapshot()) == []


def test_an_adopted_service_gives_way_and_comes_back_with_revert(before):
    ran = run_playbook("site.yml", *INVENTORY, *ADOPT)
    assert ran.code == 0, ran.told()
    assert (active(UNIT), active("inferhost-serve@main.service")) == ("inactive", "active")
    again = run_playbook("site.yml", *INVENTORY, *ADOPT)
    assert [name for name, changed, _ in again.changes() if changed] == []
    back = run_playbook("playbooks/revert.yml", *INVENTORY)
    assert back.code == 0, back.told()
    assert differences(before, snapshot()) == []
    assert active(UNIT) == "active"


def test_an_empty_manage_only_observes(before):
    ran = run_playbook("site.yml", *INVENTORY, "-e", '{"inferhost_manage": []}')
    assert ran.code == 0, ran.told()
    assert active(UNIT) == "active"
    back = run_playbook("playbooks/revert.yml", *INVENTORY)
    assert back.code == 0, back.told()
    assert differences(before, snapshot()) == []
