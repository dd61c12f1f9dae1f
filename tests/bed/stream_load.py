"""Streaming load on an OpenAI endpoint, and what became of each request. Runs on a sandbox host, no packages needed.

`stream_load.py HOST PORT STREAMS LEAST STOP_FILE TOKENS`: each stream asks again and again over one kept connection,
until LEAST requests are done and STOP_FILE is there. A line per second tells of it, the last one is the result.
Nothing is tried again here: what fails, fails, and is counted by how much of the answer had come.
"""

import collections
import http.client
import json
import os
import sys
import threading
import time

BODY = {
    "model": "mistral-large-2411-awq",
    "messages": [{"role": "user", "content": "tell me about the weather and the people there"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "cache_prompt": False,
}
SILENCE_S = 120


class Load:
    """The requests of all streams. A failure is kept with its time: a test can tell which event it belongs to."""

    def __init__(self, host: str, port: int, least: int, stop_file: str, tokens: int) -> None:
        self.host, self.port, self.least, self.stop_file, self.tokens = host, port, least, stop_file, tokens
        self.body = json.dumps({**BODY, "max_tokens": tokens}).encode()
        self.kinds: collections.Counter = collections.Counter()
        self.failures: list = []
        self.lock = threading.Lock()

    def stream(self) -> None:
        connection = None
        while not (sum(self.kinds.values()) >= self.least and os.path.exists(self.stop_file)):
            if connection is None:
                connection = http.client.HTTPConnection(self.host, self.port, timeout=SILENCE_S)
            kind = self.asked(connection)
            with self.lock:
                self.kinds[kind.partition(":")[0]] += 1
                if kind != "ok":
                    self.failures.append({"kind": kind, "at": time.time()})
            if kind != "ok":
                connection.close()
                connection = None
                time.sleep(0.1)

    def asked(self, connection: http.client.HTTPConnection) -> str:
        """One request: "ok", or how it failed."""
        pieces, usage, done = 0, None, False
        try:
            connection.request("POST", "/v1/chat/completions", self.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                return f"refused: {answer.status} {answer.read()[:80]!r}"
            for line in answer:
                if not line.startswith(b"data: "):
                    continue
                if line.strip() == b"data: [DONE]":
                    done = True
                    continue
                said = json.loads(line[6:])
                if "error" in said:
                    return f"error in the stream: {said['error']}"
                usage = said.get("usage") or usage
                pieces += bool(said.get("choices") and said["choices"][0]["delta"].get("content"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"{'cut' if pieces else 'no answer'}: {type(error).__name__} after {pieces} pieces"
        if not done or usage is None or usage["completion_tokens"] != self.tokens:
            return f"cut: {usage} after {pieces} pieces"
        return "ok"


def main(host: str, port: str, streams: str, *rest: str) -> None:
    load = Load(host, int(port), int(rest[0]), rest[1], int(rest[2]))
    threads = [threading.Thread(target=load.stream, daemon=True) for _ in range(int(streams))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        print(json.dumps({"done": sum(load.kinds.values()), "failed": len(load.failures)}), flush=True)
    print(json.dumps({"requests": sum(load.kinds.values()), "kinds": load.kinds, "failures": load.failures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
