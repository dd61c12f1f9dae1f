"""A stand-in of a model hub on loopback: list of files, resolve, redirect to another host, ranges, and its bad days.

It answers what the real hub documents (siblings with size, blobId and lfs, a redirect to where the bytes lie) and
remembers every request, so that a test can say what was asked, and with which token. As a program
(`hub.py PORT FILE TOKEN SLOW_S`) it serves one file on a sandbox host, slowly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/tiny"
SMALL = {"config.json": b'{"a": 1}\n', "tokenizer/vocab.txt": b"a\nb\n"}
LARGE = {"model.safetensors": bytes(range(256)) * 20_000}


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclasses.dataclass
class Hub:
    """What the hub holds, what is wrong with it, and what was asked of it."""

    small: dict[str, bytes] = dataclasses.field(default_factory=lambda: dict(SMALL))
    large: dict[str, bytes] = dataclasses.field(default_factory=lambda: dict(LARGE))
    token: str | None = None
    status: int = 200  # of every answer about the repository
    busy: int = 0  # so many answers are 503 first
    cuts: list[int] = dataclasses.field(default_factory=list)  # bytes after which an answer ends, one per answer
    ranges: bool = True
    slow_s: float = 0.0  # a pause in the middle of each large file
    asked: list[tuple[str, str, dict[str, str]]] = dataclasses.field(default_factory=list)  # host, path, headers
    spoilt: dict[str, bytes] = dataclasses.field(default_factory=dict)  # what is sent instead
    listed: dict[str, str] = dataclasses.field(default_factory=dict)  # file names as the list shows them
    front: str = ""
    back: str = ""

    def siblings(self) -> list[dict[str, Any]]:
        small = [
            {"rfilename": self.listed.get(n, n), "size": len(c), "blobId": git_sha1(c)} for n, c in self.small.items()
        ]
        return small + [
            {
                "rfilename": n,
                "size": len(c),
                "blobId": "f" * 40,
                "lfs": {"sha256": hashlib.sha256(c).hexdigest(), "size": len(c), "pointerSize": 135},
            }
            for n, c in self.large.items()
        ]

    def paths(self, prefix: str = "") -> list[str]:
        return [path for _, path, _ in self.asked if path.startswith(prefix)]


class _Answers(http.server.BaseHTTPRequestHandler):
    """Both hosts: the hub in front, and the one that its redirects lead to."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    is_front: bool

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append(("front" if self.is_front else "back", self.path, dict(self.headers)))
        if hub.busy:
            hub.busy -= 1
            return self.answer(503)
        if self.is_front and hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer(401)
        if hub.status != 200 and self.is_front:
            return self.answer(hub.status)
        path = self.path.partition("?")[0]
        if path == f"/api/models/{REPOSITORY}/revision/{COMMIT}":
            return self.answer(200, json.dumps({"sha": COMMIT, "siblings": hub.siblings()}).encode())
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/").removeprefix("/blobs/")
        if name in hub.large and self.is_front:
            return self.answer(302, headers={"Location": f"{hub.back}/blobs/{name}"})
        content = hub.spoilt.get(name, {**hub.small, **hub.large}.get(name))
        if content is None:
            return self.answer(404)
        return self.file(content)

    def file(self, content: bytes) -> None:
        start = 0
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found and self.hub.ranges:
            start = int(found[1])
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        cut = self.hub.cuts.pop(0) if self.hub.cuts else None
        self.answer(206 if start else 200, content[start:], headers, cut)

    def answer(self, code: int, body: bytes = b"", headers: dict[str, str] | None = None, cut: int | None = None):
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(body)), "ETag": '"e"'}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            middle = len(body) // 2 if self.hub.slow_s and not self.is_front else 0
            self.wfile.write(body[:middle])
            time.sleep(self.hub.slow_s if middle else 0)
            self.wfile.write(body[middle:] if cut is None else body[middle:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextlib.contextmanager
def running_hub(port: int = 0) -> Iterator[Hub]:
    """A hub of two hosts on loopback, on free ports where none is given."""
    hub, servers = Hub(), []
    for is_front in (True, False):
        handler = type("Answers", (_Answers,), {"hub": hub, "is_front": is_front})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port if is_front else 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.front, hub.back = (f"http://127.0.0.1:{s.server_address[1]}" for s in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def main(port: str, file: str, token_file: str, slow_s: str) -> None:
    """Serves one large file until it is stopped."""
    with running_hub(int(port)) as hub:
        hub.large = {pathlib.Path(file).name: pathlib.Path(file).read_bytes()}
        hub.token, hub.slow_s = pathlib.Path(token_file).read_text(), float(slow_s)
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
