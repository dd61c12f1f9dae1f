"""The guard of each card: at which temperature it acts, what it lowers to, and when the plan has the card again.

Off unless the wish asks for it: a card slows itself before it takes harm, and a program that takes power away from
a server at work should be somebody's decision. It is for cards whose cooling can fail or that nobody watches. The
lowest limit that the card accepts is the safe one; watts of the wish are never above the planned limit.
"""

from __future__ import annotations

from inferhost.planner.reasons import reason
from inferhost.planner.request import Request
from inferhost.schema.plan import Guard, Reason
from inferhost.schema.problems import InputError, Problem

GUARD = "inferhost_gpu_guard"
LIMIT, POWER, COOL_DOWN = f"{GUARD}_limit", f"{GUARD}_power", f"{GUARD}_cool_down"
PERSISTENCE = "inferhost_gpu_persistence_mode"

LOWEST = "min"
HYSTERESIS_C = 10
"""How far below its limit a card counts as cool. Source: formula `gpu.guard`."""
LIMITS_C, COOL_DOWNS_S = (50, 100), (30, 3600)


def guard(request: Request, range_w: tuple[int | None, int | None], card: str) -> Guard | None:
    """The guard of one card, None where the wish wants none; `InputError` with everything that cannot be.

    `range_w` is the lowest limit of the card and the planned one, as far as they are known.
    """
    if not request.wish.flag(GUARD):
        return None
    limit_c, cool_down_s = request.wish.integer(LIMIT), request.wish.integer(COOL_DOWN)
    problems = [
        *_outside(
            LIMIT, limit_c, LIMITS_C, "C", "lower holds a healthy card down, higher is the card's own business"
        ),
        *_outside(COOL_DOWN, cool_down_s, COOL_DOWNS_S, "seconds", "a card needs a minute or so to cool down"),
    ]
    if not request.wish.flag(PERSISTENCE):
        hint = f"{PERSISTENCE}: true; without it the driver, and with it every limit, goes with the last program"
        problems.append(Problem(GUARD, f"found true, and {PERSISTENCE} false", hint, "guard"))
    power_w: int | str = LOWEST
    try:
        power_w = _power_w(request.wish.text(POWER), range_w, card)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    return Guard(limit_c, limit_c - HYSTERESIS_C, power_w, cool_down_s)


def guard_reasons(found: Guard | None, number: int, request: Request) -> list[Reason]:
    """Why the guard is as it is, or why there is none."""
    path, origin = f"gpus[{number}].guard", request.origin(GUARD)
    if found is None:
        because = f"none ({origin}): the card slows itself when it gets too hot, and no program takes its power away"
        return [reason(path, None, because, "formula:gpu.guard", gain="none")]
    lowest = "the lowest limit that the card accepts" if found.power_w == LOWEST else "not above the planned limit"
    near = f"{HYSTERESIS_C} C below the limit: near it the card would swing"
    wait = "how long it stays cool before the plan has it again; a further trip within the hour doubles it"
    rows = (
        ("limit_c", found.limit_c, "the card's own limit counts where it says that that is lower", f"wish:{LIMIT}"),
        ("resume_c", found.resume_c, near, "formula:gpu.guard"),
        ("power_w", found.power_w, f"what is safe: {lowest}; no lock that adds to the draw", f"wish:{POWER}"),
        ("cool_down_s", found.cool_down_s, wait, f"wish:{COOL_DOWN}"),
    )
    gain = "none: it costs speed when it acts"
    return [reason(f"{path}.{name}", value, because, source, gain=gain) for name, value, because, source in rows]


def _outside(option: str, found: int, bounds: tuple[int, int], unit: str, hint: str) -> list[Problem]:
    low, high = bounds
    if low <= found <= high:
        return []
    return [Problem(option, f"found {found}, wanted {low} to {high} {unit}", hint, "guard")]


def _power_w(wanted: str, range_w: tuple[int | None, int | None], card: str) -> int | str:
    if wanted == LOWEST:
        return wanted
    watts = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 8 else None
    hint = "min, or watts as a whole number, for example 200"
    if watts is None:
        raise InputError([Problem(POWER, f'found "{wanted}", wanted min or watts', hint, "guard")])
    low_w, most_w = range_w
    if (low_w is not None and watts < low_w) or (most_w is not None and watts > most_w):
        span = f"{'unknown' if low_w is None else low_w} to {'unknown' if most_w is None else most_w} W"
        message = f"found {watts}, wanted {span}: from the lowest to the planned limit of {card}"
        raise InputError([Problem(POWER, message, hint, "guard")])
    return watts
