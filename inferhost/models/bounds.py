"""What every reader of a foreign file shares: one error, and reading that never believes a length.

A header can claim anything. Each length is compared with what the file still holds, and with a limit that no honest
file reaches, before a byte is read or a list is made.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

LONGEST_TEXT_BYTES = 16 * 2**20
MOST_ITEMS = 2**24


WANTED = "a folder with config.json and safetensors, or a .gguf file"
BY_HAND = "add a row by hand: inferhost/catalogue/rows.py explains each field"
AGAIN = "copy or download the file again: it is not whole"


class UnreadableModel(Exception):
    """The file is no checkpoint that can be understood; the text says where and why, the hint what would work."""

    def __init__(self, text: str, hint: str = BY_HAND) -> None:
        self.hint = hint
        super().__init__(text)


class Bounded:
    """Little-endian values from a file, each checked against the bytes that are left."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.file, self.name, self.size, self.left = file, name, size, size

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        if count < 0 or count > self.left:
            cut = f"is cut short: {count} bytes are announced, {self.left} are left" if self.size else "is empty"
            raise UnreadableModel(f"{self.name}: {cut}", AGAIN)
        found = self.file.read(count)
        if len(found) != count:
            cut = f"is cut short: {count} bytes are announced, {len(found)} are there"
            raise UnreadableModel(f"{self.name}: {cut}", AGAIN)
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
