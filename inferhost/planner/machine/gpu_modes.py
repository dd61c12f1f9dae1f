"""Application clocks, compute mode and error correction of a card: left alone unless the wish names them.

Application clocks are what cards before Volta have instead of locked clocks; newer drivers call them deprecated, so
a card that can lock its clocks is told to. All have a getter, so what was there before comes back.
"""

from __future__ import annotations

import re

from inferhost.catalogue.rows import GpuRow
from inferhost.planner.reasons import NO_GAIN, reason
from inferhost.planner.request import Request
from inferhost.schema.plan import Gpu, Pending, Reason
from inferhost.schema.problems import InputError, Problem

APPLICATION_CLOCKS = "inferhost_gpu_application_clocks"
COMPUTE_MODE = "inferhost_gpu_compute_mode"
ECC = "inferhost_gpu_ecc"
LEAVE = "leave"
CLOCK_PAIR = re.compile(r"([0-9]{1,5}),([0-9]{1,5})")

WITHOUT_APPLICATION_CLOCKS = {
    "no": "has no application clocks",
    "deprecated": "has application clocks that NVML 13 deprecates and CUDA 14 removes",
}
COMPUTE_MODES = {
    "default": "several programs may use the card at once",
    "exclusive_process": "one process at a time may use the card; a second one fails to start",
    "prohibited": "no program may use the card",
}
"""Source: nvml.h of NVML API 13 (nvmlComputeMode_t)."""


def application_clocks_mhz(wanted: str, row: GpuRow, card: str) -> tuple[int, int] | None:
    """Memory and graphics clock in MHz, None to leave them; `InputError` for what the card cannot do."""
    if wanted == LEAVE:
        return None
    found = CLOCK_PAIR.fullmatch(wanted)
    if found is None:
        raise _refused(f'found "{wanted}", wanted leave or MEMORY,GRAPHICS in MHz', "for example 3003,1531")
    if row.application_clocks != "yes":
        instead = "inferhost_gpu_graphics_clock_lock asks for a range of the graphics clock"
        raise _refused(
            f"found {wanted}, but {card} {WITHOUT_APPLICATION_CLOCKS[row.application_clocks]}",
            instead if row.graphics_clock_lock == "yes" else "leave them",
        )
    pair = int(found[1]), int(found[2])
    tops = row.memory_clock_max_mhz, row.graphics_clock_max_mhz
    for mhz, top, which in zip(pair, tops, ("memory", "graphics"), strict=True):
        if mhz == 0 or (top is not None and mhz > top):
            most = "the card's own list" if top is None else f"1 to {top}"
            raise _refused(f"found {mhz} MHz for the {which} clock of {card}, wanted {most}", "")
    return pair


def compute_mode(request: Request) -> str | None:
    """The mode by name, None to leave it."""
    wanted = request.wish.text(COMPUTE_MODE)
    return None if wanted == LEAVE else wanted


def ecc_mode(request: Request, row: GpuRow, card: str) -> bool | None:
    """Whether error correction is to be on, None to leave it; `InputError` for a card that has none."""
    wanted = ecc_wish(request)
    if wanted and row.ecc == "no":
        hint = "leave; the driver shows ECC as N/A on this card"
        raise InputError([Problem(ECC, f"found on, but {card} has no error correction", hint, "ecc")])
    return None if row.ecc == "no" else wanted


def ecc_wish(request: Request) -> bool | None:
    """What the wish says of error correction, None to leave it."""
    return {"on": True, "off": False}.get(request.wish.text(ECC)) if request.manages("gpu") else None


def mode_reasons(gpu: Gpu, number: int, row: GpuRow, request: Request) -> list[Reason]:
    """Why each is what it is."""
    path = f"gpus[{number}]"
    return [
        _clocks_reason(gpu, path, row, request),
        _mode_reason(gpu, path, request),
        _ecc_reason(gpu, path, row, request),
    ]


def mode_pending(gpu: Gpu, number: int, row: GpuRow) -> list[Pending]:
    """What only the card itself can confirm."""
    found = []
    if gpu.application_clocks_mhz is not None:
        because = (
            f"the clock pairs of a {row.key} are not known here: the host checks them and refuses what is not listed"
        )
        found.append(Pending(f"gpus[{number}].application_clocks_mhz", "the card's own list of clocks", because))
    if gpu.ecc is not None:
        because = "where the card is not in this mode already, it takes it up when it starts next"
        found.append(Pending(f"gpus[{number}].ecc", "a restart of the host after the first run", because))
    return found


def _clocks_reason(gpu: Gpu, path: str, row: GpuRow, request: Request) -> Reason:
    """Application clocks are what a program gets unless power or heat say otherwise.

    Source: formula `gpu.application_clocks`.
    """
    setting, pair = f"{path}.application_clocks_mhz", gpu.application_clocks_mhz
    if pair is not None:
        because = (
            f"{pair[0]} MHz memory and {pair[1]} MHz graphics ({request.origin(APPLICATION_CLOCKS)}); power and heat "
            "overrule them, and only samples under load show whether they hold"
        )
        gain = "prefill and large batches where the card boots with a lower clock; decode waits for memory"
        return reason(setting, pair, because, f"wish:{APPLICATION_CLOCKS}", gain=gain)
    if row.application_clocks == "yes":
        because, source = f"left alone ({request.origin(APPLICATION_CLOCKS)})", "formula:gpu.application_clocks"
    else:
        because = f"not applicable: a {row.key} {WITHOUT_APPLICATION_CLOCKS[row.application_clocks]}"
        source = f"catalogue:gpus/{row.key}#application_clocks"
    return reason(setting, None, because, source)


def _mode_reason(gpu: Gpu, path: str, request: Request) -> Reason:
    mode, origin = gpu.compute_mode, request.origin(COMPUTE_MODE)
    because = f"left alone ({origin})" if mode is None else f"{COMPUTE_MODES[mode]} ({origin})"
    return reason(
        f"{path}.compute_mode", mode, because, f"wish:{COMPUTE_MODE}", gain=f"{NO_GAIN}: it only keeps order"
    )


def _ecc_reason(gpu: Gpu, path: str, row: GpuRow, request: Request) -> Reason:
    """Error correction is the card's own until somebody changes it, and stays so through every restart.

    Source: formula `gpu.ecc`.
    """
    setting, origin = f"{path}.ecc", request.origin(ECC)
    if gpu.ecc is None:
        because = f"left alone ({origin})" if row.ecc != "no" else f"not applicable: a {row.key} has none"
        source = "formula:gpu.ecc" if row.ecc != "no" else f"catalogue:gpus/{row.key}#ecc"
        return reason(setting, None, because, source)
    if row.ecc == "inline":
        cost = "takes 1/16 of the memory and some of its rate" if gpu.ecc else "gives 1/15 more memory, and its rate"
        counted = "; the budget counts what is left" if gpu.ecc else "; discover again after the restart to use it"
    else:
        cost, counted = "the memory has bits of its own for it, so it takes none of it", ""
    because = f"{'on' if gpu.ecc else 'off'} ({origin}): {cost}{counted}"
    gain = "no speed: single wrong bits are repaired" if gpu.ecc else "what inline check bits cost; none elsewhere"
    return reason(setting, gpu.ecc, because, f"wish:{ECC}", gain=gain, disruption="reboot")


def _refused(message: str, hint: str) -> InputError:
    return InputError([Problem(APPLICATION_CLOCKS, message, hint, "application-clocks")])
