"""What each card is set to: power limit, persistence and, where wished for, clocks and compute mode.

Takes the wish, the hardware and the catalogue row; the hardware's own power range wins over the catalogue's,
because boards of one model differ. A limit is never clamped: outside a known range it is refused, and where the
range is unknown the word stays and the host's card decides. The memory clock stays unlocked, with the reason.
"""

from __future__ import annotations

import dataclasses
import re

from inferhost.catalogue.rows import GpuRow
from inferhost.planner.driver import pci_device_id
from inferhost.planner.gpu_modes import (
    APPLICATION_CLOCKS,
    application_clocks_mhz,
    compute_mode,
    mode_pending,
    mode_reasons,
)
from inferhost.planner.reasons import NO_GAIN, reason
from inferhost.planner.request import HARDWARE, Request
from inferhost.schema.hardware import HardwareGpu
from inferhost.schema.plan import Gpu, GpuSelector, Pending, Reason
from inferhost.schema.problems import InputError, Problem

POWER = "inferhost_gpu_power_limit"
PERSISTENCE = "inferhost_gpu_persistence_mode"
GRAPHICS_LOCK = "inferhost_gpu_graphics_clock_lock"
MHZ_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclasses.dataclass(frozen=True)
class PowerRange:
    """Least, default and most watts of one board, and where they were read."""

    min_w: int | None
    default_w: int | None
    max_w: int | None
    source: str
    read: bool
    """Whether discovery read it on this board; else it is the catalogue's, of the model."""

    def shown(self) -> str:
        low = str(self.min_w) if self.min_w is not None else "unknown"
        return f"{low} to {self.max_w if self.max_w is not None else 'unknown'} W"


def power_range(gpu: HardwareGpu, row: GpuRow) -> PowerRange:
    """The board's range: what discovery read, else the catalogue's, never a mixture of both."""
    if gpu.power_min_w is not None or gpu.power_max_w is not None or gpu.power_default_w is not None:
        return PowerRange(gpu.power_min_w, gpu.power_default_w, gpu.power_max_w, f"wish:{HARDWARE}", True)
    source = f"catalogue:gpus/{row.key}#power_default_w"
    return PowerRange(row.power_min_w, row.power_default_w, row.power_max_w, source, False)


def power_limit_w(wanted: str, limits: PowerRange, card: str) -> int | str:
    """The limit in watts, or the word where this board's own range was not read; `InputError` outside the range.

    Boards of one model differ, so a word stays a word until discovery has read the board: a later fact then says
    what the word means, and never changes a number of watts.
    """
    if wanted in ("default", "max"):
        known = limits.default_w if wanted == "default" else limits.max_w
        complete = limits.read and limits.min_w is not None and limits.max_w is not None
        return known if known is not None and complete else wanted
    watts = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 8 else None
    if watts is None:
        hint = "default, max, or watts as a whole number, for example 450"
        raise InputError([Problem(POWER, f'found "{wanted}", wanted default, max or watts', hint, "power-limit")])
    too_low = limits.min_w is not None and watts < limits.min_w
    if too_low or (limits.max_w is not None and watts > limits.max_w):
        raise InputError(
            [
                Problem(
                    POWER,
                    f"found {watts}, outside {limits.shown()} of {card}",
                    f"watts within {limits.shown()}, default or max",
                    "power-limit",
                )
            ]
        )
    return watts


def graphics_clock_lock_mhz(wanted: str, row: GpuRow, card: str) -> tuple[int, int] | None:
    """The locked range in MHz, None for unlocked; `InputError` for what the card cannot do or nobody can mean."""
    if wanted == "unlocked":
        return None
    found = MHZ_RANGE.fullmatch(wanted)
    if found is None:
        raise _lock_refused(f'found "{wanted}", wanted unlocked, MHZ or MIN-MAX', "for example 2400, or 1500-2400")
    low, high = int(found[1]), int(found[2] or found[1])
    if row.graphics_clock_lock == "no":
        hint = "leave it unlocked: NVML locks clocks from Volta on, and decode waits for memory, not for this clock"
        raise _lock_refused(f"found {wanted}, but {card} cannot lock its graphics clock", hint)
    if low == 0 or low > high:
        raise _lock_refused(f"found {wanted}, wanted MIN-MAX with 0 < MIN <= MAX", "for example 1500-2400")
    top = row.graphics_clock_max_mhz
    if top is not None and high > top:
        hint = "a request above the maximum lifts nothing: a lock can only hold the clock down, and with it the power"
        raise _lock_refused(f"found {wanted}, above {top} MHz, the highest of {card}", hint)
    return low, high


def _lock_refused(message: str, hint: str) -> InputError:
    return InputError([Problem(GRAPHICS_LOCK, message, hint, "graphics-clock-lock")])


def gpu_section(request: Request, rows: tuple[GpuRow, ...]) -> tuple[tuple[Gpu, ...], list[Reason], list[Pending]]:
    """The cards with their settings, or `InputError` with the problems of all cards."""
    gpus: list[Gpu] = []
    reasons: list[Reason] = []
    pending: list[Pending] = []
    problems: list[Problem] = []
    managed = request.manages("gpu")
    mode: str | None = None
    try:
        mode = compute_mode(request) if managed else None
    except InputError as error:
        problems += error.problems
    for number, (found, row) in enumerate(zip(request.hardware.gpus, rows, strict=True)):
        device = pci_device_id(found.pci_device_id)
        ordinal = sum(pci_device_id(g.pci_device_id) == device for g in request.hardware.gpus[:number])
        bare = Gpu(row.key, row.name, GpuSelector(found.uuid, device, ordinal), None, None, None, None)
        if not managed:
            gpus.append(bare)
            continue
        limits = power_range(found, row)
        wanted, card = request.wish.text(POWER), f"gpus[{number}] ({row.key})"
        before = len(problems)
        watts: int | str = wanted
        lock: tuple[int, int] | None = None
        application: tuple[int, int] | None = None
        try:
            watts = power_limit_w(wanted, limits, card)
        except InputError as error:
            problems += error.problems
        try:
            lock = graphics_clock_lock_mhz(request.wish.text(GRAPHICS_LOCK), row, card)
        except InputError as error:
            problems += error.problems
        try:
            application = application_clocks_mhz(request.wish.text(APPLICATION_CLOCKS), row, card)
        except InputError as error:
            problems += error.problems
        if len(problems) > before:
            continue
        gpu = dataclasses.replace(
            bare,
            persistence_mode=request.wish.flag(PERSISTENCE),
            power_limit_w=watts,
            graphics_clock_lock_mhz=lock,
            application_clocks_mhz=application,
            compute_mode=mode,
        )
        gpus.append(gpu)
        reasons += [*_reasons(gpu, number, row, request, limits), *mode_reasons(gpu, number, row, request)]
        pending += mode_pending(gpu, number, row)
        if lock is not None and row.graphics_clock_max_mhz is None:
            pending.append(
                Pending(
                    f"gpus[{number}].graphics_clock_lock_mhz",
                    "the card's own list of clocks",
                    f"the highest clock of a {row.key} is not known here: the host checks it and refuses what is "
                    "outside",
                )
            )
        if isinstance(watts, str) or not limits.read or limits.min_w is None or limits.max_w is None:
            known = "the range is not fully known here" if limits.read else "this board's range was not read yet"
            because = f"{known} ({limits.shown()}): the host checks it and refuses what is outside"
            pending.append(Pending(f"gpus[{number}].power_limit_w", "the card's own power range", because))
    if problems:
        raise InputError(problems)
    return tuple(gpus), reasons, pending


def _reasons(gpu: Gpu, number: int, row: GpuRow, request: Request, limits: PowerRange) -> list[Reason]:
    path, wanted = f"gpus[{number}]", request.wish.text(POWER)
    watts = wanted if gpu.power_limit_w is None else gpu.power_limit_w
    origin = request.origin(POWER)
    meaning = {"default": "the limit that the card boots with", "max": "the highest that the card accepts"}
    because = f"{POWER} {wanted}: {meaning.get(wanted, f'within {limits.shown()}')} ({origin})"
    keeps = "kept loaded, so that power limit and record survive" if request.wish.flag(PERSISTENCE) else (
        "not kept loaded: the power limit is lost when the last program closes the card"
    )  # fmt: skip
    power_source = limits.source if wanted in ("default", "max") else f"wish:{POWER}"
    return [
        reason(
            f"{path}.power_limit_w",
            watts,
            because,
            power_source,
            gain=_power_gain(watts, limits),
        ),
        reason(
            f"{path}.persistence_mode",
            request.wish.flag(PERSISTENCE),
            f"driver {keeps} ({request.origin(PERSISTENCE)})",
            "formula:gpu.persistence",
            gain="no speed: settings are not lost, and the first request starts sooner",
        ),
        _graphics_clock_reason(path, row, request, gpu.graphics_clock_lock_mhz),
        _memory_clock_reason(path, row),
    ]


def _power_gain(watts: int | str, limits: PowerRange) -> str:
    """What the limit can give or cost; a low one cuts decode too, at a knee that differs per card and model.

    Source: formula `gpu.power_limit`.
    """
    if isinstance(watts, int) and limits.default_w is not None and watts < limits.default_w:
        return "energy; below a knee that only a measurement finds it costs speed as well"
    return f"{NO_GAIN} for decode, which waits for memory; prefill and large batches can draw it"


def _graphics_clock_reason(path: str, row: GpuRow, request: Request, lock: tuple[int, ...] | None) -> Reason:
    """Why the graphics clock is locked or not. Decode of one sequence is bound by bandwidth: a lock lifts nothing.

    Source: formula `gpu.graphics_clock_lock`.
    """
    setting = f"{path}.graphics_clock_lock_mhz"
    if lock is not None:
        shown = "-".join(str(mhz) for mhz in dict.fromkeys(lock))
        because = (
            f"a request for {shown} MHz ({request.origin(GRAPHICS_LOCK)}); "
            "power and heat overrule it, and only samples under load show whether it holds"
        )
        gain = (
            "power, where the maximum is below the clock that the card runs at by itself; no speed: decode waits for "
            "memory, and prefill and large batches lose with the clock"
        )
        return reason(setting, lock, because, f"wish:{GRAPHICS_LOCK}", gain=gain)
    if row.graphics_clock_lock == "no":
        because, source = (
            f"left unlocked: a {row.key} cannot lock clocks",
            f"catalogue:gpus/{row.key}#graphics_clock_lock",
        )
    else:
        because = (
            "left unlocked: a locked range is only a request, which power and heat overrule, and decode waits for "
            "memory, not for the graphics clock"
        )
        source = "formula:gpu.graphics_clock_lock"
    return reason(setting, None, because, source)


def _memory_clock_reason(path: str, row: GpuRow) -> Reason:
    """Why the memory clock is left alone, with the most that a lock could give.

    CUDA programs run GeForce and RTX PRO cards in P1 or P2, where the memory clock is a little below the
    maximum; that is normal on bare metal too and no sign of a hypervisor.
    Source: formula `gpu.memory_clock_lock`.
    """
    top, running = row.memory_clock_max_mhz, row.memory_clock_under_cuda_mhz
    gain = "unknown: the clock under CUDA was never read on this model"
    if top and running:
        gain = (
            f"at most +{100 * (top / running - 1):.1f} % decode" if top > running else "none: it runs at its maximum"
        )
    normal = f"; {running} of {top} MHz is this card's normal clock under CUDA" if top and running else ""
    why = {
        "no": f"a {row.key} cannot lock its memory clock",
        "risky": f"any finite maximum can cost up to 32 % on this architecture{normal}",
        "deferred": "this architecture applies a memory lock only when the driver loads next",
        "probe": f"whether this board accepts a memory lock is not known{normal}",
        "yes": f"it can be locked, but nobody measured a gain on this card{normal}",
    }[row.memory_clock_lock]
    source = f"catalogue:gpus/{row.key}#memory_clock_lock"
    return reason(f"{path}.memory_clock_lock_mhz", None, f"left unlocked: {why}", source, gain=gain)
