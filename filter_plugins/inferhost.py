"""Filters over the planner: thin, so that a playbook computes nothing."""

import json
import pathlib
import sys

from ansible.errors import AnsibleFilterError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.ajson import AnsibleJSONEncoder
from ansible.parsing.dataloader import DataLoader

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from inferhost import catalogue, explain, planner, table
from inferhost.planner.balancer import group
from inferhost.planner.machine import power
from inferhost.schema import document
from inferhost.schema.plan import Dropin
from inferhost.schema.problems import InputError, Problem


def inferhost_plan(wish, host, hostvars=None, groups=None):
    """The plan of `host` from all its `inferhost_*` variables; a wish that cannot work is an error.

    A balancer is planned with the engines of its group, and for that takes the variables of other hosts.
    """
    try:
        return document.plain(_planned(wish, host, hostvars, groups))
    except InputError as error:
        raise AnsibleFilterError(f"the wish for {host} cannot be planned\n{error}") from error


def inferhost_plan_problems(wish, host, hostvars=None, groups=None):
    """What is wrong with the wish, as `error:` and `hint:` lines; empty when it can be planned."""
    try:
        _planned(wish, host, hostvars, groups)
    except InputError as error:
        return str(error)
    return ""


def inferhost_shared_hosts(sources):
    """Hosts that several inventories of one run define, as `error:` and `hint:` lines; empty where each has one."""
    if len(sources) < 2:
        return ""
    homes = {}
    for source in sources:
        for host in InventoryManager(loader=DataLoader(), sources=[source]).get_hosts():
            homes.setdefault(host.name, []).append(str(source))
    problems = [
        Problem(
            "inventory",
            f'found host "{name}" in {" and ".join(found)}, whose variables would be mixed',
            "rename one of the two, or name one inventory with -i",
            "shared-host",
        )
        for name, found in homes.items()
        if len(found) > 1
    ]
    return str(InputError(problems)) if problems else ""


def inferhost_plan_table(plan):
    """The plan as a person reads it: every setting with its value and reason."""
    return table.render_plan(_plain(plan))


def inferhost_verdict_table(answer):
    """The verdicts of a run as a person reads them."""
    return table.render_verdicts(_plain(answer))


def inferhost_dropin_files(dropins):
    """Path and text of each drop-in of a plan."""
    read = [document.read(Dropin, d, "dropin") for d in _plain(dropins)]
    return [{"path": d.path, "content": d.content} for d in read]


def inferhost_circuit_problems(hostvars, hosts):
    """What is wrong with the power budgets of the hosts' circuits, as `error:` and `hint:` lines; empty when kept."""
    named = {}
    for host in hosts:
        values = hostvars[host]
        if values.get("__inferhost_plan") and values.get(power.CIRCUIT):
            named[host] = {
                "plan": _plain(values["__inferhost_plan"]),
                "circuit": str(values[power.CIRCUIT]),
                "budget_w": int(values.get(power.CIRCUIT_BUDGET, 0)),
            }
    problems = power.circuit_problems(named)
    return str(InputError(problems)) if problems else ""


def inferhost_explain(plan, setting=""):
    """Why a setting of a plan is what it is, what else was possible and what would change it."""
    try:
        return explain.explained(_plain(plan), setting)
    except InputError as error:
        raise AnsibleFilterError(str(error)) from error


def _planned(wish, host, hostvars, groups):
    """The plan of a host whose wish may name a group of engines."""
    values = _plain(wish)
    others = {
        name: {
            "address": str(hostvars[name].get("ansible_host") or name),
            "wish": _plain({key: hostvars[name][key] for key in hostvars[name] if key.startswith("inferhost_")}),
        }
        for name in (groups or {}).get(group.named(values), [])
    }
    return planner.plan(group.with_group(values, host, others, catalogue.load()), host, catalogue.load())


def _plain(value):
    """The value without Ansible's tagged subclasses and lazy containers."""
    return json.loads(json.dumps(value, cls=AnsibleJSONEncoder))


class FilterModule:
    """What Ansible looks for."""

    def filters(self):
        return {
            f.__name__: f
            for f in (
                inferhost_plan,
                inferhost_plan_problems,
                inferhost_shared_hosts,
                inferhost_plan_table,
                inferhost_verdict_table,
                inferhost_dropin_files,
                inferhost_circuit_problems,
                inferhost_explain,
            )
        }
