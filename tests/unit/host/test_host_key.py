"""The gate asks with the key, reads it anew, and says nothing of it; a key that others can read is refused."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from inferhost.host.report import Report
from inferhost.host.service.gate import prove_tokens
from inferhost.host.service.key import read_key
from tests.unit.host.fake_host import FakeHost, plan

KEY, PLACE = "sk-averysecretkey", "/etc/inferhost-keys/main"


@pytest.fixture
def engine() -> Iterator[str]:
    """An engine that wants the key, on loopback; its address."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            right = self.headers.get("Authorization") == f"Bearer {KEY}"
            body = json.dumps({"usage": {"completion_tokens": 4}} if right else {}).encode()
            self.send_response(200 if right else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/completions"
    server.shutdown()
    server.server_close()


def keyed(host: FakeHost, url: str = "http://127.0.0.1:9", place: str = PLACE) -> FakeHost:
    whole = plan()
    probe = dataclasses.replace(whole.service[0].probe, url=url, key_file=place)
    host.plan = plan(service=(dataclasses.replace(whole.service[0], probe=probe),))
    return host


def gate(host: FakeHost) -> Report:
    report = Report(check=False)
    prove_tokens(host.machine(str(host.root)), host.plan, True, report, pause=lambda _: None)
    return report


def test_the_gate_asks_with_the_key(host: FakeHost, engine: str):
    host.write(PLACE, f"# the key of main\n{KEY}\n", 0o600)
    keyed(host, engine).converge()
    assert gate(host).exit_code() == 0


def test_a_key_that_the_engine_makes_while_it_starts_is_read_then(host: FakeHost, engine: str):
    place = "/var/cache/inferhost/main/api_tokens.yml"
    keyed(host, engine, place).converge()
    report = Report(check=False)

    def pause(_seconds: float) -> None:
        host.write(place, f"admin_key: other\napi_key: {KEY}\n", 0o600)

    prove_tokens(host.machine(str(host.root)), host.plan, True, report, pause=pause)
    assert report.exit_code() == 0


def test_a_wrong_key_fails_the_gate_and_is_not_shown(host: FakeHost, engine: str):
    host.write(PLACE, "sk-averysecretother\n", 0o600)
    keyed(host, engine).converge()
    report = gate(host)
    assert report.exit_code() == 3
    assert "HTTP status 401" in report.problems[0].message
    assert "verysecret" not in "\n".join(report.prose()) + str(report.result())


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0, "is not on this host"),
        (KEY, 0o644, "can be read by others"),
        (KEY, 0o640, "can be read by others"),
        ("# none\n", 0o600, "holds no key"),
    ],
)
def test_a_key_file_that_cannot_serve_is_refused_before_anything(host: FakeHost, content, mode, says):
    if content is not None:
        host.write(PLACE, content, mode)
    before = keyed(host).snapshot()
    answer = host.run("install")
    assert (answer.code, answer.problems[0]["path"]) == (2, "inferhost_service_api_key_file")
    assert says in answer.problems[0]["message"]
    assert "verysecret" not in answer.prose
    assert {k: v for k, v in host.snapshot().items() if k != "/run/inferhost"} == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("abc\n", "abc"),
        ("api_key: abc\nadmin_key: d\n", "abc"),
        ("api_key: 'a b'\n", "a b"),
        ("- one of a list\napi_key: abc\n", "abc"),
        ("", None),
        ("#x\n", None),
    ],
)
def test_a_key_stands_alone_or_behind_its_name(host: FakeHost, text: str, found: str | None):
    host.write("/k", text)
    assert read_key(host.machine(str(host.root)), "/k") == found
