"""Parts of an engine's catalogue row: cache formats, fixed arguments and environment, flags that take host memory."""
# ruff: noqa: UP006, UP035, UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
from typing import Optional, Tuple


@dataclasses.dataclass(frozen=True)
class KvCacheFormat:
    """How an engine is asked for a KV cache format, and what one element takes."""

    argument: Optional[str]
    bytes_per_element: float
    block_elements: int  # that share a scale; a head has to be made of whole blocks
    min_compute_capability: Optional[str] = None  # None where it runs wherever the engine does


@dataclasses.dataclass(frozen=True)
class Switch:
    """Arguments that the engine always gets."""

    arguments: Tuple[str, ...]
    because: str
    source: str


@dataclasses.dataclass(frozen=True)
class EnvironmentDefault:
    """A variable that the engine always gets; `{cache}` stands for the instance's cache directory."""

    name: str
    value: str
    because: str
    gain: str


@dataclasses.dataclass(frozen=True)
class HostMemoryFlag:
    """A flag that makes an engine take host memory: its value times a unit, or times the KV cache of a card."""

    flag: str
    what: str
    unit_bytes: float
    times_cache: bool
    per_card: bool  # each card of a tensor parallel group takes as much
    only_with: Optional[str]  # a flag without which it does nothing
    default: Optional[float]  # a limit that the engine has by itself and that may be lowered to fit
    beside_bytes: float  # that the engine itself wants free beside it
    source: str
