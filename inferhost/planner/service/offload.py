"""A model that its card does not hold whole: what the wish allows, what would fit, and what it costs in speed.

Only where the engine can leave layers in host memory, and only where the wish says so. The bandwidth of host memory
is no stable fact that discovery can read, so no speed is promised: the card's part alone is a ceiling, and the plan
says what the host's part adds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from inferhost.catalogue.rows import EngineRow, GpuRow, ModelRow
from inferhost.planner.memory.budget import memory_budget
from inferhost.planner.memory.engine_rules import Demand
from inferhost.planner.memory.llama_cpp_offload import Placement, host_layer_bytes, placements
from inferhost.planner.memory.weights import bytes_read_per_token
from inferhost.planner.request import Instance
from inferhost.planner.speed.roofline import GB, memory_bandwidth, shown_volume
from inferhost.schema.problems import InputError, Problem

OPTION = "gpu_layers"
EXAMPLE_BANDWIDTHS_GB_S = (50, 100, 200)
"""Two and four channels of DDR4-3200 or DDR5-6400, roughly: examples in the text, nothing is planned with them."""


def wanted_placement(instance: Instance, model: ModelRow) -> tuple[Placement | None, bool]:
    """The placement that the wish names, and whether the planner may choose one; nothing means the whole model."""
    wanted = instance.text(OPTION)
    if wanted in ("all", "auto"):
        return None, wanted == "auto"
    layers = int(wanted)
    if layers > model.layers + 1:
        found = f"found {layers}, and {model.key} has {model.layers} layers and an output layer"
        raise InputError([Problem(instance.path(OPTION), found, f"all, auto, or 1 to {model.layers + 1}", "layers")])
    if layers <= model.layers and not any(placements(model)):
        found = f"found {layers}, and the layers of {model.key} differ: what some of them take is not known"
        raise InputError([Problem(instance.path(OPTION), found, "all", "layers")])
    return Placement(layers), False


def offered(
    error: InputError,
    total_bytes: int,
    model: ModelRow,
    engine: EngineRow,
    demand: Demand,
    *,
    instance: Instance,
) -> InputError:
    """The refusal with the number of layers that would fit, where the engine can leave some in host memory."""
    if "gpu_layers" not in engine.flags or demand.may_offload:
        return error
    cache = engine.kv_cache[instance.text("kv_cache_dtype")]
    asked = dataclasses.replace(demand, placement=None, may_offload=True)
    try:
        fits = memory_budget(total_bytes, model, engine, cache, asked, instance=instance).placement
    except InputError:
        return error
    if fits is None:
        return error
    path = instance.path(OPTION)
    if demand.placement is not None:
        plain = fits if not fits.cpu_expert_layers else None
        most = f"at most {plain.gpu_layers}, or auto" if plain else f"auto: {shown_placement(model, fits)}"
        return InputError(
            Problem(path, f"found {demand.placement.gpu_layers}: {p.message}", most, "layers") for p in error.problems
        )
    hint = f"{path}: auto, which would leave {left_on_host(model, fits)} in host memory"
    return InputError(dataclasses.replace(p, hint=f"{p.hint}; or {hint}") for p in error.problems)


def left_on_host(model: ModelRow, placement: Placement) -> str:
    """What of the model is not on the card."""
    layers, experts = placement.host_layers(model), placement.cpu_expert_layers
    parts = [f"{layers} of {model.layers} layers"] if layers else []
    if experts > layers:
        parts.append(f"the experts of {experts} of {model.layers} layers")
    return " and ".join(parts)


def shown_placement(model: ModelRow, placement: Placement) -> str:
    """Where a model that is not whole on its card lies."""
    return f"{left_on_host(model, placement)} in host memory"


def host_roofline(
    card: GpuRow, model: ModelRow, placement: Placement, memory_lock_mhz: int | None = None
) -> dict[str, Any]:
    """The plan's `roofline` of a model whose token waits for the host's memory too; no expectation.

    Source: formula `decode.host_part`.
    """
    share = 1.0
    if model.moe is not None and model.moe.experts:
        share = min(1.0, model.moe.experts_per_token / model.moe.experts)
    read = bytes_read_per_token(model)
    on_host = min(read, round(host_layer_bytes(model, placement, share)))
    bandwidth, on_card = memory_bandwidth(card, memory_lock_mhz), max(1, read - on_host)
    part = f"{shown_volume(read)} per token, {shown_volume(on_host)} of it from host memory"
    if bandwidth is None:
        return {
            "bytes_read_per_token": read,
            "bytes_read_on_host": on_host,
            "bound": "host memory",
            "note": f"{part}; neither the card's bandwidth nor the host's is known, so no speed is predicted",
        }
    card_s = on_card / bandwidth.bound_bytes_s
    examples = ", ".join(
        f"{gb_s} GB/s would give {1 / (card_s + on_host / (gb_s * GB)):.1f}" for gb_s in EXAMPLE_BANDWIDTHS_GB_S
    )
    note = (
        f"{part}. The bandwidth of the host's memory is not known, so no speed is predicted. At most, in tok/s, were "
        f"it known: {examples}; the card's part alone takes {1000 * card_s:.2f} ms of each token "
        "(formula:decode.host_part)"
    )
    return {
        "bytes_read_per_token": read,
        "bytes_read_on_host": on_host,
        "bound": "host memory",
        "ceiling_tok_s_max_clock": round(1 / (on_card / bandwidth.max_clock_bytes_s), 1),
        "expected_tok_s": None,
        "conclusion": "more layers on the card, fewer bits per weight or a smaller model lift this; clocks do not",
        "note": note,
    }
