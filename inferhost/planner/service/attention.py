"""Which attention backend an engine takes on a card by itself, and whether one that a wish asks for runs there.

Nothing is set: the engine's own choice stands until a measurement is better. A backend that the catalogue does not
know passes, because engines have many for single models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inferhost.catalogue import Catalogue
from inferhost.catalogue.attention import AttentionRow
from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.reasons import argument_flags, reason
from inferhost.planner.request import Instance
from inferhost.planner.speed.decode import capability
from inferhost.schema.plan import Reason
from inferhost.schema.problems import Problem

FLAGS = ("--attention-backend", "--prefill-attention-backend", "--decode-attention-backend", "--flash-attn")


def attention_reason(
    instance: Instance, engine: EngineRow, model: ModelRow, card: GpuRow, *, argv: Sequence[str], catalogue: Catalogue
) -> list[Reason]:
    """What the engine takes by itself, where nobody sets it and the catalogue knows."""
    if set(FLAGS) & set(argument_flags(argv)):
        return []
    found = [row for row in _backends(engine, model, catalogue) if _on(row.default_on, card)]
    plain = engine.kv_cache[instance.text("kv_cache_dtype")].argument is None
    if len(found) != 1 or not plain or model.state is not None:
        return []
    row = found[0]
    kind = "compressed attention" if model.mla is not None else "this kind of attention"
    because = f"{engine.engine}'s own choice for {kind} at compute capability {card.compute_capability}; "
    because += "left to it, because nothing measured is better"
    source = f"catalogue:attention/{row.key}#default_on"
    path = f"service.{instance.name}.attention_backend"
    return [reason(path, row.backend, because, source, gain="none: it is the default", disruption="engine restart")]


def attention_problems(
    instance: Instance,
    engine: EngineRow,
    model: ModelRow,
    card: GpuRow,
    *,
    words: tuple[str, ...],
    catalogue: Catalogue,
) -> list[Problem]:
    """Backends of the wish that the engine does not have on this card, or not for this kind of attention."""
    asked = list(_asked(words))
    if not asked:
        return []
    rows = [row for row in catalogue.attention.values() if row.engine == engine.engine and engine.pinned]
    fitting = [row.backend for row in _backends(engine, model, catalogue) if _on(row.runs_on, card)]
    known = {row.backend.lower() for row in rows}
    kind = "compressed attention" if model.mla is not None else "uncompressed attention"
    problems = []
    for number, flag, value in asked:
        if value.lower() in known and value.lower() not in {name.lower() for name in fitting}:
            found = f'"{flag}" found "{value}", which {engine.engine} {engine.version} does not run on a {card.key} '
            found += f"(compute capability {card.compute_capability}) for {kind}"
            hint = f"leave it out, or one of {', '.join(fitting)}"
            problems.append(Problem(instance.path(f"extra_args[{number}]"), found, hint, "attention-backend"))
    return problems


def _asked(words: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """The flags about attention among further arguments, with their number and value."""
    for number, word in enumerate(words):
        flag, joined, value = word.partition("=")
        if flag in FLAGS:
            yield number, flag, value if joined else "".join(words[number + 1 : number + 2])


def _backends(engine: EngineRow, model: ModelRow, catalogue: Catalogue) -> list[AttentionRow]:
    """The backends of an engine for this kind of attention; they were read in its pinned version."""
    compressed = model.mla is not None
    return [
        row
        for row in catalogue.attention.values()
        if row.engine == engine.engine and engine.pinned and row.compressed in (None, compressed)
    ]


def _on(ranges: tuple[tuple[str, ...], ...], card: GpuRow) -> bool:
    have = capability(card.compute_capability)
    return any(capability(first) <= have <= capability(last) for first, last in ranges)
