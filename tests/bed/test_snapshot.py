"""The comparison that judges a revert must see every way in which a host can differ."""

import copy
from typing import Any

import pytest

from tests.bed.snapshot import LEFT_OUT, differences

BEFORE: dict[str, Any] = {
    "paths": {"/etc/a": ["-rw-r--r--", 0, 0, "hash"], "/etc/b": ["-rw-r--r--", 0, 0, "hash"]},
    "enabled": ["ssh.service"],
    "simulator": {"gpus": [{"power_limit_mw": 480000}]},
}


def after(change) -> dict[str, Any]:
    changed = copy.deepcopy(BEFORE)
    change(changed)
    return changed


def test_the_same_host_has_no_differences():
    assert differences(BEFORE, copy.deepcopy(BEFORE)) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda h: h["paths"].pop("/etc/b"), "/etc/b: ['-rw-r--r--', 0, 0, 'hash'] -> absent"),
        (lambda h: h["paths"].update({"/etc/c": ["x"]}), "/etc/c: absent -> ['x']"),
        (
            lambda h: h["paths"]["/etc/a"].__setitem__(0, "-rw-------"),
            "/etc/a: ['-rw-r--r--', 0, 0, 'hash'] -> ['-rw-------', 0, 0, 'hash']",
        ),
        (lambda h: h["enabled"].append("x.service"), "enabled: ['ssh.service'] -> ['ssh.service', 'x.service']"),
        (
            lambda h: h["simulator"]["gpus"][0].update(power_limit_mw=600000),
            "simulator: {'gpus': [{'power_limit_mw': 480000}]} -> {'gpus': [{'power_limit_mw': 600000}]}",
        ),
    ],
    ids=["gone", "left behind", "mode", "enabled unit", "power limit"],
)
def test_every_kind_of_difference_is_named(change, line):
    assert differences(BEFORE, after(change)) == [line]


def test_every_exclusion_has_a_reason():
    assert [path for path, why in LEFT_OUT.items() if len(why) < 10] == []
