"""A restart of a host takes minutes, and says so meanwhile."""

import importlib.util
import pathlib
import threading

from ansible.plugins.action import reboot

PLUGIN = pathlib.Path(__file__).resolve().parents[2] / "action_plugins/inferhost_reboot.py"


def test_a_restart_is_told_of_while_it_is_waited_for(monkeypatch):
    spec = importlib.util.spec_from_file_location("inferhost_reboot", PLUGIN)
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
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
