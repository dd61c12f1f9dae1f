"""Pins behind the catalogue are listed with what they would move to."""

from __future__ import annotations

import dataclasses

from inferhost import cli, outdated
from inferhost.schema import document
from tests.bed.playbook import ROOT
from tests.unit.planner_wishes import CATALOGUE, planned, wish


def moved(version: str):
    """The catalogue after somebody read another version of vllm and pinned it; the old row stays."""
    old = CATALOGUE.engines["vllm"]
    rows = {"vllm-old": dataclasses.replace(old, key="vllm-old", pinned=False)}
    rows["vllm"] = dataclasses.replace(old, version=version)
    return dataclasses.replace(CATALOGUE, engines={**CATALOGUE.engines, **rows})


PLANS = {
    "a": document.plain(planned(wish("rtx-pro-6000-bw-ws", "qwen3-4b", service_engine="vllm"))),
    "b": document.plain(planned(wish("rtx-pro-6000-bw-ws", "qwen3-4b", service_engine="sglang"))),
}


def test_a_pin_behind_the_catalogue_is_listed_with_both_versions():
    assert list(outdated.behind(PLANS, moved("0.34.0"))) == [("a", "main", "vllm", "0.33.0", "0.34.0")]
    assert outdated.report(PLANS, moved("0.34.0")) == (
        "HOST  INSTANCE  ENGINE  PLANNED  CATALOGUE\na     main      vllm    0.33.0   0.34.0\n"
    )


def test_nothing_is_behind_the_catalogue_that_planned_it():
    assert outdated.report(PLANS, CATALOGUE) == "2 planned, none behind the catalogue\n"


def test_the_command_plans_every_host_of_an_inventory(capsys):
    assert cli.main(["outdated", "--inventory", str(ROOT / "inventories/esxi")]) == 0
    assert capsys.readouterr().out == "1 planned, none behind the catalogue\n"
