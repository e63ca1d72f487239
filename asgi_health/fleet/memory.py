"""A value in memory that several processes see: one writes it, any may read it.

A writer that is killed in the middle corrupts nothing: two slots with a checksum each are written
in turn, and a reader takes the newest slot that is whole.
"""

import json
import mmap
import struct
import zlib
from typing import Any

__all__ = ["SharedRecord"]

_HEAD = struct.Struct("<III")  # checksum of all that follows, sequence, length of the text
_READS_MAX = 5


class SharedRecord:
    """A small JSON value between `offset` and `offset + size_bytes` of a shared mapping."""

    def __init__(self, memory: mmap.mmap, *, offset: int, size_bytes: int) -> None:
        self._memory = memory
        self._slots = (offset, offset + size_bytes // 2)
        self._room = size_bytes // 2 - _HEAD.size

    def write(self, value: Any) -> bool:
        """Replace the value; False when it has no room, and the old one stays."""
        text = json.dumps(value, separators=(",", ":")).encode()
        if len(text) > self._room:
            return False
        sequences = [self._sequence(slot) for slot in self._slots]
        slot = self._slots[sequences.index(min(sequences))]
        body = struct.pack("<II", max(sequences) + 1, len(text)) + text
        self._memory[slot : slot + 4 + len(body)] = struct.pack("<I", zlib.crc32(body)) + body
        return True

    def read(self) -> Any:
        """The newest whole value; None when there is none.

        Reads again, a few times at most, when both slots were being written.
        """
        for _ in range(_READS_MAX):
            found = max((self._load(slot) for slot in self._slots), key=lambda pair: pair[0])
            if found[0] or not any(self._memory[self._slots[0] : self._slots[0] + _HEAD.size]):
                return None if found[1] is None else json.loads(found[1])
        return None

    def _sequence(self, slot: int) -> int:
        return self._load(slot)[0]

    def _load(self, slot: int) -> tuple[int, bytes | None]:
        checksum, sequence, length = _HEAD.unpack(self._memory[slot : slot + _HEAD.size])
        if not sequence or length > self._room:
            return 0, None
        body = self._memory[slot + 4 : slot + _HEAD.size + length]
        if checksum != zlib.crc32(body):
            return 0, None
        return sequence, body[8:]
