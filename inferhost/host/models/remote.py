"""The far side of a fetch: an address or a hub, asked over HTTP with a token that never leaves its own host.

A request may start in the middle of a file. What a second try can heal (no answer, a cut connection, a busy server)
is `TransientError`; what it cannot (401, 404) is a problem that names the option. No message carries the token.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import http.client
import json
import os
import stat
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Any

from inferhost.host.machine import Machine
from inferhost.host.report import HostError, NothingTouched, reason
from inferhost.schema.plan import Model
from inferhost.schema.problems import Problem

TIMEOUT_S = 10.0
"""How long the far side may stay silent; then it is said and asked again, so that nobody waits without a word."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
AGENT = "inferhost"


class TransientError(Exception):
    """Worth another try."""


@dataclasses.dataclass(frozen=True)
class Remote:
    """One file of a model: where it goes below the model's path, where it comes from, and what proves it."""

    name: str  # empty where the model is the file
    url: str  # an address, or the absolute path of a file in the store
    size_bytes: int | None
    sha256: str | None
    git_sha1: str | None  # of a small file in a repository: the hash of its git blob


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect, to another host without the token, and never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: Any, *rest: Any) -> Any:
        new, (_, headers, newurl) = super().redirect_request(req, fp, code, *rest), rest
        if new is None:
            return None
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(new.full_url)
        if before.scheme == "https" and after.scheme != "https":
            raise urllib.error.HTTPError(newurl, code, "leads from https to http, which is not followed", headers, fp)
        if (before.scheme, before.hostname, before.port) != (after.scheme, after.hostname, after.port):
            new.remove_header("Authorization")
        return new


def read_token(machine: Machine, model: Model) -> str | None:
    """The token, or `NothingTouched` where its file is missing, empty or readable by others."""
    if model.token_file is None:
        return None
    where = "inferhost_models_token_file"
    mode = machine.mode(model.token_file)
    if mode is None:
        message = f"{model.token_file} is not on this host"
        raise NothingTouched(Problem(where, message, "place it, readable by root alone", "token"))
    status = os.stat(machine.at(model.token_file))
    if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
        message = f"{model.token_file} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})"
        raise NothingTouched(Problem(where, message, f"chmod 0600 {model.token_file}", "token"))
    token = (machine.read_text(model.token_file) or "").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        message = f"{model.token_file} holds no token, wanted one line"
        raise NothingTouched(Problem(where, message, "write the token into it and nothing else", "token"))
    return token


def opened(url: str, token: str | None, model: Model, start: int = 0) -> IO[bytes]:
    """The answer to a request for the file from byte `start` on, or `TransientError`, or what is wrong for good."""
    request = urllib.request.Request(url, headers={"User-Agent": AGENT, "Accept-Encoding": "identity"})
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer: IO[bytes] = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in BUSY:
            raise TransientError(f"HTTP status {error.code}") from error
        raise HostError(_refused(error, url, model, token is not None)) from error
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    return answer


def _refused(error: urllib.error.HTTPError, url: str, model: Model, with_token: bool) -> Problem:
    """A refusal in the words of the options."""
    place = urllib.parse.urlsplit(url)
    shown = f"{place.scheme}://{place.netloc}{place.path}"
    if error.code == 401:
        hint = "the token is not taken: renew it" if with_token else "name a file with a token there"
        return Problem("inferhost_models_token_file", f"{shown}: HTTP status 401", hint, "token")
    if error.code == 403:
        hint = "accept the model's terms on the hub with the account of the token, or ask its owner"
        return Problem("inferhost_models_token_file", f"{shown}: HTTP status 403", hint, "token")
    option = {"hub": "repository", "address": "address"}.get(model.source, "source")
    hint = "look whether repository, revision and file exist, and whether a token is wanted"
    said = f"HTTP status {error.code}" if error.code >= 400 else f"{error.code}, {error.reason}"
    return Problem(f"inferhost_models_{option}", f"{shown}: {said}", hint, "not-there")


def repository_files(model: Model, token: str | None) -> list[Remote]:
    """The wanted files of the repository at its commit, with size and checksum as the hub knows them."""
    quoted = urllib.parse.quote(model.location)
    url = f"{model.endpoint}/api/models/{quoted}/revision/{model.revision}?blobs=true"
    with opened(url, token, model) as answer:
        try:
            listed = json.load(answer)["siblings"]
            found = [_file(model, quoted, entry) for entry in listed]
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException) as error:
            raise TransientError(f"{url}: the answer is no list of files") from error
    wanted = [f for f in found if not model.files or any(fnmatch.fnmatchcase(f.name, p) for p in model.files)]
    is_file = model.kind == "file" or model.quantise is not None
    if not wanted or (is_file and len(wanted) != 1):
        message = f"{', '.join(model.files) or 'all'}: found {len(wanted)} files in {model.location}"
        hint = "near it: " + ", ".join(sorted(f.name for f in found)[:5]) if found else "look at the repository"
        raise NothingTouched(Problem("inferhost_models_files", message, hint, "model-files"))
    return [dataclasses.replace(wanted[0], name="")] if is_file else wanted


def _file(model: Model, quoted: str, entry: Any) -> Remote:
    name = str(entry["rfilename"])
    if name.startswith("/") or ".." in name.split("/") or not name.isprintable() or "\\" in name:
        message = f"{model.location} lists a file that would leave its folder"
        raise NothingTouched(Problem("inferhost_models_repository", message, "do not use it", "model-files"))
    large = entry.get("lfs") or {}
    url = f"{model.endpoint}/{quoted}/resolve/{model.revision}/{urllib.parse.quote(name)}"
    return Remote(name, url, int(entry["size"]), large.get("sha256"), None if large else str(entry["blobId"]))


def store_files(machine: Machine, model: Model) -> list[Remote]:
    """The files of the store, with their sizes."""
    top = machine.at(model.location)
    if os.path.isfile(top):
        return [Remote("", model.location, os.stat(top).st_size, model.sha256, None)]
    found = []
    for folder, _, names in os.walk(top):
        for name in sorted(names):
            inner = os.path.relpath(os.path.join(folder, name), top)
            size = os.stat(os.path.join(folder, name)).st_size
            found.append(Remote(inner, f"{model.location}/{inner}", size, None, None))
    if not found:
        message = f"{model.location} holds nothing"
        raise NothingTouched(Problem("inferhost_models_store_path", message, "is the store mounted?", "not-there"))
    return found


def opened_in_store(machine: Machine, path: str, start: int) -> IO[bytes]:
    """The store's file from byte `start` on."""
    try:
        file = open(machine.at(path), "rb")  # noqa: SIM115 (the caller closes it)
        file.seek(start)
    except OSError as error:
        raise HostError(
            Problem("inferhost_models_store_path", f"{path}: {reason(error)}", "", "not-there")
        ) from error
    return file
