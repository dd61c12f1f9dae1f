"""While a task takes long, a line every few seconds says that it still runs, on which host, and for how long by now.

Stock modules are silent while they work: apt until its packages are there, systemd until an engine has ended its
streams. Our own actions tell more of themselves where they may take long.
"""

import pathlib
import sys
import threading
import time

from ansible.plugins.callback import CallbackBase

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from action_plugins.inferhost_host import LONG
from inferhost.host.waiting import EVERY_S

DOCUMENTATION = r"""
name: inferhost_waiting
type: aggregate
short_description: Tell of tasks that take long
description:
  - Names each task that has run for some seconds, again and again, until it ends.
requirements:
  - enabled in ansible.cfg
"""


def tells_itself(task):
    """Whether the task's own action says how far it is."""
    return task.action == "inferhost_reboot" or (task.action == "inferhost_host" and task.args.get("verb") in LONG)


class CallbackModule(CallbackBase):
    """Runs on the controller, beside the callback that prints results."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "inferhost_waiting"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self._running = {}
        self._ended = threading.Event()

    def v2_playbook_on_start(self, playbook):
        threading.Thread(target=self._tell, daemon=True).start()

    def v2_runner_on_start(self, host, task):
        if not tells_itself(task):
            self._running[host.get_name(), task._uuid] = (task.get_name(), time.monotonic())

    def v2_runner_on_ok(self, result):
        self._running.pop((result._host.get_name(), result._task._uuid), None)

    v2_runner_on_skipped = v2_runner_on_unreachable = v2_runner_on_ok

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.v2_runner_on_ok(result)

    def v2_playbook_on_stats(self, stats):
        self._ended.set()

    def _tell(self):
        while not self._ended.wait(EVERY_S):
            now = time.monotonic()
            for (host, _), (name, since) in list(self._running.items()):
                if now - since >= EVERY_S:
                    self._display.display(f"[{host}] {name}: {now - since:.0f} s by now")
            # Ansible leaves that to the end where nobody looks at a terminal: a pipe, a log of CI.
            sys.stdout.flush()
