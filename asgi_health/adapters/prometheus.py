"""Figures of all workers of an instance in one scrape, by prometheus_client's files.

Each process writes files of its own, and a scrape reads those of all. What a process has counted
stays when it dies: its files are folded into an archive, so that no sum ever falls and files do not
pile up. Source of the files' format: prometheus_client.mmap_dict, prometheus_client.multiprocess.
"""

import atexit
import json
import mmap
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from asgi_health.fleet.folder import InstanceFolder, Process
from asgi_health.fleet.scoreboard import is_alive, process_start

__all__ = ["Multiprocess", "Places"]

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_FILE = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_(\d+)(?:-(\d+))?\.db")
_MANIFEST = "archive.json"
_END = "# EOF\n"
_HEAD_BYTES = 8
_VALUE_BYTES = 8
_ENTRY_BYTES = 32
"""What a value takes beside its name, at most."""

_FIRST_BYTES = 1 << 16


class Places(NamedTuple):
    """Where some values of one file lie: `numbers[at[0]] += 1` counts, and everybody reads it.

    Costs a tenth of the library's own way, and is nothing but this addition: only one thread may
    do it, in the process that has asked for the places.
    """

    numbers: "memoryview[float]"
    at: tuple[int, ...]


class Multiprocess:
    """Where the processes of this instance keep their figures, and how they are read.

    Make it before anything of prometheus_client is imported, and metrics after it, with
    `registry=None`. Nothing is opened before the first value, so that it may be made in a process
    that forks its workers later.
    """

    def __init__(self) -> None:
        self.folder = InstanceFolder.find(given=os.environ.get(_VARIABLE))
        os.environ[_VARIABLE] = str(self.folder.path)
        _name_files_by_process()
        self._joined: Process | None = None
        self._mapped: dict[str, memoryview[float]] = {}

    def join(self) -> None:
        """In the process that will count: be one of those that are read. Blocking.

        Raises:
            OSError: no file can be made.
        """
        if self._joined is None or self._joined.pid != os.getpid():
            self.folder.join()
            self._joined = Process.current()
            atexit.register(self._leave_at_exit)
            self.fold_dead()

    def leave(self) -> None:
        """This process counts no more."""
        if self._joined is not None and self._joined.pid == os.getpid():
            self._joined = None
            self.folder.leave()

    def _leave_at_exit(self) -> None:
        self.leave()

    def places(self, values: Sequence[Any]) -> Places:
        """Where values of prometheus_client's metrics lie, all of one type of metric. Blocking.

        The values themselves must not be added to any more. Source of their layout:
        prometheus_client.mmap_dict.

        Raises:
            OSError: the file is gone.
        """
        values[0].get()  # after a fork, the library moves to files of this process when it is asked
        file = values[0]._file  # noqa: SLF001 - the library tells it nowhere else
        name = file._fname  # noqa: SLF001 - the same
        at = tuple(file._positions[value._key] // _VALUE_BYTES for value in values)  # noqa: SLF001 - the same
        numbers = self._mapped.get(name)
        if numbers is None or max(at) >= len(numbers):
            # A mapping of our own: the library replaces and closes its own.
            with Path(name).open("r+b") as opened:
                numbers = memoryview(mmap.mmap(opened.fileno(), 0)).cast("d")
            self._mapped[name] = numbers
        return Places(numbers, at)

    def expose(self) -> str:
        """All families of all processes, as OpenMetrics text without its end. Blocking.

        Raises:
            OSError: the files are gone.
        """
        merge = _library("multiprocess").MultiProcessCollector.merge
        generate = _library("openmetrics.exposition").generate_latest
        self.join()
        self.fold_dead()
        with self.folder.locked(exclusive=False):
            # One that was made a moment ago has no length yet.
            files = [path for path in self._current() if path.stat().st_size >= _HEAD_BYTES]
            families = merge(map(str, files), accumulate=True)
        text: str = generate(_Collected(map(_whole, families))).decode()
        return text.removesuffix(_END)

    def fold_dead(self) -> None:
        """Fold what dead processes have counted into the archive. Blocking."""
        with self.folder.locked(exclusive=False):
            if not self._dead():
                return
        with self.folder.locked(exclusive=True):
            _Archive(self.folder.path).fold(self._dead())

    def _dead(self) -> list[Path]:
        return [path for path in self.folder.path.glob("*.db") if _is_dead(path.name)]

    def _current(self) -> list[Path]:
        """The files that count: whoever folds may have been killed in the middle of it."""
        folder, manifest = self.folder.path, _Manifest.read(self.folder.path)
        live = (path for path in folder.glob("*.db") if _FILE.fullmatch(path.name))
        return [
            *(path for path in live if path.name not in manifest.folded),
            *(folder / name for name in manifest.archives),
        ]


class _Manifest(NamedTuple):
    """Which archives stand, and which files they contain that may still be there."""

    number: int = 0
    archives: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "_Manifest":
        try:
            number, archives, folded = json.loads((folder / _MANIFEST).read_bytes())
        except FileNotFoundError:
            return cls()
        return cls(number, tuple(archives), tuple(folded))

    def write(self, folder: Path) -> None:
        """Replace the one that stands, whole or not at all."""
        new = folder / f"{_MANIFEST}.new"
        new.write_text(json.dumps(self))
        new.replace(folder / _MANIFEST)


class _Archive:
    """What dead processes have counted. Used under the exclusive lock.

    The manifest's replacement is the one moment in which everything changes: killed before it,
    nothing has happened; killed after it, the next one removes what is left.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fold(self, dead: Iterable[Path]) -> None:
        before = _Manifest.read(self._folder)
        self._remove(before.folded)
        self._remove(path.name for path in self._folder.glob("*_archive-*.db")
                     if path.name not in before.archives)  # fmt: skip
        found = [path for path in dead if path.name not in before.folded]
        gauges = [path.name for path in found if path.name.startswith("gauge_")]
        counts = [path for path in found if path.name not in gauges]
        if counts:
            number = before.number + 1
            sources = [*counts, *(self._folder / name for name in before.archives)]
            after = _Manifest(
                number, self._write(sources, number), tuple(path.name for path in sources)
            )
            after.write(self._folder)
            self._remove(after.folded)
            after._replace(folded=()).write(self._folder)  # a name may come again
        self._remove(gauges)

    def _write(self, sources: Iterable[Path], number: int) -> tuple[str, ...]:
        """Sum the files by kind; the names of the new archives."""
        mapped = _library("values").MmapedDict
        sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for path in sources:
            if path.stat().st_size >= _HEAD_BYTES:
                kind = sums[path.name.partition("_")[0]]
                for key, value, _, _ in mapped.read_all_values_from_file(str(path)):
                    kind[key] += value
        names = []
        for kind_name, values in sums.items():
            names.append(f"{kind_name}_archive-{number}.db")
            archive = mapped(str(self._folder / names[-1]))
            for key, value in values.items():
                archive.write_value(key, value, 0.0)
            archive.close()
        return tuple(names)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)


class _Collected:
    """Families in the form in which prometheus_client renders them."""

    def __init__(self, families: Iterable[Any]) -> None:
        self._families = families

    def collect(self) -> Iterable[Any]:
        return self._families


def _whole(family: Any) -> Any:
    """Without histograms of which a process has only begun to write the buckets."""
    if family.type == "histogram":
        ends = [sample.labels for sample in family.samples if sample.labels.get("le") == "+Inf"]
        begun = {frozenset(labels.items() - {("le", "+Inf")}) for labels in ends}
        family.samples = [
            sample
            for sample in family.samples
            if frozenset((k, v) for k, v in sample.labels.items() if k != "le") in begun
        ]
    return family


def _is_dead(name: str) -> bool:
    """Whether nobody writes this file any more, and it counts by itself or for nothing.

    Gauges of the modes min, max, sum and mostrecent go on counting when their process is dead.
    """
    found = _FILE.fullmatch(name)
    if found is None or found[1] in {"gauge_min", "gauge_max", "gauge_sum", "gauge_mostrecent"}:
        return False
    pid = int(found[2])
    return not is_alive(pid, int(found[3]) if found[3] else process_start(pid))


def _name_files_by_process() -> None:
    """Have files named after process and start, once: a number alone may come again.

    prometheus_client asks at each count, so that a forked process writes files of its own.
    """
    values = _library("values")
    if getattr(values.ValueClass, "is_named_by_process", False):
        return
    values.MmapedDict = _allocating(values.MmapedDict)
    values.ValueClass = values.MultiProcessValue(_identity())
    values.ValueClass.is_named_by_process = True


def _allocating(mapped: Any) -> Any:
    """The same, but with its room on the disk before it is written to.

    The library makes files with holes: where the disk is full, writing to one ends the process by
    SIGBUS, which nobody can catch. So it is an OSError, before anything is written.
    """

    class Allocated(mapped):  # type: ignore[misc]  # the library is hardly annotated
        def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002 - the library's signature
            if not read_mode:
                with Path(filename).open("ab") as file:
                    if not file.tell():
                        os.posix_fallocate(file.fileno(), 0, _FIRST_BYTES)
            super().__init__(filename, read_mode)

        def _init_value(self, key: str) -> None:
            needed = self._used + len(key.encode()) + _ENTRY_BYTES
            capacity = self._capacity
            while needed > capacity:
                capacity *= 2
            if capacity > self._capacity:
                os.posix_fallocate(self._f.fileno(), 0, capacity)
            super()._init_value(key)

    return Allocated


def _library(name: str) -> Any:
    """A module of prometheus_client: imported later than this one, and hardly annotated."""
    return import_module(f"prometheus_client.{name}")


def _identity() -> Callable[[], str]:
    known_pid, known = 0, ""

    def identity() -> str:
        nonlocal known_pid, known
        pid = os.getpid()
        if pid != known_pid:
            known_pid, known = pid, str(Process.current())
        return known

    return identity
