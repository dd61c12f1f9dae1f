"""Locks of a card's graphics and memory clock: both unlocked unless the wish names a range.

A locked range is a request that power and heat overrule, and no call reads it back. Decode waits for memory, so a
graphics lock lifts nothing; a memory lock can lift a few per cent at most, and on some cards costs far more.
"""

from __future__ import annotations

import dataclasses
import re

from inferhost.catalogue.rows import GpuRow
from inferhost.planner.reasons import reason
from inferhost.planner.request import Request
from inferhost.schema.plan import Gpu, Pending, Reason
from inferhost.schema.problems import InputError, Problem

MHZ_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
UNLOCKED = "unlocked"
PERSISTENCE = "inferhost_gpu_persistence_mode"

MEMORY_RISKS = {
    "no": "a {key} cannot lock its memory clock",
    "risky": "any finite maximum can cost up to 32 % on this architecture{normal}",
    "deferred": "this architecture applies a memory lock only when the driver loads next",
    "probe": "whether this board accepts a memory lock is not known{normal}",
    "yes": "it can be locked, but nobody measured a gain on this card{normal}",
}
"""What is known of a memory lock, by the catalogue's word. Source: formula `gpu.memory_clock_lock`."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """One of the two clocks: its option, its name in sentences and in the plan, and why it should be left."""

    option: str
    word: str
    setting: str
    hint: str
    above: str

    @property
    def problem_id(self) -> str:
        return f"{self.word}-clock-lock"


DEFERRED = "leave it unlocked: this card takes a lock only when its driver loads next (nvidia-smi -lmcd), unproven"
GRAPHICS = Clock(
    "inferhost_gpu_graphics_clock_lock",
    "graphics",
    "graphics_clock_lock_mhz",
    "leave it unlocked: NVML locks clocks from Volta on, and decode waits for memory, not for this clock",
    "a request above the maximum lifts nothing: a lock can only hold the clock down, and with it the power",
)
MEMORY = Clock(
    "inferhost_gpu_memory_clock_lock",
    "memory",
    "memory_clock_lock_mhz",
    "leave it unlocked: this card runs its memory at the clock that its programs get anyway",
    "no request lifts a clock above the card's own list",
)


def graphics_clock_lock_mhz(request: Request, row: GpuRow, card: str) -> tuple[int, int] | None:
    """The locked range in MHz, None for unlocked; `InputError` for what the card cannot do or nobody can mean."""
    return _range_mhz(GRAPHICS, request, row.graphics_clock_lock == "yes", row.graphics_clock_max_mhz, card)


def memory_clock_lock_mhz(request: Request, row: GpuRow, card: str) -> tuple[int, int] | None:
    """The same of the memory clock; a card that only defers a lock has none that could be proven."""
    can = row.memory_clock_lock not in ("no", "deferred")
    clock = dataclasses.replace(MEMORY, hint=DEFERRED) if row.memory_clock_lock == "deferred" else MEMORY
    return _range_mhz(clock, request, can, row.memory_clock_max_mhz, card)


def wished_memory_top_mhz(request: Request) -> int | None:
    """The upper end of the memory clock's wished range; None where there is none, or none that could be meant."""
    found = MHZ_RANGE.fullmatch(request.wish.text(MEMORY.option))
    return int(found[2] or found[1]) if found else None


def lock_reasons(gpu: Gpu, number: int, row: GpuRow, request: Request) -> list[Reason]:
    """Why both are what they are."""
    path = f"gpus[{number}]"
    return [
        _graphics_reason(path, row, request, gpu.graphics_clock_lock_mhz),
        _memory_reason(path, row, request, gpu.memory_clock_lock_mhz),
    ]


def lock_pending(gpu: Gpu, number: int, row: GpuRow) -> list[Pending]:
    """What only the card can confirm: clocks whose list is not in the catalogue."""
    found = []
    unknown = f"clock of a {row.key} is not known here: the host checks it and refuses what is outside"
    if gpu.graphics_clock_lock_mhz is not None and row.graphics_clock_max_mhz is None:
        found.append(_pending(number, GRAPHICS, f"the highest {unknown}"))
    if gpu.memory_clock_lock_mhz is not None:
        found.append(_pending(number, MEMORY, f"every other {unknown}"))
    return found


def _pending(number: int, clock: Clock, because: str) -> Pending:
    return Pending(f"gpus[{number}].{clock.setting}", "the card's own list of clocks", because)


def _range_mhz(clock: Clock, request: Request, can: bool, top: int | None, card: str) -> tuple[int, int] | None:
    wanted = request.wish.text(clock.option)
    if wanted == UNLOCKED:
        return None
    found = MHZ_RANGE.fullmatch(wanted)
    if found is None:
        message = f'found "{wanted}", wanted unlocked, MHZ or MIN-MAX'
        raise _refused(clock, message, "for example 2400, or 1500-2400")
    low, high = int(found[1]), int(found[2] or found[1])
    if not can:
        raise _refused(clock, f"found {wanted}, but {card} cannot lock its {clock.word} clock", clock.hint)
    if not request.wish.flag(PERSISTENCE):
        message = f"found {wanted}, and {PERSISTENCE} false"
        hint = f"{PERSISTENCE}: true; without it the driver, and with it the lock, goes with the last program"
        raise _refused(clock, message, hint)
    if low == 0 or low > high:
        raise _refused(clock, f"found {wanted}, wanted MIN-MAX with 0 < MIN <= MAX", "for example 1500-2400")
    if top is not None and high > top:
        raise _refused(clock, f"found {wanted}, above {top} MHz, the highest of {card}", clock.above)
    return low, high


def _refused(clock: Clock, message: str, hint: str) -> InputError:
    return InputError([Problem(clock.option, message, hint, clock.problem_id)])


def _shown(lock: tuple[int, ...]) -> str:
    return "-".join(str(mhz) for mhz in dict.fromkeys(lock))


def _graphics_reason(path: str, row: GpuRow, request: Request, lock: tuple[int, ...] | None) -> Reason:
    """Why the graphics clock is locked or not. Decode of one sequence is bound by bandwidth: a lock lifts nothing.

    Source: formula `gpu.graphics_clock_lock`.
    """
    setting = f"{path}.graphics_clock_lock_mhz"
    if lock is not None:
        because = (
            f"a request for {_shown(lock)} MHz ({request.origin(GRAPHICS.option)}); "
            "power and heat overrule it, and only samples under load show whether it holds"
        )
        gain = (
            "power, where the maximum is below the clock that the card runs at by itself; no speed: decode waits for "
            "memory, and prefill and large batches lose with the clock"
        )
        return reason(setting, lock, because, f"wish:{GRAPHICS.option}", gain=gain)
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


def _memory_reason(path: str, row: GpuRow, request: Request, lock: tuple[int, ...] | None) -> Reason:
    """Why the memory clock is locked or left alone, with what is known of the risk and the most it could give.

    CUDA programs run GeForce and RTX PRO cards in P1 or P2, where the memory clock is a little below the
    maximum; that is normal on bare metal too and no sign of a hypervisor.
    Source: formula `gpu.memory_clock_lock`.
    """
    top, running = row.memory_clock_max_mhz, row.memory_clock_under_cuda_mhz
    gain = "unknown: the clock under CUDA was never read on this model"
    if running and lock is not None and lock[-1] < running:
        lost = 100 * (1 - lock[-1] / running)
        gain = f"costs up to {lost:.1f} % decode: CUDA runs at {running} MHz without it"
    elif top and running:
        lifted = 100 * ((lock[-1] if lock is not None else top) / running - 1)
        anyway = "none: it runs at its maximum" if top == running else "none: it runs there anyway"
        gain = f"at most +{lifted:.1f} % decode" if lifted > 0 else anyway
    normal = f"; {running} of {top} MHz is this card's normal clock under CUDA" if top and running else ""
    why = MEMORY_RISKS[row.memory_clock_lock].format(key=row.key, normal=normal)
    source = f"catalogue:gpus/{row.key}#memory_clock_lock"
    if lock is None:
        return reason(f"{path}.{MEMORY.setting}", None, f"left unlocked: {why}", source, gain=gain)
    because = f"a request for {_shown(lock)} MHz ({request.origin(MEMORY.option)}), at its own risk: {why}"
    return reason(f"{path}.{MEMORY.setting}", lock, because, f"wish:{MEMORY.option}", gain=gain)
