"""The units of Inferhost itself: placed and switched on with the plan, proven, gone with the last of ours."""

from __future__ import annotations

import pathlib

import pytest

import inferhost.host
from inferhost.host.machine import Finished
from inferhost.host.record.base_units import shown, switched
from inferhost.schema.plan import File
from tests.unit.host.fake_host import FakeHost, own_units, plan

APPLY, TIMER = "inferhost-apply.service", "inferhost-verify.timer"
FOLDER = "/etc/systemd/system"
GUARD = "inferhost-guard.service"
GUARD_FILE = File(f"{FOLDER}/{GUARD}", "base", "0644", None, GUARD, "none")
UNITS = pathlib.Path(inferhost.host.__file__).parent / "units"


@pytest.fixture
def booted(host: FakeHost) -> FakeHost:
    """A host that systemd runs, with a plan that brings our units."""
    host.at("/run/systemd/system").mkdir(parents=True)
    host.plan = plan(files=(*plan().files, *own_units()))
    return host


def test_install_places_the_units_and_switches_them_on(booted: FakeHost):
    assert booted.run("install").code == 0
    assert "ExecStart=/usr/local/bin/inferhost boot --wait 60" in booted.read(f"{FOLDER}/{APPLY}")
    assert booted.own_units == {
        APPLY: {"enabled": True, "active": False},
        TIMER: {"enabled": True, "active": True},
    }


def test_what_brings_settings_back_runs_once_per_boot_and_once_after_each_kind_of_sleep(booted: FakeHost):
    """A target of sleep comes after the service that sleeps (systemd.special(7)), so what comes after it is awake."""
    assert booted.run("install").code == 0
    lines = booted.read(f"{FOLDER}/{APPLY}").splitlines()
    words = {key: [w for line in lines if line.startswith(f"{key}=") for w in line.partition("=")[2].split()]
             for key in ("After", "WantedBy")}  # fmt: skip
    sleeps = {f"{kind}.target" for kind in ("suspend", "hibernate", "hybrid-sleep", "suspend-then-hibernate")}
    assert set(words["WantedBy"]) == {"multi-user.target", *sleeps}
    assert sleeps <= set(words["After"])
    assert {"nvidia-persistenced.service", "nvidia-resume.service"} <= set(words["After"])
    assert {"tuned.service", "cpupower.service", "nvidia-powerd.service"} <= set(words["After"])
    waiting = {"lactd.service", "tlp.service", "power-profiles-daemon.service", "auto-cpufreq.service"}
    assert not waiting & set(words["After"]), "they wait for multi-user.target, which waits for this unit"
    assert not any(line.startswith("RemainAfterExit") for line in lines), "a unit that stays active is not run again"


@pytest.mark.parametrize(
    ("unit", "lines"),
    [
        (APPLY, ["Type=oneshot", "SuccessExitStatus=7", "TimeoutStartSec=180"]),  # pending is no failure of a boot
        ("inferhost-verify.service", ["Type=oneshot", "SuccessExitStatus=6 7"]),
        (
            GUARD,
            [
                "Type=notify",
                "ExecStopPost=/usr/local/bin/inferhost guard --after-end",  # after a crash, a kill and a hang
                "WatchdogSec=10",
                "Restart=always",
                "StartLimitIntervalSec=0",
            ],
        ),
    ],
)
def test_what_systemd_does_for_our_promises_stands_in_the_units(unit: str, lines: list[str]):
    assert set(lines) <= set((UNITS / unit).read_text().splitlines())


@pytest.mark.parametrize(
    "unit", [APPLY, TIMER, GUARD, "inferhost-mps.service", "inferhost-uvm.service", "inferhost-verify.service"]
)
def test_a_unit_is_switched_where_it_says_what_it_is_installed_for(unit: str):
    """systemd refuses to switch one on that does not: another unit starts it."""
    assert switched([f"{FOLDER}/{unit}"]) == [unit] * ("[Install]" in (UNITS / unit).read_text().splitlines())


def test_check_mode_foretells_the_units_and_a_second_install_changes_nothing(booted: FakeHost):
    foretold = booted.run("install", "--check")
    assert booted.own_units == {}
    assert booted.run("install").said == foretold.said
    assert {"setting": f"unit.{TIMER}", "before": "disabled", "after": "enabled"} in foretold.document["diff"]
    order: list[str] = []
    assert booted.run("install", before_write=order.append).said == (False, [])
    assert not [step for step in order if step.startswith("systemctl")]


def test_the_record_comes_before_the_first_unit(booted: FakeHost):
    order: list[str] = []
    booted.run("install", before_write=order.append)
    first_unit = next(n for n, step in enumerate(order) if "/inferhost-apply.service" in step)
    assert order.index("rename /var/lib/inferhost/baseline.json") < first_unit
    assert booted.baseline()[f"file:{FOLDER}/{APPLY}"] == {"section": "base", "found": None, "context": {}}


def test_a_unit_that_somebody_switched_off_is_drift_and_the_next_install_repairs_it(booted: FakeHost):
    booted.converge()
    assert booted.run("verify").verdict(f"unit.{APPLY}") == ("held", "none")
    booted.own_units[APPLY] = {"enabled": False, "active": False}
    booted.own_units[TIMER] = {"enabled": True, "active": False}
    answer = booted.run("verify")
    assert answer.code == 3
    assert (answer.verdict(f"unit.{TIMER}"), answer.verdict(f"unit.{APPLY}")) == (("overridden", "other_writer"),) * 2
    assert booted.run("install").changed
    assert booted.run("verify").code == 0


@pytest.mark.parametrize("enabled", ["disabled", "masked", "masked-runtime"])
def test_a_unit_that_does_not_start_at_boot_is_not_called_enabled(enabled: str):
    assert shown(APPLY, (enabled, "inactive")) == "disabled"


def test_a_unit_of_ours_that_was_edited_is_drift(booted: FakeHost):
    booted.converge()
    booted.write(f"{FOLDER}/{TIMER}", "[Timer]\n")
    assert booted.run("verify").verdict(f"file:{FOLDER}/{TIMER}") == ("overridden", "other_writer")


def test_the_units_go_with_the_last_section_and_not_before(booted: FakeHost):
    before = booted.snapshot()
    booted.converge()
    booted.stop_engine()
    for section in ("service", "cpu", "gpu"):
        assert booted.run("revert", "--section", section).code == 0
        assert booted.own_units[APPLY]["enabled"]
    booted.own_units[TIMER]["enabled"] = False  # by somebody; it runs until it is stopped
    assert booted.run("revert").code == 0
    assert not any(found["enabled"] or found["active"] for found in booted.own_units.values())
    assert booted.snapshot() == before


def test_a_unit_file_that_was_there_before_us_comes_back(booted: FakeHost):
    booted.write(f"{FOLDER}/{APPLY}", "[Unit]\nDescription=somebody else's\n")
    before = booted.snapshot()
    booted.converge()
    booted.stop_engine()
    assert booted.run("revert").code == 0
    assert booted.snapshot() == before


def test_units_that_the_plan_no_longer_has_are_taken_back(booted: FakeHost):
    booted.converge()
    booted.plan = plan()
    assert booted.run("install").code == 0
    assert not booted.at(f"{FOLDER}/{TIMER}").exists()
    assert not booted.own_units[TIMER]["active"]
    assert not [key for key in booted.baseline() if "inferhost-verify" in key]


def test_what_systemd_refuses_is_told(booted: FakeHost, monkeypatch: pytest.MonkeyPatch):
    real, refused = booted.command, Finished(1, "", f"Failed to enable unit: {TIMER} is masked.\nmore\n")
    monkeypatch.setattr(booted, "command", lambda argv: refused if argv[-1] == TIMER else real(argv))
    answer = booted.run("install")
    assert (answer.code, [problem["path"] for problem in answer.problems]) == (3, [f"unit.{TIMER}"])
    assert answer.problems[0]["message"] == f"systemctl enable: Failed to enable unit: {TIMER} is masked."


def test_a_machine_that_systemd_does_not_run_gets_the_files_and_an_honest_verdict(host: FakeHost):
    host.plan = plan(files=(*plan().files, *own_units()))
    host.converge()
    assert host.own_units == {}
    assert host.run("verify").verdict(f"unit.{APPLY}") == ("unverified", "no_interface")


def test_a_guard_that_runs_is_stopped_before_its_cards_are_put_back(booted: FakeHost):
    booted.plan = plan(files=(*plan().files, *own_units(), GUARD_FILE))
    booted.converge()
    assert booted.own_units[GUARD] == {"enabled": True, "active": True}
    booted.stop_engine()
    order: list[str] = []
    assert booted.run("revert", before_write=order.append).code == 0
    first_write = next(n for n, step in enumerate(order) if step.startswith("nvml"))
    assert order.index(f"systemctl stop -- {GUARD}") < first_write
    assert not booted.at(f"{FOLDER}/{GUARD}").exists()
    assert booted.own_units[GUARD] == {"enabled": False, "active": False}


@pytest.mark.parametrize(("files", "active"), [((GUARD_FILE,), False), ((), True)], ids=["stopped", "not ours"])
def test_a_guard_that_does_not_run_or_is_not_on_record_is_left_alone(
    booted: FakeHost, files: tuple[File, ...], active: bool
):
    booted.plan = plan(files=(*plan().files, *own_units(), *files))
    booted.converge()
    booted.write(f"{FOLDER}/{GUARD}", "[Service]\n")
    booted.own_units[GUARD] = {"enabled": True, "active": active}
    answer = booted.run("revert", "--section", "gpu")
    assert booted.own_units[GUARD] == {"enabled": True, "active": active}
    assert f"unit.{GUARD}" not in [change["setting"] for change in answer.document["diff"]]


@pytest.mark.parametrize("word", ["activating", "deactivating", "reloading"])
@pytest.mark.parametrize(("lasts_s", "code"), [(2, 0), (3600, 3)])
def test_a_guard_that_takes_up_a_new_plan_runs_and_one_that_never_gets_there_does_not(
    booted: FakeHost, word: str, lasts_s: float, code: int
):
    booted.plan = plan(files=(*own_units(), GUARD_FILE), manage=("cpu",), dropins=(), service=(), env={})
    booted.converge()
    known, begin_s = booted.command, booted.passed_s

    def starting(argv: list[str]) -> Finished:
        if argv[1:2] == ["is-active"] and argv[-1] == GUARD and booted.passed_s - begin_s < lasts_s:
            return Finished(3, f"{word}\n", "")
        return known(argv)

    booted.command = starting  # type: ignore[method-assign]
    answer = booted.run("verify")
    assert (answer.code, answer.verdict(f"unit.{GUARD}")[0]) == (code, "overridden" if code else "held")
    assert booted.run("install").said == (False, [])
