"""A value that one card does not take any more costs that setting alone; a plan that is new is refused whole."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.schema.plan import GpuSelector, Guard
from tests.unit.host.fake_host import FakeHost, plan, with_gpu
from tests.unit.host.simulated import SECOND_UUID, UUID
from tests.unit.host.test_host_boot import GOVERNOR, reboot
from tests.unit.host.test_host_guard import ROOM, RULE, SAFE_MW, Run, made_hot

LIMIT, LOCK = "power_limit_w", "graphics_clock_lock_mhz"
LESS = {
    LIMIT: ({"power_limit_max_mw": 300000, "power_limit_default_mw": 300000}, "accepts 150 to 300 W"),
    LOCK: ({"graphics_clock_max_mhz": 1500}, "has 180 to 1500 MHz"),
}
"""What a card of another vBIOS, plug or board says of itself, and what is told of it."""


@pytest.fixture(params=list(LESS))
def lesser(request: pytest.FixtureRequest, pair: FakeHost) -> str:
    """Two cards as planned; then the host starts again, and the second offers less: of this setting."""
    guard = Guard(85, 75, "min", 30)
    first = dataclasses.replace(plan().gpus[0], graphics_clock_lock_mhz=(2100, 2100), guard=guard)
    pair.plan = plan(gpus=(first, dataclasses.replace(first, select=GpuSelector(None, "2BB1", 1))))
    pair.converge()
    less = "".join(f"{key} = {value} | assumed | test\n" for key, value in LESS[request.param][0].items())
    with (pair.folder / "personality.txt").open("a") as file:
        file.write(less)
    pair.sim("init", pair.folder / "personality.txt")
    reboot(pair)
    return str(request.param)


def is_refused_alone(pair: FakeHost, verb: str, refused: str) -> None:
    """The verb tells of the one setting, and all else of both cards is held or asked for."""
    answer = pair.run(verb)
    assert answer.code == 3
    told = {v["setting"]: v["verdict"] for v in answer.document["verdicts"] if v["setting"].startswith("gpu.")}
    wanted = {"persistence_mode": "held", LIMIT: "held", LOCK: "unverified"}
    whole = {f"gpu.{uuid}.{name}": verdict for uuid in (UUID, SECOND_UUID) for name, verdict in wanted.items()}
    assert told == {**whole, f"gpu.{SECOND_UUID}.{refused}": "refused"}, answer.prose
    assert [p["message"].partition(f"({SECOND_UUID}) ")[2] for p in answer.problems] == [LESS[refused][1]]
    assert "guard cannot lower its power" not in answer.prose
    cards = {LIMIT: [450000, 450000], LOCK: [[2100, 2100], [2100, 2100]]}
    cards[refused][1] = 300000 if refused == LIMIT else None
    assert {
        LIMIT: [pair.card(n)["power_limit_mw"] for n in (0, 1)],
        LOCK: [pair.card(n)[LOCK] for n in (0, 1)],
    } == cards


def test_what_one_card_does_not_take_any_more_costs_nothing_else(pair: FakeHost, lesser: str):
    for verb in ("boot", "watch", "verify"):
        is_refused_alone(pair, verb, lesser)
    assert pair.read(GOVERNOR).strip() == "performance"
    for repair in ("watch", "apply"):
        pair.wait(60)  # the energy counter counts, and falls
        pair.run("watch")
        pair.sim("reload")
        is_refused_alone(pair, repair, lesser)
    pair.sim("set", "power_limit_mw", 200000)
    pair.write("/proc/sys/vm/swappiness", "30\n")
    for verb in ("watch", "verify"):
        answer = pair.run(verb)
        assert answer.verdict(f"{UUID}.{LIMIT}") == answer.verdict("vm.swappiness") == ("overridden", "other_writer")


def test_a_new_plan_is_refused_whole_before_anything_is_touched(pair: FakeHost, lesser: str):
    pair.plan = plan(gpus=pair.plan.gpus, manage=("gpu", "cpu"), files=(), dropins=(), service=(), env={})
    pair.write("/run/inferhost/lock", "")
    before = pair.snapshot()
    for verb in ("install", "apply", "record"):
        answer = pair.run(verb)
        assert (answer.code, answer.changed) == (2, False)
        assert LESS[lesser][1] in answer.prose
    pair.write("/run/inferhost/lock", "")
    assert pair.snapshot() == before


def test_what_a_lost_card_had_keeps_nothing_of_its_neighbour(pair: FakeHost):
    pair.plan = plan(gpus=(plan().gpus[0], dataclasses.replace(plan().gpus[0], select=GpuSelector(None, "2BB1", 1))))
    pair.converge()
    pair.sim("set", "power_limit_mw", 300000)
    pair.sim("lost", 1)
    for verb, verdict in (("verify", "overridden"), ("watch", "overridden"), ("apply", "held"), ("boot", "held")):
        answer = pair.run(verb)
        assert (answer.code, answer.verdict(f"{UUID}.{LIMIT}")[0]) == (3, verdict)
        assert [problem["path"] for problem in answer.problems] == ["inferhost_hardware.gpus[1]"]
    assert pair.card()["power_limit_mw"] == 450000


def test_the_guard_keeps_a_cool_card_that_its_apply_does_not_find(host: FakeHost, monkeypatch: pytest.MonkeyPatch):
    hot = made_hot(host, with_gpu(guard=RULE))
    run = Run(hot, monkeypatch)
    hidden: list[tuple[str, int]] = []

    def given_back() -> bool:
        if not hidden and run.state() == "latched":
            hot.sim("fail", "nvmlDeviceGetHandleByIndex_v2", 15)
            hot.sim("set", "ambient_celsius", ROOM)
        told = any("not given back yet: inferhost_hardware.gpus[0]" in line for line in run.lines)
        if told and not hidden:
            hidden.append((run.state(), hot.card()["power_limit_mw"]))
            hot.sim("fail", "nvmlDeviceGetHandleByIndex_v2", "off")
        return bool(hidden) and run.state() == "free"

    run.until(given_back)
    assert (hidden, hot.card()["power_limit_mw"]) == ([("restoring", SAFE_MW)], 450000)
