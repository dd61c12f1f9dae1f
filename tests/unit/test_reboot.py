"""A restart of a host takes minutes, and says so meanwhile."""

import importlib.util
import pathlib
import threading
import types

import pytest
from ansible.plugins.action import reboot

PLUGIN = pathlib.Path(__file__).resolve().parents[2] / "action_plugins/inferhost_reboot.py"


@pytest.fixture(name="plugin")
def _plugin():
    spec = importlib.util.spec_from_file_location("inferhost_reboot", PLUGIN)
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    return plugin


@pytest.mark.parametrize(("arguments", "seconds"), [({}, 1800), ({"reboot_timeout": 60}, 60)])
def test_a_server_that_tests_itself_for_long_is_waited_for(monkeypatch, plugin, arguments, seconds):
    """Longer than Ansible does; a task may say otherwise."""
    waited = []
    monkeypatch.setattr(
        reboot.ActionModule,
        "do_until_success_or_timeout",
        lambda _self, **given: waited.append(given["reboot_timeout"]),
    )
    action = object.__new__(plugin.ActionModule)
    action._task = types.SimpleNamespace(action="inferhost_reboot", args=arguments)
    action._connection = types.SimpleNamespace(get_option=lambda _name: 10)
    assert action.validate_reboot("debian", original_connection_timeout=10)["rebooted"]
    assert set(waited) == {seconds}


def test_a_restart_is_told_of_while_it_is_waited_for(monkeypatch, plugin):
    said, heard = [], threading.Event()

    def booting(_self, _tmp, _task_vars):
        assert heard.wait(60)
        return {"rebooted": True}

    monkeypatch.setattr(reboot.ActionModule, "run", booting)
    monkeypatch.setattr(plugin, "EVERY_S", 0.01)
    monkeypatch.setattr(plugin.display, "display", lambda line: (said.append(line), heard.set()))
    action = object.__new__(plugin.ActionModule)
    assert action.run(None, {"inventory_hostname": "box"}) == {"rebooted": True}
    assert said[0].startswith("[box] restart: the host comes back, ")
