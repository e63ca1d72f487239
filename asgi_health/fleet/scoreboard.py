"""The shared table of the workers of one instance: a small mapping, one row a worker.

It is memory that the master made before it forked, or, without hooks in a master, a file.

A worker that is killed in the middle of a write corrupts nothing: a row has two slots with a
checksum each, written in turn, and a reader takes the newest slot that is whole.
"""

import fcntl
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asgi_health.fleet.tally import Tallies
from asgi_health.phase import Phase

__all__ = [
    "RESPONDER",
    "ROWS",
    "WORKERS_MAX",
    "Scoreboard",
    "WorkerRow",
    "instance_path",
    "is_alive",
    "orphans",
    "process_start",
    "rss_bytes",
]

WORKERS_MAX = 256
"""Of one instance. During a reload there are twice as many processes."""

ROWS = 2 * WORKERS_MAX
RESPONDER = ROWS
"""The line of the process that answers while the workers' master loads."""

_SLOT = struct.Struct("<IIQQB?dddQIIQd?")  # checksum, sequence, then the fields of WorkerRow
_SLOT_BYTES = 128
_ROW_BYTES = 2 * _SLOT_BYTES
_LINES = ROWS + 1
_TABLE_BYTES = ROWS * _ROW_BYTES
_SIZE_BYTES = _TABLE_BYTES + Tallies.size_bytes(_LINES)
_READS_MAX = 5
_UNTOUCHED = bytes(_ROW_BYTES)
_PHASES = tuple(Phase)
_FREE = (0, 0, 0, False, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0.0, False)
_ENDED = frozenset("ZX")
_SUFFIX = ".board"
_NAME = "asgi-health-{uid}-{host:08x}-{pid}-{start}"
"""The host, because containers with process numbers of their own may share a temporary folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """What a worker says of itself.

    Args:
        pid: process id.
        start: when the process started, in the kernel's unit; tells a process from a later one with
            the same id.
        phase: of the worker.
        accepting: whether it takes connections; a worker that joins later loads first.
        started_at: seconds since the epoch.
        ready_at: seconds since the epoch; 0 before ready.
        updated_s: monotonic seconds of the write, comparable between processes of one machine.
        rss_bytes: resident memory; 0 where it cannot be read.
        generation: the master's count of workers when this one was forked; 0 without such a master.
        in_flight: requests that are being answered.
        served: requests answered since the start.
        loop_lag_s: how late the event loop was at worst since the last write.
        leaving: whether it was told to stop, or stops to be replaced.
    """

    pid: int
    start: int
    phase: Phase
    accepting: bool
    started_at: float
    ready_at: float
    updated_s: float
    rss_bytes: int
    generation: int = 0
    in_flight: int = 0
    served: int = 0
    loop_lag_s: float = 0.0
    leaving: bool = False


_NAMES = tuple(WorkerRow.__dataclass_fields__)


class Scoreboard:
    """A table of at most 512 processes in a file of mode 0600, or in memory without a name."""

    def __init__(self, path: Path | None) -> None:
        """Open the table at `path`, or make it; None: in memory, for the processes forked from now.

        Raises:
            OSError: the file cannot be made, or belongs to another user, or is a link.
        """
        self.path = path
        self._fd = _open_memory() if path is None else _open_file(path)
        # A process forked from ours has our open file, on which flock would not exclude it.
        self._lock = fcntl.lockf if path is None else fcntl.flock
        try:
            os.ftruncate(self._fd, _SIZE_BYTES)
            if hasattr(os, "posix_fallocate"):  # on a full disk, a mapped write is a SIGBUS
                os.posix_fallocate(self._fd, 0, _SIZE_BYTES)
            self._map = mmap.mmap(self._fd, _SIZE_BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        self.tallies = Tallies(self._map, offset=_TABLE_BYTES, lines=_LINES)
        """Counts of the whole instance."""

    @classmethod
    def of_instance(cls, *, parent_pid: int) -> "Scoreboard":
        """The table of all workers of one parent process.

        Removes tables whose parent has died.
        """
        for left in orphans(_SUFFIX):
            left.unlink(missing_ok=True)
        return cls(instance_path(parent_pid, process_start(parent_pid), suffix=_SUFFIX))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude the other processes, for a decision that reads and writes.

        Held for microseconds.
        """
        self._lock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            self._lock(self._fd, fcntl.LOCK_UN)

    def read(self, index: int) -> WorkerRow | None:
        """The newest whole slot of a row; None when the row is free.

        Reads again, a few times at most, when both slots were being written.
        """
        place = slice(index * _ROW_BYTES, (index + 1) * _ROW_BYTES)
        for _ in range(_READS_MAX):
            if self._map[place] == _UNTOUCHED:  # most of them are
                return None
            newest = max(self._slots(index), key=lambda slot: slot[0], default=None)
            if newest is not None:
                return newest[1]
        return None

    def write(self, index: int, row: WorkerRow | None) -> None:
        """Write a row, or free it.

        Only the row's owner writes it, except under `locked`.
        """
        sequences = {slot: sequence for sequence, _, slot in self._slots(index)}
        sequence = max(sequences.values(), default=0) + 1
        slot = 0 if sequences.get(0, 0) <= sequences.get(1, 0) else 1
        fields = _FREE if row is None else _fields(row)
        body = _SLOT.pack(0, sequence, *fields)[4:]
        offset = index * _ROW_BYTES + slot * _SLOT_BYTES
        self._map[offset : offset + _SLOT.size] = struct.pack("<I", zlib.crc32(body)) + body

    def rows(self) -> list[tuple[int, WorkerRow]]:
        """All rows whose process is alive, with their index."""
        found = ((index, self.read(index)) for index in range(ROWS))
        return [
            (index, row) for index, row in found if row is not None and is_alive(row.pid, row.start)
        ]

    @property
    def is_removed(self) -> bool:
        """Whether the file has been deleted since it was opened."""
        return self.path is not None and os.fstat(self._fd).st_nlink == 0

    def remove(self) -> None:
        """Delete the file; who has it open goes on with it.

        Does nothing when it has been deleted before: another may have its name by now.
        """
        if self.path is not None and not self.is_removed:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the table."""
        self._map.close()
        os.close(self._fd)

    def _slots(self, index: int) -> Iterator[tuple[int, WorkerRow | None, int]]:
        for slot in (0, 1):
            offset = index * _ROW_BYTES + slot * _SLOT_BYTES
            raw = self._map[offset : offset + _SLOT.size]
            checksum, sequence, *fields = _SLOT.unpack(raw)
            if sequence and checksum == zlib.crc32(raw[4:]):
                yield sequence, _row(fields), slot


def _open_file(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(f"scoreboard {path} belongs to another user; remove it")
    return fd


def _open_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("asgi-health-scoreboard", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # pragma: no cover - systems without memfd
        return os.dup(file.fileno())


def _fields(row: WorkerRow) -> tuple[object, ...]:
    phase = _PHASES.index(row.phase)
    return (
        row.pid, row.start, phase, row.accepting,
        row.started_at, row.ready_at, row.updated_s, row.rss_bytes,
        row.generation, row.in_flight, row.served, row.loop_lag_s, row.leaving,
    )  # fmt: skip


def _row(fields: list[Any]) -> WorkerRow | None:
    if not fields[0]:
        return None
    named = dict(zip(_NAMES, fields, strict=True))
    return WorkerRow(**(named | {"phase": _PHASES[named["phase"]]}))


def process_start(pid: int) -> int:
    """When a process started, in ticks since boot (`/proc/PID/stat`, field 22); 0 if unknown."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def rss_bytes() -> int:
    """The resident memory of this process; 0 where it cannot be read."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the state on; none where there is no such file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_alive(pid: int, start: int) -> bool:
    """Whether this very process still runs; one that nobody has waited for yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    fields = _stat(pid)
    return not fields or (fields[0] not in _ENDED and int(fields[19]) == start)


def _host() -> int:
    return zlib.crc32(os.uname().nodename.encode("utf-8", "surrogateescape"))


def instance_path(pid: int, start: int, *, suffix: str) -> Path:
    """Where an instance keeps something, named by the process above its workers."""
    name = _NAME.format(uid=os.geteuid(), host=_host(), pid=pid, start=start)
    return Path(tempfile.gettempdir()) / f"{name}{suffix}"


def orphans(suffix: str) -> list[Path]:
    """What instances of this user have left behind that have ended."""
    prefix = _NAME.partition("{pid}")[0].format(uid=os.geteuid(), host=_host())
    found = []
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*{suffix}"):
        pid, _, start = path.stem.removeprefix(prefix).partition("-")
        if pid.isdigit() and start.isdigit() and not is_alive(int(pid), int(start)):
            found.append(path)
    return found
