"""Whoever looks while a challenge runs: it is at work, so nothing is drift and nothing is asked for again."""

from __future__ import annotations

import dataclasses

import pytest

from inferhost.host.gpu import challenge
from tests.unit.host.fake_host import Answer, FakeHost, with_gpu
from tests.unit.host.test_host_challenge import CLOCKS, LOCK, OWN_MHZ, RECORD, challenged, locked, p4

__all__ = ["locked", "p4"]


@pytest.mark.parametrize("verb", ["watch", "verify"])
@pytest.mark.parametrize("kind", ["locked", "p4"])
def test_a_look_amid_a_challenge_is_no_alarm_and_takes_nothing_from_its_proof(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, verb: str
):
    host: FakeHost = request.getfixturevalue(kind)
    name, wanted = (LOCK, [OWN_MHZ, OWN_MHZ]) if kind == "locked" else (CLOCKS, [3003, 885])
    looks: list[tuple[object, Answer]] = []
    take = challenge.take_samples

    def looked_at(*arguments: object, **named: object) -> object:
        seen = take(*arguments, **named)
        looks.append((host.card()[name], host.run(verb)))
        return seen

    host.plan = dataclasses.replace(host.plan, manage=("gpu",))  # the engine was stopped for the challenge
    monkeypatch.setattr(challenge, "take_samples", looked_at)
    assert host.run("watch").code == 0
    answer = challenged(host)
    assert (answer.code, answer.verdict(name)) == (0, ("held", "none"))
    (moved, amid), (back, after) = looks
    assert moved != wanted == back
    for look in (amid, after):
        assert (look.code, look.said, look.verdict(name)) == (0, (False, []), ("unverified", "needs_load"))
    assert "another inferhost is at it at this moment" in amid.evidence(name)
    order: list[str] = []
    later = host.run("watch", before_write=order.append)
    assert (later.code, [step for step in order if step.startswith("nvml")]) == (0, [])
    assert "then held: challenged: " in later.evidence(name)


def test_a_look_amid_an_apply_is_no_alarm_either(locked: FakeHost):
    """The request is written down before the card is asked."""
    locked.at(RECORD).unlink()
    looks: list[Answer] = []

    def look(step: str) -> None:
        if step.endswith("graphics_clock_lock"):
            looks.append(locked.run("verify", "--section", "gpu"))

    assert locked.run("apply", before_write=look).code == 0
    assert [answer.verdict(LOCK) for answer in looks] == [("unverified", "needs_load")]
    assert locked.card()[LOCK] == [OWN_MHZ, OWN_MHZ]


@pytest.mark.parametrize("verb", ["watch", "verify"])
def test_a_look_amid_a_reset_is_no_alarm_either(locked: FakeHost, verb: str):
    """The plan asks for no lock any more; the request of before is on record until the card has let it go."""
    locked.plan = dataclasses.replace(with_gpu(power_limit_w=600), manage=("gpu",))
    assert locked.run("install").code == 0
    looks: list[Answer] = []

    def look(step: str) -> None:
        if step.endswith("graphics_clock_unlock"):
            looks.append(locked.run(verb))

    assert locked.run("apply", before_write=look).code == 0
    assert [(answer.code, answer.said, answer.verdict(LOCK)) for answer in looks] == [
        (0, (False, []), ("unverified", "needs_load"))
    ]
    assert "another inferhost is at it at this moment" in looks[0].evidence(LOCK)
    assert locked.card()[LOCK] is None
