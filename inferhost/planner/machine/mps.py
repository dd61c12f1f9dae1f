"""The Multi-Process Service: what engines are told of it, and what it cannot live with.

The daemon is one static unit. An engine that does not find it runs without it and says nothing, so its unit requires
the daemon's, and a variable that only means something with it is refused without it. Source: formula `gpu.mps`.
"""

from __future__ import annotations

from collections.abc import Iterator

from inferhost.planner.machine.gpu_modes import COMPUTE_MODE
from inferhost.planner.machine.mig import MIG, WHOLE
from inferhost.planner.reasons import reason
from inferhost.planner.request import Instance, Request
from inferhost.schema.plan import Reason
from inferhost.schema.problems import InputError, Problem

MPS_WISH = "inferhost_gpu_mps"
MPS_UNIT = "inferhost-mps.service"
PIPE_DIRECTORY = "/run/inferhost/mps"
PIPE_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
CLIENT_VARIABLES = frozenset(
    {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MPS_CLIENT_PRIORITY"}
)
"""What a program under MPS reads itself; the others are the daemon's. Source: docs.nvidia.com/deploy/mps."""


def with_mps(request: Request) -> bool:
    """Whether the engines of this host run under MPS."""
    return request.manages("gpu") and request.wish.flag(MPS_WISH)


def refuse_sharing(request: Request, instances: tuple[Instance, ...]) -> None:
    """`InputError` for MPS on a divided card, and for engines that cannot start on their card or share it."""
    used = [number for one in instances for number in one.gpus]
    problems: list[Problem] = []
    for number in range(len(request.hardware.gpus)) if request.manages("gpu") else ():
        problems += _card_problems(request.of_card(number), used.count(number))
    if problems:
        raise InputError(problems)


def _card_problems(request: Request, engines: int) -> Iterator[Problem]:
    """What keeps this many engines from their card."""
    mode, path = request.wish.text(COMPUTE_MODE), request.own.get(COMPUTE_MODE, COMPUTE_MODE)
    if with_mps(request) and request.wish.words(MIG) not in ((), (WHOLE,)):
        hint = "leave one of the two out: each instance of a divided card would need a daemon of its own"
        yield Problem(MPS_WISH, f"found true, and {MIG} divides the card", hint, "mps")
    if with_mps(request) and mode == "prohibited":
        yield Problem(MPS_WISH, f"found true, and {COMPUTE_MODE} prohibited", "exclusive_process", "mps")
    elif mode == "prohibited" and engines:
        hint = "leave service out of inferhost_manage, or take exclusive_process"
        yield Problem(path, "found prohibited, and an engine is to run on this card", hint, "compute-mode")
    if mode == "exclusive_process" and not with_mps(request) and engines > 1:
        found = "found exclusive_process, and several engines share a card: the second would not start"
        yield Problem(path, found, f"{MPS_WISH}: true, or default", "mps")


def mps_variable_problem(name: str, request: Request, path: str) -> Problem | None:
    """Why a variable of MPS does not belong into an engine's environment."""
    if name == PIPE_VARIABLE:
        hint = f"remove it, and set {MPS_WISH}: true" if not with_mps(request) else "remove it: the plan sets it"
        return Problem(path, "is decided by the plan", hint, "planned-flag")
    if name not in CLIENT_VARIABLES:
        hint = f"remove it, or set it in {MPS_UNIT}.d/50-local.conf"
        return Problem(path, "is read by the MPS daemon only, never by an engine", hint, "placebo")
    if not with_mps(request):
        return Problem(path, "is read under MPS only", f"set {MPS_WISH}: true, or remove it", "placebo")
    return None


def pipe_reason(instance: Instance) -> Reason:
    """Why an engine is told where the daemon's pipes are."""
    because = "the pipes of the MPS daemon: an engine that does not find them runs without it and says nothing"
    gain = "engines of one card compute at the same time; nothing for one that is alone"
    setting = f"env.{instance.name}.{PIPE_VARIABLE}"
    return reason(setting, PIPE_DIRECTORY, because, f"wish:{MPS_WISH}", gain=gain, disruption="engine restart")
