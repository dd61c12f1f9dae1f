"""What is asked for, made ready for planning: the wish, the hardware and the engine instances.

Reading collects the problems of wish and hardware together, so that a person repairs an inventory once. Values
are checked here for form only; whether they can work is decided where they are used.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from inferhost.planner.machine.card_wishes import card_wishes
from inferhost.planner.workload import OPTIONS, WORKLOADS, Workload
from inferhost.schema import document
from inferhost.schema import wish as schema_wish
from inferhost.schema.hardware import Hardware
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.wish import INSTANCE_PREFIX, Wish, read_wish

HARDWARE = "inferhost_hardware"
INSTANCES = INSTANCE_PREFIX + "instances"
EXPLAINED = "inventories/esxi/host_vars/gb200/hardware.yml explains each key; null is for what is not known"
INSTANCE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclasses.dataclass(frozen=True)
class Request:
    """The complete wish, which of it a person set, and the hardware in it."""

    wish: Wish
    given: frozenset[str]
    hardware: Hardware
    cards: tuple[tuple[Wish, Mapping[str, str]], ...] = ()
    """What each card is wished, and by option where the wish has it for this card alone."""
    own: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The same of the one card that this is the request of."""

    def of_card(self, number: int) -> Request:
        """The request as far as it is about one card."""
        wish, own = self.cards[number] if self.cards else (self.wish, {})
        if not own and not self.own and wish is self.wish:
            return self
        return dataclasses.replace(self, wish=wish, given=self.given | own.keys(), own=own)

    def manages(self, section: str) -> bool:
        return section in self.wish.words("inferhost_manage")

    def origin(self, option: str) -> str:
        """How a value came about, for a reason's text."""
        if option in self.own:
            return f"the wish sets it for this card: {self.own[option]}"
        return "the wish sets it" if option in self.given else "the default; the wish does not set it"


@dataclasses.dataclass(frozen=True)
class CardSlice:
    """A part of a divided card: what of the card belongs to it."""

    number: int
    profile: str
    start: int
    size: int
    memory_mib: int
    memory_ratio: float  # of the card's memory and its rate
    compute_ratio: float  # of its multiprocessors


@dataclasses.dataclass(frozen=True)
class Instance:
    """One engine instance: its name, its values, which of them stand in its own mapping, and its cards."""

    name: str
    wish: Wish
    own: frozenset[str]
    given: frozenset[str]
    gpus: tuple[int, ...] = ()
    """The cards, by their number in the hardware; empty until `planner.placement` has placed the instance."""
    share: float = 1.0
    """How much of each of its cards it may take."""
    later_share: float = 0.0
    """How much of its cards belongs to instances that start after it, and is therefore free at its start."""
    after: tuple[str, ...] = ()
    """The instances that start before it, because it measures what they leave."""
    slice: CardSlice | None = None
    """The part of its card, where that is divided."""

    @property
    def tensor_parallel_size(self) -> int:
        """Over how many cards the engine splits every layer."""
        return len(self.gpus)

    @property
    def workload(self) -> Workload:
        return WORKLOADS[self.text("workload")]

    def by_workload(self, option: str) -> bool:
        """Whether the workload fills the option in, because the wish leaves it open."""
        return option in OPTIONS and getattr(self.workload, option) is not None and not self.sets(option)

    def text(self, option: str) -> str:
        return self.wish.text(INSTANCE_PREFIX + option)

    def integer(self, option: str) -> int:
        if self.by_workload(option):
            return int(getattr(self.workload, option))
        return self.wish.integer(INSTANCE_PREFIX + option)

    def path(self, option: str) -> str:
        """The variable that a person has to change: the instance's own key where it has one."""
        own = option.partition("[")[0].partition(".")[0] in self.own
        return f"{INSTANCES}.{self.name}.{option}" if own else INSTANCE_PREFIX + option

    def source(self, option: str) -> str:
        option = "workload" if self.by_workload(option) else option
        return f"wish:{INSTANCES if option in self.own else INSTANCE_PREFIX + option}"

    def sets(self, option: str) -> bool:
        """Whether the wish sets the value, rather than its default."""
        return option in self.own or INSTANCE_PREFIX + option in self.given

    def origin(self, option: str) -> str:
        """How a value came about, for a reason's text."""
        if self.by_workload(option):
            return f"workload {self.text('workload')}: {self.workload.because}"
        return "the wish sets it" if self.sets(option) else "the default; the wish does not set it"


def read_request(values: Mapping[str, Any]) -> Request:
    """Wish and hardware from all `inferhost_*` variables, or `InputError` with every problem of both."""
    problems: list[Problem] = []
    plain = _plain(values)
    wish: Wish | None = None
    hardware: Hardware | None = None
    try:
        wish = read_wish(plain)
    except InputError as error:
        problems += error.problems
    if not plain.get(HARDWARE):
        hint = "inferhost discover USER@HOST writes it into host_vars/HOST/hardware.yml"
        problems.append(Problem(HARDWARE, "is required and was not set", hint, "missing"))
    elif isinstance(plain[HARDWARE], dict):
        try:
            hardware = document.read(Hardware, plain[HARDWARE])
        except InputError as error:
            problems += [
                dataclasses.replace(p, path=f"{HARDWARE}.{p.path}", hint=p.hint or EXPLAINED) for p in error.problems
            ]
    if problems or wish is None or hardware is None:
        raise InputError(problems)
    return Request(wish, frozenset(plain), hardware, card_wishes(wish, hardware))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The variables as JSON has them, or `InputError` for what is no text, number, list or mapping."""
    try:
        text = json.dumps(dict(values), default=str, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError as error:
        hint = "write the text in UTF-8"
        raise InputError([Problem("inferhost_*", f"hold half of a character: {error.reason}", hint)]) from error
    except (TypeError, ValueError, RecursionError) as error:
        hint = "plain text, numbers, lists and mappings with text as keys"
        raise InputError([Problem("inferhost_*", f"cannot be read as JSON: {error}", hint)]) from error
    return dict(json.loads(text))


def read_instances(request: Request) -> tuple[Instance, ...]:
    """The instances by name, not placed yet, or `InputError` with every problem of their mappings."""
    found, wished = schema_wish.read_instances(request.wish), request.wish.table(INSTANCES)
    hint = "lower-case letters, digits, - and _"
    problems = [
        Problem(f"{INSTANCES}.{name}", "is no name for an instance", hint)
        for name in found
        if not INSTANCE_NAME.fullmatch(name)
    ]
    if problems:
        raise InputError(problems)
    return tuple(
        Instance(name, wish, frozenset(str(key) for key in wished[name]), request.given)
        for name, wish in found.items()
    )
