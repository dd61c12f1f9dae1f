"""A new configuration that cannot serve: the message names the option, and the old service still answers.

The engine is the real llama-server wherever a CPU can show the failure; where it cannot (a card that is too small, an
engine that never gets ready) a script stands in for it and says so in its name.
"""

import json

import pytest

from tests.bed.playbook import NAME, PORT, bed, run_playbook

SITE = ("site.yml", "-i", "inventories/sandbox", "-l", "gb200")
ASK = """
import json, urllib.request as u
r = u.Request("http://127.0.0.1:30000/v1/completions", json.dumps({"prompt": "the", "max_tokens": 4}).encode(),
              {"Content-Type": "application/json"})
print(json.load(u.urlopen(r))["usage"]["completion_tokens"])
"""
READS_ARGUMENTS = 'for word; do last=$word; done; [ "$last" = --help ] && exit 0\n'
FILES = {
    "/srv/models/broken.gguf": "this is no model\n",
    "/usr/local/bin/stand-in-too-large": "#!/bin/sh\n"
    + READS_ARGUMENTS
    + "echo 'ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory' >&2; exit 1\n",
    "/usr/local/bin/stand-in-never-ready": "#!/bin/sh\n" + READS_ARGUMENTS + "exec sleep 1000\n",
}


def place(path: str, text: str) -> None:
    bed("exec", NAME, "sh", "-c", f"cat > {path} <<'END'\n{text}END\nchmod 755 {path}")


def main_pid() -> str:
    return bed("exec", NAME, "systemctl", "show", "-p", "MainPID", "--value", "inferhost-serve@main").strip()


def serves() -> bool:
    return bed("exec", NAME, "python3", "-c", ASK).strip() == "4"


def arguments() -> str:
    return bed("exec", NAME, "sh", "-c", f"tr '\\0' ' ' </proc/{main_pid()}/cmdline")


@pytest.fixture(scope="module")
def host():
    bed("up", NAME, PORT)
    for path, text in FILES.items():
        place(path, text)
    bed("exec", NAME, "systemd-run", "--quiet", "--unit=holder", "python3", "-m", "http.server", "30055")
    ran = run_playbook(*SITE)
    assert ran.code == 0, ran.told()
    yield
    bed("down", NAME)


# Refused while the old engine runs on: not even its process changes.
BEFORE_CONTACT = {
    "weights too large": ({"model": "qwen3-235b-a22b", "engine": "vllm", "engine_version": "pinned"}, "of weights"),
}
BEFORE_THE_STOP = {
    "bad flag": (
        {"extra_args": ["--override-kv", "tokenizer.bad"]},
        "inferhost_service_extra_args: llama.cpp 0.7.0 refuses",
    ),
    "missing model": (
        {"model_path": "/srv/models/nowhere.gguf"},
        "inferhost_service_model_path: /srv/models/nowhere",
    ),
    "port in use": ({"port": 30055}, "inferhost_service_port: port 30055 is taken by"),
}
# Only the engine can tell: it is stopped, and the old files are started again.
AFTER_THE_START = {
    "broken model": ({"model_path": "/srv/models/broken.gguf"}, "inferhost_service_model_path: "),
    "card too small": ({"engine_path": "/usr/local/bin/stand-in-too-large"}, "inferhost_service_context_tokens: "),
    "never ready": (
        {"engine_path": "/usr/local/bin/stand-in-never-ready", "start_wait_s": 12},
        "more time with inferhost_service_start_wait_s",
    ),
}


def wished(own: dict) -> tuple[str, ...]:
    return "-e", json.dumps({f"inferhost_service_{name}": value for name, value in own.items()})


@pytest.mark.parametrize(
    ("own", "says"), (BEFORE_CONTACT | BEFORE_THE_STOP).values(), ids=BEFORE_CONTACT | BEFORE_THE_STOP
)
def test_what_can_be_told_before_is_refused_and_the_old_process_runs_on(host, own, says):
    before = main_pid()
    ran = run_playbook(*SITE, *wished(own))
    assert ran.code != 0
    assert says in ran.told()
    assert (main_pid(), serves()) == (before, True)


@pytest.mark.parametrize(("own", "says"), AFTER_THE_START.values(), ids=AFTER_THE_START)
def test_what_only_the_start_shows_is_rolled_back_and_the_old_command_serves(host, own, says):
    ran = run_playbook(*SITE, *wished(own))
    assert ran.code != 0
    assert says in ran.told(), ran.told()
    assert "the new plan does not serve" in ran.told()
    assert "--model /srv/models/tiny-random.gguf" in arguments()
    assert serves()


def test_an_engine_that_never_gets_ready_is_told_of_while_it_is_waited_for(host):
    ran = run_playbook(*SITE, *wished(AFTER_THE_START["never ready"][0]))
    told = [line for line in ran.output.splitlines() if line.startswith("[sandbox-gb200] service.main.token:")]
    assert len(told) >= 2


def test_the_repaired_wish_is_placed_and_a_revert_leaves_nothing(host):
    ran = run_playbook(*SITE)
    assert ran.code == 0, ran.told()
    assert run_playbook("playbooks/revert.yml", *SITE[1:]).code == 0
    left = bed("exec", NAME, "sh", "-c", "ls -A /etc/inferhost /var/lib/inferhost /run/inferhost 2>/dev/null || true")
    assert left.strip() == ""
