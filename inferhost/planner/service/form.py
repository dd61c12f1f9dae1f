"""Whether the values of an instance have the right form, and which model they name.

Everything that can be told without an engine: missing and malformed values, an unknown model, a context longer than
the model was trained for. The last is refused, because an engine would cut it in silence; a default is shortened.
"""

from __future__ import annotations

import ipaddress
import re

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import ModelRow
from inferhost.planner.memory.weights import shape_problem
from inferhost.planner.nearby import near_models
from inferhost.planner.request import Instance
from inferhost.schema.parts import gguf_parts
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.wish import INSTANCE_PREFIX

USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
LAYERS = re.compile(r"[1-9][0-9]{0,3}")
HOST = re.compile(r"[A-Za-z0-9.:_-]+")

PRIVILEGED_PORT_MAX = 1023
"""Source: ip(7), net.ipv4.ip_unprivileged_port_start."""

REQUIRED = {
    "model": "docs/catalogue.md lists them",
    "model_path": "where the weights are on the host, for example /srv/models/NAME",
}
RANGES = (
    ("port", 0, 65535, "0 is the engine's usual port"),
    ("context_tokens", 1, 20_000_000, "8192 is the default"),
    ("max_sequences", 1, 4096, "8 is the default"),
    ("start_wait_s", 0, 86400, "0 is the default: computed from the weights"),
    ("upgrade_least_percent", 0, 10_000, "80 is the default, 0 takes a version however fast it is"),
)
"""Whole numbers: option, least, most, and what would work."""


def form_problems(instance: Instance) -> list[Problem]:
    """What is wrong with single values, whatever engine they are for."""
    problems = _place_problems(instance)
    for option, where in REQUIRED.items():
        if not instance.text(option):
            hint = f"{where}; without an engine, leave service out of inferhost_manage"
            problems.append(Problem(instance.path(option), "is required while service is managed", hint))
    for option in ("model_path", "engine_path", "api_key_file"):
        path = instance.text(option)
        if path and not (path.startswith("/") and path.isprintable()):
            hint = "begin with /, for example /srv/models/NAME, in characters that can be printed"
            problems.append(Problem(instance.path(option), f'found "{path}", wanted an absolute path', hint))
    first, *others = gguf_parts(instance.text("model_path"))
    if instance.text("model_path") in others:
        found = f'found "{instance.text("model_path")}", and an engine opens a model in parts by its first'
        problems.append(Problem(instance.path("model_path"), found, first, "model-part"))
    if not instance.text("served_model_name").isprintable():
        found, hint = "holds a character that cannot be printed", "leave it empty for the model's catalogue key"
        problems.append(Problem(instance.path("served_model_name"), found, hint))
    if not USER.fullmatch(instance.text("user")):
        hint = "lower-case letters, digits, - and _, at most 31, for example inferhost"
        problems.append(Problem(instance.path("user"), f'found "{instance.text("user")}", wanted a user name', hint))
    if instance.text("user") == "root":
        found, hint = (
            'found "root", wanted a user without privileges',
            "an engine reads strangers' input: inferhost is the default",
        )
        problems.append(Problem(instance.path("user"), found, hint, "user-root"))
    layers = instance.text("gpu_layers")
    if layers not in ("all", "auto") and not LAYERS.fullmatch(layers):
        found = f'found "{layers}", wanted all, auto or a number of layers'
        problems.append(Problem(instance.path("gpu_layers"), found, "all keeps the whole model on the card"))
    for option, least, most, hint in RANGES:
        number = instance.integer(option)
        if not least <= number <= most:
            problems.append(Problem(instance.path(option), f"found {number}, wanted {least} to {most}", hint))
    return problems


def _place_problems(instance: Instance) -> list[Problem]:
    """What is wrong with the address, the port, or who may reach them."""
    problems = []
    if not HOST.fullmatch(instance.text("host")):
        hint = "127.0.0.1 for this host alone, 0.0.0.0 for all its addresses"
        problems.append(Problem(instance.path("host"), f'found "{instance.text("host")}", wanted an address', hint))
    elif instance.wish.words(INSTANCE_PREFIX + "allow_from") and not _is_address(instance.text("host")):
        hint = "the address itself, 0.0.0.0 for all of them, or no inferhost_service_allow_from"
        found = f'found "{instance.text("host")}" beside allow_from, whose filter takes addresses alone'
        problems.append(Problem(instance.path("host"), found, hint))
    if 0 < instance.integer("port") <= PRIVILEGED_PORT_MAX:
        found = f"found {instance.integer('port')}, which an engine without privileges cannot listen on"
        hint = f"{PRIVILEGED_PORT_MAX + 1} or above; inferhost_balancer_port serves a lower one"
        problems.append(Problem(instance.path("port"), found, hint))
    return problems + [
        Problem(instance.path(f"allow_from[{n}]"), f'found "{text}", wanted an address or a network', "10.0.0.0/24")
        for n, text in enumerate(instance.wish.words(INSTANCE_PREFIX + "allow_from"))
        if not _is_network(text)
    ]


def _is_address(text: str) -> bool:
    return text == "localhost" or ("/" not in text and _is_network(text))


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def model_row(instance: Instance, catalogue: Catalogue) -> ModelRow:
    """The model, or `InputError` for one that is unknown, not understood, or asked for more context than it has."""
    key = instance.text("model")
    row = catalogue.models.get(key.lower())
    if row is None:
        hint = near_models(key.lower(), catalogue)
        found = f'found "{key}", which the catalogue does not know'
        raise InputError([Problem(instance.path("model"), found, hint, "unknown-model")])
    problem = shape_problem(row, instance.path("model"))
    longest, asked = row.context_max_tokens, instance.integer("context_tokens")
    if problem is None and longest is not None and asked > longest and instance.sets("context_tokens"):
        problem = Problem(
            instance.path("context_tokens"),
            f"found {asked}, {row.key} was trained for {longest}",
            f"at most {longest}",
            "context-above-training",
        )
    if problem:
        raise InputError([problem])
    return row


def context_tokens(instance: Instance, model: ModelRow) -> int:
    """The longest request: what is asked for; a default stops at what the model was trained for."""
    asked, longest = instance.integer("context_tokens"), model.context_max_tokens
    return asked if longest is None or instance.sets("context_tokens") else min(asked, longest)
