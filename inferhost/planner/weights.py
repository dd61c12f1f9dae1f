"""How many bytes a model is: resident in the card, read per token, and cached per token of context.

Shape and number formats come from the catalogue row; an exact file size wins over the computed one. Only full
attention is understood: the other kinds follow rules of their own and are refused, not guessed.
"""

from __future__ import annotations

from inferhost.catalogue.rows import ModelRow
from inferhost.schema.problems import Problem

NOT_UNDERSTOOD = {
    "mla": "compressed attention (MLA)",
    "sliding": "a sliding window",
    "hybrid": "a state per sequence beside the cache",
    "mixed": "layers of different shapes",
}


def shape_problem(model: ModelRow, path: str) -> Problem | None:
    """Why the model cannot be computed, or nothing."""
    if model.attention == "full" and model.head_dim is not None and model.intermediate_size is not None:
        return None
    why = NOT_UNDERSTOOD.get(model.attention, "a shape that the catalogue does not fully know")
    return Problem(
        path,
        f'found "{model.key}", which has {why}: its memory follows rules that this planner does not know yet',
        "a model with full attention",
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
    total = model.active_parameters if active_only and model.active_parameters is not None else model.parameters
    return max(0, total - tables)


def weights_bytes(model: ModelRow, embedding_on_host: bool) -> int:
    """Weights resident in the card's memory, in bytes.

    Quantised checkpoints keep their embeddings at 16 bit, which is why bits times parameters is too little.
    llama.cpp keeps an untied input embedding in host memory.
    Source: formula `memory.weights`.
    """
    untied = 0.0 if model.tied_embeddings else embedding_bytes(model)
    total = model.weights_bytes
    if total is None:
        total = round(linear_parameters(model, False) * model.linear_bits / 8 + head_bytes(model) + untied)
    return round(total - untied) if embedding_on_host else total


def bytes_read_per_token(model: ModelRow) -> int:
    """Weights that one decode step of one sequence reads, in bytes, at an empty context.

    Every weight in use once; of an untied input embedding only one row, which is left out. A mixture of experts
    counts its active weights only.
    Source: formula `roofline.bytes_read`.
    """
    if model.weights_bytes is not None and model.active_parameters is None:
        return weights_bytes(model, embedding_on_host=True)
    return round(linear_parameters(model, True) * model.linear_bits / 8 + head_bytes(model))


def kv_bytes_per_token(model: ModelRow, bytes_per_element: float) -> int:
    """KV cache of one token, in bytes, on one card; K and V of every layer whose cache grows.

    Source: formula `memory.kv_bytes_per_token`.
    """
    return round(2 * model.kv_layers * model.kv_heads * (model.head_dim or 0) * bytes_per_element)
