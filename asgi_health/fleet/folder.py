"""A folder that all processes of one instance share, and no other instance.

The instance is named by the process above its workers: a master with hooks says so in the
environment, `uvicorn --workers` has a parent by multiprocessing, a process alone names itself.
"""

import atexit
import fcntl
import logging
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from asgi_health.fleet.scoreboard import instance_path, is_alive, orphans, process_start

__all__ = ["InstanceFolder", "Process", "end_instance", "name_instance"]

_log = logging.getLogger("asgi_health.fleet")

_VARIABLE = "ASGI_HEALTH_INSTANCE"
_SUFFIX, _REMOVED = ".metrics", ".removed"
_OURS = re.compile(r"asgi-health-\d+-[0-9a-f]{8}-\d+-\d+" + re.escape(_SUFFIX))
_LOCK, _OWNERS, _MEMBER = ".lock", ".owners", ".member-"
_ATTEMPTS = 100


class Process(NamedTuple):
    """One process, told from a later one with the same number."""

    pid: int
    start: int

    @classmethod
    def current(cls) -> "Process":
        """This one."""
        return cls(os.getpid(), process_start(os.getpid()))

    @classmethod
    def parse(cls, text: str) -> "Process | None":
        """What `str` has made; None when it has not."""
        pid, _, start = text.partition("-")
        return cls(int(pid), int(start)) if pid.isdigit() and start.isdigit() else None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return is_alive(self.pid, self.start)

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}"


def name_instance() -> None:
    """In a master, before it forks or loads: this process names the instance."""
    master = Process.current()
    os.environ[_VARIABLE] = str(master)
    atexit.register(end_instance, master)


def end_instance(master: Process | None = None) -> None:
    """Remove what the instance kept; `master` None means this process. For the master's end."""
    mine = Process.current()
    if master in {None, mine}:  # forked workers have inherited the call
        shutil.rmtree(_path_of(mine), ignore_errors=True)


class InstanceFolder:
    """The folder, and this process as one of those that use it.

    Args:
        path: of the folder.
        owner: the process that names the instance.
        is_given: whether a person has chosen the folder: it is emptied, but not removed.
    """

    def __init__(self, path: Path, *, owner: Process, is_given: bool = False) -> None:
        self.path = path
        self.owner = owner
        self._is_given = is_given

    @classmethod
    def find(cls, *, given: str | None) -> "InstanceFolder":
        """The one of this instance; `given` is what a person has chosen, or an ancestor of ours."""
        owner = _owner(os.environ)
        path = _path_of(owner)
        # An instance may have been started from inside another one.
        is_given = bool(given) and _OURS.fullmatch(Path(str(given)).name) is None
        return cls(Path(str(given)) if is_given else path, owner=owner, is_given=is_given)

    def join(self) -> None:
        """Use the folder from now on: make it, and as the first empty it if a person has chosen it.

        Raises:
            OSError: it cannot be made or written.
            PermissionError: somebody else may write there.
        """
        if not self._is_given:
            for left in (*orphans(_SUFFIX), *orphans(_REMOVED)):
                shutil.rmtree(left, ignore_errors=True)
        self._join(empties=self._is_given)

    def rejoin(self) -> None:
        """Put back what `join` has made, where it `is_whole` no more; what is left there stays.

        Raises:
            OSError: as `join`.
        """
        self._join(empties=False)

    def _join(self, *, empties: bool) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._make()
                with self.locked(exclusive=True):
                    self._enter(empties=empties)
                return
            except FileNotFoundError:  # the last one has left, and removed it, meanwhile
                if attempt == _ATTEMPTS - 1:
                    raise

    def leave(self) -> None:
        """Use it no more; where no master sees to it, the last one removes it."""
        # It is gone, or somebody has made it unreadable.
        with suppress(OSError), self.locked(exclusive=True):
            self._member.unlink(missing_ok=True)
            if not (self._is_given or self._has_members() or self._has_master()):
                # In one step: who joins meanwhile finds all of it, or makes another.
                removed = self.path.with_name(_path_of(Process.current(), _REMOVED).name)
                self.path.rename(removed)
                shutil.rmtree(removed, ignore_errors=True)

    @property
    def is_whole(self) -> bool:
        """Whether nobody, such as a cleaner of temporary files, has taken what `join` put there."""
        return self._member.exists() and (self.path / _OWNERS).exists()

    @contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Exclude the other processes, or only those that exclude. Blocking.

        Raises:
            FileNotFoundError: the folder is gone.
        """
        fd = self._take_lock(fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        try:
            yield
        finally:
            os.close(fd)

    def _take_lock(self, kind: int) -> int:
        """A lock of a file that was removed while one waited for it excludes nobody."""
        while True:
            fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, kind)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), (self.path / _LOCK).stat()):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    @property
    def _member(self) -> Path:
        return self.path / f"{_MEMBER}{Process.current()}"

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=self._is_given, exist_ok=True)
        if not self._is_given:
            _check_private(self.path)

    def _enter(self, *, empties: bool) -> None:
        owners = self._living_owners()
        if empties and not owners and not self._is_used():
            self._empty()
        text = "\n".join(map(str, {*owners, self.owner}))
        (self.path / _OWNERS).write_text(text)
        self._member.touch()

    def _is_used(self) -> bool:
        """Whether a living process is a member, or writes here: a cleaner may have taken either."""
        written = (path.stem.rpartition("_")[2] for path in self.path.glob("*.db"))
        writers = map(Process.parse, written)
        return self._has_members() or any(one is not None and one.is_alive for one in writers)

    def _living_owners(self) -> set[Process]:
        try:
            lines = (self.path / _OWNERS).read_text().split()
        except FileNotFoundError:
            return set()
        found = (Process.parse(line) for line in lines)
        return {process for process in found if process is not None and process.is_alive}

    def _has_members(self) -> bool:
        names = (path.name.removeprefix(_MEMBER) for path in self.path.glob(f"{_MEMBER}*"))
        return any(one is not None and one.is_alive for one in map(Process.parse, names))

    def _has_master(self) -> bool:
        return os.environ.get(_VARIABLE) == str(self.owner) and self.owner.is_alive

    def _empty(self) -> None:
        """Of what instances keep: a person may keep other things there."""
        for pattern in ("*.db", "*.json", "*.new", f"{_MEMBER}*"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)


def _path_of(process: Process, suffix: str = _SUFFIX) -> Path:
    return instance_path(process.pid, process.start, suffix=suffix)


def _owner(environ: Mapping[str, str]) -> Process:
    named = Process.parse(environ.get(_VARIABLE, ""))
    # The name may come from another instance, of which something here was started.
    if named is not None and named.pid in {os.getpid(), os.getppid()} and named.is_alive:
        return named
    multiprocessing = sys.modules.get("multiprocessing.process")
    parent = None if multiprocessing is None else multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return Process.current()
    return Process(parent.pid, process_start(parent.pid))


def _check_private(path: Path) -> None:
    found = path.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"others may write in {path}; remove it")
