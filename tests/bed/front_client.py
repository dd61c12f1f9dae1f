"""Asks a front before a held engine: does the first piece come before the last is sent, who is served in which order?

`front_client.py http|https PORT FOLDER first` prints the first piece of a stream that is not finished yet.
`front_client.py http PORT FOLDER order SOCKET TAG=NAME:VALUE...` holds the engine's only place, lets tagged requests
queue one after the other, frees them, and prints the order in which the engine saw them. Runs on a sandbox host.
"""

import http.client
import json
import pathlib
import socket
import ssl
import sys
import threading
import time

SCHEME, PORT, FOLDER, WHAT = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
LIMIT_S = 60


def connection() -> http.client.HTTPConnection:
    if SCHEME == "http":
        return http.client.HTTPConnection("127.0.0.1", PORT, timeout=LIMIT_S)
    trusting = ssl._create_unverified_context()  # the certificate is the test's own
    return http.client.HTTPSConnection("127.0.0.1", PORT, timeout=LIMIT_S, context=trusting)


def ask(tag: str, headers: dict) -> http.client.HTTPResponse:
    one = connection()
    one.request("POST", "/v1/chat/completions", b"{}", {"X-Tag": tag, "Content-Type": "application/json", **headers})
    return one.getresponse()


def free(tag: str) -> None:
    (FOLDER / f"go-{tag}").touch()


def waiting(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(path)
        control.sendall(b"show stat\n")
        text = b"".join(iter(lambda: control.recv(65536), b"")).decode()
    return sum(int(line.split(",")[2] or 0) for line in text.splitlines() if line.startswith("inferhost,BACKEND"))


def first() -> None:
    answer = ask("stream", {})
    piece = answer.readline().decode()
    free("stream")
    rest = answer.read().decode()
    statuses = {}
    for path in ("/health", "/metrics", "/slots"):
        one = connection()
        one.request("GET", path)
        statuses[path] = one.getresponse().status
    print(json.dumps({"first": piece.strip(), "rest": rest.strip(), "statuses": statuses}))


def order(control: str, wanted: list) -> None:
    (FOLDER / "order").write_text("")
    holder = ask("holder", {})
    holder.readline()
    threads = []
    for number, word in enumerate(wanted, 1):
        tag, _, header = word.partition("=")
        name, _, value = header.partition(":")
        free(tag)
        threads.append(threading.Thread(target=lambda t=tag, n=name, v=value: ask(t, {n: v}).read()))
        threads[-1].start()
        end = time.monotonic() + LIMIT_S
        while waiting(control) < number and time.monotonic() < end:
            time.sleep(0.02)
    free("holder")
    holder.read()
    for thread in threads:
        thread.join()
    print(json.dumps((FOLDER / "order").read_text().split()))


if __name__ == "__main__":
    first() if WHAT == "first" else order(sys.argv[5], sys.argv[6:])
