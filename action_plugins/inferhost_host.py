"""Ship the host program when the host has another one, call it, and hand its answer to Ansible.

The program does the work; this file only carries it there. In check mode, and as long as it is not installed, it
runs from Ansible's temporary folder, so that a bare host is inspected and never written to. What may take long runs
beside the connection, is asked every few seconds how far it is, and its words are shown at once.
"""

import json
import pathlib
import shlex
import sys
import tempfile

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from inferhost.host.runtime.containers import WARNING as CONTAINERS
from inferhost.host.watch.writers import WARNING
from inferhost.host.zipapp_build import build
from inferhost.schema import document, result

display = Display()

DOCUMENTATION = r"""
module: inferhost_host
short_description: Run the inferhost host program on a host
description:
  - Ships the host program when its hash differs and runs one verb of it. Supports check mode and diff.
  - Stops on NixOS before anything is written, because there a configuration places the plan.
options:
  verb:
    description: What to do.
    type: str
    required: true
    choices: [install, engines, fetch, apply, verify, gate, stop, measure, rollback, balancer, revert, status, facts]
  sections: {description: Only these sections of the plan., type: list, elements: str, default: []}
  wait: {description: Give a starting engine the time that its plan grants., type: bool, default: false}
  before: {description: What served before the one that serves now; for C(rollback)., type: bool, default: false}
  server: {description: The member that C(balancer) is about., type: str}
  state: {description: What becomes of the member., type: str, choices: [drain, ready, show]}
  wait_s: {description: How long C(balancer) waits at most., type: int}
  purge: {description: Delete what was fetched or made as well; for revert., type: bool, default: false}
  plan: {description: The plan document; the host's installed one when absent., type: dict}
"""

PROGRAM = "/usr/local/bin/inferhost"
LONG = ("engines", "fetch", "apply", "gate", "stop", "measure", "rollback", "revert")
"""Verbs that may take long. They go on where the connection is lost, and end by themselves."""
PROGRESS, MARK = "progress: ", "--- document ---"
LONG_ANSWER = """
for slice in $(seq 80); do [ -e "$folder/code" ] && break; sleep 0.1; done
echo "$folder"
if [ -e "$folder/code" ]; then cat "$folder/code"; else echo running; fi
cat "$folder/said"
printf '\\n--- document ---\\n'
if [ -e "$folder/code" ]; then cat "$folder/document"; rm -rf "$folder"; fi
"""
LONG_START = (
    """folder=$(mktemp -d) || exit 1
cat >"$folder/given"
: >"$folder/said"
( COMMAND <"$folder/given" >"$folder/document" 2>"$folder/said"
  echo $? >"$folder/code.new"; mv "$folder/code.new" "$folder/code" ) </dev/null >/dev/null 2>&1 &
"""
    + LONG_ANSWER
)
"""The folder of mktemp is its owner's alone."""
NIXOS = (
    "error: this host runs NixOS, where a configuration owns /etc and playbooks place nothing\n"
    "hint: import nix/module.nix of this repository into the host's configuration; it places the same plan"
)
# Drift fails the run after everything is placed (`drifted`), pending never does; the rest fails at once, and what
# could not be carried out is among that.
STATES = {result.EXIT_AS_WANTED: "as wanted", result.EXIT_DRIFT: "drift", result.EXIT_PENDING: "pending"}


class ActionModule(ActionBase):
    """Runs on the controller, one instance per task and host."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp=None, task_vars=None):
        """The host program's `Result`, plus `exit_code`, `drifted` and `summary`."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "verb": {"type": "str", "required": True},
                "sections": {"type": "list", "elements": "str", "default": []},
                "wait": {"type": "bool", "default": False},
                "before": {"type": "bool", "default": False},
                "server": {"type": "str"},
                "state": {"type": "str"},
                "wait_s": {"type": "int"},
                "purge": {"type": "bool", "default": False},
                "plan": {"type": "dict"},
            }
        )
        try:
            program = self._program_there()
            answer = self._run(program, arguments, task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer

    def _program_there(self) -> str:
        """Path of a host program equal to ours: the installed one, or a copy in the temporary folder."""
        with tempfile.NamedTemporaryFile() as local:
            wanted = build(pathlib.Path(local.name))
            # One question for both, because each is a round trip to the host.
            found = self._low_level_execute_command(f"cat /etc/os-release; sha256sum {PROGRAM}")["stdout"].split()
            if "ID=nixos" in found:
                raise AnsibleActionFail(NIXOS)
            if wanted in found:
                return PROGRAM
            return self._shipped(local.name, "inferhost")

    def _shipped(self, local: str, name: str) -> str:
        shell = self._connection._shell
        if not shell.tmpdir:
            self._make_tmp_path()
        remote = shell.join_path(shell.tmpdir, name)
        self._transfer_file(local, remote)
        self._fixup_perms2((shell.tmpdir, remote), execute=True)
        return remote

    def _run(self, program: str, arguments: dict, task_vars: dict) -> dict:
        interpreter = str(self._templar.template(task_vars.get("ansible_python_interpreter") or "/usr/bin/python3"))
        command = ["/usr/bin/python3" if interpreter.startswith("auto") else interpreter, program, arguments["verb"]]
        # The plan travels on standard input: no second transfer, and with data on it ssh allocates no terminal,
        # which would mix the program's prose into its document.
        given = b"\n"
        if arguments["plan"]:
            given = document.text(arguments["plan"]).encode()
            command += ["--plan", "/dev/stdin"]
        for section in arguments["sections"]:
            command += ["--section", section]
        command += [f"--{option}" for option in ("wait", "purge", "before") if arguments[option]]
        for option, name in (("--server", "server"), ("--state", "state"), ("--wait", "wait_s")):
            if arguments[name] is not None:
                command += [option, str(arguments[name])]
        if self._task.check_mode:
            command.append("--check")
        if arguments["verb"] in LONG and not self._task.check_mode:
            ran = self._run_long(command, given, task_vars.get("inventory_hostname"))
        else:
            ran = self._low_level_execute_command(shlex.join(command), in_data=given)
        return _answer(ran, arguments["verb"])

    def _run_long(self, command: list, given: bytes, host: str) -> dict:
        """The same answer from a program that may take hours; what it says meanwhile is shown."""
        script, shown = LONG_START.replace("COMMAND", shlex.join(command)), 0
        while True:
            ran = self._low_level_execute_command(f"/bin/sh -c {shlex.quote(script)}", in_data=given)
            folder, _, rest = ran["stdout"].lstrip().partition("\n")
            code, _, rest = rest.partition("\n")
            if ran["rc"] or not folder.startswith("/"):
                return {"rc": ran["rc"] or 1, "stdout": "", "stderr": ran["stderr"] or ran["stdout"]}
            said, _, answer = rest.partition(f"\n{MARK}\n")
            told = [line.partition(PROGRESS)[2] for line in said.splitlines() if line.startswith(PROGRESS)]
            for line in told[shown:]:
                display.display(f"[{host}] {line}")
            if code != "running":
                return {"rc": int(code), "stdout": answer, "stderr": said}
            script, shown, given = f"folder={shlex.quote(folder)}\n{LONG_ANSWER}", len(told), b"\n"


def _answer(ran: dict, verb: str) -> dict:
    """Ansible's result of one run: the document on stdout, or the program's own words on stderr."""
    try:
        found = json.loads(ran["stdout"])
    except ValueError:
        found = {}
    code = ran["rc"]
    answer = {**found, "changed": bool(found.get("changed")), "exit_code": code}
    answer["drifted"] = code == result.EXIT_DRIFT
    answer["diff"] = [
        {"before_header": c["setting"], "after_header": c["setting"], "before": c["before"], "after": c["after"]}
        for c in found.get("diff", [])
    ]
    # Placing goes on after a setting that did not take; the warning keeps it from scrolling by.
    answer["warnings"] = [
        f"{v['setting']}: wanted {v['wanted']}, found {v['found']}: {v['verdict']}; {v['evidence']}"
        for v in found.get("verdicts", [])
        if v["verdict"] in result.DRIFT
    ] + [note for note in found.get("notes", []) if note.startswith((WARNING, CONTAINERS))]
    answer["summary"] = _summary(found.get("verdicts", []), code)
    said = "\n".join(line for line in ran["stderr"].splitlines() if line.startswith(("error:", "hint:")))
    if said:
        answer["msg"] = said
    if code not in STATES or not found:
        answer.update(
            failed=True, msg=said or ran["stderr"].strip() or f"inferhost {verb}: exit {code}, nothing said"
        )
    return answer


def _summary(verdicts: list, code: int) -> str:
    counts = {v["verdict"]: sum(w["verdict"] == v["verdict"] for w in verdicts) for v in verdicts}
    counted = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    state = STATES.get(code, "failed")
    return f"{state}: {counted}" if counted else state
