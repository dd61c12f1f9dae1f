"""Whether the cards of a host, or of all hosts behind one breaker, may draw what their limits allow together.

A budget is a promise to a circuit, so every limit has to be a number: a card whose limit only the host knows cannot
be counted, and is refused rather than guessed. Boards other than the cards draw power too; a budget is for the cards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from inferhost.planner.reasons import reason
from inferhost.planner.request import Request
from inferhost.schema.plan import Gpu, Pending, Reason
from inferhost.schema.problems import InputError, Problem

BUDGET = "inferhost_gpu_power_budget_w"
CIRCUIT = "inferhost_gpu_circuit"
CIRCUIT_BUDGET = "inferhost_gpu_circuit_budget_w"
LIMIT = "inferhost_gpu_power_limit"


def within_budget(
    request: Request, section: tuple[tuple[Gpu, ...], list[Reason], list[Pending]]
) -> tuple[tuple[Gpu, ...], list[Reason], list[Pending]]:
    """The GPU section, with the sum that keeps the host's budget, or `InputError`."""
    gpus, reasons, pending = section
    if not request.manages("gpu"):
        return section
    problems = budget_problems(request, gpus)
    if problems:
        raise InputError(problems)
    return gpus, [*reasons, *budget_reasons(request, gpus)], pending


def budget_problems(request: Request, gpus: Iterable[Gpu]) -> list[Problem]:
    """What is wrong with the host's own budget and with how it names its circuit.

    Source: formula `gpu.power_budget`.
    """
    limits = {f"gpus[{number}]": gpu.power_limit_w for number, gpu in enumerate(gpus)}
    problems = []
    for option in (BUDGET, CIRCUIT_BUDGET):
        if request.wish.integer(option) < 0:
            found = f"found {request.wish.integer(option)}, wanted watts"
            problems.append(Problem(option, found, "for example 1600; 0 sets no budget", "power-budget"))
    named, circuit = request.wish.text(CIRCUIT), request.wish.integer(CIRCUIT_BUDGET)
    if bool(named) != bool(circuit) and not problems:
        missing = CIRCUIT_BUDGET if named else CIRCUIT
        hint = "name the circuit and its watts on every host of it, for example in group_vars"
        problems.append(Problem(missing, "is not set, and a circuit needs a name and a budget", hint, "power-budget"))
    budget = request.wish.integer(BUDGET)
    if budget > 0:
        problems += exceeded(BUDGET, budget, limits)
    return problems


def exceeded(option: str, budget_w: int, limits: Mapping[str, int | str | None]) -> list[Problem]:
    """Why the limits do not keep the budget: one that is no number, or their sum."""
    unknown = [name for name, limit in limits.items() if not isinstance(limit, int)]
    if unknown:
        found = f"cannot be kept: the limit of {', '.join(unknown)} is not known in watts"
        hint = f"watts in {LIMIT}, or the boards' own ranges in inferhost_hardware.gpus"
        return [Problem(option, found, hint, "power-budget")]
    watts = [limit for limit in limits.values() if isinstance(limit, int)]
    if sum(watts) <= budget_w:
        return []
    shown = " + ".join(str(w) for w in watts)
    hint = f"{LIMIT}: {budget_w // len(watts)} at most, if the limits are to be equal, or a larger budget"
    return [Problem(option, f"found {budget_w} W for {shown} = {sum(watts)} W", hint, "power-budget")]


def budget_reasons(request: Request, gpus: Iterable[Gpu]) -> list[Reason]:
    """One line that says the sum, where there is a budget."""
    budget = request.wish.integer(BUDGET)
    if not budget:
        return []
    watts = sum(limit for limit in (gpu.power_limit_w for gpu in gpus) if isinstance(limit, int))
    because = f"the limits of all cards add up to {watts} W, and {BUDGET} allows {budget}"
    gain = "none: the breaker stays in"
    return [reason("gpus.power_sum_w", watts, because, f"wish:{BUDGET}", gain=gain)]


def circuit_problems(hosts: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """What is wrong with the circuits of several hosts, each with its `plan` and the `circuit` and `budget_w` of its
    wish; hosts without a circuit are left out.
    """
    problems = []
    circuits: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, host in hosts.items():
        if host["circuit"]:
            circuits.setdefault(host["circuit"], {})[name] = host
    for circuit, members in sorted(circuits.items()):
        budgets = {name: host["budget_w"] for name, host in members.items()}
        if len(set(budgets.values())) > 1:
            shown = ", ".join(f"{name} {watts}" for name, watts in sorted(budgets.items()))
            hint = f"one number for all hosts of {circuit}, for example in the group's variables"
            problems.append(Problem(CIRCUIT_BUDGET, f"differs within {circuit}: {shown}", hint, "power-budget"))
            continue
        limits = {
            f"{name} gpus[{number}]": gpu["power_limit_w"]
            for name, host in sorted(members.items())
            for number, gpu in enumerate(host["plan"]["gpus"])
        }
        problems += exceeded(CIRCUIT_BUDGET, next(iter(budgets.values())), limits)
    return problems
