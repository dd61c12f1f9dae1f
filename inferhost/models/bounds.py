"""What every reader of a foreign file shares: one error, and reading that never believes a length.

A header can claim anything. Each length is compared with what the file still holds, and with a limit that no honest
file reaches, before a byte is read or a list is made.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

LONGEST_TEXT_BYTES = 16 * 2**20
MOST_ITEMS = 2**24


class UnreadableModel(Exception):
    """The file is no checkpoint that can be understood; the text says where and why."""


class Bounded:
    """Little-endian values from a file, each checked against the bytes that are left."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.file, self.name, self.left = file, name, size

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        if count < 0 or count > self.left:
            raise UnreadableModel(f"{self.name}: is cut short: {count} bytes are announced, {self.left} are left")
        found = self.file.read(count)
        if len(found) != count:
            raise UnreadableModel(f"{self.name}: is cut short: {count} bytes are announced, {len(found)} are there")
        self.left -= count
        return found

    def number(self, form: str) -> int | float:
        """One value of a `struct` letter."""
        found: int | float = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]
        return found

    def count(self, limit: int, what: str) -> int:
        """A 64 bit count, refused above what any honest file has."""
        found = int(self.number("Q"))
        if found > limit:
            raise UnreadableModel(f"{self.name}: announces {found} {what}, more than the {limit} that are believed")
        return found

    def text(self) -> str:
        """A string behind its 64 bit length."""
        return self.take(self.count(LONGEST_TEXT_BYTES, "bytes of text")).decode("utf-8", "replace")
