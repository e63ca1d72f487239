"""The files of one process: named after it, with room on the disk, and put back when they are lost.

Source of their format and life: prometheus_client.mmap_dict, prometheus_client.values.
"""

import atexit
import mmap
import os
import threading
from collections.abc import Callable, MutableMapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from asgi_health.fleet.folder import Process

__all__ = ["HEAD_BYTES", "Places", "library", "name_files_by_process", "open_files", "places_of"]

HEAD_BYTES: Final = 8
"""Before the first value."""

_VALUE_BYTES = 8
_ENTRY_BYTES = 32
"""What a value takes beside its name, at most."""

_FIRST_BYTES = 1 << 16
_MmapedDict: Any = object
"""In place of prometheus_client's class, which is imported later than this module."""


class Places(NamedTuple):
    """Where some values of one file lie: `numbers[at[0]] += 1` counts, and everybody reads it.

    Costs a tenth of the library's own way, and is nothing but this addition: only one thread may
    do it, in the process that has asked for the places.
    """

    numbers: "memoryview[float]"
    at: tuple[int, ...]


def places_of(values: Sequence[Any], mapped: "MutableMapping[str, memoryview[float]]") -> Places:
    """Where these values lie; `mapped` keeps the mappings of their files from call to call."""
    values[0].get()  # after a fork, the library moves to files of this process when it is asked
    file = values[0]._file  # noqa: SLF001 - the library tells it nowhere else
    name = file._fname  # noqa: SLF001 - the same
    at = tuple(file._positions[value._key] // _VALUE_BYTES for value in values)  # noqa: SLF001 - the same
    numbers = mapped.get(name)
    if numbers is None or max(at) >= len(numbers):
        # A mapping of our own: the library replaces and closes its own.
        with Path(name).open("r+b") as opened:
            numbers = memoryview(mmap.mmap(opened.fileno(), 0)).cast("d")
        mapped[name] = numbers
    return Places(numbers, at)


def library(name: str) -> Any:
    """A module of prometheus_client: imported later than this one, and hardly annotated."""
    return import_module(f"prometheus_client.{name}")


def name_files_by_process() -> None:
    """Have files named after process and start, once: a number alone may come again.

    prometheus_client asks at each count, so that a forked process writes files of its own.
    """
    values = library("values")
    if getattr(values.ValueClass, "is_named_by_process", False):
        return
    values.MmapedDict = type("LastingDict", (_Lasting, values.MmapedDict), {})
    values.ValueClass = values.MultiProcessValue(_identity())
    values.ValueClass.is_named_by_process = True


def _identity() -> Callable[[], str]:
    known_pid, known = 0, ""

    def identity() -> str:
        nonlocal known_pid, known
        pid = os.getpid()
        if pid != known_pid:
            known_pid, known = pid, str(Process.current())
        return known

    return identity


class _Lasting(_MmapedDict):  # type: ignore[misc]  # Any
    """A file of values that has its room on the disk before it is written to, and can be put back.

    The library makes files with holes: where the disk is full, writing to one ends the process by
    SIGBUS, which nobody can catch. So it is an OSError, before anything is written.
    """

    _f: Any
    _m: Any

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002 - the library's signature
        if not read_mode:
            with Path(filename).open("ab") as file:
                if not file.tell():
                    os.posix_fallocate(file.fileno(), 0, _FIRST_BYTES)
        super().__init__(filename, read_mode)
        if not read_mode:
            open_files.add(self)

    @property
    def is_lost(self) -> bool:
        """Whether nobody finds this file by its name any more."""
        try:
            return not os.path.samestat(os.fstat(self._f.fileno()), Path(self._fname).stat())
        except FileNotFoundError:
            return True

    def put_back(self) -> None:
        """Write to a new file of that name: what was lost is still mapped here."""
        new = Path(f"{self._fname}.new")
        file = new.open("w+b")
        try:
            os.posix_fallocate(file.fileno(), 0, self._capacity)
            memory = mmap.mmap(file.fileno(), self._capacity)
            memory[:] = self._m[:]
            new.replace(self._fname)
        except BaseException:
            file.close()
            new.unlink(missing_ok=True)
            raise
        lost_memory, lost_file = self._m, self._f
        self._m, self._f = memory, file
        lost_memory.close()
        lost_file.close()

    def read_value(self, key: str) -> Any:
        with open_files.lock:
            return super().read_value(key)

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        with open_files.lock:
            if self._f is not None:  # the process ends
                super().write_value(key, value, timestamp)

    def _init_value(self, key: str) -> None:
        needed = self._used + len(key.encode()) + _ENTRY_BYTES
        capacity = self._capacity
        while needed > capacity:
            capacity *= 2
        if capacity > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, capacity)
        super()._init_value(key)

    def close(self) -> None:
        open_files.discard(self)
        super().close()


class _OpenFiles:
    """The files that this process writes, whatever of prometheus_client has opened them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Held for each value that is read or written."""
        self._files: set[Any] = set()
        os.register_at_fork(after_in_child=self._begin_anew)
        atexit.register(self.close)

    def add(self, file: Any) -> None:
        with self.lock:
            self._files.add(file)

    def discard(self, file: Any) -> None:
        with self.lock:
            self._files.discard(file)

    @property
    def are_lost(self) -> bool:
        """Whether somebody has removed one of them."""
        with self.lock:
            return any(file.is_lost for file in self._files)

    def put_back(self) -> None:
        """Have all of them again, with what was counted."""
        with self.lock:
            for file in self._files:
                if file.is_lost:
                    file.put_back()

    def close(self) -> None:
        """At the end of the process: who counts afterwards counts for nobody."""
        with self.lock:
            for file in [*self._files]:
                file.close()

    def _begin_anew(self) -> None:
        """In a forked process: those of its parent are the parent's."""
        self.lock = threading.RLock()
        self._files.clear()


open_files = _OpenFiles()
"""Those of this process."""
