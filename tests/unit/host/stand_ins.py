"""Stand-ins of the engines on loopback: what each documents of its start, its key and its request, and nothing more.

Sources: the engines' own sources, read at the catalogue's versions. SGLang, llama.cpp and TabbyAPI answer while they
load; vLLM and SFLLM open their port only when they are ready.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass
class Engine:
    """How one engine behaves, and what was asked of it."""

    name: str
    listens_at_once: bool
    limit: str = "max_tokens"  # how a request says how many tokens it wants
    counts: bool = True  # whether an answer says how many tokens it has
    key: str | None = None
    loading: int = 2  # answers, or looks at the port, until it is ready
    longest: int = 10**6  # words of a prompt, above which it fails
    asked: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    server: http.server.ThreadingHTTPServer | None = None
    busy: tuple[str, str] | None = None  # how its /metrics calls what runs and what waits; none: it has no such page
    held: threading.Event | None = None  # a stream goes on until it is set
    running: int = 0

    def answer(self, path: str, headers: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path != "/v1/completions":
            return 404, {}
        self.running += 1
        if self.held is not None:
            self.held.wait(60)
        self.running -= 1
        if self.key is not None and headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {}
        if self.listens_at_once and self.loading > 0:
            self.loading -= 1
            return 503, {"error": {"message": "Loading model"}}
        self.asked.append(body)
        if self.limit not in body or not isinstance(body.get("prompt"), str) or not body.get("model"):
            return 400, {}
        if len(body["prompt"].split()) > self.longest:
            return 500, {"error": {"message": "CUDA out of memory"}}
        counted = {"usage": {"completion_tokens": body[self.limit]}} if self.counts else {}
        return 200, {"choices": [{"text": " the"}], **counted}


ENGINES = {
    "sglang": {"listens_at_once": True},
    "vllm": {"listens_at_once": False},
    "llama.cpp": {
        "listens_at_once": True,
        "busy": ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    },
    "tabbyapi": {"listens_at_once": True, "key": "made-at-the-first-start"},
    "sfllm": {"listens_at_once": False, "limit": "max_new_tokens", "counts": False},
}


@contextlib.contextmanager
def running(engine: Engine) -> Iterator[str]:
    """The address of the engine; one that does not listen at once has its port taken and closed until `opens`."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, found = engine.answer(self.path, self.headers, body)
            text = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            known = self.path == "/metrics" and engine.busy is not None
            lines = zip(engine.busy or (), (engine.running, 0))  # noqa: B905 (Python 3.9)
            text = "".join(f"# TYPE {name} gauge\n{name} {count}\n" for name, count in lines).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    class Server(http.server.ThreadingHTTPServer):
        def server_activate(self) -> None:
            if engine.listens_at_once:
                super().server_activate()

    engine.server = Server(("127.0.0.1", 0), Answers)
    threading.Thread(target=engine.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{engine.server.server_address[1]}"
    finally:
        engine.server.shutdown()
        engine.server.server_close()


def passes_time(engine: Engine) -> None:
    """A pause of whoever waits: an engine that opens its port when it is ready comes nearer to it."""
    if not engine.listens_at_once and engine.server is not None:
        engine.loading -= 1
        if engine.loading == 0:
            engine.server.socket.listen()


@contextlib.contextmanager
def no_http() -> Iterator[int]:
    """The port of a program that answers, and speaks no HTTP."""

    class Greets(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"SSH-2.0-somebody\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greets) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
