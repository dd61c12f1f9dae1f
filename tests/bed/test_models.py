"""A model fetched from a stand-in of a hub, quantised by the real llama-quantize, served, left, and purged."""

import json
import subprocess

import pytest

from tests.bed.playbook import NAME, PORT, ROOT, bed, run_playbook, snapshot
from tests.bed.snapshot import differences
from tests.unit.host.hub import COMMIT, REPOSITORY

TOKEN = "hf_sandboxverysecret"
FETCHED, MADE = "/srv/models/new/tiny-f32.gguf", "/srv/models/new/tiny-q8.gguf"
WISH = {
    "inferhost_manage": ["models", "service"],
    "inferhost_service_model_path": MADE,
    "inferhost_models_source": "hub",
    "inferhost_models_repository": REPOSITORY,
    "inferhost_models_revision": COMMIT,
    "inferhost_models_files": ["tiny-random.gguf"],
    "inferhost_models_endpoint": "http://127.0.0.1:18080",
    "inferhost_models_token_file": "/root/hub-token",
    "inferhost_models_quantise": "Q8_0",
    "inferhost_models_quantise_fetched_path": FETCHED,
    "inferhost_models_quantise_program": "/opt/llama.cpp/bin/llama-quantize",
}
SITE = ("site.yml", "-i", "inventories/sandbox", "-l", "gb200", "--diff", "-e", json.dumps(WISH))


def place(path: str, content: bytes) -> None:
    """A file on the host, for root alone."""
    command = [ROOT / "tests/bed/bed", "exec", NAME, "sh", "-c", f"umask 077; cat >{path}"]
    assert subprocess.run(command, input=content, check=False).returncode == 0


def there(path: str) -> bool:
    return bed("exec", NAME, "sh", "-c", f"[ -e {path} ] && echo yes || echo no").strip() == "yes"


@pytest.fixture(scope="module")
def runs():
    bed("up", NAME, PORT)
    place("/root/hub.py", (ROOT / "tests/unit/host/hub.py").read_bytes())
    place("/root/hub-token", TOKEN.encode())
    # Slower than the controller is told how far it is.
    hub = ["python3", "/root/hub.py", "18080", "/srv/models/tiny-random.gguf", "/root/hub-token", "6"]
    bed("exec", NAME, "systemd-run", "--quiet", "--unit=hub", *hub)
    found = {"before": snapshot(), "check": run_playbook(*SITE, "--check"), "after check": snapshot()}
    found["fetched by check"] = there("/srv/models/new")
    yield {**found, "first": run_playbook(*SITE), "second": run_playbook(*SITE)}
    bed("down", NAME)


def test_check_mode_on_a_bare_host_succeeds_and_writes_nothing(runs):
    assert runs["check"].code == 0, runs["check"].told()
    assert differences(runs["before"], runs["after check"]) == []
    assert not runs["fetched by check"]


def test_check_mode_announces_what_the_first_run_fetches(runs):
    def told(ran):
        return [(name, changed, diff) for name, changed, diff in ran.changes() if "whole and proven" in name]

    assert runs["first"].code == 0, runs["first"].told()
    assert told(runs["check"]) == told(runs["first"])
    assert f"{REPOSITORY}@{COMMIT}" in told(runs["first"])[0][2]


def test_the_second_run_changes_nothing(runs):
    assert runs["second"].code == 0, runs["second"].told()
    assert [name for name, changed, _ in runs["second"].changes() if changed] == []


def test_a_slow_fetch_is_told_while_it_goes_on(runs):
    lines = [line for line in runs["first"].output.splitlines() if line.startswith("[sandbox-gb200] models.main:")]
    assert any("GiB to fetch" in line for line in lines)
    assert any("MB/s" in line for line in lines)
    assert any(f"Q8_0 is made of {FETCHED}" in line for line in lines)


def test_the_quantised_model_is_smaller_and_serves(runs):
    sizes = [int(bed("exec", NAME, "stat", "-c", "%s", path)) for path in (FETCHED, MADE)]
    assert 0 < sizes[1] < sizes[0]
    (token,) = [r for name, r in runs["first"].tasks if "has generated a token" in name]
    assert token["verdicts"][0]["verdict"] == "held"


def test_the_service_reads_the_model_and_cannot_write_it(runs):
    as_service = ["runuser", "-u", "inferhost", "--", "sh", "-c"]
    bed("exec", NAME, *as_service, f"head -c 4 {MADE}")
    tried = f"( : >>{MADE} ) 2>/dev/null && echo written || echo refused"
    assert bed("exec", NAME, *as_service, tried).strip() == "refused"


def test_the_token_is_nowhere_but_in_its_file(runs):
    for name in ("check", "first", "second"):
        assert "verysecret" not in runs[name].output
    look = "grep -rls verysecret /etc /var /run /usr/local /tmp /srv || true; journalctl --no-pager | grep verysecret"
    assert bed("exec", NAME, "sh", "-c", f"{look} || true") == ""


def test_verify_finds_a_model_that_somebody_wrote_into(runs):
    bed("exec", NAME, "sh", "-c", f"printf x >>{MADE}")
    ran = run_playbook("playbooks/verify.yml", *SITE[1:])
    assert ran.code != 0
    assert "models.main" in ran.output
    assert run_playbook(*SITE).code == 0


@pytest.mark.parametrize("purge", [False, True])
def test_a_revert_leaves_the_model_unless_a_purge_is_asked_for(runs, purge):
    assert run_playbook(*SITE).code == 0
    ran = run_playbook("playbooks/revert.yml", *SITE[1:5], "-e", json.dumps({"inferhost_models_purge": purge}))
    assert ran.code == 0, ran.told()
    assert [there(FETCHED), there(MADE)] == [not purge, not purge]
    assert differences(runs["before"], snapshot()) == []
    bed("exec", NAME, "rm", "-rf", "/srv/models/new")
