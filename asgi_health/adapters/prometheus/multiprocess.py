"""Figures of all workers of an instance in one scrape, by prometheus_client's files.

Each process writes files of its own, and a scrape reads those of all. What a process has counted
stays when it dies: its files are folded into an archive, so that no sum ever falls and files do not
pile up. Whoever clears the folder takes the archive; living processes put their own files back.
Source of the files' format: prometheus_client.mmap_dict, prometheus_client.multiprocess.
"""

import atexit
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from asgi_health.adapters.prometheus.archive import Archive, Manifest
from asgi_health.adapters.prometheus.files import (
    HEAD_BYTES,
    Places,
    library,
    name_files_by_process,
    open_files,
    places_of,
)
from asgi_health.fleet.folder import InstanceFolder, Process
from asgi_health.fleet.scoreboard import is_alive, process_start

__all__ = ["Multiprocess"]

_log = logging.getLogger("asgi_health.metrics")

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_FILE = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_(\d+)(?:-(\d+))?\.db")
_END = "# EOF\n"
_ATTEMPTS = 3
_Result = TypeVar("_Result")


class Multiprocess:
    """Where the processes of this instance keep their figures, and how they are read.

    Make it before anything of prometheus_client is imported, and metrics after it, with
    `registry=None`. Nothing is opened before the first value, so that it may be made in a process
    that forks its workers later.
    """

    def __init__(self) -> None:
        self.folder = InstanceFolder.find(given=os.environ.get(_VARIABLE))
        os.environ[_VARIABLE] = str(self.folder.path)
        name_files_by_process()
        self._joined: Process | None = None
        self._mapped: dict[str, memoryview[float]] = {}
        self._takers: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        """Scrapes, counts and the end of a worker come from different threads."""

    def join(self) -> None:
        """In the process that will count: be one of those that are read. Blocking.

        Each further call puts back what a cleaner of temporary files has taken: call it now and
        then, as before a new metric.

        Raises:
            OSError: no file can be made.
        """
        with self._lock:
            if self._joined is None or self._joined.pid != os.getpid():
                self.folder.join()
                self._joined = Process.current()
                atexit.register(self._leave_at_exit)
                self.fold_dead()
            elif not self.folder.is_whole or open_files.are_lost:
                # Before, so that nobody counts into a file that is being copied; and after, for
                # who has asked meanwhile.
                self._withdraw_places()
                _again(self._put_back)
                self._withdraw_places()
                _log.warning(
                    "somebody has cleared %s: what living workers have counted is put back, "
                    "what dead ones have counted may be lost",
                    self.folder.path,
                )

    def places(
        self, values: Sequence[Any], *, when_withdrawn: Callable[[], None] | None = None
    ) -> Places:
        """Where values of prometheus_client's metrics lie, all of one type of metric. Blocking.

        Nothing else may add to these values any more.

        Args:
            values: of the process that asks, as the library has them.
            when_withdrawn: called on any thread when the places hold no longer, once for each
                function however often it is given.

        Raises:
            OSError: the file is gone.
        """
        if when_withdrawn is not None and when_withdrawn not in self._takers:
            self._takers.append(when_withdrawn)
        return places_of(values, self._mapped)

    def _withdraw_places(self) -> None:
        self._mapped.clear()
        for tell in self._takers:
            tell()

    def leave(self) -> None:
        """This process counts no more."""
        with self._lock:
            if self._joined is not None and self._joined.pid == os.getpid():
                self._joined = None
                self.folder.leave()

    def _put_back(self) -> None:
        self.folder.rejoin()
        open_files.put_back()

    def _leave_at_exit(self) -> None:
        self.leave()

    def expose(self) -> str:
        """All families of all processes, as OpenMetrics text without its end. Blocking.

        Raises:
            OSError: the files cannot be read, or somebody removes them again and again.
        """
        return _again(self._expose)

    def _expose(self) -> str:
        merge = library("multiprocess").MultiProcessCollector.merge
        generate = library("openmetrics.exposition").generate_latest
        self.join()
        self.fold_dead()
        with self.folder.locked(exclusive=False):
            # One that was made a moment ago has no length yet.
            files = [path for path in self._current() if path.stat().st_size >= HEAD_BYTES]
            families = merge(map(str, files), accumulate=True)
        text: str = generate(_Collected(map(_whole, families))).decode()
        return text.removesuffix(_END)

    def fold_dead(self) -> None:
        """Fold what dead processes have counted into the archive. Blocking."""
        with self.folder.locked(exclusive=False):
            if not self._dead():
                return
        with self.folder.locked(exclusive=True):
            Archive(self.folder.path).fold(self._dead())

    def _dead(self) -> list[Path]:
        return [path for path in self.folder.path.glob("*.db") if _is_dead(path.name)]

    def _current(self) -> list[Path]:
        """The files that count: whoever folds may have been killed in the middle of it."""
        folder, manifest = self.folder.path, Manifest.read(self.folder.path)
        live = (path for path in folder.glob("*.db") if _FILE.fullmatch(path.name))
        return [
            *(path for path in live if path.name not in manifest.folded),
            *(folder / name for name in manifest.archives),
        ]


class _Collected:
    """Families in the form in which prometheus_client renders them."""

    def __init__(self, families: Iterable[Any]) -> None:
        self._families = families

    def collect(self) -> Iterable[Any]:
        return self._families


def _again(attempt: Callable[[], _Result]) -> _Result:
    """Its result, although somebody clears the folder at this moment."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(FileNotFoundError):
            return attempt()
    return attempt()


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
