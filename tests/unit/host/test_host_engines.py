"""An engine is made once, in a folder of its own version, beside the others, and a revert takes it away again.

The environment and pip are real; the packages are stand-ins of the engines' names.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pytest

from inferhost.host.machine import Finished, run_command
from inferhost.host.service.install import MARK
from inferhost.schema.plan import Install
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.wheels import index

OLD, NEW = "/opt/inferhost/sglang-0.5.22", "/opt/inferhost/sglang-0.5.23"


def wanting(host: FakeHost, url: str, prefix: str = NEW, **changes: object) -> FakeHost:
    """The host with a plan whose engine is to be made from this index."""
    version = prefix.rpartition("-")[2]
    arguments = ("--index-url", url, f"sglang=={version}")
    one = Install("pip", prefix, sys.executable, "3.9", arguments, None, None)
    one = dataclasses.replace(one, **changes)
    argv = (f"{prefix}/bin/sglang", "serve")
    whole = plan()
    host.plan = plan(service=(dataclasses.replace(whole.service[0], argv=argv, install=one),))
    before = FakeHost.command

    def command(argv: Sequence[str]) -> Finished:
        real = argv[0] in (one.python, sys.executable, "git", "/usr/bin/env")
        return run_command(argv) if real else before(host, argv)

    host.command = command  # type: ignore[method-assign]
    return host


def made(host: FakeHost) -> None:
    answer = host.run("install")
    assert answer.code == 0, answer.prose
    answer = host.run("engines")
    assert answer.code == 0, answer.prose


def test_a_version_goes_beside_another_and_a_revert_takes_both(host: FakeHost, tmp_path: pathlib.Path):
    before = {k for k in host.snapshot() if k.startswith("/opt")}
    url = index(tmp_path / "simple", ("sglang", "0.5.22"), ("sglang", "0.5.23"))
    made(wanting(host, url, OLD))
    made(wanting(host, url, NEW))
    for prefix in (OLD, NEW):
        said = subprocess.run([host.at(f"{prefix}/bin/sglang"), "serve"], capture_output=True, text=True, check=True)
        assert said.stdout == "stand-in ['serve']\n"
    versions = [next(host.at(p).rglob("sglang-*.dist-info")).name for p in (OLD, NEW)]
    assert versions == ["sglang-0.5.22.dist-info", "sglang-0.5.23.dist-info"]
    again = host.run("engines")
    assert (again.code, again.changed) == (0, False)
    assert host.run("revert").code == 0
    assert {k for k in host.snapshot() if k.startswith("/opt")} == before


def others_may_run(host: FakeHost) -> bool:
    """Whether everybody may start the engine and read its library."""
    files = [host.at(f"{NEW}/bin/sglang"), *host.at(NEW).rglob("*.dist-info/METADATA")]
    return all(file.stat().st_mode & 0o004 and file.parent.stat().st_mode & 0o001 for file in files)


def test_an_engine_that_root_makes_under_a_strict_umask_is_not_closed_to_its_user(
    host: FakeHost, tmp_path: pathlib.Path
):
    url = index(tmp_path / "simple", ("sglang", "0.5.23"))
    wanting(host, url).run("install")
    before = os.umask(0o077)
    try:
        assert host.run("engines").code == 0
    finally:
        os.umask(before)
    assert others_may_run(host)


def test_one_that_is_closed_is_opened_by_the_next_run(host: FakeHost, tmp_path: pathlib.Path):
    made(wanting(host, index(tmp_path / "simple", ("sglang", "0.5.23"))))
    subprocess.run(["chmod", "-R", "go=", host.at(NEW)], check=True)
    check = host.run("engines", "--check")
    assert check.changed
    assert not others_may_run(host)
    assert host.run("engines").said == check.said
    assert others_may_run(host)
    assert not host.run("engines").changed


def test_check_mode_makes_nothing_and_says_what_the_run_then_does(host: FakeHost, tmp_path: pathlib.Path):
    url = index(tmp_path / "simple", ("sglang", "0.5.23"))
    wanting(host, url).run("install")
    check = host.run("engines", "--check")
    assert not host.at(NEW).exists()
    assert check.said == host.run("engines").said
    assert check.changed


def test_a_version_that_the_index_lacks_leaves_no_mark_and_the_next_run_goes_on(
    host: FakeHost, tmp_path: pathlib.Path
):
    url = index(tmp_path / "simple", ("sglang", "0.5.22"))
    wanting(host, url).run("install")
    failed = host.run("engines")
    assert (failed.code, failed.problems[0]["path"]) == (8, "inferhost_service_engine_install")
    assert "sglang==0.5.23" in failed.problems[0]["message"]
    assert not host.at(f"{NEW}/{MARK}").exists()
    index(tmp_path / "simple", ("sglang", "0.5.23"))
    assert host.run("engines").code == 0


def test_a_folder_of_somebody_else_is_never_touched(host: FakeHost, tmp_path: pathlib.Path):
    host.write(f"{NEW}/precious", "mine")
    url = index(tmp_path / "simple", ("sglang", "0.5.23"))
    wanting(host, url).run("install")
    answer = host.run("engines")
    assert (answer.code, answer.problems[0]["id"]) == (8, "not-ours")
    assert [p.name for p in host.at(NEW).iterdir()] == ["precious"]
    assert host.run("revert").code == 0
    assert host.read(f"{NEW}/precious") == "mine"


@pytest.mark.parametrize(
    ("python", "least", "says"), [("/nowhere/python3", "3.9", "not found"), ("", "99.1", " is 3.")]
)
def test_an_interpreter_that_is_too_old_or_missing_is_told_before_anything(
    host: FakeHost, python: str, least: str, says: str
):
    wanting(host, "file:///x", python=python or sys.executable, python_min=least)
    before = host.snapshot()
    answer = host.run("install")
    assert (answer.code, answer.problems[0]["path"]) == (2, "inferhost_service_engine_python")
    assert says in answer.problems[0]["message"]
    assert {k: v for k, v in host.snapshot().items() if k != "/run/inferhost"} == before


def test_a_source_is_taken_at_its_commit_and_no_other(host: FakeHost, tmp_path: pathlib.Path):
    origin = tmp_path / "origin"
    run = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(origin)]
    subprocess.run(["git", "init", "-q", str(origin)], check=True)
    commits = []
    for content in ("first", "second"):
        (origin / "main.py").write_text(content)
        subprocess.run([*run, "add", "-A"], check=True)
        subprocess.run([*run, "commit", "-qm", content], check=True)
        found = subprocess.run([*run, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        commits.append(found.stdout.strip()[:12])
    source = {"kind": "source", "repository": origin.as_uri(), "commit": commits[0], "arguments": ("--version",)}
    wanting(host, "", **source)
    service = dataclasses.replace(host.plan.service[0], argv=(f"{NEW}/bin/python", f"{NEW}/main.py"))
    host.plan = plan(service=(service,))
    host.run("install")
    assert host.run("engines").code == 8, "pip --version is no installation of pip install"
    assert host.read(f"{NEW}/main.py") == "first"
