"""Settings that a card ignores, clamps, loses or has overridden, on every card that is simulated; and clean runs.

Each machine holds several kinds of cards. What can be decided must be caught under load with the right verdict, on
every card at once; what cannot must be called `indistinguishable`, planted or not, and never `held`. A card that does
what it is told must raise no alarm in a thousand runs.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
from typing import Any

import pytest

from tests.faults import cells
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.simulated import TESTS, simulator_state

LOCK, POWER, CLOCKS = "graphics_clock_lock_mhz", "power_limit_w", "application_clocks_mhz"
MEMORY = "memory_clock_lock_mhz"
LOAD_PID = 900
SETTLE_S = 30
CLEAN_HOSTS, RUNS_PER_HOST = (500, 20) if cells.SLOW else (50, 20)
LOOKS, LAST_LOOK = ("verify", "watch", "boot"), ["verify", "--under-load", "--seconds", "4"]
"""What runs on a host in turn: whoever asks, the drift timer, the boot; none may find anything to say or to write."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a personality file says of a card; no figure of it is repeated here."""

    path: pathlib.Path
    fields: dict[str, str]

    def number(self, name: str) -> int:
        return int(self.fields[name].split()[0], 0)

    @property
    def pci_device_id(self) -> str:
        return f"{self.number('pci_device_id') >> 16:04X}"

    @property
    def can_lock(self) -> bool:
        return "pascal" not in self.path.read_text()

    def step(self, share: float) -> int:
        """The card's graphics clock nearest to this share of its highest one."""
        highest, step_khz = self.number("graphics_clock_max_mhz") * 1000, self.number("graphics_clock_step_khz")
        return int(highest - round((1 - share) * highest / step_khz) * step_khz) // 1000

    @property
    def own_share(self) -> float:
        return self.number("load_graphics_clock_mhz") / self.number("graphics_clock_max_mhz")

    def gpu(self, **changes: Any) -> Any:
        whole = plan().gpus[0]
        select = dataclasses.replace(whole.select, pci_device_id=self.pci_device_id)
        name = self.fields["name"]
        return dataclasses.replace(whole, name=name, select=select, power_limit_w="max", **changes)


def kind(path: pathlib.Path) -> Kind:
    fields: dict[str, str] = {}
    for line in path.read_text().splitlines():
        words = line.split("|")[0]
        if words.startswith("include "):
            fields = {**kind(path.parent / words.split()[1]).fields, **fields}
        elif "=" in words and not words.startswith("#"):
            key, _, value = words.partition("=")
            fields[key.strip()] = value.strip()
    return Kind(path, fields)


KINDS = [kind(path) for path in sorted((TESTS / "simulator" / "personalities").glob("*.txt"))]
MACHINES = [KINDS[:8], KINDS[8:]]  # as many kinds as fit into one


def described(kinds: list[Kind], share: tuple[float, float] | None) -> Any:
    """A plan for all of them: clocks between these shares of each card's highest one, and the most power."""
    gpus = []
    for one in kinds:
        wish: dict[str, Any] = {}
        if share is not None and one.can_lock:
            wish = {LOCK: (one.step(share[0]), one.step(share[1]))}
        elif share is not None:
            wish = {CLOCKS: (one.number("memory_clock_steps_mhz"), one.step(share[0]))}
        gpus.append(one.gpu(**wish))
    return plan(gpus=tuple(gpus), manage=("gpu",), files=(), dropins=(), service=(), env={})


@pytest.fixture(params=MACHINES, ids=["first cards", "other cards"])
def mixed(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path
):
    """A machine with several kinds of cards."""
    with simulator_state(tmp_path / "sim"):
        host = FakeHost(tmp_path, simulator_build, program)
        host.sim("init", *(one.path for one in request.param))
        host.sim("set", "persistence", 1)
        yield host, request.param


def applied(host: FakeHost, kinds: list[Kind], share: tuple[float, float] | None) -> None:
    host.plan = described(kinds, share)
    assert host.run("install").code == 0
    assert host.run("apply").code == 0


def under_load(host: FakeHost) -> dict[str, dict[str, Any]]:
    """The verdicts under load, by the end of their setting's name and the card's UUID."""
    host.sim("load", "on")
    host.sim("advance", SETTLE_S)
    answer = host.run("verify", "--under-load", "--seconds", "4")
    return {v["setting"]: v for v in answer.document["verdicts"]}


def of_card(found: dict[str, dict[str, Any]], one: Kind, names: tuple[str, ...]) -> str:
    verdicts = [found[f"gpu.{one.fields['uuid']}.{n}"] for n in names if f"gpu.{one.fields['uuid']}.{n}" in found]
    assert len(verdicts) == 1, (one.path, found)
    return f"{verdicts[0]['verdict']} {verdicts[0]['cause']}"


def check(found: dict[str, dict[str, Any]], kinds: list[Kind], names: tuple[str, ...], accepted: set[str]) -> None:
    """Every card has one of these verdicts."""
    wrong = []
    for one in kinds:
        verdict = of_card(found, one, names)
        what = [] if verdict in accepted else [f"{one.path.stem}: {verdict}, not {sorted(accepted)}"]
        wrong += cells.judged("planted settings x cards", what)
    assert not wrong, wrong


def test_an_honest_card_holds_a_clock_that_it_would_not_have_by_itself(mixed):
    host, kinds = mixed
    applied(host, kinds, (0.5, 0.5))
    found = under_load(host)
    check(found, kinds, (LOCK, CLOCKS), {"held none"})
    check(found, kinds, (POWER,), {"held none"})


@pytest.mark.parametrize("share", [(0.5, 0.5), (0.3, 0.45), (0.62, 0.62)])
def test_an_ignored_clock_is_caught_on_every_card(mixed, share: tuple[float, float]):
    host, kinds = mixed
    for setting in ("graphics_clock", "application_clocks"):
        host.sim("fault", setting, "accepted_ignored")
    host.plan = described(kinds, share)
    assert host.run("install").code == 0
    host.run("apply")
    check(under_load(host), kinds, (LOCK, CLOCKS), {"ignored unexplained", "overridden driver_reload"})


def test_a_clamped_clock_is_caught_on_every_card(mixed):
    host, kinds = mixed
    locking = [one for one in kinds if one.can_lock]
    applied(host, kinds, (0.5, 0.5))
    for number, one in enumerate(kinds):
        if one.can_lock:
            host.sim("fault", "graphics_clock", "clamped", one.step(0.35), "--gpu", number)
    check(under_load(host), locking, (LOCK,), {"clamped unexplained"})


def test_a_clock_that_somebody_else_took_away_is_caught_on_every_card(mixed):
    host, kinds = mixed
    applied(host, kinds, (0.5, 0.5))
    for number, one in enumerate(kinds):
        own = f"{one.number('memory_clock_steps_mhz')},{one.step(0.6)}"
        host.sim("set", *((LOCK, "none") if one.can_lock else (CLOCKS, own)), "--gpu", number)
    check(under_load(host), kinds, (LOCK, CLOCKS), {"ignored unexplained", "overridden other_writer"})


def test_a_clock_that_somebody_else_moved_is_caught_on_every_card(mixed):
    host, kinds = mixed
    locking = [one for one in kinds if one.can_lock]
    applied(host, kinds, (0.5, 0.5))
    for number, one in enumerate(kinds):
        if one.can_lock:
            host.sim("set", LOCK, f"{one.step(0.35)},{one.step(0.4)}", "--gpu", number)
    check(under_load(host), locking, (LOCK,), {"clamped unexplained"})


def test_settings_that_went_with_the_driver_are_caught_on_every_card_without_load(mixed):
    host, kinds = mixed
    applied(host, kinds, (0.5, 0.5))
    host.sim("reload")
    host.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    found = {v["setting"]: v for v in host.run("verify").document["verdicts"]}
    check(found, kinds, (LOCK, CLOCKS), {"overridden driver_reload"})


@pytest.mark.parametrize(
    ("fault", "accepted"),
    [("accepted_ignored", {"ignored unexplained"}), ("clamped", {"clamped power_cap"})],
)
def test_a_power_limit_without_its_effect_is_caught_on_every_card(mixed, fault: str, accepted: set[str]):
    host, kinds = mixed
    host.plan = described(kinds, None)
    for number, one in enumerate(kinds):
        low = one.number("power_limit_min_mw")
        host.sim("set", "power_limit_mw", low, "--gpu", number)
        host.sim("fault", "power_limit", fault, *((low,) if fault == "clamped" else ()), "--gpu", number)
    assert host.run("install").code == 0
    found = {v["setting"]: v for v in host.run("apply").document["verdicts"]}
    check(found, kinds, (POWER,), accepted)


@pytest.mark.parametrize("fault", ["off", "accepted_ignored"])
def test_a_range_around_the_cards_own_clock_is_called_indistinguishable_on_every_card(mixed, fault: str):
    host, kinds = mixed
    locking = [one for one in kinds if one.can_lock]
    host.sim("fault", "graphics_clock", fault)
    host.plan = plan(
        gpus=tuple(one.gpu(**{LOCK: (one.step(one.own_share),) * 2}) for one in locking),
        manage=("gpu",),
        files=(),
        dropins=(),
        service=(),
        env={},
    )
    assert host.run("install").code == 0
    assert host.run("apply").code == 0
    check(under_load(host), locking, (LOCK,), {"unverified indistinguishable"})


CHALLENGED = {
    "obeyed": {"held none"},
    "ignored": {"ignored unexplained", "ignored memory_pstate"},
    "taken away": {"held none"},  # it is asked for anew, and then it stands
}


@pytest.mark.parametrize("fault", CHALLENGED)
def test_a_challenge_decides_what_is_indistinguishable_on_every_card(mixed, fault: str):
    """Each card at clocks that it has by itself; one with a single memory clock has no other to be moved to."""
    host, kinds = mixed
    gpus = tuple(one.gpu(**own_clocks(one)) for one in kinds)
    host.plan = plan(gpus=gpus, manage=("gpu",), files=(), dropins=(), service=(), env={})
    assert host.run("install").code == 0
    host.run("apply")
    asked = [host.card(number) for number in range(len(kinds))]
    undecided = {s for s, v in under_load(host).items() if v["cause"] == "indistinguishable"}
    assert {s.split(".")[1] for s in undecided} == {one.fields["uuid"] for one in kinds}
    for number, one in enumerate(kinds):
        for lock in (LOCK, MEMORY) if fault == "taken away" and one.can_lock else ():
            host.sim("set", lock, "none", "--gpu", number)
    for setting in ("graphics_clock", "memory_clock") if fault == "ignored" else ():
        host.sim("fault", setting, "accepted_ignored")
    host.sim("load", "on", "--pid", LOAD_PID)
    answer = host.run("verify", "--challenge", "--load-pid", str(LOAD_PID), "--seconds", "4")
    wrong = []
    for setting, found in ((v["setting"], v) for v in answer.document["verdicts"] if v["setting"] in undecided):
        one = next(one for one in kinds if one.fields["uuid"] in setting)
        alone = setting.endswith(MEMORY) and len(one.fields["memory_clock_steps_mhz"].split()) == 1
        honest = not one.can_lock  # the getter of application clocks tells a request that was not taken
        accepted = {"unverified indistinguishable"} if alone else CHALLENGED["obeyed" if honest else fault]
        right = f"{found['verdict']} {found['cause']}" in accepted
        wrong += cells.judged("challenges x cards", [] if right else [f"{one.path.stem}: {found}"])
    assert not wrong, "\n".join(wrong)
    for number, before in enumerate(asked):
        for name in (LOCK, MEMORY, CLOCKS, "power_limit_mw"):
            alone = name == MEMORY and len(kinds[number].fields["memory_clock_steps_mhz"].split()) == 1
            if not alone or fault != "taken away":
                assert host.card(number)[name] == before[name], (kinds[number].path.stem, name)


def own_clocks(one: Kind) -> dict[str, Any]:
    """A wish for what the card does anyway."""
    if not one.can_lock:
        default = "application_clock_memory_mhz", "application_clock_graphics_mhz"
        return {CLOCKS: tuple(one.number(name) for name in default)}
    return {LOCK: (one.step(one.own_share),) * 2, MEMORY: (one.number("load_memory_clock_mhz"),) * 2}


def test_clean_runs_raise_no_alarm(tmp_path: pathlib.Path, simulator_build: pathlib.Path, program: pathlib.Path):
    """Random cards, one or two, settings and moments; the clock asked for is one that the cards can have."""
    chance = random.Random(7)
    with simulator_state(tmp_path / "sim"):
        host = FakeHost(tmp_path, simulator_build, program)
        for _ in range(CLEAN_HOSTS):
            kinds = chance.sample(KINDS, chance.choice([1, 2]))
            host.sim("init", *(one.path for one in kinds))
            host.sim("set", "persistence", 1)
            high = chance.uniform(0.4, min(one.own_share for one in kinds))
            share = chance.choice([None, (high, high), (chance.uniform(0.3, high), high)])
            applied(host, kinds, share)
            loaded = chance.choice(["on", "off"])
            host.sim("load", loaded)
            host.sim("advance", chance.randrange(1, 300))
            for number in range(RUNS_PER_HOST):
                words = LAST_LOOK if number == RUNS_PER_HOST - 1 else [LOOKS[number % len(LOOKS)]]
                steps: list[str] = []
                answer = host.run(*words, before_write=steps.append)
                written = [step for step in steps if step.startswith("nvml")]
                where = f"{words} {[one.path.stem for one in kinds]} {share} {loaded}: {written} {answer.prose}"
                clean = answer.code == 0 and not answer.changed and not written
                assert not cells.judged("clean runs", [] if clean else [where])
            host.sim("load", "off")
            assert host.run("revert").code == 0
