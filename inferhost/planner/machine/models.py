"""The models section: where each model lies, where it comes from, and what proves that it is the one.

Nothing is taken that may change under the same name: a repository at a commit, a file with its checksum. An option
that the chosen source does not read is refused, because somebody meant something by it.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from inferhost.catalogue import Catalogue
from inferhost.planner.launch.secret_names import names_a_secret
from inferhost.planner.reasons import reason
from inferhost.planner.request import Instance, Request, read_instances
from inferhost.schema.parts import gguf_parts
from inferhost.schema.plan import Model, Quantisation, Reason
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.wish import MODEL_PREFIX, Wish, read_models

ITEMS = MODEL_PREFIX + "items"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
COMMIT, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
FILE_SUFFIXES = (".gguf", ".safetensors")
"""How a path ends that is a file; any other is a directory, as the engines take them."""
QUANTISE_TYPES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS",
    "MXFP4_MOE", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "BF16", "F16",
)  # fmt: skip
"""What llama-quantize makes without an importance matrix. Source: `llama-quantize --help`, llama.cpp 0.7.0."""

READ_BY = {
    "hub": ("repository", "revision", "files", "endpoint", "token_file", "sha256"),
    "address": ("address", "sha256", "token_file"),
    "store": ("store_path", "sha256"),
    "here": ("sha256",),
}
"""The options that each source reads."""
REQUIRED = {"hub": ("repository", "revision"), "address": ("address", "sha256"), "store": ("store_path",), "here": ()}
FORMS = {
    "repository": (REPOSITORY, "OWNER/NAME"),
    "revision": (COMMIT, "a commit of 40 hexadecimal digits, because branches and tags move"),
    "sha256": (SHA256, "64 hexadecimal digits, as sha256sum prints them"),
    "quantised_sha256": (SHA256, "64 hexadecimal digits, as sha256sum prints them"),
}
SOURCED = {"here": "source", "hub": "revision", "address": "sha256", "store": "store_path"}
"""The option that a model's reason names."""


@dataclasses.dataclass(frozen=True)
class _Asked:
    """One model of the wish: its values, and which of them a person set."""

    name: str
    wish: Wish
    own: frozenset[str]
    given: frozenset[str]
    instance: Instance | None

    def text(self, option: str) -> str:
        return self.wish.text(MODEL_PREFIX + option)

    def sets(self, option: str) -> bool:
        return option in self.own or MODEL_PREFIX + option in self.given

    def path(self, option: str) -> str:
        """The variable that a person has to change."""
        return f"{ITEMS}.{self.name}.{option}" if option in self.own else MODEL_PREFIX + option

    def source(self, option: str) -> str:
        return f"wish:{ITEMS if option in self.own else MODEL_PREFIX + option}"

    @property
    def place(self) -> str:
        """Where the model lies: its own path, else that of the instance of the same name."""
        path = self.text("path") or (self.instance.text("model_path") if self.instance else "")
        return path.rstrip("/")

    @property
    def fetched_place(self) -> str:
        return self.text("quantise_fetched_path") or self.place

    @property
    def place_source(self) -> str:
        if self.text("path") or self.instance is None:
            return self.source("path")
        return self.instance.source("model_path")


def model_section(request: Request, catalogue: Catalogue) -> tuple[tuple[Model, ...], list[Reason]]:
    """The models with their reasons, or `InputError` with every problem of their options."""
    if not request.manages("models"):
        return (), []
    problems: list[Problem] = []
    instances = {i.name: i for i in read_instances(request)} if request.manages("service") else {}
    items = request.wish.table(ITEMS)
    found: list[Model] = []
    reasons: list[Reason] = []
    for name, wish in read_models(request.wish).items():
        asked = _Asked(name, wish, frozenset(map(str, items[name])), request.given, instances.get(name))
        own = (
            [] if NAME.fullmatch(name) else [Problem(f"{ITEMS}.{name}", "is no name for a model", "letters, digits")]
        )
        own += _problems(asked)
        problems += own
        if not own:
            model = _model(asked, catalogue)
            found.append(model)
            reasons += _reasons(asked, model)
    problems += _twice(found)
    if problems:
        raise InputError(problems)
    return tuple(found), reasons


def _model(asked: _Asked, catalogue: Catalogue) -> Model:
    path, source = asked.place, asked.text("source")
    location = {"hub": "repository", "address": "address", "store": "store_path"}.get(source)
    row = catalogue.models.get(asked.instance.text("model").lower()) if asked.instance else None
    made = asked.text("quantise")
    quantise = None
    if made:
        quantise = Quantisation(
            program=asked.text("quantise_program"),
            type=made,
            fetched_path=asked.text("quantise_fetched_path"),
            sha256=asked.text("quantised_sha256") or None,
        )
    return Model(
        name=asked.name,
        path=path,
        kind="file" if path.endswith(FILE_SUFFIXES) else "directory",
        source=source,
        location=asked.text(location).rstrip("/") if location else "",
        revision=asked.text("revision") if source == "hub" else None,
        files=asked.wish.words(MODEL_PREFIX + "files") if source == "hub" else (),
        endpoint=asked.text("endpoint").rstrip("/") if source == "hub" else None,
        sha256=asked.text("sha256") or None,
        expected_bytes=row.weights_bytes if row else None,
        token_file=asked.text("token_file") or None,
        quantise=quantise,
    )


def _reasons(asked: _Asked, model: Model) -> list[Reason]:
    where = f"models.{model.name}"
    kinds = {
        "here": "it is on the host already; only looked at, never changed",
        "hub": "this commit of the repository; each file is proven by the hub's own checksum",
        "address": "one file, proven by the checksum of the wish",
        "store": "copied from the mounted store, so that the engine does not depend on it",
    }
    shown = f"{model.location}@{model.revision}" if model.revision else model.location or "here"
    rows = [("source", shown, kinds[model.source], asked.source(SOURCED[model.source]))]
    because = "where the wish wants it" if asked.text("path") else "where the instance of the same name looks for it"
    rows.append(("path", model.path, because, asked.place_source))
    if model.quantise:
        because = f"made by llama-quantize of {model.quantise.fetched_path}, fewer bits are read per token"
        rows.append(("quantise", model.quantise.type, because, asked.source("quantise")))
    return [
        reason(f"{where}.{name}", value, because, source, gain="none: it serves at all")
        for name, value, because, source in rows
    ]


def _problems(asked: _Asked) -> Iterator[Problem]:
    """What is wrong with one model's options."""
    source = asked.text("source")
    for option in sorted({o for options in READ_BY.values() for o in options} - set(READ_BY[source])):
        # A flat value may be meant for the other models.
        if option in asked.own or (asked.sets(option) and "source" not in asked.own):
            readers = " or ".join(name for name, options in READ_BY.items() if option in options)
            hint = f"{asked.path('source')}: {readers}, or leave it out"
            yield Problem(asked.path(option), f"is not read with source {source}", hint, "model-option")
    for option in REQUIRED[source]:
        if not asked.text(option):
            yield Problem(asked.path(option), f"is required with source {source}", "docs/options.md", "missing")
    for option, (form, wanted) in FORMS.items():
        found = asked.text(option)
        if found and not form.fullmatch(found):
            yield Problem(asked.path(option), f'found "{found}", wanted {wanted}', "copy it whole", "model-form")
    if asked.text("sha256") and not asked.fetched_place.endswith(FILE_SUFFIXES):
        found, hint = "is the checksum of one file, and the path is a directory", "leave it out"
        yield Problem(asked.path("sha256"), found, hint, "model-form")
    yield from _path_problems(asked)
    yield from _address_problems(asked)
    yield from _quantise_problems(asked)


def _path_problems(asked: _Asked) -> Iterator[Problem]:
    path = asked.place
    if not path:
        hint = "for example /srv/models/NAME, or name the model like the instance that serves it"
        yield Problem(asked.path("path"), f'is required for model "{asked.name}"', hint, "missing")
    options = {"path": path}
    options |= {o: asked.text(o) for o in ("store_path", "token_file", "quantise_fetched_path", "quantise_program")}
    for option, found in options.items():
        if found and not (found.startswith("/") and found.isprintable() and "/../" not in f"{found}/"):
            hint = "begin with /, for example /srv/models/NAME"
            yield Problem(asked.path(option), f'found "{found}", wanted an absolute path', hint, "model-form")
    if path.startswith(("/etc/", "/usr/", "/proc/", "/sys/", "/dev/", "/run/", "/boot/", "/tmp/")):
        found, hint = f'found "{path}", which is no place for models', "for example /srv/models/NAME"
        yield Problem(asked.path("path"), found, hint, "model-place")
    parts = gguf_parts(asked.place)
    if len(parts) > 1 and asked.text("source") != "here":
        hint = "a folder here, a pattern of all parts as files, and the first in it as inferhost_service_model_path"
        found = f'found "{path}", one of {len(parts)} parts, and a path that is a file brings that file alone'
        yield Problem(asked.path("path"), found, hint, "model-parts")
    patterns = asked.wish.words(MODEL_PREFIX + "files")
    is_file = asked.fetched_place.endswith(FILE_SUFFIXES)
    if asked.text("source") == "hub" and is_file and len(patterns) != 1:
        hint = "for example [model-Q4_K_M.gguf]; the path is a file"
        yield Problem(asked.path("files"), f"found {len(patterns)} files, wanted 1", hint, "model-files")


def _address_problems(asked: _Asked) -> Iterator[Problem]:
    """An address must be one, must carry no secret, and must not carry the token in the clear."""
    for option in ("address", "endpoint"):
        text = asked.text(option)
        if not text or option not in READ_BY[asked.text("source")]:
            continue
        where = asked.path(option)
        try:
            parts = urlsplit(text)
            host = parts.hostname or ""
        except ValueError:
            host = ""
        if not host or parts.scheme not in ("http", "https") or not text.isprintable() or " " in text:
            yield Problem(where, "is no address, wanted https://HOST/PATH", "as a browser shows it", "model-address")
            continue
        if parts.username or parts.password or any(names_a_secret(key) for key, _ in parse_qsl(parts.query)):
            hint = f"put it into a file and name that with {asked.path('token_file')}"
            yield Problem(where, "carries a secret, and the plan is no place for one", hint, "secret")
        elif parts.scheme == "http" and asked.text("token_file") and host not in ("127.0.0.1", "::1", "localhost"):
            hint = "use https://, or leave out the token"
            yield Problem(where, "would send the token in the clear", hint, "model-address")


def _quantise_problems(asked: _Asked) -> Iterator[Problem]:
    made, fetched = asked.text("quantise"), asked.text("quantise_fetched_path")
    if made and made not in QUANTISE_TYPES:
        hint = f"one of {', '.join(QUANTISE_TYPES)}"
        yield Problem(asked.path("quantise"), f'found "{made}", which llama-quantize does not make', hint, "quantise")
    for option in ("quantise_fetched_path", "quantised_sha256"):
        if not made and asked.text(option):
            hint = f"{asked.path('quantise')}: Q4_K_M, or leave it out"
            yield Problem(asked.path(option), "is for a model that is quantised", hint, "quantise")
    if made and not (fetched.endswith(".gguf") and asked.place.endswith(".gguf") and fetched != asked.place):
        hint = "for example /srv/models/NAME-F16.gguf beside /srv/models/NAME-Q4_K_M.gguf"
        found = f'found "{fetched}" and "{asked.place}", wanted two files that end in .gguf'
        yield Problem(asked.path("quantise_fetched_path"), found, hint, "quantise")


def _twice(models: list[Model]) -> Iterator[Problem]:
    """Two models in one place, or one inside the other."""
    places = sorted((path, m.name) for m in models for path in {m.path, m.fetched_path})
    for (path, name), (other, second) in itertools.pairwise(places):
        if path == other or (other.startswith(f"{path}/") and name != second):
            hint = "give each model a place of its own"
            yield Problem(f"{ITEMS}.{second}.path", f'"{other}" is the place of model "{name}"', hint, "model-place")
