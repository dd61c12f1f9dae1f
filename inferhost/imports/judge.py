"""What becomes of each flag and variable of a launch, by the catalogue and the planner's own rules.

`kept` stands in the wish, under an option of its own where there is one; everything else is left out or replaced,
with the reason. The planner judges what the wish then holds once more, so that both can never disagree on a name.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import EngineRow, EnvironmentRow, FlagRow, ValueRow
from inferhost.imports.launch import Launch
from inferhost.planner.launch.arguments import flag_problem
from inferhost.planner.launch.environment import variable_problem
from inferhost.planner.launch.flag_values import value_problem
from inferhost.planner.launch.flags import OPTION_OF, Given, concept_of, given_flags
from inferhost.planner.launch.secret_names import names_a_secret
from inferhost.planner.launch.uncounted import uncounted_flag
from inferhost.planner.reasons import instead
from inferhost.planner.request import Instance, Request
from inferhost.schema.document import counted
from inferhost.schema.hardware import Hardware, HardwareCpu
from inferhost.schema.wish import read_wish

VERDICTS = ("fatal", "harmful", "renamed", "placebo", "kept")
HIDDEN = "(hidden)"
MODEL_FLAGS = ("--model", "--model-path", "-m")
SURROUNDINGS = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "LANG", "TERM", "VIRTUAL_ENV", "HOSTNAME", "SHLVL")
"""Variables that a shell or a unit has of its own."""
OF_A_CONTAINER = "it belongs to the container, and the wish starts the engine on the host"
MEMORY_OF_A_CONTAINER = "the engine runs on the host and has its shared memory whole"
ABOUT_CONTAINERS = {
    "ipc": MEMORY_OF_A_CONTAINER,
    "shm-size": MEMORY_OF_A_CONTAINER,
    "restart": "the plan's unit starts the engine again itself",
    "env-file": "its variables were not read; inferhost_service_env holds them",
    "network": "the engine listens on the host; inferhost_service_host and _port say where",
    "network-mode": "the engine listens on the host; inferhost_service_host and _port say where",
}
"""Why a setting of a container is left out, by its name in Compose or in `docker run`."""
STOPS = frozenset({"sglang", "vllm", "llama.cpp", "tabbyapi", "sfllm"})
"""Engines that end at an option which they do not know. Source: engines.md 4, row "bad option"."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One flag or variable: its verdict, why, and what to use.

    `option` is the option of the wish that is to hold it: `wish` says in the end whether it does.
    """

    name: str
    value: str
    verdict: str
    because: str
    instead: str = ""
    source: str = ""
    option: str = ""


@dataclasses.dataclass
class Kept:
    """What the wish takes over, in the planner's words."""

    concepts: dict[str, str] = dataclasses.field(default_factory=dict)
    extra_args: list[str] = dataclasses.field(default_factory=list)
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    cards: list[str] = dataclasses.field(default_factory=list)
    flags: set[str] = dataclasses.field(default_factory=set)  # keys of rows that a launch names, or that replace one
    uncounted: list[str] = dataclasses.field(default_factory=list)
    """Flags that are left behind, because the budget does not count them."""


def judged(launch: Launch, engine: EngineRow, catalogue: Catalogue) -> tuple[list[Finding], Kept]:
    """A finding per flag and variable in their order, and what the wish takes over."""
    kept = Kept()
    request, instance = _blank()
    findings = []
    words, env, translated = _variables_as_flags(launch, engine, catalogue)
    given = given_flags(words, engine, catalogue)
    for word in words[: given[0].number] if given else words:
        findings.append(
            Finding(word, "", "fatal", f"{engine.engine} takes no word in front of its flags", "remove it")
        )
    both = {"memory_fraction", "batched_tokens"} <= {concept_of(one.row, engine) for one in given}
    pair = both and engine.memory_rule == "sglang"  # whose fraction leaves the room for a chunk outside
    kept.flags.update(one.row.key for one in given if one.row is not None)
    for number, one in enumerate(given):
        again = one.row is not None and not one.key and any(one.row is other.row for other in given[number + 1 :])
        if again and not names_a_secret(one.name):
            because = "is there again behind it: the wish holds the last one"
            findings.append(Finding(one.name, " ".join(one.values), "harmful", because, "remove it"))
        else:
            findings.append(_flag(one, engine, instance, catalogue, kept=kept, pair=pair, names=translated))
    if launch.devices:
        findings.append(_cards("devices of the container", launch.devices, engine, kept))
    for name, value in launch.container.items():
        about = ABOUT_CONTAINERS.get(name.lstrip("-").replace("_", "-"))
        shown = value if about else ""  # labels and health checks may hold a secret
        findings.append(Finding(name, shown, "placebo", f"not in the wish: {about or OF_A_CONTAINER}"))
    for name, value in env.items():
        if launch.devices not in ("", "all") and name == "CUDA_VISIBLE_DEVICES":
            because = "counts inside the container, whose devices are named"
            findings.append(Finding(name, value, "placebo", because, "inferhost_service_gpus"))
        elif name not in SURROUNDINGS:
            findings.append(_variable(name, value, engine, request, instance, catalogue=catalogue, kept=kept))
    return findings, kept


def _variables_as_flags(
    launch: Launch, engine: EngineRow, catalogue: Catalogue
) -> tuple[tuple[str, ...], dict[str, str], dict[str, str]]:
    """Variables that say the same as a flag join the command line, where the flag itself does not stand there."""
    by_variable = catalogue.flags_by_variable(engine)
    words, env, names = list(launch.words), dict(launch.env), {}
    there = {one.name for one in given_flags(launch.words, engine, catalogue)}
    for name, value in launch.env.items():
        row = by_variable.get(name)
        if row and not row.secret and not set(row.names) & there:
            switch = row.takes == "no"
            if not switch or value.lower() in ("1", "true", "on", "enabled"):
                words += [row.names[0]] if switch else [row.names[0], value]
                names[row.names[0]] = name
            del env[name]
    return tuple(words), env, names


def _flag(
    one: Given,
    engine: EngineRow,
    instance: Instance,
    catalogue: Catalogue,
    *,
    kept: Kept,
    pair: bool,
    names: dict[str, str],
) -> Finding:
    value, row, program = " ".join(one.values), one.row, f"{engine.engine} {engine.version}"
    name = names.get(one.name, one.name)
    source = f"catalogue:flags/{row.key}#source" if row else f"catalogue:engines/{engine.key}#flags_complete"
    if row.secret if row else names_a_secret(one.name):
        because = "every user of the host can read a secret in a command line"
        return Finding(
            name, HIDDEN, "harmful", because, "a credential file: LoadCredential= in 50-local.conf", source
        )
    concept = "model_path" if one.name in MODEL_FLAGS else concept_of(row, engine)
    said = _value_row("--model" if concept == "model_path" else one.name, value, row, engine, catalogue)
    if said is not None:
        if concept == "model_path":
            kept.concepts["model_path"] = _other_model(said) or value
        return _of_value(name, value, said, kept)
    if concept == "model_path":
        kept.concepts["model_path"] = value
        return Finding(name, value, "kept", "the model", "inferhost_service_model and _model_path", source)
    if row is not None and row.status not in ("real", "unchecked"):
        return _of_status(one, row, engine, instance, catalogue, kept=kept)
    if "$" in value:
        because = "the value comes from a variable that is not known here, so it is not in the wish"
        return Finding(name, value, "fatal", because, "write the value into the wish", source)
    problem = flag_problem(one, engine, instance, catalogue, path=one.name)
    if problem is not None and problem.id != "planned-flag":
        stops = engine.engine in STOPS and problem.id == "placebo-flag"
        because = f"{problem.message.removeprefix(f'{chr(34)}{one.name}{chr(34)} ')}"
        because += f": {program} does not start with it" if stops else ""
        return Finding(name, value, "fatal" if stops else "harmful", because, problem.hint, source)
    if concept is not None and concept in ("memory_fraction", "batched_tokens") and pair:
        because = "together they leave no room for what a chunk needs: the plan sizes both from the card"
        return Finding(name, value, "harmful", because, "nothing: the plan sets both", "formula:memory.margin")
    if concept is not None and problem is not None:
        return _of_concept(name, value, concept, kept, source=source)
    wrong = value_problem(one, engine, one.name)
    if wrong is not None:
        verdict = "harmful" if wrong.id == "one-card" else "fatal"
        return Finding(name, value, verdict, wrong.message.removeprefix(f'"{one.name}" '), wrong.hint, source)
    uncounted = uncounted_flag(one, engine, catalogue, one.name)
    if uncounted is not None:
        kept.uncounted.append(one.name)
        because = uncounted.message.removeprefix(f'"{one.name}" ')
        return Finding(name, value, "harmful", because, uncounted.hint, source)
    kept.extra_args += one.words
    because = f"{program} reads it" if row else f"nobody checked yet whether {program} reads it"
    return Finding(name, value, "kept", because, "inferhost_service_extra_args", source)


def _of_concept(name: str, value: str, concept: str, kept: Kept, *, source: str) -> Finding:
    """A flag whose place is an option of the wish: `wish` says whether its value could be taken over."""
    kept.concepts[concept] = value
    option = OPTION_OF[concept]
    return Finding(name, value, "kept", "an option of the wish", f"inferhost_service_{option}", source, option)


def _of_value(name: str, value: str, said: ValueRow, kept: Kept) -> Finding:
    """A value that the catalogue has a row for."""
    replacement = said.replacement or "nothing"
    variable, sign, new = replacement.partition("=")
    if said.status == "renamed" and sign and " " not in variable:
        kept.env[variable] = new
    if name == "--host":
        kept.concepts["host"] = replacement.split(" ")[0]
    return Finding(
        name, value, said.status, said.because, instead(replacement), f"catalogue:values/{said.key}#because"
    )


def _other_model(said: ValueRow) -> str:
    """The model that was meant, where the catalogue can name it."""
    name = said.replacement or ""
    return name if name.count("/") == 1 and " " not in name else ""


def _of_status(
    one: Given, row: FlagRow, engine: EngineRow, instance: Instance, catalogue: Catalogue, *, kept: Kept
) -> Finding:
    """A flag that is gone, has another name, or never was one."""
    program, value = f"{engine.engine} {engine.version}", " ".join(one.values)
    stops = f": {program} does not start with it" if engine.engine in STOPS else ""
    source, hint = f"catalogue:flags/{row.key}#source", instead(row.replacement)
    real = {n for n, r in catalogue.flags_of(engine).items() if r.status == "real"}
    ambiguous = [n for n in real if engine.abbreviations and one.name.startswith("--") and n.startswith(one.name)]
    if row.status not in ("renamed", "deprecated"):
        return Finding(one.name, value, "fatal" if stops else "placebo", f"is not an option{stops}", hint, source)
    left = _taken_over(one, (row.replacement or "").split(), engine, instance, catalogue, kept=kept)
    if len(ambiguous) > 1:
        because = f"is the beginning of {len(ambiguous)} flags{stops}{left}"
        return Finding(one.name, value, "fatal", because, hint, source)
    because = "has another name in this version" if row.status == "renamed" else "is deprecated in this version"
    return Finding(one.name, value, "renamed", because + left, hint, source)


def _taken_over(
    one: Given, words: list[str], engine: EngineRow, instance: Instance, catalogue: Catalogue, *, kept: Kept
) -> str:
    """Puts what replaces a flag into the wish, with the flag's value where the replacement brings none of its own.

    Says why where it does not: the planner would refuse it, or the wish has that flag already.
    """
    new = given_flags((*words, *(one.values if len(words) == 1 else ())), engine, catalogue)
    if not new or new[0].row is None or new[0].row.status != "real":
        return ""
    found, concept = new[0], concept_of(new[0].row, engine)
    if found.values == ("1",) and set(new[0].row.names) & set(engine.size_flags):
        return ""  # one card is what the plan has
    problem = value_problem(found, engine, found.name)
    if problem is None and concept not in OPTION_OF:
        problem = flag_problem(found, engine, instance, catalogue, path=found.name)
    if problem is not None:
        return f"; it is not in the wish: {problem.message}"
    if concept in OPTION_OF:
        kept.concepts.setdefault(concept, " ".join(found.values))
        return ""
    if new[0].row.key in kept.flags:
        return f"; it is not in the wish, which has {found.name} already"
    kept.flags.add(new[0].row.key)
    kept.extra_args += found.words
    return ""


def _variable(
    name: str,
    value: str,
    engine: EngineRow,
    request: Request,
    instance: Instance,
    *,
    catalogue: Catalogue,
    kept: Kept,
) -> Finding:
    row = catalogue.env.get(name)
    source = f"catalogue:env/{name}#source" if row else f"catalogue:engines/{engine.key}#variable_prefixes"
    if (row is not None and row.secret) or names_a_secret(name):
        because = "a secret in the environment ends in logs and listings"
        return Finding(
            name, HIDDEN, "harmful", because, "a credential file: LoadCredential= in 50-local.conf", source
        )
    said = _value_row(name, value, None, engine, catalogue)
    if said is not None:
        return _of_value(name, value, said, kept)
    if name == "CUDA_VISIBLE_DEVICES":
        return _cards(name, value, engine, kept, source=source)
    default = next((d for d in engine.environment if d.name == name), None)
    if default is not None and default.value == value:
        return Finding(name, value, "kept", "the plan sets it too", "", source)
    problem = variable_problem(name, value, request=request, instance=instance, engine=engine, catalogue=catalogue)
    if problem is not None:
        new = _new_name(value, row)
        if new is None:
            harmful = problem.id == "uncounted" or (
                row is not None and (row.status == "harmful" or bool(_harm(value, row)))
            )
            return Finding(name, value, "harmful" if harmful else "placebo", problem.message, problem.hint, source)
        words, variable = new
        other = (
            variable_problem(*variable, request=request, instance=instance, engine=engine, catalogue=catalogue)
            if variable[0]
            else None
        )
        if other is not None:
            because = f"{problem.message}, {variable[0]}, which {other.message}"
            return Finding(name, value, "placebo", because, other.hint, source)
        kept.extra_args += words
        kept.env.update([variable] if variable[0] else [])
        return Finding(name, value, "renamed", problem.message, problem.hint, source)
    if row is not None and row.default == value:
        return Finding(name, value, "placebo", "it is the default", "remove it", source)
    kept.env[name] = value
    own = catalogue.engine_table(engine).variables.get(name)
    unknown = "the catalogue does not know it, so nobody checked that it is read"
    because = row.effect if row else f"read in {own.source}" if own else unknown
    return Finding(name, value, "kept", because, "inferhost_service_env", source)


def _cards(name: str, value: str, engine: EngineRow, kept: Kept, *, source: str = "") -> Finding:
    """The cards of a launch, as many of the first as the engine uses."""
    option = "inferhost_service_gpus"
    entries = [entry.strip() for entry in value.split(",")]
    size = kept.concepts.get("tensor_parallel_size", "1")
    used = int(size) if size.isdigit() and int(size) else 1
    if value not in ("", "all") and len(entries) < used:
        because = f"{counted(len(entries), 'card')} for a launch over {used}: {engine.engine} does not start so"
        instead = f"{used} cards in {option}, or inferhost_service_tensor_parallel_size: {len(entries)}"
        return Finding(name, value, "fatal", because, instead, source)
    if value == "all":
        because = f"every card of the host; the plan names the first {used} itself, one per part of the model"
        return Finding(name, value, "kept", because, "inferhost_service_tensor_parallel_size", source)
    if value in ("", "0"):
        return Finding(
            name, value, "kept", "the plan names the card itself, by its UUID once that is known", "", source
        )
    if not all(entry.isascii() and entry.isdigit() and len(entry) < 4 for entry in entries):
        because = "a wish names cards by their number, so this is not in the wish"
        return Finding(name, value, "harmful", because, f"the cards in {option}; nvidia-smi -L lists both", source)
    kept.cards = entries[:used]
    because = "an option of the wish"
    if len(entries) > used:
        first = f"the first {used} of them" if used > 1 else "the first of them"
        because += f": {first}, because the plan gives {engine.engine} no more without tensor parallelism"
    return Finding(name, value, "kept", because, option, source, "gpus")


def _new_name(value: str, row: EnvironmentRow | None) -> tuple[list[str], tuple[str, str]] | None:
    """What took a variable's place and means the same: words of the command line, or another variable."""
    if row is None or row.status not in ("renamed", "removed"):
        return None
    what, _, where = (row.replacement or "").partition(" ")
    if what.startswith("--"):
        return ([what, value], ("", "")) if where == "in inferhost_service_extra_args" else ([], ("", ""))
    variable, sign, own = what.partition("=")
    return ([], (variable, own if sign else value)) if variable.replace("_", "").isalnum() else None


def _harm(value: str, row: EnvironmentRow) -> str | None:
    """Why this value of a variable does harm."""
    return next((why for p, why in row.harmful_values.items() if fnmatch.fnmatchcase(value, p)), None)


def _value_row(
    name: str, value: str, row: FlagRow | None, engine: EngineRow, catalogue: Catalogue
) -> ValueRow | None:
    names = (name, *row.names) if row else (name,)
    return next(_matching(names, value, engine, catalogue), None)


def _matching(names: tuple[str, ...], value: str, engine: EngineRow, catalogue: Catalogue) -> Iterator[ValueRow]:
    for said in catalogue.values.values():
        known = said.name in names and (not said.engines or engine.engine in said.engines)
        if known and fnmatch.fnmatchcase(value, said.pattern):
            yield said


def _blank() -> tuple[Request, Instance]:
    """A wish that says nothing, for the planner's rules to speak of."""
    wish = read_wish({"inferhost_hardware": {}})
    hardware = Hardware((), HardwareCpu(1, 1, 1, False), 0, "none", "", None)
    return Request(wish, frozenset(), hardware), Instance("main", wish, frozenset(), frozenset())
