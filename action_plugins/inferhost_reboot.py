"""Ansible's own restart of a host, which says every few seconds that it is still waited for."""

import pathlib
import sys

from ansible.plugins.action import reboot
from ansible.utils.display import Display

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from inferhost.host.waiting import EVERY_S, told

display = Display()

DOCUMENTATION = r"""
module: inferhost_reboot
short_description: Restart a host and tell that it is waited for
description:
  - What C(ansible.builtin.reboot) does, with the same options; that one is silent for as long as a host boots, and
    gives up after ten minutes.
options: {}
"""


class ActionModule(reboot.ActionModule):
    """Runs on the controller, one instance per task and host."""

    DEFAULT_REBOOT_TIMEOUT = 1800
    """Seconds. Ansible's own 600 are too few for servers that test themselves that long: NVIDIA/deepops#779."""

    def run(self, tmp=None, task_vars=None):
        """The result of `ansible.builtin.reboot`."""
        host = (task_vars or {}).get("inventory_hostname")
        with told(lambda line: display.display(f"[{host}] {line}"), "restart: the host comes back", EVERY_S):
            return super().run(tmp, task_vars)
