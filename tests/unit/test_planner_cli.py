"""`inferhost plan` and `explain` through the real playbook, on inventories that nobody could contact."""

import json
import pathlib

import pytest
import yaml

from inferhost import cli
from inferhost.schema import document
from tests.unit.planner_wishes import gpu, hardware, planned, wish

# Nothing listens there: a command that contacted the host would say "unreachable".
NOWHERE = {"ansible_host": "127.0.0.1", "ansible_port": 1}
CARD, MODEL = "rtx-pro-6000-bw-ws", "mistral-large-instruct-2411-awq"


@pytest.fixture
def inventory(tmp_path):
    """Writes an inventory with one host `box` and gives its path."""

    def written(values) -> pathlib.Path:
        path = tmp_path / "hosts.yml"
        path.write_text(yaml.safe_dump({"all": {"hosts": {"box": {**NOWHERE, **values}}}}))
        return path

    return written


def ran(capsys, *arguments):
    code = cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_json_is_the_planners_own_document(inventory, capsys):
    values = wish(CARD, MODEL)
    code, out, err = ran(capsys, "plan", "--inventory", inventory(values), "--host", "box", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == document.plain(planned(values, "box"))


def test_the_table_is_the_default_and_says_what_the_json_says(inventory, capsys):
    code, out, err = ran(capsys, "plan", "--inventory", inventory(wish(CARD, MODEL)), "--host", "box")
    assert (code, err) == (0, "")
    assert out.startswith("plan ")
    assert "ceiling 28.0 tok/s, 26.7 at the running memory clock" in out


def test_a_wish_that_cannot_work_exits_2_with_error_and_hint_lines_only(inventory, capsys):
    values = wish(CARD, MODEL, gpu_power_limit=900, service_modle="x")
    code, out, err = ran(capsys, "plan", "--inventory", inventory(values), "--host", "box")
    assert (code, out) == (2, "")
    assert err == (
        "error: box: inferhost_service_modle: is not an option of any inferhost role\n"
        'hint: did you mean "inferhost_service_model"?\n'
    )


def test_an_unknown_host_exits_2(inventory, capsys):
    code, out, err = ran(capsys, "plan", "--inventory", inventory(wish(CARD, MODEL)), "--host", "bocks")
    assert (code, out) == (2, "")
    assert err == 'error: --host: found "bocks", which the inventory does not have\n'


def test_an_inventory_that_does_not_exist_exits_2(tmp_path, capsys):
    code, out, err = ran(capsys, "plan", "--inventory", tmp_path / "none", "--host", "box")
    assert (code, out) == (2, "")
    assert err == f'error: --inventory: found "{tmp_path / "none"}", which does not exist\n'


def test_explain_gives_the_reason_of_a_setting(inventory, capsys):
    path = inventory(wish(CARD, MODEL))
    code, out, _ = ran(capsys, "explain", "gpus[0].memory_clock_lock_mhz", "--inventory", path, "--host", "box")
    assert code == 0
    assert out == (
        "gpus[0].memory_clock_lock_mhz = -\n"
        "  because: left unlocked: any finite maximum can cost up to 32 % on this architecture; 13365 of 14001 MHz "
        "is this card's normal clock under CUDA\n"
        "  gain: at most +4.8 % decode\n"
        "  takes: none\n"
        f"  source: catalogue:gpus/{CARD}#memory_clock_lock\n"
    )


def test_explain_without_a_setting_explains_all_and_an_unknown_one_is_refused_with_the_nearest():
    plan = document.plain(planned({"inferhost_hardware": hardware(gpu(CARD)), "inferhost_manage": ["cpu"]}))
    assert cli.explained(plan, "").count("because:") == len(plan["reasons"])
    with pytest.raises(cli.InputError) as refused:
        cli.explained(plan, "sysctl.vm.swapiness")
    assert str(refused.value) == (
        'error: sysctl.vm.swapiness: is no setting of this plan\nhint: did you mean "sysctl.vm.swappiness"?'
    )
