"""CloudLab's manifest as an inventory: `inferhost cloudlab MANIFEST.xml`.

A manifest (GENI rspec version 3) names each node of an experiment with its logins. What it says goes into a file that
ssh reads later, so a name that is more than a name is refused, as is any document type: entities are never expanded.
"""

from __future__ import annotations

import argparse
import pathlib
import re
from typing import Any
from xml.parsers import expat

import yaml

from inferhost.schema.problems import InputError, Problem

LARGEST_BYTES = 4_000_000  # a manifest of a hundred nodes is far below one megabyte
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
USER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
HOST_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")


def add_command(commands: Any) -> None:
    """The command's grammar."""
    command = commands.add_parser("cloudlab", help="print hosts.yml for the nodes of a CloudLab manifest")
    command.add_argument("manifest", type=pathlib.Path, metavar="MANIFEST.xml")
    command.add_argument("--user", help="your CloudLab name, where several people may log in")
    command.set_defaults(run=run_cloudlab)


def run_cloudlab(options: argparse.Namespace) -> str:
    """`hosts.yml` for the manifest in a file."""
    try:
        manifest = options.manifest.read_bytes()
    except OSError as error:
        raise InputError([Problem(str(options.manifest), f"{error.strerror}, wanted a manifest")]) from error
    return inventory(manifest, options.user)


class _Reader:
    """Collects, per node, its name, hardware type and logins; everything else of the manifest is passed over."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.node: dict[str, Any] | None = None
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler = self.begin
        self.parser.EndElementHandler = self.end
        self.parser.StartDoctypeDeclHandler = self.refuse

    def refuse(self, *_: object) -> None:
        raise InputError([Problem("manifest", "found a document type, wanted plain elements")])

    def begin(self, qualified: str, attributes: dict[str, str]) -> None:
        name = qualified.rpartition(" ")[2]
        if name == "node":
            self.node = {"name": attributes.get("client_id", ""), "type": "", "logins": []}
        elif self.node is None:
            return
        elif name == "vnode" and "hardware_type" in attributes:  # what was given, not what was asked for
            self.node["type"] = attributes["hardware_type"]
        elif name == "login":
            self.node["logins"].append(attributes)

    def end(self, qualified: str) -> None:
        if qualified.rpartition(" ")[2] == "node" and self.node is not None:
            self.nodes.append(self.node)
            self.node = None


def inventory(manifest: bytes, user: str | None = None) -> str:
    """`hosts.yml` of the nodes in the manifest; `InputError` with all problems of all nodes.

    Where several people may log in, `user` says who: the first one's name may be somebody else's.
    """
    reader = _Reader()
    if len(manifest) > LARGEST_BYTES:
        raise InputError([Problem("manifest", f"found {len(manifest)} bytes, wanted {LARGEST_BYTES} at most")])
    try:
        reader.parser.Parse(manifest, True)
    except expat.ExpatError as error:
        raise InputError([Problem("manifest", f"is no XML: {error}")]) from error
    if not reader.nodes:
        hint = 'save the "Manifest" tab of the experiment, not its "Topology View" or its request'
        raise InputError([Problem("manifest", "found no node", hint)])
    problems: list[Problem] = []
    hosts: dict[str, dict[str, Any]] = {}
    types: list[str] = []
    for number, node in enumerate(reader.nodes):
        place = f"manifest.node[{number}]"
        found = _host(node, user, place, problems)
        if node["name"] in hosts:
            problems.append(Problem(f"{place}.client_id", f'found "{node["name"]}" twice, wanted one name per node'))
        hosts[node["name"]] = found
        types.append(node["type"])
    if problems:
        raise InputError(problems)
    return _text(hosts, types)


def _host(node: dict[str, Any], user: str | None, place: str, problems: list[Problem]) -> dict[str, Any]:
    """The Ansible variables of one node; what is wrong with it goes into `problems`."""
    logins = node["logins"]
    users = sorted({login.get("username", "") for login in logins})
    chosen = [login for login in logins if user is None or login.get("username") == user]
    if not HOST_KEY.fullmatch(node["name"]):
        problems.append(Problem(f"{place}.client_id", f'found "{node["name"]}", wanted letters, digits, "_" and "-"'))
    if not chosen:
        hint = f"--user takes one of: {', '.join(users)}" if users else "a node gets logins once it has started"
        problems.append(Problem(f"{place}.login", "found none" + (f" of {user}" if user else ""), hint))
        return {}
    if user is None and len(users) > 1:
        hint = f"--user takes one of: {', '.join(users)}"
        problems.append(Problem(f"{place}.login", f"found {len(users)} people, wanted to know who you are", hint))
        return {}
    login = chosen[0]
    host, name, port = (login.get(key, "") for key in ("hostname", "username", "port"))
    if not HOST_NAME.fullmatch(host):
        problems.append(Problem(f"{place}.login.hostname", f'found "{host}", wanted a host name'))
    if not USER_NAME.fullmatch(name):
        problems.append(Problem(f"{place}.login.username", f'found "{name}", wanted a user name'))
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        problems.append(Problem(f"{place}.login.port", f'found "{port}", wanted 1 to 65535'))
        return {}
    own_port = {} if int(port) == 22 else {"ansible_port": int(port)}
    return {"ansible_host": host, **own_port, "ansible_user": name}


def _text(hosts: dict[str, dict[str, Any]], types: list[str]) -> str:
    kinds = ", ".join(sorted({kind for kind in types if HOST_KEY.fullmatch(kind)})) or "unknown"
    document = yaml.safe_dump({"cloudlab": {"hosts": hosts}}, sort_keys=False)
    return (
        "---\n"
        f"# The nodes of one CloudLab experiment (hardware type: {kinds}), from its manifest.\n"
        "# What a node is made of goes into host_vars/NODE/hardware.yml, what it shall be into wish.yml beside it.\n"
        f"{document}"
    )
