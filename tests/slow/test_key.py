"""The key of a real llama-server's clients: it is asked for, and stands nowhere where others could read it."""

import json
import subprocess

import pytest

from tests.bed.playbook import NAME, PORT, ROOT, bed, run_playbook

KEY = "sk-of-a-test-9f3b2c71d0"
PATH = "/root/api-key"
SITE = ("site.yml", "-i", "inventories/sandbox", "-l", "gb200", "-e", f"inferhost_service_api_key_file={PATH}")
SCAN = (ROOT / "tests/bed/key_scan.py").read_text()
ASK = """
import json, pathlib, sys, urllib.error, urllib.request as u
headers = {"Content-Type": "application/json"}
if len(sys.argv) > 1:
    headers["Authorization"] = "Bearer " + pathlib.Path(sys.argv[1]).read_text().strip()
body = json.dumps({"prompt": "the", "max_tokens": 4}).encode()
question = u.Request("http://127.0.0.1:30000/v1/completions", body, headers)
try:
    print(json.load(u.urlopen(question))["usage"]["completion_tokens"])
except urllib.error.HTTPError as error:
    print(error.code)
"""


def put(path: str, text: str, mode: str) -> None:
    argv = [ROOT / "tests/bed/bed", "exec", NAME, "install", "-m", mode, "/dev/stdin", path]
    subprocess.run(argv, input=text, text=True, check=True)


def scan() -> list[str]:
    return json.loads(bed("exec", NAME, "python3", "-c", SCAN, PATH))


@pytest.fixture(scope="module")
def placed():
    """Placed with a key, while somebody looks at the arguments of every process; then placed again."""
    bed("up", NAME, PORT)
    put(PATH, f"{KEY}\n", "600")
    watcher = [ROOT / "tests/bed/bed", "exec", NAME, "python3", "-c", SCAN, PATH, "60"]
    with subprocess.Popen(watcher, stdout=subprocess.PIPE, text=True) as watching:
        ran = run_playbook(*SITE, "-v", "--diff")
        seen = json.loads(watching.communicate()[0])
    yield ran, seen, run_playbook(*SITE)
    bed("down", NAME)


def test_who_has_the_key_is_answered_and_nobody_else(placed):
    assert placed[0].code == 0, placed[0].told()
    assert bed("exec", NAME, "python3", "-c", ASK, PATH).strip() == "4"
    assert bed("exec", NAME, "python3", "-c", ASK).strip() == "401"


def test_the_second_run_changes_nothing(placed):
    assert [name for name, changed, _ in placed[2].changes() if changed] == []


def test_it_is_in_no_arguments_no_journal_and_no_file_for_others(placed):
    assert placed[1] == []
    assert scan() == []


def test_it_is_in_no_output_no_diff_and_no_plan(placed):
    assert KEY not in placed[0].output
    assert KEY not in placed[2].output
    assert KEY not in bed("exec", NAME, "cat", "/etc/inferhost/plan.json")
    assert KEY not in bed("exec", NAME, "inferhost", "verify")


def test_a_restart_drains_and_serves_with_the_key(placed):
    bed("exec", NAME, "systemctl", "restart", "inferhost-serve@main")
    bed("exec", NAME, "inferhost", "gate", "--wait")
    assert bed("exec", NAME, "python3", "-c", ASK, PATH).strip() == "4"
    assert scan() == []


def test_the_scan_finds_what_is_there(placed):
    """Without this a scan that sees nothing would prove nothing."""
    put("/tmp/planted", f"a line with {KEY}\n", "644")
    waits = "exec -a planted sh -c 'while sleep 1; do :; done' planted"
    script = f"systemd-cat echo told: $(cat {PATH}); {waits} $(cat {PATH})"
    bed("exec", NAME, "systemd-run", "--quiet", "--unit=planted", "bash", "-c", script)
    runs = "until grep -aqs ^planted /proc/$(systemctl show -P MainPID planted)/cmdline; do sleep 0.2; done"
    bed("exec", NAME, "timeout", "60", "sh", "-c", runs)
    found = scan()
    assert "file /tmp/planted" in found
    assert "journal" in found
    assert "arguments of planted" in found
