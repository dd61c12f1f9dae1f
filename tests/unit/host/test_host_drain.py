"""An engine is still after a whole second of nothing, from its own numbers or from its connections."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import threading
from collections.abc import Iterator

import pytest

from inferhost.host.machine import Clock, Machine
from inferhost.host.report import Report
from inferhost.host.service import drain
from inferhost.host.service.gate import ask
from inferhost.schema.plan import Drain, Plan
from tests.unit.host.fake_host import plan
from tests.unit.host.stand_ins import no_http

NAMES = ("llamacpp:requests_processing", "llamacpp:requests_deferred")


@contextlib.contextmanager
def engine(answers: list[tuple[int, int]], status: int = 200) -> Iterator[int]:
    """An engine's /metrics: running and waiting at each look, the last pair for ever. Gives its port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running, waiting = answers.pop(0) if len(answers) > 1 else answers[0]
            body = f'# TYPE x gauge\n{NAMES[0]} {running}\n{NAMES[1]}{{slot="1"}} {waiting}\n'.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def planned(port: int, names: tuple[str, ...] = NAMES) -> Plan:
    one = dataclasses.replace(
        plan().service[0], port=port, drain=Drain(f"http://127.0.0.1:{port}/metrics", names, 60)
    )
    return dataclasses.replace(plan(), service=(one,))


def waited(tmp_path, wanted: Plan, **own) -> tuple[Report, list[str], float]:
    """The report, what was said meanwhile, and how long it took on a clock that moves by itself."""
    seconds, said, report = [0.0], [], Report(check=False)
    clock = Clock(lambda: seconds[0], lambda s: seconds.__setitem__(0, seconds[0] + s))
    drain.drain(Machine(str(tmp_path), clock=clock), wanted, None, report, said.append, **own)
    return report, said, seconds[0]


def test_an_engine_without_requests_is_still_after_a_second(tmp_path):
    with engine([(0, 0)]) as port:
        report, _, took_s = waited(tmp_path, planned(port))
    assert report.facts["in_flight"] == {"main": 0}
    assert drain.STILL_S <= took_s < 2


@pytest.fixture
def proxied(monkeypatch) -> Iterator[list[str]]:
    """What a proxy of the environment is asked for, with the authorization that came along."""
    asked: list[str] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(f"{self.requestline} {self.headers.get('Authorization')}")
            self.send_error(403)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        yield asked
        server.shutdown()


def test_no_proxy_is_asked_for_the_hosts_own_engine_nor_given_its_key(tmp_path, proxied: list[str]):
    (tmp_path / "key").write_text("open-sesame")
    with engine([(0, 3)]) as port:
        wanted = planned(port)
        (service,) = wanted.service
        service = dataclasses.replace(service, probe=dataclasses.replace(service.probe, key_file="/key"))
        wanted = dataclasses.replace(wanted, service=(service,))
        report, _, _ = waited(tmp_path, wanted, limit_s=1)
        assert ask(f"http://127.0.0.1:{port}/v1/completions", {}, "open-sesame") == "HTTP status 501"
    assert report.facts["in_flight"] == {"main": 3}
    assert proxied == []


def test_a_single_zero_is_not_still(tmp_path):
    with engine([(0, 0), (0, 0), (2, 1), (1, 0), (0, 0)]) as port:
        report, _, took_s = waited(tmp_path, planned(port))
    assert report.facts["in_flight"] == {"main": 0}
    assert took_s >= 4 * drain.LOOK_S + drain.STILL_S


def test_what_waits_in_the_engine_counts_as_well(tmp_path):
    with engine([(0, 3)]) as port:
        report, _, took_s = waited(tmp_path, planned(port), limit_s=3)
    assert report.facts["in_flight"] == {"main": 3}
    assert 3 <= took_s < 4


def test_the_wait_is_never_silent_for_ten_seconds(tmp_path):
    with engine([(5, 0)]) as port:
        report, said, took_s = waited(tmp_path, planned(port), limit_s=30)
    assert len(said) >= 30 // 10
    assert said[0] == "service.main: 5 in flight, 5 of at most 30 s"
    assert "5 in flight after 30 s; cut" in report.notes[0]
    assert took_s < 31


def test_an_engine_that_is_gone_is_not_waited_for(tmp_path):
    with engine([(0, 0)]) as port:
        pass
    report, _, took_s = waited(tmp_path, planned(port))
    assert (report.facts["in_flight"], took_s) == ({"main": 0}, 0)


def rows(*lines: str) -> str:
    return "  sl  local_address rem_address   st\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize("names", [NAMES, ()], ids=["its page wants a key", "it has no page"])
def test_without_its_numbers_open_connections_count(tmp_path, names):
    (tmp_path / "proc/net").mkdir(parents=True)
    with engine([(0, 0)], status=401) as port:
        local = f"0100007F:{port:04X}"
        listening, open_one = f"0: {local} 00000000:0000 0A", f"1: {local} 0100007F:9999 01"
        other = f"2: 0100007F:9999 {local} 01"
        (tmp_path / "proc/net/tcp").write_text(rows(listening, open_one, other))
        report, _, _ = waited(tmp_path, planned(port, names), limit_s=2)
    assert report.facts["in_flight"] == {"main": 1}


def test_a_port_that_speaks_no_http_is_judged_by_its_connections(tmp_path):
    with no_http() as port:
        wanted = planned(port)
        (tmp_path / "proc/net").mkdir(parents=True)
        (tmp_path / "proc/net/tcp").write_text(rows(f"1: 0100007F:{port:04X} 0100007F:9999 01"))
        report, _, _ = waited(tmp_path, wanted, limit_s=2)
    assert report.facts["in_flight"] == {"main": 1}


def test_a_page_without_the_metric_is_not_taken_for_nothing(tmp_path):
    (tmp_path / "proc/net").mkdir(parents=True)
    with engine([(0, 0)]) as port:
        (tmp_path / "proc/net/tcp").write_text(rows(f"1: 0100007F:{port:04X} 0100007F:9999 01"))
        report, _, _ = waited(tmp_path, planned(port, ("llamacpp:renamed",)), limit_s=2)
    assert report.facts["in_flight"] == {"main": 1}
