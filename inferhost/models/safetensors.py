"""Bytes per number format of a safetensors file, from its header: eight bytes of length and a JSON object.

Sizes are taken from the offsets, which are checked against the file: what a tensor is called says nothing about it.
"""

from __future__ import annotations

import json
import math
import pathlib
import struct

from inferhost.models.bounds import Bounded, UnreadableModel

LONGEST_HEADER_BYTES = 100_000_000
"""The limit of the format itself."""
BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F4": 4,
}


def bytes_by_format(path: pathlib.Path) -> dict[str, int]:
    """Bytes of tensors under each number format of one file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = Bounded(file, path.name, size)
        length = reader.count(LONGEST_HEADER_BYTES, "bytes of header")
        raw = reader.take(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UnreadableModel(f"{path.name}: its header is no JSON: {str(error)[:60]}") from None
    if not isinstance(header, dict):
        raise UnreadableModel(f"{path.name}: its header is no JSON object")
    room = size - struct.calcsize("<Q") - length
    found: dict[str, int] = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            kind, count = _tensor(f"{path.name}: {name[:60]}", tensor, room)
            found[kind] = found.get(kind, 0) + count
    if sum(found.values()) > room:
        raise UnreadableModel(f"{path.name}: its tensors are {sum(found.values())} bytes and the file has {room}")
    return found


def _tensor(where: str, tensor: object, room: int) -> tuple[str, int]:
    """Format and bytes of one tensor; shape and offsets have to agree."""
    if not isinstance(tensor, dict):
        raise UnreadableModel(f"{where}: is no description of a tensor")
    kind = tensor.get("dtype")
    if kind not in BITS:
        raise UnreadableModel(f"{where}: found dtype {str(kind)[:20]!r}, wanted one of {', '.join(BITS)}")
    offsets = _whole(tensor.get("data_offsets"))
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= room:
        raise UnreadableModel(f"{where}: its offsets {offsets} lie outside the file of {room} bytes")
    shape, count = tensor.get("shape"), offsets[1] - offsets[0]
    if (shape != [] and not _whole(shape)) or -(-math.prod(_whole(shape)) * BITS[kind] // 8) != count:
        raise UnreadableModel(f"{where}: its shape {str(shape)[:40]} does not fill its {count} bytes")
    return kind, count


def _whole(value: object) -> list[int]:
    """A short list of whole numbers that are not negative; anything else is an empty one."""
    fits = isinstance(value, list) and len(value) <= 8
    numbers = value if fits and isinstance(value, list) else []
    if all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in numbers):
        return numbers
    return []
