"""Every NVML call that a verb makes fails, with every code that NVML has: what must then be said and stay true.

The calls are those of an undisturbed run and the codes those of the binding; neither is listed. A cell is one verb
with one function that fails from its first call on, or only for the first of two cards. It passes when nobody sees a
traceback, the setting concerned gets the verdict that belongs to the code, nothing is called held that is not, no
original is lost, and a revert brings back the host of before once the function works again.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pynvml
import pytest

from inferhost.host.cli import JOURNALLED
from inferhost.host.gpu.card_knob import CardKnob
from inferhost.host.gpu.nvml import Nvml
from inferhost.host.record.baseline import BASELINE
from tests.faults import cells
from tests.faults.codes import CODES, CONCERNS, FEW, NO_DRIVER, NO_INTERFACE, REFUSED, SPARED
from tests.faults.test_every_write import DONE, comparable, rebooted, same, with_modes
from tests.unit.host.fake_host import Answer, FakeHost, plan
from tests.unit.host.simulated import simulator_state, without_sessions
from tests.unit.host.test_host_mig import H100, HALVES, card_plan

RUNS = {
    "install": ["install"],
    "apply": ["apply"],
    "boot": ["boot"],
    "watch": ["watch"],
    "verify": ["verify"],
    "under load": ["verify", "--under-load", "--seconds", "4"],
    "sample": ["sample", "--seconds", "0.4"],
    "revert": ["revert"],
}

KEPT = {
    "power_limit_w": "power_limit_mw",
    "persistence_mode": "persistence",
    "compute_mode": "compute_mode",
    "ecc": "ecc_mode",
    "mig": "mig_instances",
    "graphics_clock_lock_mhz": "graphics_clock_lock_mhz",
    "memory_clock_lock_mhz": "memory_clock_lock_mhz",
    "application_clocks_mhz": "application_clocks_mhz",
}
"""Where a card keeps a setting."""

WANTED = {
    "power_limit_w": 450000,
    "persistence_mode": 1,
    "compute_mode": 3,
    "ecc": [1, 1],
    "mig": ["3g.40gb@0(0:3)", "3g.40gb@4(0:3)"],
    "graphics_clock_lock_mhz": [2100, 2100],
    "memory_clock_lock_mhz": [7001, 7001],
    "application_clocks_mhz": [3003, 999],
}
"""What stands on a card where a setting of the plans below has taken."""


def pair_with_locks(host: FakeHost) -> None:
    """Two cards with locked clocks, all set by hand before."""
    first = dataclasses.replace(
        plan().gpus[0],
        power_limit_w=450,
        graphics_clock_lock_mhz=(2100, 2100),
        memory_clock_lock_mhz=(7001, 7001),
        compute_mode="exclusive_process",
    )
    second = dataclasses.replace(first, select=dataclasses.replace(first.select, ordinal=1))
    host.plan = plan(gpus=(first, second), manage=("gpu",), files=(), dropins=(), service=(), env={})
    host.sim("set", "persistence", 1, "--gpu", 0)
    host.sim("set", "power_limit_mw", 480000, "--gpu", 0)


def divided_card(host: FakeHost) -> None:
    """A card that is to be divided."""
    host.sim("init", H100)
    host.plan = card_plan("2330", mig=HALVES, power_limit_w=450)
    host.sim("set", "persistence", 1)


CARDS = {"locks": (pair_with_locks, 2), "old card": (with_modes, 1), "divided card": (divided_card, 1)}
MATRIX = "NVML calls x codes, {}"
"""One matrix for each run here, and one for the guard."""
WRITES = ("apply", "boot")


@dataclasses.dataclass
class Fault:
    """What fails; `struck` are the cards that it did for (-1: no card's call), `calls` what a run calls."""

    function: str = ""
    code: int = 0
    first_card_only: bool = False
    struck: set[int] = dataclasses.field(default_factory=set)
    calls: set[str] = dataclasses.field(default_factory=set)
    of_knobs: set[tuple[str, str]] = dataclasses.field(default_factory=set)  # with the setting that cannot do without
    handles: dict[int | None, int] = dataclasses.field(default_factory=dict)  # where NVML keeps a card: its index

    def strikes(self, function: str, arguments: tuple[Any, ...]) -> bool:
        self.calls.add(function)
        self.of_knobs |= {(function, name) for name in waiting_knobs(function)}
        card = self._card(arguments[0]) if arguments else -1
        if function != self.function or (self.first_card_only and card != 0):
            return False
        self.struck.add(card)
        return True

    def learn(self, index: int, handle: Any) -> None:
        self.handles[ctypes.cast(handle, ctypes.c_void_p).value] = index

    def _card(self, argument: Any) -> int:
        if isinstance(argument, int):
            return argument
        return self.handles.get(ctypes.cast(argument, ctypes.c_void_p).value, -1)


"""How a revert may end: with ECC, what the card was asked for is back and waits for its next start."""


def waiting_knobs(function: str) -> Iterator[str]:
    """The setting that is being observed or written by this call, if any."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        knob = frame.f_locals.get("self")
        if frame.f_code.co_name == "reading":  # goes without, where the card has no such reading
            return
        if isinstance(knob, CardKnob) and frame.f_code.co_name in ("observe", "write", "obstacle"):
            yield knob.name
            return
        frame = frame.f_back


@dataclasses.dataclass
class Stage:
    """A host that goes back to where a run starts as often as one likes."""

    host: FakeHost
    run: str
    image: pathlib.Path
    bare: dict[str, Any]
    originals: dict[str, Any]
    start: dict[str, Any]
    fault: Fault
    of_knobs: frozenset[tuple[str, str]] = frozenset()  # in an undisturbed run

    def concerned(self, function: str, name: str) -> bool:
        """Whether this setting cannot do without this call, in this run."""
        if function in SPARED and self.fault.code in NO_INTERFACE:
            return False
        met = {setting for of, setting in self.of_knobs if of == function}
        return name in CONCERNS.get(function, ()) and (not met or name in met)

    def attempt(self, function: str = "", code: int = 0, first_card_only: bool = False) -> Answer:
        """The run from its start, with this fault."""
        without_sessions()
        for folder, name in ((self.host.root, "root"), (self.host.sim_folder, "sim")):
            shutil.rmtree(folder)
            shutil.copytree(self.image / name, folder, symlinks=True)
        self.fault.__init__(function, code, first_card_only)  # type: ignore[misc]
        return self.host.run(*RUNS[self.run])

    def healed(self, *words: str) -> Answer:
        """A run while everything works."""
        self.fault.__init__()  # type: ignore[misc]
        return self.host.run(*words)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Fails the calls of the binding itself, so that its exceptions are the real ones."""
    found = Fault()
    real: Callable[..., Any] = Nvml.call

    def call(nvml: Nvml, function: str, *arguments: Any) -> Any:
        if found.strikes(function, arguments):
            with monkeypatch.context() as broken:
                broken.setattr(pynvml, function, failing(found.code))
                return real(nvml, function, *arguments)
        answer = real(nvml, function, *arguments)
        if function == "nvmlDeviceGetHandleByIndex":
            found.learn(arguments[0], answer)
        return answer

    monkeypatch.setattr(Nvml, "call", call)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug here
    return found


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise pynvml.NVMLError(code)

    return fail


@pytest.fixture(params=CARDS)
def staged(
    request: pytest.FixtureRequest,
    tmp_path: pathlib.Path,
    simulator_build: pathlib.Path,
    program: pathlib.Path,
    fault: Fault,
) -> Iterator[Callable[[str], Stage]]:
    prepare, cards = CARDS[request.param]

    def make(run: str) -> Stage:
        host = FakeHost(tmp_path, simulator_build, program, cards=cards)
        prepare(host)
        bare = same(host.snapshot())
        assert host.run("install").code == 0
        originals = {key: record["found"] for key, record in host.baseline().items()}
        if run == "install":
            assert host.run("revert").code in DONE
        if run not in ("install", "apply"):
            assert host.run("apply").code == 0
        if run in ("under load", "sample"):
            host.sim("load", "on")
        if run == "boot":
            rebooted(host)
        if run == "watch":
            host.wait(60)  # so that an energy counter has something to lose
            assert host.run("watch").code == 0
            host.sim("reload")
        for folder, name in ((host.root, "root"), (host.sim_folder, "sim")):
            shutil.copytree(folder, tmp_path / "image" / name, symlinks=True)
        return Stage(host, run, tmp_path / "image", bare, originals, comparable(host.snapshot()), fault)

    with simulator_state(tmp_path / "sim"):
        yield make


def codes(run: str, function: str) -> Iterable[int]:
    """The codes to try: all of them where something is written."""
    if cells.SLOW or (run in WRITES and "DeviceSet" in function):
        return CODES
    return FEW[::2] if run == "under load" else FEW


@pytest.mark.parametrize("run", RUNS)
def test_any_call_may_fail_with_any_code(staged: Callable[[str], Stage], run: str):
    stage = staged(run)
    assert stage.attempt().code in (DONE if run == "revert" else (0,))
    undisturbed = said(stage.attempt())
    functions = sorted(stage.fault.calls)
    assert len(functions) > 5
    stage.of_knobs = frozenset(stage.fault.of_knobs)
    unnamed = {pair for pair in stage.fault.of_knobs if pair[1] not in CONCERNS.get(pair[0], ())}
    assert not unnamed, f"CONCERNS does not say what happens to a setting: {unnamed}"
    wrong = []
    for function in functions:
        for code in codes(run, function):
            for first_card_only in scopes(stage, function, code):
                answer = stage.attempt(function, code, first_card_only)
                if not stage.fault.struck:
                    continue
                found = [*false_words(stage, answer, undisturbed), *false_deeds(stage, answer)]
                where = f"{run}: {function} {code}{' on one card' if first_card_only else ''}"
                wrong += [f"{where}: {what}" for what in cells.judged(MATRIX.format(run), found)]
    assert not wrong, "\n".join(wrong[:30])


def scopes(stage: Stage, function: str, code: int) -> tuple[bool, ...]:
    """Whether a call fails for every card, and where there are two: for the first one only."""
    with_neighbour = len(stage.host.plan.gpus) > 1 and function.startswith("nvmlDevice")
    return (False, True) if with_neighbour and (cells.SLOW or code in FEW[2:]) else (False,)


def expected(code: int) -> tuple[str, str]:
    """Verdict and cause of a setting whose call gave this code."""
    if code in NO_DRIVER:
        return "pending", NO_DRIVER[code]
    return ("unsupported", "no_interface") if code in NO_INTERFACE else ("refused", REFUSED.get(code, "unexplained"))


def said(answer: Answer) -> dict[str, tuple[str, str]]:
    return {v["setting"]: (v["verdict"], v["cause"]) for v in answer.document["verdicts"]}


def false_words(stage: Stage, answer: Answer, undisturbed: dict[str, tuple[str, str]]) -> Iterator[str]:
    """What a run says that is not so, or keeps to itself."""
    host, fault = stage.host, stage.fault
    function, code, one, run = fault.function, fault.code, fault.first_card_only, stage.run
    if answer.code not in (0, 2, 3, 4, 7, 8):
        yield f"exit {answer.code}"
    told = answer.prose + (json.dumps(answer.document) if run in JOURNALLED else "")
    # The counter tells a look of a reload; without a lock that went with it, the next look asks again.
    asks_again = (
        run == "watch" and "Energy" in function and not any(g.graphics_clock_lock_mhz for g in host.plan.gpus)
    )
    quiet = function == "nvmlShutdown" or asks_again
    if not quiet and code not in NO_INTERFACE and f"NVML error {code})" not in told:
        yield f"not told: {answer.prose}"
    verdicts, cards = said(answer), json.loads(host.sim("dump"))["gpus"]
    lasting = "PersistenceMode" not in function  # without it the driver unloads, and what held is gone
    for setting, (verdict, cause) in verdicts.items():
        card, name = next((c for c in cards if c["uuid"] in setting), None), setting.rpartition(".")[2]
        if verdict == "held" and run != "revert" and lasting and card and card[KEPT[name]] != WANTED[name]:
            yield f"{setting} is called held and is {card[KEPT[name]]}"
        is_concerned = card is not None and cards.index(card) in fault.struck
        if run in (*WRITES, "verify") and is_concerned and stage.concerned(function, name):
            if (verdict, cause) != expected(code):
                yield f"{setting} is {verdict} {cause}, not {expected(code)}"
            if verdict == "refused" and answer.code not in (3, 8):
                yield f"exit {answer.code} with {setting} refused"
        if one and card is cards[-1] and answer.code != 2 and undisturbed.get(setting) != (verdict, cause):
            yield f"{setting} of the other card is {verdict} {cause}"


def false_deeds(stage: Stage, answer: Answer) -> Iterator[str]:
    """What a run did that it should not have, or left so that it cannot be healed; the host is reverted here."""
    host, run = stage.host, stage.run
    if run in ("verify", "sample"):
        if comparable(host.snapshot()) != stage.start:
            yield "it wrote"
        return
    if run == "under load":
        host.sim("load", "off")
    if run != "revert":
        record = host.baseline() if host.at(BASELINE).exists() else {}
        if any(record[key]["found"] != stage.originals[key] for key in record):
            yield f"what was there before us is lost: {record}"
        again = stage.healed("install").code, stage.healed("apply").code
        if again != (0, 0):
            yield f"the next way there ends with {again}"
    elif answer.code == 0 and same(host.snapshot()) != stage.bare:
        yield "a revert says that it is done, and is not"
    back = stage.healed("revert")
    if back.code not in DONE or same(host.snapshot()) != stage.bare:
        yield f"not reverted, exit {back.code}: {back.prose}"
