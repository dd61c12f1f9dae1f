"""The key reaches the engine, and the plan holds its place alone; an engine that would tell it is refused with it."""

from __future__ import annotations

import pytest

from inferhost.schema import document
from tests.unit.planner_wishes import CATALOGUE, planned, refusal, wish

CARD, PLACE = "rtx-pro-6000-bw-ws", "/etc/inferhost-keys/main"
CREDENTIAL = "/run/credentials/inferhost-serve@main.service/api-key"


def keyed(engine: str, model: str = "qwen3-4b", **own):
    return wish(CARD, model, service_engine=engine, service_api_key_file=PLACE, **own)


def entries(plan, key: str) -> list[str]:
    return [value for _, name, value in plan.dropins[0].entries if name == key and value]


def test_llama_server_reads_it_from_the_units_credential():
    plan = planned(keyed("llama.cpp", "llama-2-7b-q4_k_m"))
    (service,) = plan.service
    assert service.argv[-2:] == ("--api-key-file", CREDENTIAL)
    assert entries(plan, "LoadCredential") == [f"api-key:{PLACE}"]
    assert service.probe.key_file == PLACE
    assert CREDENTIAL not in service.check_argv, "the credential is there only while the unit runs"


def test_vllm_gets_a_variable_from_a_shell_that_becomes_it():
    plan = planned(keyed("vllm"))
    (line,) = entries(plan, "ExecStart")
    script = '"VLLM_API_KEY=$$(cat \\"$$CREDENTIALS_DIRECTORY/api-key\\") exec \\"$$@\\""'
    assert line.startswith(f"/bin/sh -c {script} sh /opt/inferhost/vllm-")
    assert plan.service[0].argv[0].endswith("/bin/vllm")
    assert "VLLM_API_KEY" not in document.text(plan.env)


@pytest.mark.parametrize(
    ("engine", "own", "because"),
    [
        ("sglang", {}, "takes its key as an argument only, and writes it into its log"),
        ("sfllm", {"service_host": "0.0.0.0"}, "knows no keys"),
        ("tabbyapi", {}, "makes keys of its own"),
    ],
)
def test_an_engine_that_cannot_keep_it_is_refused_and_the_proxy_named(engine, own, because):
    told = refusal(keyed(engine, **own))
    assert told.startswith("error: inferhost_service_api_key_file: ")
    assert because in told
    assert "let the proxy before it ask for the key" in told


def test_auto_passes_over_the_engine_that_would_log_the_key():
    assert planned(wish(CARD, "qwen3-4b")).service[0].engine == "sglang"
    assert planned(keyed("auto")).service[0].engine == "vllm"


def test_tabbyapi_is_asked_with_the_key_that_it_made():
    (service,) = planned(wish(CARD, "qwen3-4b", service_engine="tabbyapi")).service
    assert service.probe.key_file == "/var/cache/inferhost/main/api_tokens.yml"


def test_a_key_in_the_arguments_is_still_refused():
    told = refusal(wish(CARD, "qwen3-4b", service_engine="vllm", service_extra_args=["--api-key", "sk-12345"]))
    assert "carries a secret" in told
    assert "sk-12345" not in told


def test_every_engine_says_how_it_is_given_a_key_and_where_that_was_read():
    for row in CATALOGUE.engines.values():
        assert row.api_key.how in ("file", "environment", "own", "none")
        assert row.api_key.source
        assert bool(row.api_key.because) is (row.api_key.how in ("own", "none"))
