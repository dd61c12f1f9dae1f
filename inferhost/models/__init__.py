"""Readers of what a checkpoint says of itself: `config.json`, safetensors headers, GGUF headers.

They read headers only, never weights, with the standard library only, and take nothing on trust: every size in a file
is checked against the file before it is used. What they do not understand they refuse by name.
"""

from inferhost.models.checkpoint import read_model

__all__ = ["read_model"]
