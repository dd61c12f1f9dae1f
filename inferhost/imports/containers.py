"""Reads what starts an engine in a container: Compose files, Kubernetes manifests, Dockerfiles and `docker run`.

The plan runs the engine on the host itself, so ports and paths are those of the host: a published port replaces the
one inside, and a path below a volume is found again on the other side of it.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from inferhost.imports.launch import (
    Launch,
    Mistake,
    Source,
    engine_of_name,
    read_environment_file,
    recognised,
    wrong_module,
)
from inferhost.schema.problems import InputError, Problem

INTERPOLATED = re.compile(r"\$\{([A-Za-z_]\w*)(?::?-([^}]*))?\}")
RUN_SWITCHES = re.compile(
    r"-[ditP]+|--(detach|rm|interactive|tty|privileged|init|read-only|publish-all|no-healthcheck|oom-kill-disable|quiet)"
)
"""Options of `docker run` that take no value. Source: docker run reference."""
READ_OPTIONS = (*("-e", "--env", "-v", "--volume", "-p", "--publish"), "--entrypoint", "--gpus")
READ_KEYS = ("image", "command", "entrypoint", "environment", "env_file", "ports", "volumes", "deploy", "gpus")
"""What is read of `docker run` and of a Compose service; everything else is told as left out."""


def read_compose(text: str, name: str, read: Callable[[str], str | None], directory: str = "") -> Source:
    """The launches of a Compose file, one per service whose command, image or name tells its engine.

    `directory` is where the file lies: volumes are written from there.
    """
    document = _yaml(text, name)
    services = document.get("services")
    if not isinstance(services, dict):
        raise InputError([Problem(name, "has no services", "name a Compose file", "import")])
    launches: list[Launch] = []
    mistakes: list[Mistake] = []
    for service, content in services.items():
        if isinstance(content, dict):
            place = f"{name}: services.{service}"
            env = _compose_environment(content, place, mistakes)
            for file in _list(content.get("env_file")):
                path = file.get("path", "") if isinstance(file, dict) else str(file)
                env = {**read_environment_file(read(path) or ""), **env}
            mistakes += _device_mistakes(content, place)
            launches += _contained(
                _words(content.get("entrypoint")) + _words(content.get("command")),
                f"{content.get('image', '')} {service}",
                place,
                env=env,
                ports=[str(p) for p in _list(content.get("ports"))],
                volumes=[_volume(v) for v in _list(content.get("volumes"))],
                devices=_devices_of(content),
                directory=directory,
                container={k: str(v) for k, v in content.items() if k not in READ_KEYS},
            )
    return Source(tuple(launches), tuple(mistakes))


def read_manifest(text: str, name: str) -> Source:
    """The launches of Kubernetes manifests: containers of pods and of templates of pods."""
    launches: list[Launch] = []
    for document in _documents(text, name):
        for container in _containers(document):
            env = {
                str(e["name"]): str(e.get("value", ""))
                for e in _list(container.get("env"))
                if isinstance(e, dict) and "name" in e
            }
            launches += _contained(
                [str(w) for w in [*_list(container.get("command")), *_list(container.get("args"))]],
                f"{container.get('image', '')} {container.get('name', '')}",
                f"{name}: container {container.get('name', '')}",
                env=env,
                ports=[],
                volumes=[],
            )
    return Source(tuple(launches))


def read_dockerfile(text: str, name: str) -> Source:
    """The variables and the command of a Dockerfile."""
    env: dict[str, str] = {}
    mistakes: list[Mistake] = []
    words: list[str] = []
    image = name
    for number, line in enumerate(re.sub(r"\\\n", " ", text).splitlines(), 1):
        keyword, _, rest = line.strip().partition(" ")
        if keyword.upper() == "ENV":
            pairs, comment = _env_line(rest)
            env.update(pairs)
            if comment:
                because = "a Dockerfile has no comments behind a value: the build stops at it"
                mistakes.append(Mistake(f"{name}:{number}", "fatal", comment, because, "a line of its own"))
        elif keyword.upper() == "FROM":
            image = f"{rest} {image}"
        elif keyword.upper() in ("CMD", "ENTRYPOINT"):
            words = [*(words if keyword.upper() == "CMD" else ()), *_words(_json_or_text(rest))]
    found = _contained(words, image, name, env=env, ports=[], volumes=[])
    return Source(tuple(found), tuple(mistakes), {} if found else env)


def read_docker_run(words: Sequence[str], place: str, directory: str = "") -> Launch | None:
    """The launch behind `docker run`, from the words after `run`."""
    options: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option, joined, value = rest.pop(0).partition("=")
        if not joined and not RUN_SWITCHES.fullmatch(option) and rest:
            value = rest.pop(0)
        options.setdefault(option, []).append(value)
    if not rest:
        return None
    env = dict(v.partition("=")[::2] for o in ("-e", "--env") for v in options.get(o, []) if "=" in v)
    volumes = [v for o in ("-v", "--volume") for v in options.get(o, [])]
    ports = [v for o in ("-p", "--publish") for v in options.get(o, [])]
    command = [*options.get("--entrypoint", []), *rest[1:]]
    asked = "".join(options.get("--gpus", [])[-1:]).strip("\"'")
    found = _contained(
        command,
        rest[0],
        place,
        env=env,
        ports=ports,
        volumes=volumes,
        devices=asked.removeprefix("device=") if asked.startswith("device=") else _first_cards(asked),
        directory=directory,
        container={o: " ".join(v) for o, v in options.items() if o not in READ_OPTIONS and any(v)},
    )
    return next(iter(found), None)


def _contained(
    words: Sequence[str],
    image: str,
    place: str,
    *,
    env: dict[str, str],
    ports: Sequence[str],
    volumes: Sequence[str],
    devices: str = "",
    directory: str = "",
    container: dict[str, str] | None = None,
) -> list[Launch]:
    """The launch in a container: by its program, else by what the image or the service is called."""
    found = recognised(words, place) if words else None
    engine = found.engine if found else engine_of_name(image)
    if engine is None or wrong_module(words):
        return []
    launch = found or Launch(place, engine, "", tuple(w for w in words if w != "serve"))
    mapped = dict(_host_and_inside(v, directory) for v in volumes if v.count(":"))
    published = [port.split(":") for port in ports]
    reached = next((p for p in published if len(p) > 1), ["", ""])
    address = ":".join(reached[:-2]) or ("0.0.0.0" if reached[-2] else "127.0.0.1")
    return [
        dataclasses.replace(
            launch,
            program="",
            env={**env, **launch.env},
            port=reached[-2],
            published_on=address,
            volumes=mapped,
            contained=True,
            devices=devices,
            container=container or {},
        )
    ]


def _host_and_inside(volume: str, directory: str) -> tuple[str, str]:
    """Path in the container and path on the host; what begins with a dot is written from `directory`."""
    host, inside = volume.split(":")[:2]
    return inside, posixpath.normpath(f"{directory}/{host}") if host.startswith(".") and directory else host


def _volume(given: Any) -> str:
    """A volume of a Compose service in its short form."""
    return f"{given.get('source', '')}:{given.get('target', '')}" if isinstance(given, dict) else _interpolated(given)


def _first_cards(number: str) -> str:
    """The cards that a number of them means, which are the first ones; -1 are all."""
    if re.fullmatch(r"\d{1,3}", number):
        return ",".join(str(card) for card in range(int(number)))
    return "all" if number == "-1" else number


def _compose_environment(content: Mapping[str, Any], place: str, mistakes: list[Mistake]) -> dict[str, str]:
    """Map form and list form; in the list form quotation marks belong to the value."""
    given = content.get("environment")
    if isinstance(given, dict):
        return {str(k): _interpolated(v) for k, v in given.items() if v is not None}
    found: dict[str, str] = {}
    for item in _list(given):
        name, sign, value = str(item).partition("=")
        if not sign:
            continue
        value = _interpolated(value)
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            because = "in the list form the quotation marks become part of the value"
            mistakes.append(Mistake(place, "harmful", str(item), because, f"{name}: {value} in the map form"))
            value = value[1:-1]
        found[name] = value
    return found


def _devices(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a service asks of the device driver."""
    resources = (content.get("deploy") or {}).get("resources") or {}
    return [d for d in _list((resources.get("reservations") or {}).get("devices")) if isinstance(d, dict)]


def _devices_of(content: Mapping[str, Any]) -> str:
    """The cards that a service names, else the first ones where it wants a number of them."""
    named = [str(one) for device in _devices(content) for one in _list(device.get("device_ids"))]
    asked = [content.get("gpus"), *(device.get("count") for device in _devices(content))]
    return ",".join(named) or next((_first_cards(str(one)) for one in asked if isinstance(one, int | str)), "")


def _device_mistakes(content: Mapping[str, Any], place: str) -> Iterator[Mistake]:
    """Requests to the device driver that it does not know."""
    for device in _devices(content):
        for option in _list(device.get("options")):
            because = "the nvidia device driver has no such option; the compute mode is a setting of the card"
            yield Mistake(place, "placebo", f"options: {option}", because, "nvidia-smi -c on the host, if at all")


def _env_line(rest: str) -> tuple[dict[str, str], str]:
    """The pairs of one ENV line and a comment behind them, which Docker takes for a pair."""
    head, sign, comment = re.sub(r"[ \t]+#", "\0#", rest, count=1).partition("\0")
    if "=" not in head.split(" ")[0]:
        name, _, value = head.strip().partition(" ")
        return {name: value.strip()}, ""
    pairs = (word.partition("=") for word in shlex.split(head))
    return {name: value for name, equals, value in pairs if equals}, comment if sign else ""


def _containers(document: Any) -> Iterator[dict[str, Any]]:
    """Every container of a manifest, however deep its pod template lies."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "containers":
                yield from (c for c in _list(value) if isinstance(c, dict))
            else:
                yield from _containers(value)
    elif isinstance(document, list):
        for item in document:
            yield from _containers(item)


def _words(command: Any) -> list[str]:
    if isinstance(command, str):
        return shlex.split(_interpolated(command))
    return [_interpolated(word) for word in _list(command)]


def _json_or_text(text: str) -> Any:
    """A Dockerfile's command: a JSON list is the exec form, anything else text for a shell."""
    if not text.strip().startswith("["):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _interpolated(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return INTERPOLATED.sub(lambda m: m[0] if m[2] is None else m[2], text)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _yaml(text: str, name: str) -> dict[str, Any]:
    found = next(iter(_documents(text, name)), None)
    return found if isinstance(found, dict) else {}


def _documents(text: str, name: str) -> list[Any]:
    try:
        return list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise InputError([Problem(name, f"is not YAML: {error}", "", "import")]) from error
