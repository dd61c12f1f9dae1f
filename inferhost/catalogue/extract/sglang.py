"""SGLang: one annotated field per flag in `sglang/srt/arg_groups/fields`, and a few registered by hand.

The rules from a field to argparse's keywords are those of `add_cli_args_from_dataclass` in its `arg_utils.py`.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator
from typing import Any

from inferhost.catalogue.extract.entries import (
    TYPES,
    Flag,
    Interface,
    Variable,
    both_ways,
    choice_words,
    flag_of_call,
    nargs_word,
    replacement_in,
)
from inferhost.catalogue.extract.environment import merged, read_in_python
from inferhost.catalogue.extract.python_source import Found, Module, Package, called_name, calls, function

SERVER_ARGS, ENVIRON, SERVE = "sglang.srt.server_args", "sglang.srt.environ", "sglang.cli.serve"
PREFIXES = ("SGLANG_", "SGL_")


def interface(sources: list[pathlib.Path]) -> Interface:
    """What `sglang serve` reads; the source is the unpacked wheel."""
    package = Package(sources[0])
    module, environ = package.module(SERVER_ARGS), package.module(ENVIRON)
    if module is None or environ is None:
        raise FileNotFoundError(f"{sources[0]} has no {SERVER_ARGS}: give the folder that holds sglang/")
    flags = [*_fields(package, module), *_registered(package, module), *_before_argparse(package)]
    variables = merged(_deprecated(environ), _declared(environ), read_in_python(package, "sglang", *PREFIXES))
    return Interface(tuple(flags), tuple(variables))


def _fields(package: Package, module: Module) -> Iterator[Flag]:
    """The fields of the namespaces that `server_args.py` lists, those without metadata left out."""
    namespaces = getattr(module.names.get("_INPUT_NAMESPACES"), "value", None)
    classes = [package.find(module, called_name(item)) for item in namespaces.elts] if namespaces else []
    own = [Found(module, n) for n in module.tree.body if isinstance(n, ast.ClassDef) and n.name == "ServerArgs"]
    for found in [*classes, *own]:
        for name, (where, node) in package.fields(found).items() if found else ():
            flag = _field(package, where, name, node)
            if flag is not None:
                yield flag


def _field(package: Package, module: Module, name: str, node: ast.AnnAssign) -> Flag | None:
    hint = node.annotation
    if not isinstance(hint, ast.Subscript) or not isinstance(hint.slice, ast.Tuple):
        return None
    metadata = hint.slice.elts[1:]
    arg = next((m for m in metadata if isinstance(m, ast.Call) and called_name(m) == "Arg"), None)
    given = {keyword.arg: keyword.value for keyword in arg.keywords if keyword.arg} if arg is not None else {}
    if arg is None and not any(isinstance(package.value(module, m), str) for m in metadata):
        return None
    if "no_cli" in given:
        return None
    first = package.value(module, given["cli_name"]) if "cli_name" in given else f"--{name.replace('_', '-')}"
    names = (first, *(package.value(module, given["aliases"]) if "aliases" in given else ()))
    text = package.value(module, given["help"] if "help" in given else metadata[0])
    status: dict[str, Any] = {}
    if isinstance(text, str) and "deprecated" in text.lower()[:14]:
        status = {"status": "deprecated", "replacement": replacement_in(text, names)}
    known = _keywords(package, module, hint.slice.elts[0], given)
    if known.pop("both_ways", False):
        names = both_ways(names)
    return Flag(names, module.at(node), **known, **status)


def _keywords(package: Package, module: Module, hint: ast.expr, given: dict[str, ast.expr]) -> dict[str, Any]:
    """What a field's hint and metadata make of its flag, in the order of SGLang's own tests."""
    if called_name(given.get("action", ast.Name(""))) == "BooleanOptionalAction":
        return {"takes": "no", "both_ways": True}
    parser = called_name(given["type_parser"]) if "type_parser" in given else None
    nargs = nargs_word(package.value(module, given["nargs"])) if "nargs" in given else None
    known: dict[str, Any] = (
        {"choices": choice_words(package.value(module, given["choices"]))} if "choices" in given else {}
    )
    members = [member for member in package.hints(module, hint) if member.kind != "None"]
    kind = members[0].kind if len(members) == 1 else "str"
    if "action" in given:
        extra = given.get("action_kwargs")
        inner = dict(zip(extra.keys, extra.values, strict=True)) if isinstance(extra, ast.Dict) else {}
        word = next(
            (
                package.value(module, v)
                for k, v in inner.items()
                if isinstance(k, ast.Constant) and k.value == "nargs"
            ),
            None,
        )
        return known | {"takes": nargs or nargs_word(word)}
    if kind == "Literal":
        values = members[0].values
        own = choice_words(list(values)) if values else None
        return {"choices": own, "type": TYPES.get(type(values[0]).__name__) if values else None} | known
    if kind == "list" and parser is None:
        items = members[0].items
        return known | {"takes": nargs or "several", "type": TYPES.get(items[0].kind) if items else None}
    if kind == "bool":
        return known | {"takes": "no"}
    kinds = {"loads": "json", "json_list_type": "json", "human_readable_int": "size"}
    return known | {"takes": nargs or "one", "type": kinds.get(parser) if parser else TYPES.get(kind)}


def _registered(package: Package, module: Module) -> Iterator[Flag]:
    for node in function(module.tree, "add_cli_args"):
        yield from (flag_of_call(package, module, call) for call in calls(node, "add_argument"))


def _before_argparse(package: Package) -> Iterator[Flag]:
    """`--model-type`, which `sglang serve` takes out of the command line itself."""
    module = package.module(SERVE)
    for node in function(module.tree, "_extract_model_type_override") if module is not None else ():
        for part in ast.walk(node):
            if module and isinstance(part, ast.Compare) and isinstance(part.comparators[0], ast.Constant):
                yield Flag((str(part.comparators[0].value),), module.at(part))


def _declared(module: Module) -> list[Variable]:
    """The attributes of the class `Envs`; the name is the attribute's."""
    node = module.names.get("Envs")
    found = []
    for part in node.body if isinstance(node, ast.ClassDef) else ():
        target = part.targets[0] if isinstance(part, ast.Assign) else getattr(part, "target", None)
        if isinstance(target, ast.Name) and target.id.startswith(PREFIXES) and isinstance(part, ast.Assign):
            keywords = part.value.keywords if isinstance(part.value, ast.Call) else []
            secret = any(k.arg == "secret" and getattr(k.value, "value", False) for k in keywords)
            found.append(Variable(target.id, module.at(part), secret=secret))
    return found


def _deprecated(module: Module) -> list[Variable]:
    """The keys of `_DEPRECATED_ENVS`, with what their note names instead."""
    node = getattr(module.names.get("_DEPRECATED_ENVS"), "value", None)
    found = []
    for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
        if not isinstance(key, ast.Constant) or not isinstance(value, ast.Call):
            continue
        words = {k.arg: ast.literal_eval(k.value) for k in value.keywords if k.arg in ("note", "replacement")}
        note = str(words.get("note", ""))
        instead = words.get("replacement") or replacement_in(note)
        found.append(
            Variable(str(key.value), module.at(key), "removed", instead or f"nothing: {note or 'it was removed'}")
        )
    return found
