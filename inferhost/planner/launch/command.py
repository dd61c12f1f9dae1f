"""The command line of an engine, word by word, each with its reason.

What the plan decides comes from the budget, where the engine's catalogue row has a flag for it; then come the
arguments that the engine always gets, then the wish's own. Nothing here knows an engine by name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

from inferhost.catalogue.rows import EngineRow, ModelRow
from inferhost.planner.launch.arguments import ExtraArguments
from inferhost.planner.memory.budget import Budget, shown_gib
from inferhost.planner.memory.llama_cpp_offload import Placement
from inferhost.planner.reasons import FIELD_CONCEPTS, argument_flags, concept_path, is_flag, reason
from inferhost.planner.request import Instance
from inferhost.schema.document import counted
from inferhost.schema.plan import Reason
from inferhost.schema.problems import Problem

RESTART = "engine restart"
SERVES = "it serves at all"
PRIORITIES = "inferhost_service_priorities"


@dataclasses.dataclass(frozen=True)
class Told:
    """One thing that an engine is told, if it has a flag for it."""

    concept: str
    value: Any
    because: str
    source: str
    gain: str = "none"


def command_line(
    instance: Instance,
    engine: EngineRow,
    model: ModelRow,
    budget: Budget,
    extra: ExtraArguments,
    *,
    further: Iterable[Told] = (),
    in_image: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], list[Reason]]:
    """The argument list with a reason per flag; what the wish gives replaces what the plan would. `in_image` is what
    starts the engine in its image, where it runs in one."""
    where, given = f"service.{instance.name}", argument_flags(extra.words)
    own_path = instance.text("engine_path")
    command = in_image or (engine.executable, *engine.arguments)
    executable = own_path or command[0]
    source = instance.source("engine_path") if own_path else f"catalogue:engines/{engine.key}#executable"
    because = "where the engine lies on the host"
    if in_image:
        because = "what starts the engine in its image"
        source = instance.source("engine_path") if own_path else f"catalogue:installs/{engine.key}#image_command"
    elif not own_path:
        option = instance.path("engine_path")
        because = f"assumed, because {option} is not set; the host is asked before anything is placed"
    reasons = [reason(f"{where}.executable", executable, because, source, gain=SERVES, disruption=RESTART)]
    words = [executable, *command[1:]]
    for told in (*_wished(instance, engine, model), *_sized(instance, engine, model, budget), *further):
        has_word, flag = told.concept in engine.flags, engine.flags.get(told.concept)
        if flag in given or not (has_word or told.concept in FIELD_CONCEPTS):
            continue
        if has_word:
            words += [str(told.value)] if flag is None else [flag, str(told.value)]
        path = concept_path(instance.name, engine, told.concept)
        reasons.append(reason(path, told.value, told.because, told.source, gain=told.gain, disruption=RESTART))
    wanted = instance.wish.flag(PRIORITIES)
    for switch in (*engine.switches, *(engine.priority_switches if wanted else ())):
        flag = switch.arguments[0]
        if flag not in given:
            words += switch.arguments
            value = " ".join(switch.arguments[1:]) or True
            reasons.append(reason(f"{where}.argv.{flag}", value, switch.because, switch.source, disruption=RESTART))
    because = f"{instance.origin('extra_args')}; {engine.engine} {engine.version} reads it"
    for flag, value in _given_values(extra.words).items():
        source = instance.source("extra_args")
        reasons.append(reason(f"{where}.argv.{flag}", value, because, source, gain="unknown", disruption=RESTART))
    return (*words, *extra.words), reasons


def priority_problems(instance: Instance, engine: EngineRow) -> list[Problem]:
    """Why the engine cannot order its queue, where the wish asks for that."""
    if not instance.wish.flag(PRIORITIES) or engine.priority_switches:
        return []
    hint = "vllm and sglang can; a balancer's classes order what waits before any engine"
    found = f"{engine.engine} {engine.version} has one queue without an order"
    return [Problem(instance.path("priorities"), found, hint, "no-priorities")]


def cache_reason(instance: Instance, engine: EngineRow, budget: Budget) -> list[Reason]:
    """Why the KV cache stays at 16 bit where nobody asks for less, and what the other formats would hold."""
    now = engine.kv_cache[instance.text("kv_cache_dtype")]
    if now.argument is not None:
        return []
    held = budget.kv_cache_tokens
    others = [
        f"{name} would hold about {math.floor(held * now.bytes_per_element / other.bytes_per_element)} tokens "
        f"instead of {held}"
        for name, other in engine.kv_cache.items()
        if other.bytes_per_element < now.bytes_per_element
    ]
    because = "; ".join(["what fewer bits cost in quality was not measured on this model", *others])
    source, path = instance.source("kv_cache_dtype"), f"service.{instance.name}.kv_cache_dtype"
    value = f"{8 * now.bytes_per_element:g} bit"
    return [reason(path, value, because, source, gain="none: it is the default", disruption=RESTART)]


def _given_values(words: tuple[str, ...]) -> dict[str, Any]:
    """What the wish gives each flag; a flag without a value is simply on."""
    found: dict[str, list[str]] = {}
    flag = ""
    for word in words:
        if is_flag(word):
            flag, _, value = word.partition("=")
            found[flag] = [value] if value else []
        else:
            found[flag].append(word)
    return {name: " ".join(values) or True for name, values in found.items()}


def _wished(instance: Instance, engine: EngineRow, model: ModelRow) -> Iterator[Told]:
    """What comes from the wish alone: model, name and address."""
    path, source = instance.text("model_path"), instance.source("model_path")
    if "model_directory" in engine.flags:
        directory, _, path = path.rstrip("/").rpartition("/")
        yield Told("model_directory", directory or "/", "where the model lies", source, SERVES)
    yield Told("model_path", path, "the model that the wish names", source, SERVES)
    served = instance.text("served_model_name") or model.key
    yield Told("served_model_name", served, "the name that clients ask for", instance.source("served_model_name"))
    yield Told("host", instance.text("host"), f"listen address ({instance.origin('host')})", instance.source("host"))
    port = instance.integer("port")
    if port:
        yield Told("port", port, instance.origin("port"), instance.source("port"))
    else:
        yield Told("port", engine.port, "the engine's usual port", f"catalogue:engines/{engine.key}#port")


def _sized(instance: Instance, engine: EngineRow, model: ModelRow, budget: Budget) -> Iterator[Told]:
    """What comes from the memory budget."""
    parts, formula = budget.division, f"formula:{budget.division.formula}"
    context, whole = budget.context_tokens, budget.concurrent_requests
    because, source = f"longest request ({instance.origin('context_tokens')})", instance.source("context_tokens")
    if context < instance.integer("context_tokens"):
        because = f"longest request that {model.key} was trained for; the wish sets none, and the default is longer"
        source = f"catalogue:models/{model.key}#context_max_tokens"
    yield Told("context_tokens", context, because, source, "none: it bounds a request")
    asked = instance.integer("max_sequences")
    fewer = budget.sequences < asked
    yield Told(
        "max_sequences",
        budget.sequences,
        (f"{instance.origin('max_sequences')}; " if instance.by_workload("max_sequences") else "")
        + (f"{asked} asked for; " if fewer else "")
        + f"memory holds {budget.kv_cache_tokens} tokens, {counted(whole, 'request')} of full length",
        formula if fewer else instance.source("max_sequences"),
        "the lever on throughput: see batching in the roofline",
    )
    size = instance.tensor_parallel_size
    if size > 1:
        because = f"every layer is split over {size} equal cards, each of which holds a part of the weights and heads"
        gain = "one model larger than a card, and the bandwidth of all cards, less what they tell each other"
        option = "tensor_parallel_size" if instance.integer("tensor_parallel_size") else "gpus"
        yield Told("tensor_parallel_size", size, because, instance.source(option), gain)
    yield Told(
        "pool_tokens",
        budget.kv_cache_tokens,
        f"{engine.engine} counts all sequences together: {whole} x {budget.kv_cache_tokens // whole}",
        formula,
        f"{counted(whole, 'request')} of full length at once",
    )
    if parts.memory_fraction is not None:
        room = f"{shown_gib(budget.kv_cache_bytes)} of KV cache, {shown_gib(parts.activation_bytes)} for activations"
        gain = "none at batch 1: it only sizes the KV cache"
        of = "" if instance.share == 1 else f"{100 * instance.share:.0f} % of the card is its share; "
        yield Told("memory_fraction", parts.memory_fraction, f"{of}leaves {room}", formula, gain)
    if parts.batched_tokens is not None:
        because = "the engine's own size for this card, set together with the memory that it needs"
        usual = parts.usual_batched_tokens or parts.batched_tokens
        if parts.batched_tokens < usual:
            because = f"less than the engine's own {usual}, which leaves too little room for the cache"
        if parts.batched_tokens > usual:
            because = f"more than the engine's own {usual}: each sequence needs a token, or it does not start"
        if instance.workload.batched_tokens == parts.batched_tokens:
            because, formula = instance.origin("batched_tokens"), instance.source("batched_tokens")
        yield Told("batched_tokens", parts.batched_tokens, because, formula, "prefill only")
    if budget.placement is not None:
        yield from _placed(instance, model, budget.placement)
    cache = engine.kv_cache[instance.text("kv_cache_dtype")]
    if cache.argument is not None:
        because, source = instance.origin("kv_cache_dtype"), instance.source("kv_cache_dtype")
        gain = f"{2 / cache.bytes_per_element:.2f} times the tokens in the same memory"
        yield Told("kv_cache_dtype", cache.argument, because, source, gain)
        yield Told("kv_cache_dtype_v", cache.argument, because, source, gain)
        because = "a quantised V cache needs it"
        yield Told("flash_attention", "on", because, f"catalogue:engines/{engine.key}#flags", "it starts at all")


def _placed(instance: Instance, model: ModelRow, placement: Placement) -> Iterator[Told]:
    """How much of the model is on the card."""
    gain = "everything: the card's bandwidth instead of the host's"
    source = instance.source("gpu_layers")
    if placement.whole(model):
        because = "all layers and the output layer: partly in host memory is many times slower"
        yield Told("gpu_layers", placement.gpu_layers, because, f"catalogue:models/{model.key}#layers", gain)
        return
    because = f"the output layer and the last {placement.gpu_layers - 1} of {model.layers} layers"
    if placement.host_layers(model):
        because += f"; {placement.host_layers(model)} are computed by the processor, their cache in host memory"
    if instance.text("gpu_layers") == "auto":
        because += "; the most that the card holds, with fewer requests at once before fewer layers"
        source = "formula:memory.llama_cpp_offload"
    yield Told("gpu_layers", placement.gpu_layers, f"{because} ({instance.origin('gpu_layers')})", source, gain)
    if placement.cpu_expert_layers:
        because = (
            f"the experts of the first {placement.cpu_expert_layers} of {model.layers} layers stay in host memory: "
            "a token reads few of them, so they cost less there than whole layers"
        )
        yield Told("cpu_expert_layers", placement.cpu_expert_layers, because, source, "the model runs at all")
