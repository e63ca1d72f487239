"""Counts that outlive the worker that counted: a line for each row of the scoreboard.

A line is never set back. Who takes a row goes on from what its predecessors left there, so that the
sum of all lines never falls. A count is eight aligned bytes, which a processor writes at once.
"""

import mmap
import struct

__all__ = ["Tallies", "Tally"]

_COUNT = struct.Struct("<Q")
_COLUMNS = ("held_now", "settled", "expired", "refused", "gone", "scrape_errors")
_LINE_BYTES = 64


class Tallies:
    """All lines, in a part of a shared mapping."""

    def __init__(self, memory: mmap.mmap, *, offset: int, lines: int) -> None:
        self._memory = memory
        self._offset = offset
        self._lines = lines

    @staticmethod
    def size_bytes(lines: int) -> int:
        """What so many lines occupy."""
        return lines * _LINE_BYTES

    def take(self, index: int) -> "Tally":
        """The line of a row, for the process that has the row from now on."""
        return Tally(self, index)

    def total(self, name: str) -> int:
        """The sum of all lines."""
        return sum(self.read(index, name) for index in range(self._lines))

    def read(self, index: int, name: str) -> int:
        """What a line says."""
        found: int = _COUNT.unpack_from(self._memory, self._place(index, name))[0]
        return found

    def write(self, index: int, name: str, value: int) -> None:
        """Only by who has the row."""
        place = self._place(index, name)
        self._memory[place : place + _COUNT.size] = _COUNT.pack(value)

    def _place(self, index: int, name: str) -> int:
        return self._offset + index * _LINE_BYTES + _COUNT.size * _COLUMNS.index(name)


class Tally:
    """One line, as the process that writes it sees it."""

    def __init__(self, tallies: Tallies, index: int) -> None:
        self._tallies = tallies
        self._index = index
        self._before = {name: tallies.read(index, name) for name in _COLUMNS}
        self.hold(0)

    def hold(self, count: int) -> None:
        """This process holds so many requests now."""
        self._tallies.write(self._index, "held_now", count)

    def count_to(self, name: str, count: int) -> None:
        """This process has counted so many since it took the line."""
        self._tallies.write(self._index, name, self._before[name] + count)
