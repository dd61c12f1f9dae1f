"""A request to an engine of this host, past every proxy: one would get the key in clear, and finds nobody there."""

from __future__ import annotations

import urllib.request
from http.client import HTTPResponse
from typing import cast


def opened(url: str, key: str | None, timeout_s: float, body: bytes | None = None) -> HTTPResponse:
    """The answer, to be closed by the caller; with a body, which is JSON, it is a POST. Raises what urllib raises."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    question = urllib.request.Request(url, body, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return cast("HTTPResponse", opener.open(question, timeout=timeout_s))
