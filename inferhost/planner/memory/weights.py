"""How many bytes a model is: resident in the card, and read per token.

Shape and number formats come from the catalogue row; an exact file size wins over the computed one. A shape whose
cache cannot be computed is refused, not guessed.
"""

from __future__ import annotations

from inferhost.catalogue.rows import ModelRow
from inferhost.schema.problems import Problem

VISION_BITS = 16
MXFP4_BITS = 4.25
"""Blocks of 32 numbers of 4 bit share a scale of 8 bit."""
MXFP4_REST_BITS = {"safetensors": 16.0, "gguf": 8.5}
"""What is no expert beside them, by the file's format. Source: the rows of gpt-oss."""

MISSING_PARTS = {
    "full": ("head_dim",),
    "mla": ("mla",),
    "sliding": ("head_dim", "sliding"),
    "hybrid": ("head_dim", "state"),
    "mixed": ("head_dim",),
}
"""What has to be known of each kind of attention before its cache can be computed."""


def shape_problem(model: ModelRow, path: str) -> Problem | None:
    """Why the model's memory cannot be computed, or nothing."""
    missing = [name for name in MISSING_PARTS[model.attention] if getattr(model, name) is None]
    if not missing:
        return None
    return Problem(
        path,
        f'found "{model.key}", a model with {model.attention} attention whose {" and ".join(missing)} '
        "the catalogue does not know: its memory cannot be computed",
        "a model of the catalogue without gaps; inferhost model PATH reads a checkpoint's shape",
        "model-shape",
    )


def embedding_bytes(model: ModelRow) -> float:
    """The input embedding."""
    return model.vocabulary_size * model.hidden_size * model.embedding_bits / 8


def head_bytes(model: ModelRow) -> float:
    """The output layer; a tied one is the embedding itself."""
    bits = model.embedding_bits if model.tied_embeddings else model.head_bits
    return model.vocabulary_size * model.hidden_size * bits / 8


def linear_parameters(model: ModelRow, active_only: bool) -> int:
    """Weights between the embeddings; with `active_only` those that one token passes through."""
    tables = (1 if model.tied_embeddings else 2) * model.vocabulary_size * model.hidden_size
    whole = model.parameters - model.vision_parameters
    total = model.active_parameters if active_only and model.active_parameters is not None else whole
    return max(0, total - tables)


def weights_bytes(model: ModelRow, embedding_on_host: bool, tensor_parallel_size: int = 1) -> int:
    """Weights resident in the memory of each card, in bytes.

    Quantised checkpoints keep their embeddings at 16 bit, which is why bits times parameters is too little.
    llama.cpp keeps an untied input embedding in host memory.
    Source: formula `memory.weights`.
    """
    untied = 0.0 if model.tied_embeddings else embedding_bytes(model)
    total = model.weights_bytes
    if total is None:
        vision = VISION_BITS / 8 * model.vision_parameters
        linear = linear_parameters(model, False) * model.linear_bits / 8
        total = round(linear + head_bytes(model) + untied + vision)
    resident = total - untied if embedding_on_host else total
    return round(resident / tensor_parallel_size + replicated_bytes(model) * (1 - 1 / tensor_parallel_size))


def replicated_bytes(model: ModelRow) -> float:
    """Weights that every card of a tensor parallel group holds whole: the projections into the latent vectors.

    Source: formula `memory.weights_per_card`.
    """
    if model.mla is None:
        return 0.0
    latent = model.mla.kv_lora_rank + model.mla.qk_rope_head_dim + (model.mla.q_lora_rank or 0)
    return model.layers * model.hidden_size * latent * model.linear_bits / 8


def routed_parameters(model: ModelRow) -> int:
    """Weights of all experts that a router chooses from; those that every token passes through are not among them."""
    if model.moe is None:
        return 0
    return (model.layers - model.moe.dense_layers) * model.moe.experts * expert_parameters(model)


def expert_parameters(model: ModelRow) -> int:
    """Weights of one expert in one layer: gate, up and down."""
    return 3 * model.hidden_size * (model.intermediate_size or 0)


def rest_bytes(model: ModelRow, linear_bits: float | None = None) -> float:
    """What every step reads whatever its router chooses: all but the routed experts, and the output layer.

    MXFP4 is for experts only: all of that is wider.
    """
    own = MXFP4_REST_BITS[model.format] if model.quantisation == "mxfp4" else model.linear_bits
    bits = own if linear_bits is None else linear_bits
    return (linear_parameters(model, False) - routed_parameters(model)) * bits / 8 + head_bytes(model)


def routed_bytes(model: ModelRow, linear_bits: float | None = None) -> float:
    """All routed experts, of which a step reads those that are chosen."""
    own = MXFP4_BITS if model.quantisation == "mxfp4" else model.linear_bits
    return routed_parameters(model) * (own if linear_bits is None else linear_bits) / 8


def bytes_read_per_token(model: ModelRow) -> int:
    """Weights that one decode step of one sequence reads, in bytes, at an empty context.

    Every weight in use once; of an untied input embedding only one row, which is left out. A mixture of experts
    reads the experts that its router chooses.
    Source: formula `roofline.bytes_read`.
    """
    if model.weights_bytes is not None and model.active_parameters is None:
        return weights_bytes(model, embedding_on_host=True)
    chosen = 0.0 if model.moe is None else model.moe.experts_per_token / model.moe.experts
    return round(rest_bytes(model) + routed_bytes(model) * chosen)
