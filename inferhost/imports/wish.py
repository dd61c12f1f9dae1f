"""The wish that a launch amounts to: `inferhost_service_*` variables, as a person would have written them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, ModelRow
from inferhost.imports.judge import Finding, Kept, judged
from inferhost.imports.launch import Launch
from inferhost.planner.launch.flags import OPTION_OF
from inferhost.planner.nearby import near_models
from inferhost.schema.document import counted
from inferhost.schema.wish import options

PREFIX = "inferhost_service_"
MODELS = "/srv/models"
"""Where a model goes that so far was fetched by its name at each start."""
OWN_SEQUENCES: dict[str, int | str] = {
    "llama.cpp": 4,
    "vllm": "256, or 1024 on most cards from 70 GiB",
    "sglang": "as many as it sees room for on the card",
    "tabbyapi": "a number of its own",
    "sfllm": "a number of its own",
}
"""Requests at once where a launch says nothing. Source: llama.cpp: engines.md 5; vLLM: `memory.vllm_defaults`."""


def wished(launch: Launch, catalogue: Catalogue) -> tuple[list[Finding], dict[str, Any]]:
    """Every finding about a launch, and its wish without the prefix `inferhost_service_`."""
    engine = pinned(launch.engine, catalogue)
    findings, kept = judged(launch, engine, catalogue)
    wish: dict[str, Any] = {"engine": engine.engine}
    path = _engine_path(launch)
    if path:
        wish["engine_path"] = path
        if path != launch.program:
            because = f"assumed beside {launch.program}, which the launch names; a host without it is refused at once"
            findings.append(Finding("engine path", path, "kept", because, f"{PREFIX}engine_path"))
    wish.update(_model(launch, kept, findings, catalogue))
    wish.update(_address(launch, kept, engine, findings))
    wish.update(_sizes(kept, engine, catalogue.models.get(str(wish.get("model"))), findings))
    if launch.words and "max_sequences" not in wish:
        wish.update(_own_sequences(engine, findings))
    wish.update(_spread(kept))
    if launch.user and launch.user != "root":
        wish["user"] = launch.user
    elif launch.user == "root":
        because = "an engine reads strangers' input"
        findings.append(Finding("User", "root", "harmful", because, "a user of its own, which the plan makes"))
    if kept.extra_args:
        wish["extra_args"] = kept.extra_args
    if kept.env:
        wish["env"] = kept.env
    return [_settled(finding, launch, kept, engine, wish) for finding in findings], wish


def _settled(finding: Finding, launch: Launch, kept: Kept, engine: EngineRow, wish: dict[str, Any]) -> Finding:
    """A finding that names an option says the truth: the wish holds its value, or why it does not."""
    option, value = finding.option, finding.value
    if not option:
        return finding
    concept = next((c for c, v in kept.concepts.items() if OPTION_OF.get(c) == option and v == value), option)
    held = wish.get(option)
    if option == "host" and held is None:
        outside = "inside a container; outside its published port decides" if launch.contained else "the default"
        return dataclasses.replace(finding, because=f"not in the wish: {outside}")
    if option == "gpu_layers":
        why = f"the plan chooses them: {held}" if held == "auto" else "every layer on the card is the default"
        return finding if str(held) == value else _left(finding, why)
    if concept == "pool_tokens" and kept.concepts.get("context_tokens", "").isdigit():
        return _left(finding, "not in the wish: the plan sizes the pool for its requests")
    if option == "kv_cache_dtype" and value in ("auto", "f16"):
        return _left(finding, "not in the wish: it is the default")
    if option == "kv_cache_dtype" and value != kept.concepts.get("kv_cache_dtype", value):
        because = "not in the wish: K and V have one type there, that of K"
        return dataclasses.replace(finding, verdict="harmful", because=because)
    if held is not None:
        return finding
    known = f", which knows {', '.join(sorted(engine.kv_cache))}" if option == "kv_cache_dtype" else ""
    because = f"no value of {PREFIX}{option}{known}, so it is not in the wish"
    return dataclasses.replace(finding, verdict="harmful", because=because, instead=f"{PREFIX}{option} by hand")


def _left(finding: Finding, because: str) -> Finding:
    return dataclasses.replace(finding, because=because, instead="")


def pinned(engine: str, catalogue: Catalogue) -> EngineRow:
    """The version of an engine that the catalogue was read for."""
    return next(row for row in catalogue.engines.values() if row.engine == engine and row.pinned)


def model_key(name: str, catalogue: Catalogue) -> str:
    """The catalogue's key for a path or a Hugging Face name; the plain name where the catalogue has none."""
    base = name.rstrip("/").rpartition("/")[2].removesuffix(".gguf").lower()
    base = re.sub(r"\.(i?q\d|f16|f32|bf16)", r"-\1", base)
    by_name = {row.name.rpartition("/")[2].lower(): key for key, row in catalogue.models.items()}
    return base if base in catalogue.models else by_name.get(base, base)


def _model(launch: Launch, kept: Kept, findings: list[Finding], catalogue: Catalogue) -> dict[str, str]:
    name = kept.concepts.get("model_path", "")
    directory = kept.concepts.get("model_directory", "")
    if not name:
        if launch.program:
            findings.append(
                Finding("model", "", "fatal", "the launch names no model", f"{PREFIX}model and _model_path")
            )
        return {}
    found = f"{directory.rstrip('/')}/{name}" if directory and not name.startswith("/") else name
    key = model_key(found, catalogue)
    if key not in catalogue.models:
        because = (
            f"the catalogue has no such model, and no plan is made without its shape; {near_models(key, catalogue)}"
        )
        hint = f"put what `inferhost model {found}` prints into inferhost/catalogue/models.json, or name a known one"
        findings.append(Finding(f"{PREFIX}model", key, "fatal", because, hint))
    inside = next((v for v in launch.volumes if found.startswith(f"{v.rstrip('/')}/") or found == v), None)
    for target, host in launch.volumes.items():
        held = "the model's path in the wish is that of the host" if target == inside else "the engine sees the host"
        verdict = "kept" if target == inside else "placebo"
        because = held if target == inside else f"not in the wish: {held} itself, and the plan places its caches"
        findings.append(Finding("volume", f"{host}:{target}", verdict, because))
    if inside is not None:
        found = launch.volumes[inside].rstrip("/") + found[len(inside.rstrip("/")) :]
    if not found.startswith(("/", "$", "~")):
        local = found.endswith(".gguf") or found.startswith((".", "models/")) or found.count("/") > 1
        if local and launch.directory.startswith("/"):
            found = f"{launch.directory.rstrip('/')}/{found.removeprefix('./')}"
        else:
            found = f"{MODELS}/{name.rstrip('/').rpartition('/')[2]}"
            at = "fetched by its name at each start" if inside is None else f"in the volume {launch.volumes[inside]}"
            because = f"so far {at}; the plan serves from a folder"
            findings.append(Finding("model path", name, "renamed", because, f"copy or download it to {found} first"))
    return {"model": key, "model_path": found}


def _address(launch: Launch, kept: Kept, engine: EngineRow, findings: list[Finding]) -> dict[str, Any]:
    """Where clients reach it; a port that a container publishes everywhere is told, for the wish keeps it local."""
    found: dict[str, Any] = {}
    if kept.concepts.get("served_model_name"):
        found["served_model_name"] = kept.concepts["served_model_name"]
    host = engine.fixed_host or ("127.0.0.1" if launch.contained else kept.concepts.get("host"))
    if host and host != "127.0.0.1":
        found["host"] = host
    port = launch.port or kept.concepts.get("port", "")
    if launch.published_on not in ("", "127.0.0.1", "[::1]", "localhost"):
        because = "published to whoever reaches the machine; the wish serves this machine alone"
        instead = f"{PREFIX}host: {launch.published_on} keeps it open; a proxy or a firewall in front is better"
        findings.append(Finding("ports", f"{launch.published_on}:{port}", "harmful", because, instead))
    if port.isdigit():
        found["port"] = int(port)
    return found


def _sizes(kept: Kept, engine: EngineRow, model: ModelRow | None, findings: list[Finding]) -> dict[str, Any]:
    """Lengths and numbers of requests; a pool that several share is divided as the engine would."""
    found: dict[str, Any] = {}
    numbers = {c: n for c, v in kept.concepts.items() if (n := _count(v, engine)) is not None}
    sequences = numbers.get("max_sequences")
    layers = numbers.get("gpu_layers")
    if layers is not None and (model is None or layers <= model.layers):
        found["gpu_layers"] = str(layers)
    if (
        kept.concepts.get("gpu_layers") == "auto"
        or "cpu_experts" in kept.concepts
        or "cpu_expert_layers" in kept.concepts
    ):
        found["gpu_layers"] = "auto"
    if "context_tokens" in numbers:
        found["context_tokens"] = numbers["context_tokens"]
    elif numbers.get("pool_tokens"):
        unified = "--kv-unified" in kept.uncounted
        found["context_tokens"] = numbers["pool_tokens"] // (sequences if sequences and not unified else 1)
        sharing = sequences or OWN_SEQUENCES.get(engine.engine)
        if isinstance(sharing, int) and found["context_tokens"] != numbers["pool_tokens"]:
            because = f"{counted(sharing, 'request')} at once share it: {found['context_tokens']} tokens each"
            findings.append(Finding("context", str(numbers["pool_tokens"]), "kept", because))
    if sequences:
        found["max_sequences"] = sequences
    dtype = kept.concepts.get("kv_cache_dtype", kept.concepts.get("kv_cache_dtype_v"))
    option = next((o for o, f in engine.kv_cache.items() if dtype in (o, f.argument)), None)
    if option not in (None, "auto"):
        found["kv_cache_dtype"] = option
    return found


def _own_sequences(engine: EngineRow, findings: list[Finding]) -> dict[str, int]:
    """What an engine takes where the launch leaves the number of requests to it, if that is one number."""
    own, option = OWN_SEQUENCES[engine.engine], f"{PREFIX}max_sequences"
    if isinstance(own, int):
        because = f"the launch leaves it to {engine.engine}, whose default this is"
        findings.append(Finding("requests at once", str(own), "kept", because, option))
        return {"max_sequences": own}
    because = f"the launch leaves it to {engine.engine}, which takes {own}; not in the wish, whose default is "
    because += str(options()[option]["default"])
    findings.append(Finding("requests at once", "", "placebo", because, f"{option} for another number"))
    return {}


def _spread(kept: Kept) -> dict[str, Any]:
    """Over how many cards, and which: the plan names the first ones itself."""
    found: dict[str, Any] = {}
    size = kept.concepts.get("tensor_parallel_size", "")
    if size.isdigit() and int(size):
        found["tensor_parallel_size"] = int(size)
    if kept.cards:
        found["gpus"] = kept.cards
    return found


def _count(text: str, engine: EngineRow) -> int | None:
    """A whole number; vLLM's `8k` are 8,000 and its `8K` 8,192. Nothing where the engine chooses (`auto`, -1, 0)."""
    if text.isdigit():
        return int(text) or None
    sized = re.fullmatch(r"(\d+)([kKmM])", text)
    if sized is None or engine.engine != "vllm":
        return None
    return int(sized[1]) * {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}[sized[2]]


def _engine_path(launch: Launch) -> str:
    """The engine's own executable beside the interpreter that was used, where the launch says where that lies."""
    folder, _, name = launch.program.rpartition("/")
    if not folder.startswith("/") or launch.contained or launch.engine in ("tabbyapi", "sfllm"):
        return ""
    return f"{folder}/{launch.engine}" if name.startswith("python") else launch.program
