"""A model in several GGUF files: an engine is told the first and opens all of them.

Source: llama.cpp src/llama-model-loader.cpp, which refuses to begin with any but the first.
"""

from __future__ import annotations

import re

GGUF_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")


def gguf_parts(path: str) -> list[str]:
    """Every file of the model that this one is a part of, in order; of any other path, itself."""
    part = GGUF_PART.fullmatch(path)
    count = int(part[3]) if part else 0
    return (
        [f"{part[1]}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)] if part and count else [path]
    )
