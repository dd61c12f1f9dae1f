"""What a GGUF file says of itself: its keys, and the bytes of its tensors per type, from the header alone.

Read by the layout of the format, versions 2 and 3, little-endian. Long lists (the vocabulary) are counted, not kept.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

from inferhost.models.bounds import MOST_ITEMS, Bounded, UnreadableModel

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
KEPT_ITEMS = 1024
MOST_TENSORS, MOST_KEYS, MOST_DIMENSIONS = 2**20, 2**16, 4

TYPES: dict[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    39: ("mxfp4", 32, 17),
}
"""Type: name, elements per block, bytes per block. Source: gguf 0.19 gguf/constants.py GGML_QUANT_SIZES."""

FILE_TYPES = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    7: "q8_0",
    8: "q5_0",
    9: "q5_1",
    10: "q2_k",
    11: "q3_k_s",
    12: "q3_k_m",
    13: "q3_k_l",
    14: "q4_k_s",
    15: "q4_k_m",
    16: "q5_k_s",
    17: "q5_k_m",
    18: "q6_k",
    25: "iq4_nl",
    30: "iq4_xs",
    32: "bf16",
}
"""`general.file_type`: the mixture of types. Source: gguf 0.19 gguf/constants.py LlamaFileType."""


@dataclasses.dataclass(frozen=True)
class Gguf:
    """Keys with their values, lists as their length beyond what is kept, and tensors with type and elements."""

    keys: dict[str, Any]
    lengths: dict[str, int]
    tensors: dict[str, tuple[str, int]]

    def tensor_bytes(self) -> int:
        sizes = {name: (block, size) for name, block, size in TYPES.values()}
        return sum(elements // sizes[kind][0] * sizes[kind][1] for kind, elements in self.tensors.values())

    def parameters(self) -> int:
        return sum(elements for _, elements in self.tensors.values())


def read_gguf(path: pathlib.Path) -> Gguf:
    """The header of one file, or `UnreadableModel`."""
    with path.open("rb") as file:
        reader = Bounded(file, path.name, path.stat().st_size)
        if reader.take(4) != b"GGUF":
            raise UnreadableModel(f"{path.name}: is no GGUF file")
        found = int(reader.number("I"))
        if found not in (2, 3):
            raise UnreadableModel(f"{path.name}: found GGUF version {found}, wanted 2 or 3, little-endian")
        tensors, keys = reader.count(MOST_TENSORS, "tensors"), reader.count(MOST_KEYS, "keys")
        values: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for _ in range(keys):
            key = reader.text()
            values[key] = _value(reader, int(reader.number("I")), key, lengths)
        return Gguf(values, lengths, dict(_tensor(reader) for _ in range(tensors)))


def _value(reader: Bounded, kind: int, key: str, lengths: dict[str, int]) -> Any:
    if kind in SCALARS:
        return reader.number(SCALARS[kind])
    if kind == TEXT:
        return reader.text()
    if kind != LIST:
        raise UnreadableModel(f"{reader.name}: {key[:60]}: found value type {kind}, which GGUF does not have")
    inner, count = int(reader.number("I")), reader.count(MOST_ITEMS, "items")
    if inner == LIST or (inner != TEXT and inner not in SCALARS):
        raise UnreadableModel(f"{reader.name}: {key[:60]}: found a list of type {inner}, which is not read")
    lengths[key] = count
    kept = []
    for number in range(count):
        item = reader.text() if inner == TEXT else reader.number(SCALARS[inner])
        if number < KEPT_ITEMS:
            kept.append(item)
    return kept


def _tensor(reader: Bounded) -> tuple[str, tuple[str, int]]:
    name, dimensions = reader.text(), int(reader.number("I"))
    if dimensions > MOST_DIMENSIONS:
        raise UnreadableModel(f"{reader.name}: {name[:60]}: found {dimensions} dimensions, wanted at most 4")
    elements = math.prod(reader.count(2**40, "elements") for _ in range(dimensions))
    kind = int(reader.number("I"))
    reader.number("Q")
    if kind not in TYPES:
        raise UnreadableModel(f"{reader.name}: {name[:60]}: found tensor type {kind}, whose size is not known")
    return name, (TYPES[kind][0], elements)
