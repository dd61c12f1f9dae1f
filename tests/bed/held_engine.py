"""A stand-in for an engine that sends the second half of an answer only when told: what is held back shows.

`held_engine.py PORT FOLDER`: writes the tag of each request into FOLDER/order, sends one piece, and the last one once
FOLDER/go-TAG is there. Runs on a sandbox host.
"""

import http.server
import os
import sys
import threading
import time

PORT, FOLDER = int(sys.argv[1]), sys.argv[2]
LOCK = threading.Lock()


class Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.whole(200, b"ok")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        tag = self.headers["X-Tag"]
        with LOCK, open(f"{FOLDER}/order", "a", encoding="utf-8") as file:
            file.write(f"{tag}\n")
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.piece(b"data: first\n\n")
        while not os.path.exists(f"{FOLDER}/go-{tag}"):
            time.sleep(0.02)
        self.piece(b"data: last\n\n")
        self.piece(b"")

    def piece(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def whole(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Engine).serve_forever()
