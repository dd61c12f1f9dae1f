"""What the plan asks for no more goes back, whatever became of the notes of it, and is then forgotten."""

from __future__ import annotations

import pytest

from tests.unit.host.fake_host import UUID, FakeHost, plan, with_gpu
from tests.unit.host.test_host_clock_lock import CLOCKS, LOCK, applied


@pytest.mark.parametrize("name", [LOCK, "memory_clock_lock_mhz"])
@pytest.mark.parametrize("doubt", ["lost", "cut short", "suspended"])
def test_a_lock_of_ours_is_taken_back_whatever_became_of_the_note_of_it(host: FakeHost, doubt: str, name: str):
    """What was here before us is on record as long as a lock of ours may stand, and no longer."""
    host.plan = with_gpu(**{name: (810, 810)})
    host.converge()
    if doubt == "lost":
        host.at(CLOCKS).unlink()
    elif doubt == "cut short":
        host.write(CLOCKS, host.read(CLOCKS)[:-40])
    else:
        host.slept_s = 600
    host.plan = plan()
    for verb in ("verify", *(["watch"] if doubt != "suspended" else [])):  # a watch repairs after a suspend
        assert (answer := host.run(verb)).code == 3
        assert answer.verdict(name) == ("overridden", "other_writer")
    foretold = host.run("apply", "--check")
    assert host.card()[name] == [810, 810]
    answer = host.run("apply")
    assert (answer.code, answer.said) == (0, foretold.said)
    assert host.card()[name] is None
    assert f"gpu:{UUID}:{name}" not in host.baseline()
    host.sim("set", name, "405,405" if name != LOCK else "1500,1500")  # by somebody else, who is none of ours
    for verb in ("apply", "boot", "watch"):
        assert host.run(verb).said == (False, [])
    assert host.card()[name] is not None


@pytest.mark.parametrize("code", [15, 999])
def test_a_lock_that_could_not_be_taken_back_is_tried_again(host: FakeHost, code: int):
    applied(host, 2100)
    host.at(CLOCKS).unlink()
    host.plan = with_gpu(power_limit_w=600)
    host.sim("fail", "nvmlDeviceResetGpuLockedClocks", code, 1)
    assert host.run("apply", "--section", "gpu").code == 3
    assert host.card()[LOCK] == [2100, 2100]
    assert host.run("apply", "--section", "gpu").code == 0
    assert host.card()[LOCK] is None
